//! The crate seen from outside, against plain references and an independent dissector.

mod packet;
mod smoke;
