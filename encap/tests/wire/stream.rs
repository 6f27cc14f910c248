//! Frames of a flow, one after the other, with what happens to flows.

use proptest::prelude::*;
use weft_encap::{Checksum, Offload};

use crate::merge_model::Offered;
use crate::packet::{ACK, Ip, L4, PSH, Packet, Sum};
use crate::strategies::{noise, packet, superframe};

/// What happens next on a flow.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    Full,
    Short,
    Longer,
    Push,
    PushShort,
    Empty,
    Lost,
    Repeated,
    WrongSum,
    Spoilt,
    ZeroSum,
    Vouched,
    VouchedWrong,
    Partial,
    Superframe,
    Fragment,
    IpOption,
    Flags(u8),
    Ack,
    Window,
    Tos,
    Ttl,
    DontFragment,
    TcpOption,
    Urgent,
    OtherMac,
    OtherTag,
    OtherEgress,
    SameId,
    JumpId,
    Padded,
}

/// Rare events, each as likely as another.
const RARE: [Event; 25] = [
    Event::Longer,
    Event::Empty,
    Event::Lost,
    Event::Repeated,
    Event::WrongSum,
    Event::Spoilt,
    Event::ZeroSum,
    Event::VouchedWrong,
    Event::Partial,
    Event::Superframe,
    Event::Fragment,
    Event::IpOption,
    Event::Ack,
    Event::Window,
    Event::Tos,
    Event::Ttl,
    Event::DontFragment,
    Event::TcpOption,
    Event::Urgent,
    Event::OtherMac,
    Event::OtherTag,
    Event::OtherEgress,
    Event::SameId,
    Event::JumpId,
    Event::Padded,
];

/// Mostly [`Event::Full`], to which everything shrinks. Of two numbers, because millions are drawn.
pub(crate) fn event() -> impl Strategy<Value = Event> {
    (0..90u8, any::<u8>()).prop_map(|(which, of)| match which {
        0..60 => Event::Full,
        60..63 => Event::Short,
        63..66 => Event::Push,
        66..68 => Event::PushShort,
        68..72 => Event::Vouched,
        72..88 => RARE[usize::from(of) % RARE.len()],
        _ => Event::Flags(of),
    })
}

/// Plain frames of one flow, one after the other.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) packet: Packet,
    pub(crate) size: usize,
    pub(crate) step: u16,
    pub(crate) seed: u64,
}

pub(crate) fn source() -> impl Strategy<Value = Source> {
    let size = prop_oneof![150 => 1..64usize, 50 => 64..1500usize, 1 => 10_000..20_000usize];
    (packet(0), size, prop::bool::weighted(0.8), any::<u64>(), prop::bool::weighted(0.9)).prop_map(
        |(mut packet, size, steps, seed, plain)| {
            if let L4::Tcp { flags, urgent, .. } = &mut packet.l4 {
                (*flags, *urgent) = (ACK, 0);
            }
            match &mut packet.ip {
                Ip::V4 { options, .. } if plain => options.clear(),
                Ip::V6 { destination_options, .. } if plain => *destination_options = false,
                Ip::V4 { .. } | Ip::V6 { .. } => {}
            }
            Source { packet, size, step: steps.into(), seed }
        },
    )
}

impl Source {
    pub(crate) fn next(&mut self, event: Event) -> Offered {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = (self.seed >> 33) as usize;
        let len = match event {
            Event::Short | Event::PushShort | Event::Padded => pick % self.size,
            Event::Longer => self.size + 1 + pick % 100,
            Event::Empty => 0,
            _ => self.size,
        };
        let mut next = Offered {
            packet: Packet { payload: noise(len, self.seed), ..self.packet.headers() },
            sum: Sum::Right,
            offload: Offload::NONE,
            egress: 1,
            padding: 0,
            spoilt: false,
        };
        self.disturb(&mut next, event, pick);
        if let (L4::Tcp { seq, .. }, false) = (&mut self.packet.l4, matches!(event, Event::Repeated)) {
            *seq = seq.wrapping_add(len as u32);
        }
        if let Ip::V4 { id, .. } = &mut self.packet.ip {
            *id = id.wrapping_add(self.step);
        }
        next
    }

    fn disturb(&mut self, next: &mut Offered, event: Event, pick: usize) {
        let packet = &mut next.packet;
        if let L4::Tcp { seq, ack, flags, window, urgent, options, .. } = &mut packet.l4 {
            match event {
                Event::Push | Event::PushShort => *flags |= PSH,
                Event::Lost => *seq = seq.wrapping_add(self.size as u32),
                Event::Flags(other) => *flags = other,
                Event::Ack => *ack ^= 1 << (pick % 32),
                Event::Window => *window ^= 1,
                Event::Urgent => *urgent ^= 1,
                Event::TcpOption if !options.is_empty() => {
                    let at = pick % options.len();
                    options[at] ^= 1;
                }
                _ => {}
            }
        }
        match &mut packet.ip {
            Ip::V4 { tos, ttl, id, df, fragment, options, .. } => match event {
                Event::Tos => *tos ^= 1,
                Event::Ttl => *ttl ^= 1,
                Event::DontFragment => *df ^= true,
                Event::Fragment => *fragment = [0x2000, 0x0001, 0x2001][pick % 3],
                Event::IpOption => *options = vec![1, 1, 1, 0],
                Event::SameId => *id = id.wrapping_sub(1),
                Event::JumpId => *id ^= 0x100,
                _ => {}
            },
            Ip::V6 { class, label, hops, destination_options, .. } => match event {
                Event::Tos => *class ^= 1,
                Event::Ttl => *hops ^= 1,
                Event::IpOption => *destination_options ^= true,
                Event::JumpId => *label ^= 1,
                _ => {}
            },
        }
        match event {
            Event::OtherMac => packet.macs[pick % 12] ^= 2,
            Event::OtherTag => packet.tags.push((0x8100, 5)),
            _ => {}
        }
        if packet.tags.len() > 2 {
            packet.tags.pop();
        }
        let partial = Checksum::Needed { start: 34, offset: 16 };
        match event {
            Event::WrongSum | Event::VouchedWrong => next.sum = Sum::Wrong,
            Event::ZeroSum => next.sum = Sum::Zero,
            Event::Partial => next.sum = Sum::Partial,
            Event::Spoilt => next.spoilt = true,
            Event::OtherEgress => next.egress = 2,
            Event::Padded => next.padding = 1 + pick % 40,
            _ => {}
        }
        next.offload = match event {
            Event::Vouched | Event::VouchedWrong => Offload { checksum: Checksum::Valid, gso: None },
            Event::Partial => Offload { checksum: partial, gso: None },
            Event::Superframe => superframe(&next.packet, 100),
            _ => Offload::NONE,
        };
    }
}

/// Full frames of one flow of UDP or TCP over IPv4.
pub(crate) fn stream(l4: L4, count: u16, size: usize) -> Vec<Offered> {
    let ip = Ip::V4 {
        src: [10, 0, 0, 1],
        dst: [10, 0, 0, 2],
        tos: 0,
        ttl: 64,
        id: 7,
        df: true,
        fragment: 0,
        options: vec![],
    };
    let mut source =
        Source { packet: Packet { macs: [2; 12], tags: vec![], ip, l4, payload: vec![] }, size, step: 1, seed: 1 };
    (0..count).map(|_| source.next(Event::Full)).collect()
}
