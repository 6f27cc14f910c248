//! Superframes inside tunnels, through the uplink's kind of device.
//!
//! Two such devices are joined as an agent joins its own to the NIC, and the second one plays the NIC. What is written
//! to the first has to be read from the second as it was, and the reverse; and once the second one takes nothing
//! unfinished, what the kernel makes of it has to be the packets that it stands for. Both ends are those of the
//! `uplink` underlay.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Instant;

use weft_bridge::tables::{DomainOptions, TableError, Vtep, VtepKind};
use weft_bridge::{Tables, VtepId};
use weft_encap::checksum::{self, Verified};
use weft_encap::outer::{Addresses, DEFAULT_TTL, Link, Outer as Headers};
use weft_encap::{Checksum, Encapsulation, Offload, TunnelOffload, VIRTIO_NET_HDR_TUNNEL_LEN, Vni};

use super::failure::{Failure, same, same_bytes};
use super::frames::{ACK, Filled, Flow, PSH, Tcp};
use super::{FAR, GROUP_BYTES, MAC, NEAR, SIZE, WAIT, has_ipv6, note, pattern, wait};
use crate::gather::Buffers;
use crate::levels::{Level, Levels};
use crate::port::{MAX_FRAME_LEN, TapOffloads};
use crate::underlay::{Accepted, Datagram, Form, Lane, Listen, NextHop, Outer, Preamble, UplinkDevice};

const TUNNEL_PORT: u16 = 4789;
const SOURCE_PORT: u16 = 49_152;
const ENCAPSULATION: Encapsulation = Encapsulation::Vxlan;
/// A congestion mark and a traffic class, so that this byte is seen to arrive.
const TOS: u8 = 0x2a;
const MTU: u16 = 1500;
/// Between which ports the inner flows are, and where their sequence numbers begin: so that they wrap.
const FLOW_PORTS: (u16, u16) = (9000, 9001);
const FIRST: Tcp = Tcp { seq: u32::MAX - 1500, ack: 1, flags: ACK | PSH };
/// Payload of each packet of a group of small ones, in bytes: the last one is shorter.
const SMALL: [usize; 4] = [100, 100, 100, 33];

/// Something to carry, queued: and what has to come of it.
struct Load {
    what: &'static str,
    flow: Flow,
    frames: Vec<u8>,
    lane: Lane,
    /// What each of the packets carries that it stands for.
    payloads: Vec<Vec<u8>>,
}

/// A packet as a device gives it.
struct Seen {
    header: [u8; VIRTIO_NET_HDR_TUNNEL_LEN],
    bytes: Vec<u8>,
}

struct Joint<'a> {
    uplink: &'a mut UplinkDevice,
    nic: &'a mut UplinkDevice,
    /// Those to whom it is written, in either family.
    vteps: [VtepId; 2],
    arena: Vec<u8>,
}

/// Where the test's tunnel packets go: what is redirected from the device that plays the NIC.
#[must_use]
pub fn tunnel_ends() -> Vec<SocketAddr> {
    families().iter().map(|ipv6| (FAR[usize::from(*ipv6)], TUNNEL_PORT).into()).collect()
}

/// Tests the uplink, unless it is off already. Both devices are up; all that arrives on `uplink` is redirected to `nic`,
/// and what arrives there for one of [`tunnel_ends`] to `uplink`. To be called in their network namespace.
pub fn uplink(levels: &Levels, uplink: &mut UplinkDevice, nic: &mut UplinkDevice) {
    if levels.uses(Level::Uplink) {
        let outcome = Joint::new(uplink, nic).and_then(|mut joint| joint.test());
        note(levels, Level::Uplink, outcome);
    }
}

fn families() -> &'static [bool] {
    if has_ipv6() { &[false, true] } else { &[false] }
}

