use std::io;
use std::net::IpAddr;

use super::WAIT;

/// What differed from what was expected.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{what}: {source}")]
    Call { what: &'static str, source: io::Error },
    #[error("{what} did not arrive within {} ms", WAIT.as_millis())]
    Missing { what: &'static str },
    #[error("a datagram from {address} to itself did not arrive: does a firewall drop it, or is `lo` down?")]
    Deaf { address: IpAddr },
    #[error("{what} is {seen}, and should be {expected}")]
    Differs { what: &'static str, seen: String, expected: String },
    #[error("{what} is not what was sent")]
    Refused { what: &'static str },
    #[error("{what}: byte {at} of {len} differs")]
    Byte { what: &'static str, at: usize, len: usize },
}

impl Failure {
    pub(super) fn call(what: &'static str, source: io::Error) -> Self {
        Self::Call { what, source }
    }

    pub(super) fn errno(&self) -> Option<i32> {
        match self {
            Self::Call { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

pub(super) fn same<T: PartialEq + std::fmt::Debug>(what: &'static str, seen: &T, expected: &T) -> Result<(), Failure> {
    if seen == expected {
        return Ok(());
    }
    Err(Failure::Differs { what, seen: format!("{seen:?}"), expected: format!("{expected:?}") })
}

/// Compares lengths, then byte for byte.
pub(super) fn same_bytes(what: &'static str, seen: &[u8], expected: &[u8]) -> Result<(), Failure> {
    if seen.len() != expected.len() {
        let bytes = |len| format!("{len} bytes long");
        return Err(Failure::Differs { what, seen: bytes(seen.len()), expected: bytes(expected.len()) });
    }
    match seen.iter().zip(expected).position(|(seen, expected)| seen != expected) {
        Some(at) => Err(Failure::Byte { what, at, len: seen.len() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_by_its_place() {
        let told = |seen: &[u8], expected: &[u8]| same_bytes("the group", seen, expected).map_err(|it| it.to_string());
        assert_eq!(told(&[1, 2, 3], &[1, 2, 3]), Ok(()));
        assert_eq!(told(&[1, 2, 3], &[1, 9, 9]), Err("the group: byte 1 of 3 differs".to_owned()));
        let short = "the group is 2 bytes long, and should be 3 bytes long";
        assert_eq!(told(&[1, 2], &[1, 2, 3]), Err(short.to_owned()));
    }
}
