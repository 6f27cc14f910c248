//! `Merger` against the plain reference, byte for byte, and split followed by merge.

use std::collections::HashSet;

use proptest::collection::vec;
use proptest::prelude::*;
use weft_encap::{Checksum, Merger, MergerFull, Offload, checksum};

use crate::merge_model::{Merged, Offered, reference};
use crate::packet::{ACK, Ip, L4, PSH, Packet, Sum};
use crate::split::cut;
use crate::strategies::{noise, packet, superframe};

/// Everything the merger makes of these frames, each group's members found by where the frames lie.
fn run(merger: &mut Merger, frames: &[(Vec<u8>, u32, Offload)]) -> Vec<Merged> {
    let mut arena = vec![0xaa; 7];
    let mut starts = Vec::new();
    let mut ranges = Vec::new();
    for (bytes, ..) in frames {
        starts.push(arena.len());
        ranges.push(arena.len()..arena.len() + bytes.len());
        arena.extend_from_slice(bytes);
        arena.extend([0xaa; 5]);
    }
    merger.clear();
    for ((_, egress, offload), range) in frames.iter().zip(ranges) {
        merger.push(&arena, range, *egress, *offload).unwrap();
    }
    merger
        .groups()
        .map(|group| {
            let mut headers = [0xee; weft_encap::merge::MAX_HEADER_LEN];
            let (len, offload) = group.finish(&arena, &mut headers);
            let pieces: Vec<_> = group.pieces().collect();
            assert_eq!(pieces.len(), group.frames());
            let members =
                pieces.iter().map(|piece| starts.partition_point(|start| *start <= piece.start) - 1).collect();
            let mut bytes = headers[..len].to_vec();
            pieces.into_iter().for_each(|piece| bytes.extend_from_slice(&arena[piece]));
            assert_eq!(bytes.len(), group.len());
            Merged { bytes, offload, egress: group.egress(), members }
        })
        .collect()
}