impl<'a> Joint<'a> {
    fn new(uplink: &'a mut UplinkDevice, nic: &'a mut UplinkDevice) -> Result<Self, Failure> {
        let vteps = vteps().map_err(|error| Failure::call("naming the far end", std::io::Error::other(error)))?;
        Ok(Self { uplink, nic, vteps, arena: vec![0; MAX_FRAME_LEN] })
    }

    fn test(&mut self) -> Result<(), Failure> {
        let outer = families().iter();
        let vteps = self.vteps;
        let loads: Vec<_> =
            outer.flat_map(|ipv6| loads_over(*ipv6, vteps).into_iter().map(|load| (*ipv6, load))).collect();
        for (ipv6, load) in &loads {
            let (header, packet) = load.packet(*ipv6)?;
            write(self.uplink, load, *ipv6)?;
            let seen = read(self.nic, &mut self.arena, load.what)?;
            same_bytes(load.what, &seen.bytes, &packet)?;
            same(load.what, &told(&seen.header)?, &told(&header)?)?;
            write(self.nic, load, *ipv6)?;
            let seen = read(self.uplink, &mut self.arena, load.what)?;
            load.arrived(*ipv6, &seen)?;
        }
        let plain = self.nic.queue.set_offloads(TapOffloads::NONE);
        plain.map_err(|error| Failure::call("asking the TAP for finished packets (TUNSETOFFLOAD)", error))?;
        for (ipv6, load) in &loads {
            write(self.uplink, load, *ipv6)?;
            for place in 0..load.payloads.len() {
                let seen = read(self.nic, &mut self.arena, load.what)?;
                load.finished(*ipv6, place, &seen)?;
            }
        }
        Ok(())
    }
}

/// One of each kind, over an outer header of this family.
fn loads_over(outer_ipv6: bool, vteps: [VtepId; 2]) -> Vec<Load> {
    let to = (FAR[usize::from(outer_ipv6)], TUNNEL_PORT).into();
    let outer = Outer { vtep: vteps[usize::from(outer_ipv6)], to, tos: TOS, ttl: DEFAULT_TTL, alone: false };
    let mut loads = Vec::new();
    for ipv6 in families() {
        loads.push(superframe("a TCP superframe inside a tunnel", outer, flow(true, *ipv6)));
        loads.push(superframe("a UDP superframe inside a tunnel", outer, flow(false, *ipv6)));
    }
    loads.push(small_packets(outer, flow(false, false)));
    loads
}

fn superframe(what: &'static str, outer: Outer, flow: Flow) -> Load {
    let bytes = pattern(GROUP_BYTES);
    let (frames, offload) = flow.frame(FIRST, &bytes);
    let mut lane = Lane::new();
    let segment = tunnel().len() + frames.len() - bytes.len() + usize::from(SIZE);
    lane.push_superframe(outer, &tunnel(), 0..frames.len(), offload, segment);
    Load { what, flow, frames, lane, payloads: bytes.chunks(SIZE.into()).map(<[u8]>::to_vec).collect() }
}

fn small_packets(outer: Outer, flow: Flow) -> Load {
    let (mut frames, mut lane) = (Vec::new(), Lane::new());
    let payloads = SMALL.map(pattern).to_vec();
    for payload in &payloads {
        let (mut frame, offload) = flow.frame(Tcp::default(), payload);
        if let Checksum::Needed { start, offset } = offload.checksum {
            // The frame was made with room for it.
            let _ = checksum::complete(&mut frame, start, offset);
        }
        let start = frames.len();
        frames.extend(frame);
        lane.push_frame(outer, &tunnel(), start..frames.len(), &frames);
    }
    Load { what: "a group of small packets", flow, frames, lane, payloads }
}

impl Load {
    /// Writes what stands before it.
    fn preamble(&self, outer_ipv6: bool) -> Result<Preamble, Failure> {
        let [group] = self.lane.groups() else {
            return Err(Failure::Differs {
                what: self.what,
                seen: format!("{} packets", self.lane.groups().len()),
                expected: "1 packet".to_owned(),
            });
        };
        let mut preamble = Preamble::new();
        let written = preamble.write(group, &next_hop(outer_ipv6), SOURCE_PORT);
        written.map_err(|reason| Failure::call(self.what, std::io::Error::other(reason.name())))?;
        Ok(preamble)
    }

