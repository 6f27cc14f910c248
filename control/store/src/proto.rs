//! etcd's messages and services, as `proto/` describes them: made by `tests/generated.rs`, which also fails when
//! they are not what it would make.

#![expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::missing_errors_doc,
    reason = "generated"
)]

/// Keys, values and events.
pub mod mvccpb {
    include!("../proto/generated/mvccpb.rs");
}

/// Requests, answers and services.
pub mod etcdserverpb {
    include!("../proto/generated/etcdserverpb.rs");
}
