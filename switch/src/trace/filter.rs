use std::net::IpAddr;

use weft_bridge::{Attachment, Tables};
use weft_encap::{MacAddr, Vni};

use super::record::{Ingress, Record, Summary};

/// Which frames are told of. What is not set matches every frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// They enter or leave by the port of this name.
    pub pod: Option<String>,
    /// They are of this virtual network.
    pub vni: Option<Vni>,
    /// They come from or go to the VTEP with this address.
    pub peer: Option<IpAddr>,
    /// They come from or go to this MAC.
    pub mac: Option<MacAddr>,
    /// They come from or go to this address; ARP speaks of its own.
    pub ip: Option<IpAddr>,
    /// One of these protocol numbers of IP; none: any.
    pub protocols: Vec<u8>,
    /// Port of TCP, UDP or SCTP, at either end.
    pub port: Option<u16>,
    /// Dropped frames, and dropped copies, alone.
    pub drops: bool,
}

impl Filter {
    /// Whether the frame itself matches.
    pub(crate) fn takes_frame(&self, vni: Option<Vni>, summary: Option<&Summary>) -> bool {
        let network = summary.and_then(|summary| summary.network);
        let ports = summary.and_then(|summary| summary.ports);
        self.vni.is_none_or(|wanted| vni == Some(wanted))
            && self.mac.is_none_or(|mac| summary.is_some_and(|summary| summary.src == mac || summary.dst == mac))
            && self.ip.is_none_or(|wanted| network.is_some_and(|(from, to, _)| from == wanted || to == wanted))
            && (self.protocols.is_empty()
                || network.is_some_and(|(.., protocol)| protocol.is_some_and(|own| self.protocols.contains(&own))))
            && self.port.is_none_or(|wanted| ports.is_some_and(|(from, to)| from == wanted || to == wanted))
    }

    /// Whether what happens at one end of the frame's way matches.
    pub(crate) fn takes_end(&self, tables: &Tables, end: End) -> Touched {
        let (mut pod, mut peer) = (self.pod.is_none(), self.peer.is_none());
        match end {
            End::In(Ingress::Port(id)) | End::Out(Attachment::Port(id)) => {
                pod |= tables.port(id).is_some_and(|port| self.pod.as_deref() == Some(port.name.as_str()));
            }
            End::In(Ingress::Vtep(_, address) | Ingress::Stranger(address)) => peer |= self.peer == Some(address),
            End::Out(Attachment::Vtep(id)) => {
                peer |= tables.vtep(id).is_some_and(|vtep| self.peer == Some(vtep.address));
            }
        }
        Touched { pod, peer }
    }

    /// Whether it is told of, given that all else matches.
    pub(crate) fn takes_outcome(&self, record: &Record) -> bool {
        !self.drops || record.dropped().is_some()
    }
}

/// One end of a frame's way through the switch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    In(Ingress),
    Out(Attachment),
}

/// Which of the wishes for a place were met so far.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Touched {
    pub(crate) pod: bool,
    pub(crate) peer: bool,
}

impl Touched {
    pub(crate) const fn and_at(self, other: Self) -> bool {
        (self.pod || other.pod) && (self.peer || other.peer)
    }
}