    /// The kernel's header, and the bytes behind it.
    fn packet(&self, outer_ipv6: bool) -> Result<([u8; VIRTIO_NET_HDR_TUNNEL_LEN], Vec<u8>), Failure> {
        let preamble = self.preamble(outer_ipv6)?;
        let Some((header, outer)) = preamble.bytes().split_first_chunk() else {
            return Err(Failure::Missing { what: self.what });
        };
        let buffers = self.lane.buffers(&self.frames);
        let payload = self.lane.groups().iter().flat_map(|group| self.lane.pieces(group));
        Ok((*header, outer.iter().chain(payload.flat_map(|piece| piece.bytes(&buffers))).copied().collect()))
    }

    /// Checks that it came whole, as a reader of the uplink sees it.
    fn arrived(&self, outer_ipv6: bool, seen: &Seen) -> Result<(), Failure> {
        let listen = tunnel_ends().into_iter().map(|at| Listen { at, encapsulation: ENCAPSULATION }).collect();
        let accepted = Accepted { listen, zero_checksums_over_ipv6: false };
        let Some(datagram) = accepted.read(&seen.header, &seen.bytes, 0) else {
            return Err(Failure::Refused { what: self.what });
        };
        let (_, packet) = self.packet(outer_ipv6)?;
        same_bytes(self.what, &seen.bytes, &packet)?;
        let Datagram { range, segment, source, tos, form, .. } = datagram;
        same("the sender of a tunnel packet", &(source, tos), &(NEAR[usize::from(outer_ipv6)], TOS))?;
        let [group] = self.lane.groups() else { return Ok(()) };
        let expected = match group.superframe {
            Some(offload) => (group.bytes, Form::Packet(without_hint(offload))),
            None => (group.segment, Form::Packets),
        };
        let form = match form {
            Form::Packet(offload) => Form::Packet(without_hint(offload)),
            other => other,
        };
        same("what the kernel says of a tunnel packet", &(segment, form), &expected)?;
        same("the bytes inside a tunnel", &range.len(), &group.bytes)
    }

    /// Checks one of the packets that the kernel made of it.
    fn finished(&self, outer_ipv6: bool, place: usize, seen: &Seen) -> Result<(), Failure> {
        same("the offload of a finished packet", &told(&seen.header)?, &TunnelOffload::default())?;
        let read = Headers::read(&seen.bytes);
        let received = read.map_err(|error| Failure::call("reading outer headers", std::io::Error::other(error)))?;
        let NextHop { addresses, link, .. } = next_hop(outer_ipv6);
        same("the MACs of a finished packet", &received.link, &link)?;
        let Headers { src_port, dst_port, tos, ttl, .. } = received.outer;
        let outer = (received.outer.addresses, src_port, dst_port, tos, ttl);
        let expected = (addresses, SOURCE_PORT, TUNNEL_PORT, TOS, DEFAULT_TTL);
        same("the outer headers of a finished packet", &outer, &expected)?;
        same("an outer checksum", &received.verify(), &Verified::Right)?;
        let Some((header, frame)) = received.payload.split_at_checked(tunnel().len()) else {
            return Err(Failure::Refused { what: "a finished packet" });
        };
        same_bytes("a tunnel header", header, &tunnel())?;
        let Some(sent) = self.flow.turned().read(frame, &Offload::NONE, Filled::Yes)? else {
            return Err(Failure::Refused { what: "the frame in a finished packet" });
        };
        same_bytes("the payload of a finished packet", &sent.payload, &self.payloads[place])?;
        if self.flow.tcp {
            let before: usize = self.payloads[..place].iter().map(Vec::len).sum();
            same("a sequence number", &sent.seq, &FIRST.seq.wrapping_add(before as u32))?;
            let last = if place + 1 == self.payloads.len() { PSH } else { 0 };
            same("the flags of a segment", &sent.flags, &(ACK | last))?;
        }
        Ok(())
    }
}

