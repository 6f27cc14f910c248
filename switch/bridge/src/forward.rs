//! The one decision of the switch.
//!
//! Theory of operation. `forward` is pure: it reads the published tables and the learned table, and says
//! where a frame goes and what it taught us about its source. Workers, trace, simulation and tests call
//! the same function. The order of the checks is part of the contract: first whether the frame may be
//! here at all, then what its source teaches, then where it goes.
//!
//! What decides where it goes: a question for a neighbour that the tables know goes to it alone, or is answered; what
//! is for the gateway goes to the port that stands for it, under that port's MAC; a
//! group address floods; a static MAC wins over a learned one, unless it roams and a port of this node has it; an unknown
//! MAC floods. What is refused: frames that break their port's bounds, tags where the VNI does not carry
//! them, our own encapsulation to or from ourselves, and whatever would go back where it came from, or
//! from a VTEP to a VTEP.

use std::net::{IpAddr, Ipv6Addr};

use weft_encap::inner::{ETHERTYPE_ARP, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_UDP};
use weft_encap::neighbour::Claim;
use weft_encap::{Checksum, Inner, InnerError, MacAddr, Network, Offload, OffloadError, checksum, neighbour};

use crate::drop_reason::DropReason;
use crate::fdb::{Fdb, Learn, Seconds};
use crate::id::{Attachment, PortId, VtepId};
use crate::size::wire_len;
use crate::tables::{BridgeDomain, FloodLimits, Owner, Port, PortMode, Tables, VtepKind};

/// MACs learned behind one foreign VTEP at most.
pub const VTEP_LEARN_LIMIT: u32 = 16_384;

/// Where a frame came from.
#[derive(Clone, Copy, Debug)]
pub enum Ingress<'t> {
    /// A port of this node; its VNI is the port's.
    Port(PortId),
    /// A known VTEP, with the VNI of the tunnel header, both checked by [`crate::admit()`].
    Vtep(VtepId, &'t BridgeDomain),
}

/// What happens to a frame. Every frame gets one.
#[derive(Clone, Copy, Debug)]
pub enum Verdict<'t> {
    /// One copy.
    Unicast(Attachment),
    /// A copy for each target of the flood.
    Flood(Flood<'t>),
    /// None: the frame asks who has an address, and is answered that this MAC has it.
    Answer(MacAddr),
    /// None, and why.
    Drop(DropReason),
}

/// The copy set of a broadcast, unknown-unicast or multicast frame.
#[derive(Clone, Copy, Debug)]
pub struct Flood<'t> {
    domain: &'t BridgeDomain,
    ingress: Attachment,
    cause: FloodCause,
}

/// Why a frame is flooded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloodCause {
    /// Nobody knows where its target is.
    Unknown,
    /// It is for a group, or for all.
    Group,
}

impl FloodCause {
    /// How many such frames one port may flood in a second, and what one more is dropped for.
    #[must_use]
    pub fn limit(self, limits: FloodLimits) -> (u32, DropReason) {
        match self {
            Self::Unknown => (limits.unknown, DropReason::UnknownFloodLimit),
            Self::Group => (limits.group, DropReason::GroupFloodLimit),
        }
    }
}

/// A verdict, and what the frame taught us of its source.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'t> {
    /// Where it goes.
    pub verdict: Verdict<'t>,
    /// For [`Fdb::learn`], where something is new.
    pub learn: Option<Learn>,
    /// The MAC that the frame is given as its destination, where that is another: a gateway's frames are taken to
    /// the port that stands for it.
    pub rewrite: Option<MacAddr>,
}

impl<'t> Flood<'t> {
    /// The bridge domain it happens in.
    #[must_use]
    pub fn domain(&self) -> &'t BridgeDomain {
        self.domain
    }

    /// Why it happens.
    #[must_use]
    pub fn cause(&self) -> FloodCause {
        self.cause
    }

    /// Every attachment that gets a copy: the other ports and, unless it came from one, the VTEPs.
    pub fn targets(&self) -> impl Iterator<Item = Attachment> + use<'t> {
        let Self { domain, ingress, .. } = *self;
        let vteps = match ingress {
            Attachment::Port(_) => domain.flood_list(),
            Attachment::Vtep(_) => &[],
        };
        let ports = domain.ports().iter().map(|id| Attachment::Port(*id));
        ports.filter(move |port| *port != ingress).chain(vteps.iter().map(|id| Attachment::Vtep(*id)))
    }
}

/// Decides one frame. `inner` is what could be read of its bytes, `offload` of what came with it.
#[must_use]
pub fn forward<'t>(
    tables: &'t Tables,
    fdb: &Fdb,
    now: Seconds,
    ingress: Ingress<'t>,
    inner: &Result<Inner<'_>, InnerError>,
    offload: Result<Offload, OffloadError>,
) -> Decision<'t> {
    match decide(tables, fdb, now, ingress, inner, offload) {
        Ok(decision) => decision,
        Err(reason) => Decision { verdict: Verdict::Drop(reason), learn: None, rewrite: None },
    }
}

