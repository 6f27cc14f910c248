//! What becomes of frames, and what would become of one, for people.

mod explain;
mod packet;
mod rows;
mod stream;
mod what_if;

pub(crate) use stream::{TraceStream, begin};
pub(crate) use what_if::what_if;