fn write(device: &mut UplinkDevice, load: &Load, outer_ipv6: bool) -> Result<(), Failure> {
    let preamble = load.preamble(outer_ipv6)?;
    let buffers: Buffers<'_> = load.lane.buffers(&load.frames);
    load.lane.groups().iter().try_for_each(|group| {
        let written = device.queue.write(preamble.bytes(), load.lane.pieces(group), &buffers);
        written.map_err(|error| Failure::call(load.what, error))
    })
}

/// The next tunnel packet.
fn read(device: &UplinkDevice, arena: &mut [u8], what: &'static str) -> Result<Seen, Failure> {
    let until = Instant::now() + WAIT;
    loop {
        match device.queue.read(arena).map_err(|error| Failure::call("reading", error))? {
            None => wait(device.as_fd(), what, until)?,
            // What else a kernel may have to say on a device that is new.
            Some((_, packet)) if !is_udp(packet) => {}
            Some((header, packet)) => return Ok(Seen { header: *header, bytes: packet.to_vec() }),
        }
    }
}

fn is_udp(frame: &[u8]) -> bool {
    weft_encap::Inner::parse(frame).is_ok_and(|inner| inner.ports().is_some())
}

/// What the kernel says of a packet, but for the length of its headers, which it counts in its own way.
fn told(header: &[u8; VIRTIO_NET_HDR_TUNNEL_LEN]) -> Result<TunnelOffload, Failure> {
    let read = TunnelOffload::from_bytes(header);
    let read = read.map_err(|error| Failure::call("reading a header", std::io::Error::other(error)))?;
    Ok(TunnelOffload { offload: without_hint(read.offload), ..read })
}

fn without_hint(offload: Offload) -> Offload {
    Offload { gso: offload.gso.map(|gso| weft_encap::Gso { header_len: 0, ..gso }), ..offload }
}

fn tunnel() -> [u8; 8] {
    weft_encap::vxlan::header(Vni::MAX)
}

/// An inner flow; frames go from its far to its near end.
fn flow(tcp: bool, ipv6: bool) -> Flow {
    let place = usize::from(ipv6);
    Flow { near: (FAR[place], FLOW_PORTS.1).into(), far: (NEAR[place], FLOW_PORTS.0).into(), tcp }
}

fn next_hop(ipv6: bool) -> NextHop {
    let addresses = match (NEAR[usize::from(ipv6)], FAR[usize::from(ipv6)]) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Addresses::V4 { src, dst },
        (src, dst) => Addresses::V6 { src: super::frames::to_v6(src), dst: super::frames::to_v6(dst) },
    };
    NextHop { link: Link { dst: MAC, src: MAC }, addresses, mtu: MTU }
}

fn vteps() -> Result<[VtepId; 2], TableError> {
    let mut tables = Tables::new(NEAR.to_vec(), vec![TUNNEL_PORT]);
    tables.add_domain(Vni::MAX, DomainOptions::default())?;
    let mut add = |address| {
        let vtep = Vtep {
            address,
            udp_port: TUNNEL_PORT,
            encapsulation: ENCAPSULATION,
            kind: VtepKind::Foreign,
            pod_mtu: MTU,
        };
        tables.add_vtep(vtep, &[Vni::MAX])
    };
    Ok([add(FAR[0])?, add(FAR[1])?])
}

#[cfg(test)]
mod tests {
    use weft_encap::Splitter;
    use weft_encap::outer::UdpChecksum;
    use weft_encap::split::MAX_HEADER_LEN;

    use super::*;

    /// Every load, and the family of its outer headers.
    fn loads() -> Vec<(bool, Load)> {
        let vteps = vteps().unwrap();
        let kinds =
            [false, true].into_iter().flat_map(|ipv6| loads_over(ipv6, vteps).into_iter().map(move |it| (ipv6, it)));
        kinds.collect()
    }

