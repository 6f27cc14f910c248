/// Error codes: below 100 the specification's, from 100 on our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    InvalidEnvironment = 4,
    Io = 5,
    Undecodable = 6,
    /// ADD would not work.
    NotAvailable = 50,
    /// The verb is known and does nothing yet.
    NotImplemented = 100,
}

/// What the runtime is told instead of a result.
#[derive(Debug)]
pub(crate) struct CniError {
    pub(crate) code: Code,
    /// What is wrong, in one line.
    pub(crate) msg: String,
    /// What is allowed, or what to do.
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code, msg: msg.into(), details: details.into() }
    }
}
