//! The lab file as it is written. Scalars stay text here, so that [`crate::check`] can say of each what is
//! allowed; only the shape is checked while reading.
//!
//! `docs/lab.schema.json`, which editors use, is made of these types and what is said of them here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_saphyr::Spanned;

pub(crate) type Text = Spanned<String>;

/// A lab of nodes, pods, and the network between the nodes.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct File {
    /// The lab's name: 1 to 32 of a-z, 0-9 and -. Default: the file's.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) name: Option<Text>,
    /// How frames travel between nodes: vxlan (the default) or geneve.
    #[cfg_attr(test, schemars(with = "Option<schema::Encapsulation>"))]
    pub(crate) encapsulation: Option<Text>,
    /// The network between the nodes.
    #[serde(default)]
    pub(crate) underlay: Underlay,
    /// How agents find each other: embedded (the default) runs a store of the lab's own, none writes every peer into
    /// every configuration, etcd names one that this machine reaches.
    #[cfg_attr(test, schemars(with = "Option<schema::Control>"))]
    pub(crate) control: Option<Control>,
    /// Parts of the underlay, if it is more than one switch; routers join them.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<Segment>"))]
    pub(crate) segments: Vec<Segment>,
    /// What joins segments.
    #[serde(default)]
    pub(crate) routers: Vec<Router>,
    /// The virtual networks. Default: those that pods name.
    #[serde(default)]
    pub(crate) vnis: Vec<VniEntry>,
    /// The nodes, 1 to 200.
    #[cfg_attr(test, schemars(with = "Vec<Node>"))]
    pub(crate) nodes: Spanned<Vec<Node>>,
}

/// How agents find each other.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Control {
    Embedded,
    None,
    Etcd(Spanned<Vec<Text>>),
}

/// The network between the nodes.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Underlay {
    /// The IPv4 prefix of a single segment. Default: 10.199.0.0/24.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) ipv4: Option<Text>,
    /// The IPv6 prefix of a single segment. Default: fd99::/64.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) ipv6: Option<Text>,
    /// MTU of all links that say nothing else, 1280 to 65535 bytes. Default: 1500.
    #[cfg_attr(test, schemars(with = "Option<u16>"))]
    pub(crate) mtu: Option<Text>,
    /// What the tunnels run on: ipv4 (the default) or ipv6.
    #[cfg_attr(test, schemars(with = "Option<schema::Family>"))]
    pub(crate) family: Option<Text>,
}

/// One switch of the underlay.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Segment {
    /// Its name: 1 to 15 of a-z, 0-9 and -.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) name: Text,
    /// Its IPv4 prefix.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) ipv4: Text,
    /// Its IPv6 prefix.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) ipv6: Text,
    /// MTU of its links, in bytes. Default: that of the underlay.
    #[cfg_attr(test, schemars(with = "Option<u16>"))]
    pub(crate) mtu: Option<Text>,
}

/// A router between segments.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Router {
    /// Its name: 1 to 9 of a-z, 0-9 and -.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) name: Text,
    /// The segments it joins, two or more: eth0 is in the first, eth1 in the second.
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub(crate) segments: Spanned<Vec<Text>>,
}

/// A virtual network.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct VniEntry {
    /// Its identifier, 1 to 16777215.
    #[cfg_attr(test, schemars(with = "u32"))]
    pub(crate) id: Text,
    /// Whether frames with VLAN tags are carried. Default: false.
    #[cfg_attr(test, schemars(with = "Option<bool>"))]
    pub(crate) vlan_transparent: Option<Text>,
}

/// A node.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    /// Its name: 1 to 15 of a-z, 0-9 and -. Its link has the same.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) name: Text,
    /// What it is: weft (the default), kernel-vxlan, or host, which has no pods.
    #[cfg_attr(test, schemars(with = "Option<schema::Kind>"))]
    pub(crate) kind: Option<Text>,
    /// The segment it is in. Default: the first.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) segment: Option<Text>,
    /// MTU of its link, in bytes. Default: that of its segment.
    #[cfg_attr(test, schemars(with = "Option<u16>"))]
    pub(crate) mtu: Option<Text>,
    /// How frames travel to it. Default: that of the lab.
    #[cfg_attr(test, schemars(with = "Option<schema::Encapsulation>"))]
    pub(crate) encapsulation: Option<Text>,
    /// What is wrong with its link.
    pub(crate) link: Option<Link>,
    /// Fields of `[underlay]` in its agent's configuration, such as path_probes or ttl.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "BTreeMap<String, serde_json::Value>"))]
    pub(crate) underlay: BTreeMap<String, Spanned<serde_json::Value>>,
    /// Its pods; at most 1000 in a lab.
    #[serde(default)]
    pub(crate) pods: Vec<Pod>,
}

