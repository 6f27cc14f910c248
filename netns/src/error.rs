use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why something about a namespace as a whole failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NetnsError {
    /// There is no such namespace.
    #[error("no network namespace `{name}`: {} does not exist; `ip netns list` shows those there are", path.display())]
    NotFound {
        /// The name or path asked for.
        name: String,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there, but no namespace is mounted on it.
    #[error("{} is not a network namespace: half made or half removed; `ip netns delete {name}` removes it", path.display())]
    NotANamespace {
        /// The name or path asked for.
        name: String,
        /// The file seen.
        path: PathBuf,
    },
    /// A namespace of that name exists already.
    #[error("a network namespace named `{name}` exists already; `ip netns delete {name}` removes it")]
    NameTaken {
        /// The name asked for.
        name: String,
    },
    /// The name cannot be that of a file in `/run/netns`.
    #[error("`{name}` cannot name a network namespace: 1 to 255 bytes, no `/`, neither `.` nor `..`")]
    Name {
        /// The name seen.
        name: String,
    },
    /// The kernel refused.
    #[error("cannot {operation} network namespace `{name}`: {source}{}", hint(source))]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// Label of the namespace.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// An operation on a link inside it failed.
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// Why an operation on a link failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LinkError {
    /// There is no interface of that name in the namespace.
    #[error("cannot {operation} `{interface}` in network namespace `{netns}`: no such interface there")]
    NoSuchLink {
        /// What was tried.
        operation: &'static str,
        /// The interface asked for.
        interface: String,
        /// Label of the namespace.
        netns: String,
    },
    /// The name cannot be that of an interface.
    #[error("`{interface}` cannot name an interface: 1 to 15 bytes, no `/`, `:` or white space, neither `.` nor `..`")]
    Name {
        /// The name seen.
        interface: String,
    },
    /// The kernel refused.
    #[error("cannot {operation} `{interface}` in network namespace `{netns}`: {source}{}", hint(source))]
    Kernel {
        /// What was tried.
        operation: &'static str,
        /// The interface.
        interface: String,
        /// Label of the namespace.
        netns: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// IPv6 is switched off on the interface.
    #[error(
        "cannot give `{interface}` in network namespace `{netns}` the address {address}: IPv6 is switched off there; `sysctl net.ipv6.conf.{interface}.disable_ipv6=0` in that namespace switches it on, or leave its IPv6 addresses out"
    )]
    Ipv6Off {
        /// The interface.
        interface: String,
        /// Label of the namespace.
        netns: String,
        /// The address.
        address: ipnet::IpNet,
    },
    /// The kernel answered with something that makes no sense.
    #[error("cannot {operation} `{interface}` in network namespace `{netns}`: unexpected answer: {seen}")]
    Answer {
        /// What was tried.
        operation: &'static str,
        /// The interface.
        interface: String,
        /// Label of the namespace.
        netns: String,
        /// What was seen.
        seen: String,
    },
    /// Gateway and destination are of different families.
    #[error("cannot route {destination} via {via}: one is IPv4, the other IPv6")]
    MixedFamilies {
        /// The destination.
        destination: ipnet::IpNet,
        /// The gateway.
        via: std::net::IpAddr,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (this needs root, or CAP_NET_ADMIN and CAP_SYS_ADMIN)",
        _ => "",
    }
}
