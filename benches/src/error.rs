use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use weft_netns::NetnsError;

/// Why something of the comparison could not be done.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BenchError {
    /// Somebody asked for the end.
    #[error("interrupted")]
    Interrupted,
    /// A namespace or a link.
    #[error(transparent)]
    Netns(#[from] NetnsError),
    /// A file.
    #[error("cannot {operation} {}: {source}", path.display())]
    File {
        /// What was tried.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program that is not there, or does not start.
    #[error("cannot run `{program}`: {source}{}", if source.kind() == io::ErrorKind::NotFound { "; install it" } else { "" })]
    Program {
        /// The program.
        program: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// A program that failed.
    #[error("`{command}` failed: {said}")]
    Failed {
        /// With its arguments.
        command: String,
        /// What it complained of.
        said: String,
    },
    /// Something that did not happen in time.
    #[error("{what}: not within {} s{}", bound.as_secs(), if log.is_empty() { String::new() } else { format!("; last in the logs: {log}") })]
    Late {
        /// What was waited for.
        what: String,
        /// How long.
        bound: Duration,
        /// The end of what its processes logged.
        log: String,
    },
    /// A socket of a load.
    #[error("cannot {operation}: {source}")]
    Socket {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A load that moved nothing.
    #[error("nothing arrived")]
    Silence,
    /// The machine does not say what is asked of it.
    #[error("{path} does not say {what}")]
    Unreadable {
        /// The file.
        path: &'static str,
        /// What was looked for.
        what: &'static str,
    },
}

pub(crate) fn socket(operation: &'static str) -> impl Fn(io::Error) -> BenchError {
    move |source| BenchError::Socket { operation, source }
}

pub(crate) fn file(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> BenchError {
    let path = path.into();
    move |source| BenchError::File { operation, path, source }
}
