//! What a fault is: how it is planted from outside, who is asked, what has to be named, and how it is taken away again.

use std::collections::BTreeMap;

use rustix::process::Signal;
use weft_integration::{Frame, MacAddr};

/// One fault.
pub(crate) struct Fault {
    /// What is wrong, in a few words.
    pub(crate) name: &'static str,
    /// How it comes to be.
    pub(crate) plant: &'static [Deed],
    /// Who is asked, and what each has to name.
    pub(crate) asks: &'static [Ask],
    /// How it ends.
    pub(crate) repair: Repair,
}

/// Something that is done from outside of the product.
pub(crate) enum Deed {
    /// A shell command in the namespace of a pod, a node, or `underlay`; `$LAB` is the lab's name, `$DIR` its directory.
    In(&'static str, &'static str),
    /// `weft testbed VERB LAB WORDS`.
    Testbed(&'static str, &'static [&'static str]),
    /// Frames that a pod, or a node, puts on its `eth0`, whatever they say.
    Sends(&'static str, fn(&Macs) -> Vec<Frame>),
    /// The payloads of UDP datagrams, each with its number, that a node sends to `n1`, to this port.
    Tunnels(&'static str, u16, fn(&Macs, u32) -> Vec<u8>),
    /// A UDP socket that a program has open on this port of a node, until the fault ends.
    Listens(&'static str, u16),
    /// A signal to a node's agent, or to `store`.
    Signals(&'static str, Signal),
}

/// A question, and the name that has to be in the answer.
pub(crate) enum Ask {
    /// `weft doctor --node LAB.NODE`: the name of a finding.
    Doctor(&'static str, &'static str),
    /// `weft trace --lab LAB` with these words: the reason of a drop, or another word for why nothing arrives.
    Trace(&'static [&'static str], &'static str),
    /// `weft trace --node LAB.NODE --live --drops`: the reason of a drop.
    Live(&'static str, &'static str),
}

impl Ask {
    /// For the page.
    pub(crate) fn in_words(&self) -> String {
        match self {
            Self::Doctor(_, name) => format!("doctor: `{name}`"),
            Self::Trace(_, name) => format!("trace: `{name}`"),
            Self::Live(_, name) => format!("live: `{name}`"),
        }
    }
}

/// How a fault ends.
pub(crate) enum Repair {
    /// By the very commands that the doctor names; then what else was made for the fault is taken away.
    AsTold(&'static [Deed]),
    /// By other means from outside.
    By(&'static [Deed]),
    /// By itself: who sent sends no more.
    Over,
}

/// The MACs of the `eth0` of a lab's pods and nodes.
pub(crate) struct Macs(pub(crate) BTreeMap<String, MacAddr>);

impl Macs {
    /// That of a pod or a node.
    pub(crate) fn of(&self, member: &str) -> MacAddr {
        self.0[member]
    }
}
