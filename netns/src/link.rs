use rtnetlink::packet_core::Nla;
use rtnetlink::packet_route::link::{
    InfoData, InfoGeneve, InfoTun, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use weft_encap::MacAddr;

/// Numbers of attributes from `linux/if_link.h`.
const IFLA_TUN_NUM_QUEUES: u16 = 8;
const IFLA_TUN_NUM_DISABLED_QUEUES: u16 = 9;

/// What is known of one interface.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Link {
    /// Its index in the namespace, from 1 (`ifindex`).
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its MAC; none on interfaces that have no Ethernet address.
    pub mac: Option<MacAddr>,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether something is at the other end.
    pub carrier: bool,
    /// How often that changed since the interface was made.
    pub carrier_changes: u32,
    /// What made it: `veth`, `bridge`, `tun`; none for hardware and loopback.
    pub kind: Option<String>,
    /// What somebody wrote on it for others to see (`ip link set alias`).
    pub alias: Option<String>,
    /// How many queues of a multi-queue TUN or TAP programs hold open; none for any other, and before Linux 4.20.
    pub open_queues: Option<u32>,
    /// UDP port at which it takes tunnel packets, of VXLAN and Geneve devices of the kernel.
    pub tunnel_port: Option<u16>,
    /// Index of the bridge it belongs to.
    pub master: Option<u32>,
    /// Length of its transmit queue, in frames.
    pub tx_queue_len: u32,
    /// Largest superframe it is given, in bytes.
    pub gso_max_size: u32,
    /// The same for IPv4, in bytes; zero from kernels before 6.3, where the one above holds for both.
    pub gso_ipv4_max_size: u32,
    /// Segments in the largest superframe it is given.
    pub gso_max_segs: u32,
    /// What it counted.
    pub stats: LinkStats,
}

/// The kernel's counters of one interface, seen from the namespace it is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames received and refused as malformed.
    pub rx_errors: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
    /// Frames received and dropped for want of room.
    pub rx_dropped: u64,
    /// Frames dropped instead of sent: of a TAP, those its reader did not fetch in time.
    pub tx_dropped: u64,
}

impl Link {
    pub(crate) fn from_message(message: &LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mac: None,
            mtu: 0,
            up: message.header.flags.contains(LinkFlags::Up),
            carrier: false,
            carrier_changes: 0,
            kind: None,
            alias: None,
            open_queues: None,
            tunnel_port: None,
            master: None,
            tx_queue_len: 0,
            gso_max_size: 0,
            gso_ipv4_max_size: 0,
            gso_max_segs: 0,
            stats: LinkStats::default(),
        };
        message.attributes.iter().for_each(|attribute| link.absorb(attribute));
        link
    }

    fn absorb(&mut self, attribute: &LinkAttribute) {
        match attribute {
            LinkAttribute::IfName(name) => self.name.clone_from(name),
            LinkAttribute::Address(bytes) => self.mac = bytes.as_slice().try_into().ok().map(MacAddr),
            LinkAttribute::Mtu(mtu) => self.mtu = *mtu,
            LinkAttribute::Carrier(state) => self.carrier = *state != 0,
            LinkAttribute::CarrierChanges(changes) => self.carrier_changes = *changes,
            LinkAttribute::Controller(index) => self.master = Some(*index),
            LinkAttribute::TxQueueLen(frames) => self.tx_queue_len = *frames,
            LinkAttribute::GsoMaxSize(bytes) => self.gso_max_size = *bytes,
            LinkAttribute::GsoIpv4MaxSize(bytes) => self.gso_ipv4_max_size = *bytes,
            LinkAttribute::GsoMaxSegs(segments) => self.gso_max_segs = *segments,
            LinkAttribute::IfAlias(alias) => self.alias = Some(alias.clone()),
            LinkAttribute::LinkInfo(infos) => {
                self.kind = infos.iter().find_map(kind);
                self.tunnel_port = infos.iter().find_map(tunnel_port);
                self.open_queues = infos.iter().find_map(open_queues);
            }
            LinkAttribute::Stats64(seen) => {
                self.stats = LinkStats {
                    rx_packets: seen.rx_packets,
                    tx_packets: seen.tx_packets,
                    rx_bytes: seen.rx_bytes,
                    tx_bytes: seen.tx_bytes,
                    rx_errors: seen.rx_errors,
                    tx_errors: seen.tx_errors,
                    rx_dropped: seen.rx_dropped,
                    tx_dropped: seen.tx_dropped,
                };
            }
            _ => {}
        }
    }
}

fn kind(info: &LinkInfo) -> Option<String> {
    match info {
        LinkInfo::Kind(kind) => Some(kind.to_string()),
        _ => None,
    }
}

fn tunnel_port(info: &LinkInfo) -> Option<u16> {
    match info {
        LinkInfo::Data(InfoData::Vxlan(attributes)) => attributes.iter().find_map(|attribute| match attribute {
            InfoVxlan::Port(port) => Some(*port),
            _ => None,
        }),
        LinkInfo::Data(InfoData::Geneve(attributes)) => attributes.iter().find_map(|attribute| match attribute {
            InfoGeneve::Port(port) => Some(*port),
            _ => None,
        }),
        _ => None,
    }
}

fn open_queues(info: &LinkInfo) -> Option<u32> {
    let LinkInfo::Data(InfoData::Tun(attributes)) = info else { return None };
    let number = |wanted| {
        attributes.iter().find_map(|attribute| match attribute {
            InfoTun::Other(raw) if raw.kind() == wanted && raw.value_len() == size_of::<u32>() => {
                let mut bytes = [0; size_of::<u32>()];
                raw.emit_value(&mut bytes);
                Some(u32::from_ne_bytes(bytes))
            }
            _ => None,
        })
    };
    Some(number(IFLA_TUN_NUM_QUEUES)? + number(IFLA_TUN_NUM_DISABLED_QUEUES).unwrap_or_default())
}