/// A pod.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(crate) struct Pod {
    /// Its name: 1 to 32 of a-z, 0-9 and -, unique in the lab.
    #[cfg_attr(test, schemars(with = "String"))]
    pub(crate) name: Text,
    /// Its virtual network.
    #[cfg_attr(test, schemars(with = "u32"))]
    pub(crate) vni: Text,
    /// Its addresses with prefix lengths, up to 16.
    #[serde(default)]
    #[cfg_attr(test, schemars(with = "Vec<String>"))]
    pub(crate) addresses: Vec<Text>,
    /// Its MAC. Default: the agent chooses, always the same.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) mac: Option<Text>,
    /// What it may send: bound (the default) or learning.
    #[cfg_attr(test, schemars(with = "Option<schema::Mode>"))]
    pub(crate) mode: Option<Text>,
    /// MTU of its interface, in bytes. Default: what fits through the underlay.
    #[cfg_attr(test, schemars(with = "Option<u16>"))]
    pub(crate) mtu: Option<Text>,
    /// A command for the shell, run in the pod's network namespace until the lab is taken down.
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub(crate) cmd: Option<Text>,
}

/// Makes a type of all impairments, and lists those that were written.
macro_rules! impairments {
    ($(#[$about:meta])* $name:ident { $($(#[$more_about:meta])* $more:ident: $kind:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(crate) struct $name {
            /// How much later frames arrive, such as 20ms.
            #[cfg_attr(test, schemars(with = "Option<String>"))]
            delay: Option<Text>,
            /// By how much the delay varies to both sides.
            #[cfg_attr(test, schemars(with = "Option<String>"))]
            jitter: Option<Text>,
            /// How many frames are lost, such as 1%.
            #[cfg_attr(test, schemars(with = "Option<String>"))]
            loss: Option<Text>,
            /// Losses in bursts: ENTER/LEAVE in percent, such as 1%/25%.
            #[cfg_attr(test, schemars(with = "Option<String>"))]
            burst: Option<Text>,
            /// How many frames arrive twice.
            #[cfg_attr(test, schemars(with = "Option<String>"))]
            duplicate: Option<Text>,
            /// How many frames overtake those that are delayed.
            #[cfg_attr(test, schemars(with = "Option<String>"))]
            reorder: Option<Text>,
            /// How many frames arrive with one bit turned over.
            #[cfg_attr(test, schemars(with = "Option<String>"))]
            corrupt: Option<Text>,
            /// How fast frames leave, such as 10mbit.
            #[cfg_attr(test, schemars(with = "Option<String>"))]
            rate: Option<Text>,
            /// How many frames may wait to leave.
            #[cfg_attr(test, schemars(with = "Option<u32>"))]
            queue: Option<Text>,
            /// The longest IP packet that passes, in bytes.
            #[cfg_attr(test, schemars(with = "Option<u16>"))]
            mtu: Option<Text>,
            /// Whether longer ones are dropped (the default), or their senders told by icmp.
            #[cfg_attr(test, schemars(with = "Option<schema::TooBig>"))]
            too_big: Option<Text>,
            $($(#[$more_about])* pub(crate) $more: $kind,)*
        }

        impl $name {
            /// What was written, by its name.
            pub(crate) fn written(&self) -> impl Iterator<Item = (&'static str, &Text)> {
                let all = [
                    ("delay", &self.delay),
                    ("jitter", &self.jitter),
                    ("loss", &self.loss),
                    ("burst", &self.burst),
                    ("duplicate", &self.duplicate),
                    ("reorder", &self.reorder),
                    ("corrupt", &self.corrupt),
                    ("rate", &self.rate),
                    ("queue", &self.queue),
                    ("mtu", &self.mtu),
                    ("too-big", &self.too_big),
                ];
                all.into_iter().filter_map(|(name, text)| Some((name, text.as_ref()?)))
            }
        }
    };
}

impairments! {
    /// What is wrong with one direction of a link.
    Way {}
}

impairments! {
    /// What is wrong with a link: in both directions, and in one of them.
    Link {
        /// Frames towards the node.
        to: Option<Way>,
        /// Frames from the node.
        from: Option<Way>,
        /// Begins the sequence of chances. Default: 0.
        #[cfg_attr(test, schemars(with = "Option<u64>"))]
        seed: Option<Text>,
    }
}

/// Words that stand for themselves.
#[cfg(test)]
mod schema {
    macro_rules! words {
        ($($name:ident: $($word:ident)*;)*) => {$(
            #[derive(schemars::JsonSchema)]
            #[serde(rename_all = "kebab-case")]
            #[expect(dead_code, reason = "only its schema is made")]
            pub(super) enum $name { $($word),* }
        )*};
    }

    /// A word, or endpoints.
    #[derive(schemars::JsonSchema)]
    #[serde(rename_all = "lowercase")]
    #[expect(dead_code, reason = "only its schema is made")]
    pub(super) enum Control {
        Embedded,
        None,
        /// Endpoints, http://HOST:PORT.
        Etcd(Vec<String>),
    }

    words! {
        Encapsulation: Vxlan Geneve;
        Family: Ipv4 Ipv6;
        Kind: Weft KernelVxlan Host;
        Mode: Bound Learning;
        TooBig: Drop Icmp;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Set to anything, it has the test write the schema instead of comparing it.
    const UPDATE: &str = "WEFT_UPDATE_SCHEMA";

    #[test]
    fn the_schema_in_docs_is_that_of_the_types() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/lab.schema.json");
        let mut schema = schemars::schema_for!(File);
        schema.insert("title".to_owned(), "A lab of weft testbed".into());
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if std::env::var_os(UPDATE).is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(written == text, "{path} is old: run this test with {UPDATE}=1");
    }
}