fn decide<'t>(
    tables: &'t Tables,
    fdb: &Fdb,
    now: Seconds,
    ingress: Ingress<'t>,
    inner: &Result<Inner<'_>, InnerError>,
    offload: Result<Offload, OffloadError>,
) -> Result<Decision<'t>, DropReason> {
    let inner = inner.as_ref().map_err(|_| DropReason::Runt)?;
    let offload = offload.ok().filter(|offload| checksum_lies_inside(offload, inner)).ok_or(DropReason::BadOffload)?;
    let (attachment, domain, learn_limit) = match ingress {
        Ingress::Port(id) => {
            let port = tables.port(id).ok_or(DropReason::IngressGone)?;
            let domain = tables.domain(port.vni).ok_or(DropReason::UnknownVni)?;
            check_frame(tables, domain, inner)?;
            check_port(port, inner, &offload)?;
            let limit = match port.mode {
                PortMode::Bound { .. } => None,
                PortMode::Learning { limit } => Some(limit),
            };
            (Attachment::Port(id), domain, limit)
        }
        Ingress::Vtep(id, domain) => {
            let vtep = tables.vtep(id).ok_or(DropReason::UnknownSource)?;
            check_frame(tables, domain, inner)?;
            let limit = match vtep.kind {
                VtepKind::Managed => None,
                VtepKind::Foreign => Some(VTEP_LEARN_LIMIT),
            };
            (Attachment::Vtep(id), domain, limit)
        }
    };
    if domain
        .owner(inner.src)
        .is_some_and(|owner| owner.attachment != attachment && !may_take_over(tables, owner, ingress))
    {
        return Err(DropReason::StaticMacMoved);
    }
    let learn = learn_limit.and_then(|limit| source_news(fdb, domain, attachment, inner.src, limit, now));
    let verdict = match neighbour_of(domain, attachment, inner) {
        Some(verdict) => verdict,
        None => destination(tables, fdb, domain, attachment, inner.dst).unwrap_or_else(Verdict::Drop),
    };
    Ok(Decision { verdict, learn, rewrite: rewrite(tables, domain, &verdict, inner.dst) })
}

/// Whether a MAC that is known to be elsewhere may come from here: one that was learned there, at a learning port or from
/// another node that publishes what it learns.
fn may_take_over(tables: &Tables, owner: Owner, ingress: Ingress<'_>) -> bool {
    owner.roams
        && match ingress {
            Ingress::Port(id) => tables.port(id).is_some_and(|port| matches!(port.mode, PortMode::Learning { .. })),
            Ingress::Vtep(id, _) => tables.vtep(id).is_some_and(|vtep| vtep.kind == VtepKind::Managed),
        }
}

fn rewrite(tables: &Tables, domain: &BridgeDomain, verdict: &Verdict<'_>, to: MacAddr) -> Option<MacAddr> {
    let gateway = domain.gateway().filter(|gateway| gateway.mac == to)?;
    let Verdict::Unicast(Attachment::Port(id)) = verdict else { return None };
    tables.port(*id).filter(|_| *id == gateway.port).map(|port| port.mac)
}

/// What becomes of a port's question for a neighbour that is known: one on this node answers itself, one behind a VTEP
/// is answered for, and so is the gateway. None for every other frame, and for whoever asks whether its own address is
/// taken.
fn neighbour_of<'t>(domain: &BridgeDomain, ingress: Attachment, inner: &Inner<'_>) -> Option<Verdict<'t>> {
    let Attachment::Port(_) = ingress else { return None };
    let target = neighbour::question(inner)?.target;
    if let Some(gateway) = domain.gateway().filter(|gateway| gateway.addresses.contains(&target)) {
        return Some(Verdict::Answer(gateway.mac));
    }
    let (mac, owner) = domain.neighbour(target)?;
    if mac == inner.src || owner == ingress {
        return None;
    }
    Some(match owner {
        Attachment::Port(_) => Verdict::Unicast(owner),
        Attachment::Vtep(_) => Verdict::Answer(mac),
    })
}

/// Whether filling the checksum changes nothing but a field behind the addresses, which are checked here.
fn checksum_lies_inside(offload: &Offload, inner: &Inner<'_>) -> bool {
    match offload.checksum {
        Checksum::Needed { start, offset } => checksum::covered(inner, start, offset).is_ok(),
        Checksum::Unknown | Checksum::Valid => true,
    }
}

fn check_frame(tables: &Tables, domain: &BridgeDomain, inner: &Inner<'_>) -> Result<(), DropReason> {
    if inner.src.is_multicast() || inner.src == MacAddr::ZERO {
        return Err(DropReason::BadSourceMac);
    }
    if inner.tagged && !domain.vlan_transparent() {
        return Err(DropReason::VlanTagged);
    }
    if inner.dst.is_link_local() {
        return Err(DropReason::ReservedMulticast);
    }
    // One that claims to be longer than its frame could swallow those behind it, where a kernel joins tunnel packets.
    if inner.network == Network::Other && [ETHERTYPE_IPV4, ETHERTYPE_IPV6].contains(&inner.ethertype) {
        return Err(DropReason::MalformedIp);
    }
    if matches!(&inner.network, Network::Ipv6(ip) if !ip.is_walked()) {
        return Err(DropReason::TooManyHeaders);
    }
    if carries_own_encapsulation(tables, inner) {
        return Err(DropReason::EncapLoop);
    }
    Ok(())
}

