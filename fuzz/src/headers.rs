//! What is read of headers: inner and outer ones, the tunnels', the kernel's, and probes.

use weft_encap::checksum::{self, Verified};
use weft_encap::outer::{self, UdpChecksum};
use weft_encap::probe::{self, Kind, Probe};
use weft_encap::{
    Checksum, Ecn, Encapsulation, FlowHash, Gso, Inner, L4, MacAddr, Network, Offload, Outer, TunnelOffload,
    VIRTIO_NET_HDR_TUNNEL_LEN, Vni, ecn, geneve, neighbour,
};

use super::knobs::{header_is_right, take, verified};
use super::superframes::segments;

/// The dissector, what is asked of every frame, and ECN.
pub fn inner(data: &[u8]) {
    let Some((knobs, mut frame)) = take(data) else { return };
    let Ok(inner) = Inner::parse(&frame) else {
        assert!(frame.len() < 14);
        return;
    };
    assert!(matches!(inner.l3, 14 | 18 | 22) && inner.l3 <= frame.len());
    match &inner.network {
        Network::Ipv4(ip) => assert!(inner.l3 + 20 <= ip.l4 && ip.l4 <= ip.end && ip.end <= frame.len()),
        Network::Ipv6(ip) => assert!(inner.l3 + 40 <= ip.l4 && ip.l4 <= ip.end && ip.end <= frame.len()),
        Network::Arp(_) => assert!(inner.l3 + 28 <= frame.len()),
        Network::Other => assert_eq!(inner.ports(), None),
    }
    if let Ok(l4) = L4::of(&inner) {
        assert!(l4.l3 < l4.start && l4.start < l4.payload && l4.payload <= l4.end && l4.end <= frame.len());
    }
    let ports = usize::from(knobs.other);
    assert!(FlowHash::of(&inner).index(ports) < ports.max(1));
    let _ = outer::udp_destination(&inner);
    answer_neighbour(&inner);

    let (before, field) = (ecn::outer_tos(&inner, weft_encap::Dscp::Inherit), Ecn::of(&inner));
    assert_eq!(ecn::outer_tos(&inner, weft_encap::Dscp::Fixed(knobs.kind)) & 3, before & 3);
    let _ = ecn::decap_frame(&inner, knobs.kind);
    let (right, l4) = (header_is_right(&frame), verified(&frame));
    let wanted = Ecn::of_tos(knobs.kind);
    assert_eq!(ecn::apply_ecn(&mut frame, wanted), field.is_some());
    assert_eq!((header_is_right(&frame), verified(&frame)), (right, l4));
    assert_eq!(Inner::parse(&frame).ok().and_then(|inner| Ecn::of(&inner)), field.map(|_| wanted));
}

/// What asks for a neighbour gets one answer, which asks nothing itself.
fn answer_neighbour(frame: &Inner<'_>) {
    let mut out = [0; neighbour::MAX_ANSWER_LEN];
    let len = neighbour::answer(frame, MacAddr([2, 0, 0, 0, 0, 9]), &mut out);
    assert_eq!(len.is_some(), neighbour::question(frame).is_some());
    _ = neighbour::claim(frame);
    if let Some(len) = len {
        let answer = Inner::parse(&out[..len]).expect("our own frame");
        assert_eq!((neighbour::question(&answer), answer.l3), (None, frame.l3));
        assert!(matches!(neighbour::claim(&answer), None | Some(neighbour::Claim::Address(_))));
    }
}

/// VXLAN's header.
pub fn vxlan(data: &[u8]) {
    decap(Encapsulation::Vxlan, data);
}

/// Geneve's header and options.
pub fn geneve(data: &[u8]) {
    decap(Encapsulation::Geneve, data);
    assert!(geneve::Options::new(data).count() <= 64);
    if let Ok(parsed) = geneve::parse(data) {
        let options = parsed.options.as_bytes().len();
        assert_eq!(geneve::BASE_LEN + options + parsed.payload.len(), data.len());
        let walked: Result<Vec<_>, _> = parsed.options.collect();
        if let Ok(walked) = walked {
            assert_eq!(walked.iter().map(|option| option.data.len() + 4).sum::<usize>(), options);
        }
    }
}

