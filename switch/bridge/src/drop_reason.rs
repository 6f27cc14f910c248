use std::fmt;

/// Where in its way a frame was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The frame had no verdict but this.
    Verdict,
    /// One copy of a frame, after its verdict.
    Egress,
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident $stage:ident $name:literal $hint:literal,)+) => {
        /// Why a frame, or one copy of it, went nowhere. Closed: what is not here is not dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All of them, in the order in which they are counted and shown.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name under which it is counted, in snake case.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in one sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// What to look at or change.
            #[must_use]
            pub const fn hint(self) -> &'static str {
                match self { $(Self::$variant => $hint,)+ }
            }

            /// Where it happens.
            #[must_use]
            pub const fn stage(self) -> Stage {
                match self { $(Self::$variant => Stage::$stage,)+ }
            }
        }
    };
}

drop_reasons! {
    /// The tunnel packet came from an address that is no VTEP of ours.
    UnknownSource Verdict "unknown_source" "add the sender to the VTEPs, or find out who sends to our tunnel port",
    /// The tunnel packet came from one of this node's own VTEP addresses.
    OwnSource Verdict "own_source" "two nodes have the same underlay address, or the underlay reflects our packets",
    /// The headers outside the tunnel, or their checksum, are wrong: only where packets are taken from the NIC itself.
    BadOuter Verdict "bad_outer" "capture on the underlay: something damages packets, or builds wrong ones",
    /// The tunnel packet ended inside its own header.
    TunnelTruncated Verdict "tunnel_truncated" "capture on the underlay: something cuts packets short",
    /// The VXLAN header says that it carries no VNI.
    VxlanNoVni Verdict "vxlan_no_vni" "the sender does not speak VXLAN on this port",
    /// The header is VXLAN-GPE, by which the payload may be anything.
    VxlanGpe Verdict "vxlan_gpe" "set the sender's tunnel to plain VXLAN: on Linux, make it without `gpe`",
    /// The VXLAN header carries a group policy, which nobody here would enforce.
    VxlanGroupPolicy Verdict "vxlan_group_policy" "switch group policy off at the sender: on Linux, make its device without `gbp`",
    /// The VXLAN header asks us to fill a checksum inside (remote checksum offload).
    VxlanRemoteChecksum Verdict "vxlan_remote_checksum" "switch it off at the sender: on Linux, make its device with `noremcsumtx`",
    /// The Geneve version is not zero.
    GeneveVersion Verdict "geneve_version" "the sender does not speak Geneve (RFC 8926) on this port",
    /// The Geneve header has an option marked critical that we do not know.
    GeneveCriticalOption Verdict "geneve_critical_option" "stop the sender from setting this option",
    /// The Geneve options do not add up to their length field.
    GeneveOptions Verdict "geneve_options" "the sender builds wrong Geneve headers",
    /// A Geneve control packet, which carries no frame for a pod.
    GeneveControl Verdict "geneve_control" "the sender expects a control protocol that we do not speak",
    /// What the Geneve header announces is not an Ethernet frame.
    GeneveProtocol Verdict "geneve_protocol" "set the sender's tunnel to carry Ethernet",
    /// The tunnel header has the VNI 0.
    VniZero Verdict "vni_zero" "set a VNI on the sender's tunnel",
    /// What came in the management VNI is no path probe.
    BadProbe Verdict "bad_probe" "another system uses VNI 16777214: give it another one",
    /// This node has no such VNI.
    UnknownVni Verdict "unknown_vni" "the sender floods a VNI to us in which we have no part: check its peers",
    /// The sender is a known VTEP, but not of this VNI.
    NotMember Verdict "not_member" "add the VNI to that VTEP, or remove us from the sender's flood list",
    /// The port that the frame entered by was removed in the meantime.
    IngressGone Verdict "ingress_gone" "nothing, unless it goes on: then a removed port's device is still read",
    /// The underlay marked congestion on a packet whose sender does not understand the mark (RFC 6040 section 4.2).
    EcnNotCapable Verdict "ecn_not_capable" "find the router on the underlay that marks packets which are not ECN-capable",
    /// Several tunnel packets, or one with a UDP superframe whose payload looks like tunnel packets: the kernel does
    /// not tell.
    AmbiguousGroup Verdict "ambiguous_group" "find out which pod behind that VTEP sends tunnel packets as its payload",
    /// The frame is shorter than an Ethernet header.
    Runt Verdict "runt" "capture at the pod: it sends broken frames",
    /// What the kernel said of the frame's offloads cannot be followed.
    BadOffload Verdict "bad_offload" "the pod's device produced an offload that we never asked for",
    /// The source address is all zero or a group address.
    BadSourceMac Verdict "bad_source_mac" "capture at the pod: it sends broken frames",
    /// The frame says that it carries IP, and the lengths in the packet's headers are not those of an IP packet.
    MalformedIp Verdict "malformed_ip" "capture at the pod: it sends broken packets, which nobody could receive",
    /// An IPv6 packet with more than eight extension headers, or a bound port's frame with more than two VLAN tags: what is
    /// behind them cannot be checked.
    TooManyHeaders Verdict "too_many_headers" "capture at the pod: no ordinary program sends such packets; one that needs three tags needs a `learning` port",
    /// A bound port sent from a MAC that is not its own.
    SpoofedMac Verdict "spoofed_mac" "make the port `learning` if other MACs live behind it",
    /// A bound port sent from an IP address that is not its own.
    SpoofedIp Verdict "spoofed_ip" "give the port the address, or make it `learning` if it routes for others",
    /// A bound port sent a router's message of neighbour discovery: an advertisement, or a redirect.
    RogueRouter Verdict "rogue_router" "make the port `learning` if the pod is a router",
    /// The frame carries a VLAN tag in a VNI that does not carry them.
    VlanTagged Verdict "vlan_tagged" "set `vlan_transparent` on the VNI",
    /// The frame, or the packets it stands for, are longer than the port's MTU.
    ExceedsIngressMtu Verdict "exceeds_ingress_mtu" "the pod's device has a greater MTU than its port: set both alike",
    /// The frame carries our own encapsulation to or from ourselves.
    EncapLoop Verdict "encap_loop" "the underlay is reachable through the overlay: check the pods' and nodes' routes",
    /// A destination that a bridge must never forward (IEEE 802.1Q table 8-1).
    ReservedMulticast Verdict "reserved_multicast" "nothing: such frames belong to one link",
    /// The destination lives where the frame came from.
    Hairpin Verdict "hairpin" "two hosts behind one learning port should reach each other there",
    /// From a VTEP to a VTEP: its sender reaches that node itself.
    SplitHorizon Verdict "split_horizon" "the sender has a stale entry for this MAC",
    /// The source address is bound to another port of this node.
    StaticMacMoved Verdict "static_mac_moved" "two pods use the same MAC, or the underlay reflects our frames",
    /// The port flooded too many frames towards targets that nobody knows in this second.
    UnknownFloodLimit Verdict "unknown_flood_limit" "find out which address the pod looks for in vain; `flood_unknown_per_second` sets the limit",
    /// The port sent too many frames to groups or to all in this second.
    GroupFloodLimit Verdict "group_flood_limit" "capture at the pod: a storm, or more multicast than `flood_group_per_second` allows",
    /// Broadcast, multicast or an unknown target, and nobody else in the VNI.
    NoFloodTarget Verdict "no_flood_target" "add ports or VTEPs to the VNI",
    /// The packets are longer than the receiving port's MTU.
    ExceedsPortMtu Egress "exceeds_port_mtu" "give all ports of the VNI the same MTU",
    /// The packets with their tunnel headers are longer than the path to the VTEP carries.
    ExceedsPathMtu Egress "exceeds_path_mtu" "lower the pods' MTU, or raise the underlay's",
    /// The path or the receiving port carries less than the 1280 bytes that IPv6 needs, so its sender cannot be told to send less.
    BelowIpv6Minimum Egress "below_ipv6_minimum" "for IPv6 pods raise the underlay's MTU to 1350 at least, or the port's to 1280",
    /// A UDP superframe arrived without its segment size, so its datagrams cannot be told apart.
    SegmentSizeUnknown Egress "segment_size_unknown" "switch tx-udp-segmentation off on the sending kernel's device",
    /// An IPv4, TCP or UDP checksum inside the tunnel was verified, before frames are joined, and is wrong.
    BadInnerChecksum Egress "bad_inner_checksum" "capture at the sending pod and on the underlay: something damages frames, or fills checksums wrongly",
    /// The superframe's headers contradict each other.
    BadSuperframe Egress "bad_superframe" "capture at the pod: it sends broken superframes",
    /// The port's device is down or gone.
    PortDown Egress "port_down" "set the pod's device up, or attach the pod again",
    /// The kernel refused the frame at the port.
    PortRefused Egress "port_refused" "capture at the pod: the kernel was short of memory, or took the frame for broken",
    /// The underlay's queue was full.
    UnderlayBusy Egress "underlay_busy" "the underlay is slower than the pods: this is congestion",
    /// There is no route to the VTEP.
    UnderlayUnreachable Egress "underlay_unreachable" "check the node's routes and neighbours towards the VTEP",
    /// The kernel refused the tunnel packet, as a firewall does.
    UnderlayRefused Egress "underlay_refused" "check the node's firewall for our tunnel port",
    /// This node has no VTEP address of the VTEP's family.
    NoAddressFamily Egress "no_address_family" "give this node an address of that family",
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_order_is_the_discriminant() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
    }
}