    /// The packets that a load stands for, finished here.
    fn finished(load: &Load, ipv6: bool) -> Vec<Seen> {
        let (header, packet) = load.packet(ipv6).unwrap();
        let outer = Headers::read(&packet).unwrap();
        let frames: Vec<Vec<u8>> = match load.lane.groups()[0].superframe {
            Some(offload) => {
                let mut splitter = Splitter::new(&load.frames, &offload).unwrap();
                let (mut headers, mut frames) = ([0; MAX_HEADER_LEN], Vec::new());
                while let Some(payload) = splitter.next_segment(&mut headers) {
                    frames.push([&tunnel(), &headers[..splitter.header_len()], &load.frames[payload]].concat());
                }
                frames
            }
            None => outer.payload.chunks(load.lane.groups()[0].segment).map(<[u8]>::to_vec).collect(),
        };
        assert_ne!(told(&header).unwrap(), TunnelOffload::default());
        let finish = |payload: Vec<u8>| {
            let mut bytes = packet[..14 + outer.outer.header_len()].to_vec();
            let sum = UdpChecksum::Complete { payload: checksum::sum(&payload) };
            outer.outer.write(&mut bytes[14..], payload.len(), sum).unwrap();
            bytes.extend(payload);
            Seen { header: TunnelOffload::default().to_bytes(), bytes }
        };
        frames.into_iter().map(finish).collect()
    }

    #[test]
    fn what_is_right_passes() {
        let loads = loads();
        assert_eq!(loads.len(), 2 * (2 * families().len() + 1));
        for (ipv6, load) in &loads {
            let (header, bytes) = load.packet(*ipv6).unwrap();
            assert!(load.arrived(*ipv6, &Seen { header, bytes }).is_ok());
            let packets = finished(load, *ipv6);
            assert_eq!(packets.len(), load.payloads.len());
            for (place, seen) in packets.iter().enumerate() {
                load.finished(*ipv6, place, seen).unwrap();
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_found_wherever_it_is() {
        for (ipv6, load) in &loads() {
            let (header, bytes) = load.packet(*ipv6).unwrap();
            for at in (0..bytes.len()).filter(|at| *at < 200 || at % 97 == 0) {
                let mut bytes = bytes.clone();
                bytes[at] ^= 1;
                assert!(load.arrived(*ipv6, &Seen { header, bytes }).is_err(), "byte {at} of a whole {}", load.what);
            }
            for (place, Seen { header, bytes }) in finished(load, *ipv6).into_iter().enumerate() {
                for at in (0..bytes.len()).filter(|at| *at < 200 || at % 97 == 0) {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= 1;
                    let told = load.finished(*ipv6, place, &Seen { header, bytes });
                    // The flow label, and nothing else, is nobody's business (RFC 6437).
                    assert!(told.is_err() || *ipv6 && (15..18).contains(&at), "byte {at} of a finished {}", load.what);
                }
            }
        }
    }

    #[test]
    fn lost_word_of_what_is_left_to_do_is_found() {
        for (ipv6, load) in &loads() {
            let (header, bytes) = load.packet(*ipv6).unwrap();
            let of_another = TunnelOffload::from_bytes(&header).map(|mut other| {
                if let Some(gso) = &mut other.offload.gso {
                    gso.size += 1;
                }
                other.to_bytes()
            });
            for header in [[0; VIRTIO_NET_HDR_TUNNEL_LEN], of_another.unwrap()] {
                assert!(load.arrived(*ipv6, &Seen { header, bytes: bytes.clone() }).is_err(), "{}", load.what);
            }
            let packets = finished(load, *ipv6);
            let (first, last) = (&packets[0], packets.len() - 1);
            assert!(load.finished(*ipv6, last, first).is_err(), "a packet in another's place");
            let seen = Seen { header, bytes: first.bytes.clone() };
            assert!(load.finished(*ipv6, 0, &seen).is_err(), "a finished packet that is called unfinished");
        }
    }
}
