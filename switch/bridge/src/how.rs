use weft_encap::{Inner, neighbour};

use crate::forward::{Decision, Verdict};
use crate::id::Attachment;
use crate::tables::BridgeDomain;

/// Which knowledge sent a frame to the one place where it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// A MAC that configuration or control plane put there.
    Static,
    /// A MAC that was learned there.
    Learned,
    /// The gateway's MAC, for which a port of this node stands.
    Gateway,
    /// It asks for the neighbour that lives there.
    Neighbour,
}

impl Decision<'_> {
    /// How a frame found its one target; none for every other verdict.
    #[must_use]
    pub fn how(&self, domain: &BridgeDomain, inner: &Inner<'_>) -> Option<How> {
        let Verdict::Unicast(egress) = self.verdict else { return None };
        let asks_owner = || {
            let asked = neighbour::question(inner)?.target;
            domain.neighbour(asked).filter(|(_, owner)| *owner == egress && matches!(owner, Attachment::Port(_)))
        };
        Some(match domain.static_mac(inner.dst) {
            Some(_) if self.rewrite.is_some() => How::Gateway,
            Some(owner) if owner == egress => How::Static,
            _ if inner.dst.is_multicast() || asks_owner().is_some() => How::Neighbour,
            _ => How::Learned,
        })
    }
}
