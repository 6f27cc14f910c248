//! A pod: a whole TCP/IP endpoint at the other end of a port.

use std::collections::VecDeque;
use std::num::{NonZeroU16, NonZeroUsize};
use std::time::Duration;

use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::phy::{self, Checksum as Sums, Device, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr};
use weft_encap::inner::ETHERNET_LEN;
use weft_encap::split::MAX_HEADER_LEN;
use weft_encap::{Checksum, Gso, GsoKind, Inner, L4, MacAddr, Offload, Splitter, checksum};
use weft_switch::memory::{MemoryFrame, MemoryPort};

use crate::trace::{Event, Trace};

/// Bytes of the longest superframe that a pod sends, as a kernel's default.
const SUPERFRAME_BYTES: usize = 65_535;

/// What a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PodConfig {
    /// Its MAC.
    pub mac: MacAddr,
    /// Its addresses, each with the length of its prefix.
    pub addresses: Vec<IpCidr>,
    /// Bytes of its longest IP packet.
    pub mtu: u16,
    /// Whether it hands superframes (over IPv4) and unfinished TCP checksums to the switch, as a kernel does.
    pub offloads: bool,
}

impl PodConfig {
    /// With these addresses (`10.0.0.1/24`), an MTU of 1450 bytes and offloads.
    ///
    /// # Panics
    /// If one is none.
    #[must_use]
    pub fn new(mac: MacAddr, addresses: &[&str]) -> Self {
        let read = |text: &&str| text.parse().unwrap_or_else(|()| panic!("{text}: write ADDRESS/LENGTH"));
        Self { mac, addresses: addresses.iter().map(read).collect(), mtu: 1450, offloads: true }
    }
}

pub(crate) struct Pod {
    interface: Interface,
    pub(crate) sockets: SocketSet<'static>,
    device: Nic,
}

struct Nic {
    port: MemoryPort,
    received: VecDeque<Vec<u8>>,
    sent: Vec<(Vec<u8>, Offload)>,
    mtu: u16,
    offloads: bool,
}

impl Pod {
    pub(crate) fn new(config: &PodConfig, port: MemoryPort, seed: u64, now: Duration) -> Self {
        let mut device =
            Nic { port, received: VecDeque::new(), sent: Vec::new(), mtu: config.mtu, offloads: config.offloads };
        let mut settings = Config::new(HardwareAddress::Ethernet(EthernetAddress(config.mac.0)));
        settings.random_seed = seed;
        let mut interface = Interface::new(settings, &mut device, instant(now));
        interface.update_ip_addrs(|addresses| {
            for address in &config.addresses {
                addresses.push(*address).unwrap_or_else(|_| panic!("{address} is one too many for a pod"));
            }
        });
        Self { interface, sockets: SocketSet::new(Vec::new()), device }
    }

    /// Takes its cable out and puts it into another port.
    pub(crate) fn plug(&mut self, port: MemoryPort) {
        self.device.port = port;
    }

    pub(crate) fn interface_and_sockets(&mut self) -> (&mut Interface, &mut SocketSet<'static>) {
        (&mut self.interface, &mut self.sockets)
    }

    /// Takes what came, answers, and sends what is due. Whether anything happened.
    pub(crate) fn poll(&mut self, now: Duration, place: u64, trace: &mut Trace) -> bool {
        for frame in self.device.port.pod_received() {
            trace.note(now, Event::ToPod, place, &frame.bytes);
            self.device.received.extend(packets(frame));
        }
        let came = !self.device.received.is_empty();
        let changed = self.interface.poll(instant(now), &mut self.device, &mut self.sockets);
        let sent = std::mem::take(&mut self.device.sent);
        let busy = came || !sent.is_empty() || changed == PollResult::SocketStateChanged;
        for (bytes, offload) in sent {
            trace.note(now, Event::FromPod, place, &bytes);
            self.device.port.pod_sends(bytes, Ok(offload));
        }
        busy
    }

    /// When it wants to be polled again, though nothing came.
    pub(crate) fn next(&mut self, now: Duration) -> Option<Duration> {
        let at = self.interface.poll_at(instant(now), &self.sockets)?;
        Some(Duration::from_micros(u64::try_from(at.total_micros()).unwrap_or_default()))
    }
}

fn instant(now: Duration) -> Instant {
    Instant::from_micros(i64::try_from(now.as_micros()).unwrap_or(i64::MAX))
}

/// The packets of what the switch gave a pod, each with its whole checksum, as the endpoint's own card would make them.
fn packets(frame: MemoryFrame) -> Vec<Vec<u8>> {
    let MemoryFrame { mut bytes, offload } = frame;
    if offload.gso.is_some() {
        let mut splitter = Splitter::new(&bytes, &offload).unwrap_or_else(|error| panic!("for a pod: {error}"));
        let (mut headers, mut packets) = ([0; MAX_HEADER_LEN], Vec::new());
        while let Some(payload) = splitter.next_segment(&mut headers) {
            packets.push([&headers[..splitter.header_len()], &bytes[payload]].concat());
        }
        return packets;
    }
    if let Checksum::Needed { start, offset } = offload.checksum {
        checksum::complete(&mut bytes, start, offset).unwrap_or_else(|error| panic!("for a pod: {error}"));
    }
    vec![bytes]
}

/// What a kernel says of a TCP frame whose checksum it leaves to its device; the field gets the pseudo-header's sum.
fn unfinished(frame: &mut [u8], segment: Option<NonZeroU16>) -> Option<Offload> {
    let inner = Inner::parse(frame).ok()?;
    let l4 = L4::of(&inner).ok().filter(|l4| l4.tcp)?;
    let (start, offset) = (l4.start as u16, l4.checksum_offset());
    let sum = checksum::fold(l4.pseudo_header((l4.end - l4.start) as u16));
    let field = l4.start + usize::from(offset);
    let kind = if l4.ipv6 { GsoKind::Tcp6 } else { GsoKind::Tcp4 };
    let header_len = l4.payload as u16;
    frame.get_mut(field..field + 2)?.copy_from_slice(&sum.to_be_bytes());
    let gso = segment.map(|size| Gso { kind, size: size.get(), header_len, ecn: false });
    Some(Offload { checksum: Checksum::Needed { start, offset }, gso })
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.received.pop_front()?;
        Some((Received(frame), Sending { nic: self, segment: None }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending { nic: self, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = usize::from(self.mtu) + ETHERNET_LEN;
        if self.offloads {
            capabilities.checksum.tcp = Sums::Rx;
            // Not over IPv6: smoltcp 0.14 loses such superframes itself, as packets that it would have to fragment.
            capabilities.segmentation.tcpv4 = NonZeroUsize::new(SUPERFRAME_BYTES);
        }
        capabilities
    }
}

struct Received(Vec<u8>);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.0)
    }
}

struct Sending<'a> {
    nic: &'a mut Nic,
    segment: Option<NonZeroU16>,
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = vec![0; len];
        let result = write(&mut frame);
        let offload = self.nic.offloads.then(|| unfinished(&mut frame, self.segment)).flatten();
        self.nic.sent.push((frame, offload.unwrap_or(Offload::NONE)));
        result
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}