fn check_port(port: &Port, inner: &Inner<'_>, offload: &Offload) -> Result<(), DropReason> {
    if let PortMode::Bound { addresses } = &port.mode {
        if inner.src != port.mac {
            return Err(DropReason::SpoofedMac);
        }
        if inner.hides_behind_tags() {
            return Err(DropReason::TooManyHeaders);
        }
        if !addresses.is_empty() && !may_send_from(port.mac, addresses, inner) {
            return Err(DropReason::SpoofedIp);
        }
        match neighbour::claim(inner) {
            Some(Claim::AnotherMac) => return Err(DropReason::SpoofedMac),
            Some(Claim::Address(ip)) if !addresses.is_empty() && !has_address(port.mac, addresses, ip) => {
                return Err(DropReason::SpoofedIp);
            }
            Some(Claim::Router) if !addresses.is_empty() => return Err(DropReason::RogueRouter),
            Some(Claim::Address(_) | Claim::Router) | None => {}
        }
    }
    if wire_len(inner, offload) > usize::from(port.mtu) {
        return Err(DropReason::ExceedsIngressMtu);
    }
    Ok(())
}

/// Whether the addresses a frame speaks for belong to its sender. The unspecified address is
/// everybody's (DHCP, ARP probes of RFC 5227, duplicate address detection of RFC 4862).
fn may_send_from(mac: MacAddr, addresses: &[IpAddr], inner: &Inner<'_>) -> bool {
    let own = |address: IpAddr| address.is_unspecified() || addresses.contains(&address);
    match &inner.network {
        Network::Ipv4(ip) => own(IpAddr::V4(ip.src)),
        Network::Ipv6(ip) => has_address(mac, addresses, ip.src) || ip.src.is_unspecified(),
        Network::Arp(arp) => arp.sender_mac == mac && own(IpAddr::V4(arp.sender_ip)),
        // What cannot be read as ARP, though it says that it is, has no address to check.
        Network::Other => inner.ethertype != ETHERTYPE_ARP,
    }
}

fn has_address(mac: MacAddr, addresses: &[IpAddr], ip: Ipv6Addr) -> bool {
    addresses.contains(&ip.into()) || ip == link_local(mac)
}

/// The address that a device forms from its MAC (RFC 4291 appendix A).
fn link_local(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn carries_own_encapsulation(tables: &Tables, inner: &Inner<'_>) -> bool {
    let (src, dst, protocol): (IpAddr, IpAddr, u8) = match &inner.network {
        Network::Ipv4(ip) => (ip.src.into(), ip.dst.into(), ip.protocol),
        Network::Ipv6(ip) => (ip.src.into(), ip.dst.into(), ip.protocol),
        Network::Arp(_) | Network::Other => return false,
    };
    protocol == PROTOCOL_UDP
        && inner.ports().is_some_and(|(_, port)| tables.local_udp_ports().contains(&port))
        && tables.local_addresses().iter().any(|own| *own == src || *own == dst)
}

fn source_news(
    fdb: &Fdb,
    domain: &BridgeDomain,
    attachment: Attachment,
    mac: MacAddr,
    limit: u32,
    now: Seconds,
) -> Option<Learn> {
    let known = fdb.lookup(domain.id(), mac);
    let news = known.is_none_or(|entry| entry.attachment != attachment || entry.age(now) > 0);
    news.then_some(Learn { domain: domain.id(), mac, attachment, limit })
}

fn destination<'t>(
    tables: &'t Tables,
    fdb: &Fdb,
    domain: &'t BridgeDomain,
    ingress: Attachment,
    mac: MacAddr,
) -> Result<Verdict<'t>, DropReason> {
    let cause = if mac.is_multicast() { FloodCause::Group } else { FloodCause::Unknown };
    let flood = Flood { domain, ingress, cause };
    if !mac.is_multicast() {
        let learned = || fdb.lookup(domain.id(), mac).map(|entry| entry.attachment);
        let here = |at: &Attachment| matches!(at, Attachment::Port(_)) && tables.has(*at);
        let known = match domain.owner(mac) {
            Some(Owner { attachment, roams: false }) => Some(attachment),
            Some(Owner { attachment, roams: true }) => learned().filter(here).or(Some(attachment)),
            None => learned(),
        };
        let known = known.filter(|attachment| tables.has(*attachment));
        match (known, ingress) {
            (Some(egress), _) if egress == ingress => return Err(DropReason::Hairpin),
            (Some(Attachment::Vtep(_)), Attachment::Vtep(_)) => return Err(DropReason::SplitHorizon),
            (Some(egress), _) => return Ok(Verdict::Unicast(egress)),
            (None, _) => {}
        }
    }
    if flood.targets().next().is_none() {
        return Err(DropReason::NoFloodTarget);
    }
    Ok(Verdict::Flood(flood))
}
