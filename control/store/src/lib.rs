//! The control plane's store, both sides of etcd's v3 API.

pub mod client;
mod disk;
mod engine;
mod key_range;
pub mod mvcc;
pub mod pki;
pub mod proto;
mod refusal;
mod serve;
mod tls;
mod watchers;

pub use disk::{DiskError, Durability, Identity};
pub use key_range::KeyRange;
pub use refusal::Refusal;
pub use serve::{KEEP_REVISIONS, MAX_REQUEST, PROGRESS, ServeError, Server, ServerTls, Settings, TlsError};