/// What happens next on a flow.
#[derive(Clone, Copy, Debug)]
enum Event {
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

fn event() -> impl Strategy<Value = Event> {
    use Event::{
        Ack, DontFragment, Empty, Flags, Fragment, Full, IpOption, JumpId, Longer, Lost, OtherEgress, OtherMac,
        OtherTag, Padded, Partial, Push, PushShort, Repeated, SameId, Short, Spoilt, Superframe, TcpOption, Tos, Ttl,
        Urgent, Vouched, VouchedWrong, Window, WrongSum, ZeroSum,
    };
    let rare = vec![
        Longer,
        Empty,
        Lost,
        Repeated,
        WrongSum,
        Spoilt,
        ZeroSum,
        VouchedWrong,
        Partial,
        Superframe,
        Fragment,
        IpOption,
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
    ];
    prop_oneof![
        60 => Just(Full),
        3 => Just(Short),
        3 => Just(Push),
        2 => Just(PushShort),
        3 => Just(Vouched),
        16 => prop::sample::select(rare),
        2 => any::<u8>().prop_map(Flags),
    ]
}

/// Plain frames of one flow, one after the other.
#[derive(Clone, Debug)]
struct Source {
    packet: Packet,
    size: usize,
    step: u16,
    seed: u64,
}

fn source() -> impl Strategy<Value = Source> {
    let size = prop_oneof![6 => 1..1500usize, 1 => 10_000..20_000usize];
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
    fn next(&mut self, event: Event) -> Offered {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let pick = (self.seed >> 33) as usize;
        let len = match event {
            Event::Short | Event::PushShort | Event::Padded => pick % self.size,
            Event::Longer => self.size + 1 + pick % 100,
            Event::Empty => 0,
            _ => self.size,
        };
        let mut next = Offered {
            packet: Packet { payload: noise(len, self.seed), ..self.packet.clone() },
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

fn is_zero_sum_right(offered: &Offered) -> bool {
    // A zero TCP checksum is right once in a while; the model would call it wrong.
    offered.sum == Sum::Zero
        && offered.packet.is_tcp()
        && offered.packet.bytes(Sum::Zero) == offered.packet.bytes(Sum::Right)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn groups_are_those_of_the_reference(
        sources in vec(source(), 1..5),
        related in any::<bool>(),
        script in vec((0..8usize, event()), 1..160),
    ) {
        let mut sources = sources;
        if related {
            // Flows between the same two hosts, so that a fragment concerns them all.
            let ip = sources[0].packet.ip.clone();
            sources.iter_mut().for_each(|source| source.packet.ip = ip.clone());
        }
        let count = sources.len();
        let offered: Vec<_> =
            script.into_iter().map(|(which, event)| sources[which % count].next(event)).collect();
        prop_assume!(!offered.iter().any(is_zero_sum_right));
        let frames: Vec<_> = offered.iter().map(|frame| (frame.bytes(), frame.egress, frame.offload)).collect();
        let mut merger = Merger::with_capacity(160);
        let merged = run(&mut merger, &frames);
        prop_assert_eq!(&merged, &reference(&offered));
        let members: HashSet<usize> = merged.iter().flat_map(|group| group.members.clone()).collect();
        prop_assert_eq!(members.len(), offered.len());
        prop_assert_eq!(run(&mut merger, &frames), merged, "a cleared merger is as good as a new one");
    }

    #[test]
    fn split_then_merge_is_the_identity(packet in packet(20_000), size in 400..1500u16) {
        let mut packet = packet;
        if let L4::Tcp { flags, .. } = &mut packet.l4 {
            *flags &= PSH;
            *flags |= ACK;
        }
        match &mut packet.ip {
            Ip::V4 { options, .. } => options.clear(),
            Ip::V6 { destination_options, .. } => *destination_options = false,
        }
        let (frame, offload) = (packet.bytes(Sum::Partial), superframe(&packet, size));
        let segments = cut(&frame, &offload).unwrap();
        let frames: Vec<_> = segments.iter().map(|segment| (segment.clone(), 9, Offload::NONE)).collect();
        let merged = run(&mut Merger::with_capacity(64), &frames);
        prop_assert_eq!(merged.len(), 1);
        let alone = segments.len() == 1;
        prop_assert_eq!(&merged[0].bytes, if alone { &segments[0] } else { &frame });
        prop_assert_eq!(merged[0].offload, if alone { Offload::NONE } else { offload });
    }

    #[test]
    fn merge_then_split_gives_the_frames_back(source in source(), events in vec(event(), 1..100)) {
        let mut source = source;
        source.step = 1;
        let offered: Vec<_> = events.into_iter().map(|event| source.next(event)).collect();
        let frames: Vec<_> = offered.iter().map(|frame| (frame.bytes(), frame.egress, frame.offload)).collect();
        for group in run(&mut Merger::with_capacity(100), &frames).iter().filter(|group| group.members.len() > 1) {
            let segments = cut(&group.bytes, &group.offload).unwrap();
            let stood_still = group.members.windows(2).any(|pair| {
                matches!((&offered[pair[0]].packet.ip, &offered[pair[1]].packet.ip),
                    (Ip::V4 { id: a, .. }, Ip::V4 { id: b, .. }) if a == b)
            });
            // Vouched frames come back with right checksums, whatever they had.
            let originals: Vec<_> =
                group.members.iter().map(|member| offered[*member].packet.bytes(Sum::Right)).collect();
            if !stood_still {
                prop_assert_eq!(segments, originals);
            }
        }
    }

    #[test]
    fn a_merged_frame_can_be_completed(source in source(), count in 2..40usize) {
        let mut source = source;
        let offered: Vec<_> = (0..count).map(|_| source.next(Event::Full)).collect();
        let frames: Vec<_> = offered.iter().map(|frame| (frame.bytes(), frame.egress, frame.offload)).collect();
        for mut group in run(&mut Merger::with_capacity(100), &frames) {
            if let Checksum::Needed { start, offset } = group.offload.checksum {
                checksum::complete(&mut group.bytes, start, offset).unwrap();
                let inner = weft_encap::Inner::parse(&group.bytes).unwrap();
                prop_assert_eq!(checksum::verify(&inner), Ok(checksum::Verified::Right));
            }
        }
    }
}

#[test]
fn a_full_merger_says_so_and_keeps_what_it_has() {
    let mut merger = Merger::with_capacity(2);
    let arena = [0; 60];
    assert_eq!(merger.push(&arena, 0..60, 1, Offload::NONE), Ok(()));
    assert_eq!(merger.push(&arena, 0..10, 1, Offload::NONE), Ok(()));
    assert_eq!(merger.push(&arena, 0..60, 1, Offload::NONE), Err(MergerFull { capacity: 2 }));
    assert_eq!(merger.groups().count(), 2);
    merger.clear();
    assert_eq!(merger.groups().count(), 0);
    assert_eq!(merger.push(&arena, 0..60, 1, Offload::NONE), Ok(()));
}

#[test]
fn ranges_outside_the_arena_do_not_panic() {
    let mut merger = Merger::with_capacity(2);
    merger.push(&[0; 10], 5..20, 1, Offload::NONE).unwrap();
    assert_eq!(merger.push(&[0; 10], usize::MAX - 1..usize::MAX, 1, Offload::NONE), Ok(()));
    for group in merger.groups() {
        assert_eq!(group.finish(&[0; 10], &mut []), (0, Offload::NONE));
    }
}
