//! The one place that makes and reads keys.
//!
//! Under the cluster's prefix and the layout's version: `nodes/NAME`, `endpoints/NODE/VNI/MAC`, `foreign/ADDRESS`,
//! `network` and `ranges/ADDRESS_LENGTH`.

use std::fmt;
use std::net::IpAddr;

use bytes::Bytes;
use ipnet::IpNet;
use weft_encap::{MacAddr, Vni};
use weft_store::KeyRange;

/// The version of the layout, as keys carry it.
pub const LAYOUT: &str = "v1";

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// A node.
    Node(String),
    /// An endpoint of a node.
    Endpoint(String, Vni, MacAddr),
    /// A foreign VTEP.
    Foreign(IpAddr),
    /// The network that all pods share.
    Network,
    /// A range of its addresses.
    Range(IpNet),
}

/// The keys of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    root: String,
}

impl Keys {
    /// Those under a prefix, which has no slash at its end.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self { root: format!("{prefix}/{LAYOUT}/") }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> KeyRange {
        KeyRange::prefix(self.root.clone())
    }

    /// Those of a node's endpoints.
    #[must_use]
    pub fn endpoints(&self, node: &str) -> KeyRange {
        KeyRange::prefix(format!("{}endpoints/{node}/", self.root))
    }

    /// Those of foreign VTEPs.
    #[must_use]
    pub fn foreign(&self) -> KeyRange {
        KeyRange::prefix(format!("{}foreign/", self.root))
    }

    /// Those of ranges.
    #[must_use]
    pub fn ranges(&self) -> KeyRange {
        KeyRange::prefix(format!("{}ranges/", self.root))
    }

    /// As the store has it.
    #[must_use]
    pub fn write(&self, key: &Key) -> Bytes {
        format!("{}{key}", self.root).into()
    }

    /// What it names; none for what is not under the prefix, or has another form.
    #[must_use]
    pub fn read(&self, key: &[u8]) -> Option<Key> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(&self.root)?;
        let parts: Vec<&str> = path.split('/').collect();
        let read = match *parts.as_slice() {
            ["nodes", name] => Key::Node(name.to_owned()),
            ["endpoints", node, vni, mac] => {
                Key::Endpoint(node.to_owned(), Vni::new(vni.parse().ok()?).ok()?, mac.parse().ok()?)
            }
            ["foreign", address] => Key::Foreign(address.parse().ok()?),
            ["network"] => Key::Network,
            ["ranges", range] => Key::Range(range.replace('_', "/").parse().ok()?),
            _ => return None,
        };
        // One name for each thing: nothing is known by two keys.
        (read.to_string() == path).then_some(read)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "nodes/{name}"),
            Self::Endpoint(node, vni, mac) => write!(f, "endpoints/{node}/{vni}/{mac}"),
            Self::Foreign(address) => write!(f, "foreign/{address}"),
            Self::Network => write!(f, "network"),
            Self::Range(range) => write!(f, "ranges/{}_{}", range.addr(), range.prefix_len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_nothing_else() {
        let keys = Keys::new("/weft");
        let mac = MacAddr([2, 0, 0, 0, 0, 0xaf]);
        let all = [
            (Key::Node("n-1.a".to_owned()), "/weft/v1/nodes/n-1.a"),
            (Key::Endpoint("n1".to_owned(), Vni::MAX, mac), "/weft/v1/endpoints/n1/16777215/02:00:00:00:00:af"),
            (Key::Foreign("2001:db8::1".parse().unwrap()), "/weft/v1/foreign/2001:db8::1"),
            (Key::Network, "/weft/v1/network"),
            (Key::Range("10.244.0.0/16".parse().unwrap()), "/weft/v1/ranges/10.244.0.0_16"),
        ];
        for (key, text) in all {
            assert_eq!(keys.write(&key), text);
            assert_eq!(keys.read(text.as_bytes()), Some(key));
            assert!(keys.all().contains(text.as_bytes()));
        }
        let others = [
            "/weft/v2/nodes/n1",
            "/weft/v1/nodes/a/b",
            "/weft/v1/endpoints/n1/0/02:00:00:00:00:af",
            "/weft/v1/endpoints/n1/007/02:00:00:00:00:af",
            "/weft/v1/endpoints/n1/7/02:00:00:00:00:AF",
            "/weft/v1/foreign/2001:db8:0::1",
            "/weft/v1/ranges/10.244.0.0",
            "/weft/v1/other/x",
        ];
        for other in others {
            assert_eq!(keys.read(other.as_bytes()), None, "{other}");
        }
        assert_eq!(keys.read(b"/weft/v1/nodes/\xff"), None);
    }
}
