//! The lab file as it is written. Scalars stay text here, so that [`crate::check`] can say of each what is
//! allowed; only the shape is checked while reading.

use serde::Deserialize;
use serde_saphyr::Spanned;

pub(crate) type Text = Spanned<String>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    pub(crate) name: Option<Text>,
    pub(crate) encapsulation: Option<Text>,
    #[serde(default)]
    pub(crate) underlay: Underlay,
    #[serde(default)]
    pub(crate) vnis: Vec<VniEntry>,
    pub(crate) nodes: Spanned<Vec<Node>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Underlay {
    pub(crate) ipv4: Option<Text>,
    pub(crate) ipv6: Option<Text>,
    pub(crate) mtu: Option<Text>,
    pub(crate) family: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct VniEntry {
    pub(crate) id: Text,
    pub(crate) vlan_transparent: Option<Text>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    pub(crate) name: Text,
    #[serde(default)]
    pub(crate) pods: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Pod {
    pub(crate) name: Text,
    pub(crate) vni: Text,
    #[serde(default)]
    pub(crate) addresses: Vec<Text>,
    pub(crate) mac: Option<Text>,
    pub(crate) mode: Option<Text>,
    pub(crate) mtu: Option<Text>,
}