fn decap(encapsulation: Encapsulation, data: &[u8]) {
    if let Ok((vni, frame)) = encapsulation.decap(data) {
        assert!(vni <= Vni::MAX && data.ends_with(frame));
        let again = [encapsulation.header(vni).as_bytes(), frame].concat();
        assert_eq!(encapsulation.decap(&again), Ok((vni, frame)));
    }
}

/// Outer headers: what was read and is written again reads the same.
pub fn outer(data: &[u8]) {
    let Some((_, frame)) = take(data) else { return };
    let Ok(received) = Outer::read(&frame) else { return };
    let udp = UdpChecksum::Complete { payload: checksum::sum(received.payload) };
    let mut headers = [0; outer::MAX_LEN];
    let link = received.link.write(&mut headers, &received.outer.addresses).expect("room");
    let len = received.outer.write(&mut headers[link..], received.payload.len(), udp).expect("room and length");
    let again = [&headers[..link + len], received.payload].concat();
    let read = Outer::read(&again).expect("our own packet");
    assert_eq!((read.outer, read.link, read.payload), (received.outer, received.link, received.payload));
    assert_eq!(read.verify(), Verified::Right);
    let _ = received.verify();
    for encapsulation in [Encapsulation::Vxlan, Encapsulation::Geneve] {
        let _ = encapsulation.decap(received.payload).map(|(_, frame)| Inner::parse(frame).map(|inner| inner.ports()));
    }
}

/// What the kernel says of a packet that has outer headers, followed by that packet.
pub fn tunnel_offload(data: &[u8]) {
    let Some((header, packet)) = data.split_first_chunk::<VIRTIO_NET_HDR_TUNNEL_LEN>() else { return };
    let &[flags, gso_type, ..] = header;
    let Ok(read) = TunnelOffload::from_bytes(header) else {
        // Nothing is refused that asks for nothing.
        assert_ne!(gso_type & !0x80, 0);
        return;
    };
    let again = read.to_bytes();
    assert_eq!(TunnelOffload::from_bytes(&again), Ok(read));
    assert_eq!(read.offload.gso.is_some(), gso_type & 0x1f != 0);
    let Some(tunnel) = read.tunnel else { return };
    let Offload { checksum: Checksum::Needed { start, .. }, gso: Some(gso) } = read.offload else {
        panic!("a tunnel around what is no superframe: {read:?}");
    };
    // All that it says is understood: it comes out as it went in, but for what it says nothing in.
    assert_eq!((again[0], again[1]), (flags & 9, gso_type));
    assert_eq!((&again[2..10], &again[20..]), (&header[2..10], &header[20..]));

    // The frame inside, as whoever hands it on would cut it.
    let Some(frame) = usize::from(tunnel.inner_network).checked_sub(14) else { return };
    let (Some(bytes), Some(start)) = (packet.get(frame..), usize::from(start).checked_sub(frame)) else { return };
    let checksum = Checksum::Needed { start: start as u16, offset: 16 };
    let inside =
        Offload { checksum, gso: Some(Gso { header_len: gso.header_len.saturating_sub(frame as u16), ..gso }) };
    for segment in segments(bytes, &inside).unwrap_or_default() {
        assert_eq!(verified(&segment), Some(Verified::Right));
    }
}

/// Probes: what is read and written again is the same.
pub fn probe(data: &[u8]) {
    let Ok(read) = Probe::parse(data) else { return };
    // The overhead that makes the frame as long as it was.
    let overhead = match read.kind {
        Kind::Request | Kind::RevisionRequest => read.size - data.len() as u16 + 14,
        Kind::Echo | Kind::RevisionReply { .. } => 50,
    };
    let mut again = vec![0; data.len()];
    assert_eq!(read.write(overhead, &mut again), Ok(data.len()));
    assert_eq!((&again[..6], &again[12..]), (&data[..6], &data[12..]));
    if let Some(answer) = read.answer(i64::MAX - 1) {
        let mut bytes = [0; probe::REVISION_LEN];
        let len = answer.write(overhead, &mut bytes).unwrap_or_default();
        assert!(len >= probe::LEN && len <= data.len(), "it is no longer than what it answers");
        assert_eq!(Probe::parse(&bytes[..len]), Ok(answer));
    }
}
