use weft_api::{ClientError, Refusal};

/// Error codes: below 100 the specification's (CNI 1.1.0, section 5, "Error"), from 100 on our own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    IncompatibleVersion = 1,
    ContainerUnknown = 3,
    InvalidEnvironment = 4,
    Io = 5,
    Undecodable = 6,
    InvalidConfig = 7,
    TryAgainLater = 11,
    /// ADD would not work.
    NotAvailable = 50,
    /// Nor do pods that are attached reach all others.
    LimitedConnectivity = 51,
    /// No address is free.
    NoAddress = 101,
    /// What was asked for is another's.
    Taken = 102,
    /// The pod's interface is not as it should be.
    Differs = 103,
    /// The kernel refused the agent.
    Kernel = 104,
    /// The agent is of another version.
    OtherAgent = 105,
}

/// What the runtime is told instead of a result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CniError {
    pub(crate) code: u32,
    /// What is wrong, in one line.
    pub(crate) msg: String,
    /// What is allowed, or what to do.
    pub(crate) details: String,
}

impl CniError {
    pub(crate) fn new(code: Code, msg: impl Into<String>, details: impl Into<String>) -> Self {
        Self { code: code as u32, msg: msg.into(), details: details.into() }
    }

    pub(crate) fn is(&self, code: Code) -> bool {
        self.code == code as u32
    }
}

impl From<ClientError> for CniError {
    fn from(error: ClientError) -> Self {
        let (code, details) = match &error {
            ClientError::NotRunning { .. } => (
                Code::TryAgainLater,
                "start the agent, or name its run directory by `runDir` in the network configuration",
            ),
            ClientError::NotAllowed { .. } => (Code::Io, "container runtimes run plugins as root"),
            ClientError::Version { .. } => {
                (Code::OtherAgent, "install the plugin that came with the agent: `weft cni install`")
            }
            ClientError::Io { .. } => (Code::TryAgainLater, "the agent may have ended meanwhile; its log says more"),
            ClientError::Refused { refusal, .. } => match refusal {
                Some(Refusal::Later) => (Code::TryAgainLater, "`weft status` says how the agent stands"),
                Some(Refusal::Exhausted) => (Code::NoAddress, "`weft show ports` says who has addresses"),
                Some(Refusal::Taken) => (Code::Taken, "`weft show ports` says who has it"),
                Some(Refusal::Unknown) => (Code::ContainerUnknown, "`weft show ports` says what is attached"),
                Some(Refusal::Differs) => (Code::Differs, "DEL and ADD make it anew"),
                Some(Refusal::Failed) => (Code::Kernel, "the agent's log says more"),
                Some(Refusal::Invalid) | None => {
                    (Code::InvalidConfig, "docs/cni.md lists what a network configuration may have")
                }
            },
        };
        Self::new(code, error.to_string(), details)
    }
}
