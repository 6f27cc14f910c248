/// Why a request is refused. The words are etcd's (`api/v3rpc/rpctypes/error.go`): clients tell errors apart by them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum Refusal {
    #[error("etcdserver: key is not provided")]
    EmptyKey,
    #[error("etcdserver: key not found")]
    KeyNotFound,
    #[error("etcdserver: value is provided")]
    ValueProvided,
    #[error("etcdserver: lease is provided")]
    LeaseProvided,
    #[error("etcdserver: too many operations in txn request")]
    TooManyOps,
    #[error("etcdserver: duplicate key given in txn request")]
    DuplicateKey,
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    #[error("etcdserver: mvcc: required revision is a future revision")]
    FutureRevision,
    #[error("etcdserver: mvcc: database space exceeded")]
    NoSpace,
    #[error("etcdserver: requested lease not found")]
    LeaseNotFound,
    #[error("etcdserver: lease already exists")]
    LeaseExists,
    #[error("etcdserver: too large lease TTL")]
    LeaseTtlTooLarge,
    #[error("etcdserver: request is too large")]
    RequestTooLarge,
    #[error("etcdserver: too many requests")]
    TooManyRequests,
    #[error("etcdserver: server stopped")]
    Stopped,
}

impl Refusal {
    /// The one that says it in these words.
    pub(crate) fn of_words(words: &str) -> Option<Self> {
        let all = [
            Self::EmptyKey,
            Self::KeyNotFound,
            Self::ValueProvided,
            Self::LeaseProvided,
            Self::TooManyOps,
            Self::DuplicateKey,
            Self::Compacted,
            Self::FutureRevision,
            Self::NoSpace,
            Self::LeaseNotFound,
            Self::LeaseExists,
            Self::LeaseTtlTooLarge,
            Self::RequestTooLarge,
            Self::TooManyRequests,
            Self::Stopped,
        ];
        all.into_iter().find(|refusal| refusal.to_string() == words)
    }
}
