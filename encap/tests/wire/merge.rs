//! `Merger` on what a few frames show; on millions of flows it is in `flows`.

use etherparse::{NetSlice, SlicedPacket};
use proptest::collection::vec;
use proptest::prelude::*;
use weft_encap::{Checksum, Merger, MergerFull, Offload, checksum};

use crate::dissect::their_checksum;
use crate::merge_model::{Merged, Offered, reference};
use crate::packet::{ACK, L4, Sum};
use crate::stream::{Event, source, stream};

/// Everything the merger makes of these frames, each group's members found by where the frames lie.
pub(crate) fn run(merger: &mut Merger, frames: &[(Vec<u8>, u32, Offload)]) -> Vec<Merged> {
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
            Merged { bytes, offload, egress: group.egress(), members, damaged: group.is_damaged() }
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

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

/// Whether the checksums of a TCP or UDP frame are right, as etherparse sees it.
fn is_right(frame: &[u8]) -> Option<bool> {
    let (wanted, seen) = their_checksum(frame)?;
    let header_is_right = match SlicedPacket::from_ethernet(frame).ok()?.net? {
        NetSlice::Ipv4(ip) => ip.header().header_checksum() == ip.header().to_header().calc_header_checksum(),
        NetSlice::Ipv6(_) | NetSlice::Arp(_) => true,
    };
    // Zero has two forms in one's complement.
    Some(header_is_right && seen % 0xffff == wanted % 0xffff)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn random_corruption_never_comes_out_valid(
        sources in vec(source(), 1..3),
        script in vec((0..2usize, vec((any::<prop::sample::Index>(), 1..=255u8), 0..3), prop::bool::weighted(0.25)), 2..80),
    ) {
        let mut sources = sources;
        let count = sources.len();
        let frames: Vec<_> = script.into_iter().map(|(which, flips, corrupt)| {
            let mut bytes = sources[which % count].next(Event::Full).bytes();
            for (at, flip) in flips.into_iter().filter(|_| corrupt) {
                let at = at.index(bytes.len());
                bytes[at] ^= flip;
            }
            (bytes, 1, Offload::NONE)
        }).collect();
        for group in run(&mut Merger::with_capacity(80), &frames) {
            let (first, ..) = &frames[group.members[0]];
            if group.damaged {
                prop_assert_eq!((group.members.len(), is_right(first)), (1, Some(false)));
            }
            if group.members.len() == 1 {
                prop_assert_eq!((&group.bytes, group.offload), (first, Offload::NONE));
                continue;
            }
            for member in &group.members {
                prop_assert_eq!(is_right(&frames[*member].0), Some(true));
            }
            let joined: Vec<u8> = group.members.iter().flat_map(|member| payload(&frames[*member].0)).collect();
            prop_assert_eq!(payload(&group.bytes), joined);
        }
    }
}

fn payload(frame: &[u8]) -> Vec<u8> {
    let l4 = weft_encap::L4::of(&weft_encap::Inner::parse(frame).unwrap()).unwrap();
    frame[l4.payload..l4.end].to_vec()
}

/// Which frames are in each group, and which of the groups are damaged.
fn outcome(offered: &[Offered]) -> Vec<(Vec<usize>, bool)> {
    let frames: Vec<_> = offered.iter().map(|frame| (frame.bytes(), frame.egress, frame.offload)).collect();
    let merged = run(&mut Merger::with_capacity(200), &frames);
    merged.into_iter().map(|group| (group.members, group.damaged)).collect()
}

#[test]
fn a_frame_with_a_wrong_checksum_is_marked_wherever_it_stands() {
    let tcp = || L4::Tcp { ports: (1, 2), seq: 9, ack: 1, flags: ACK, window: 1, urgent: 0, options: vec![] };
    for l4 in [tcp(), L4::Udp { ports: (1, 2) }] {
        for (spoilt, sum) in [(false, Sum::Wrong), (true, Sum::Right)] {
            let damaged = |at: usize| {
                let mut offered = stream(l4.clone(), 8, 500);
                (offered[at].sum, offered[at].spoilt) = (sum, spoilt);
                outcome(&offered)
            };
            assert_eq!(damaged(0), [(vec![0], true), ((1..8).collect(), false)]);
            assert_eq!(damaged(1), [(vec![0], false), (vec![1], true), ((2..8).collect(), false)]);
            assert_eq!(damaged(5), [((0..5).collect(), false), (vec![5], true), (vec![6, 7], false)]);
            assert_eq!(damaged(7), [((0..7).collect(), false), (vec![7], true)]);
        }
    }
}

#[test]
fn a_frame_that_nobody_had_to_verify_is_not_marked() {
    let mut alone = stream(L4::Udp { ports: (1, 2) }, 1, 500);
    alone[0].sum = Sum::Wrong;
    assert_eq!(outcome(&alone), [(vec![0], false)]);
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

fn counts(offered: &[Offered]) -> Vec<usize> {
    let frames: Vec<_> = offered.iter().map(|frame| (frame.bytes(), frame.egress, frame.offload)).collect();
    let merged = run(&mut Merger::with_capacity(200), &frames);
    assert_eq!(merged, reference(offered));
    merged.iter().map(|group| group.members.len()).collect()
}

#[test]
fn groups_have_at_most_64_frames_and_65535_bytes() {
    let udp = || L4::Udp { ports: (1, 2) };
    assert_eq!(counts(&stream(udp(), 130, 100)), [64, 64, 2]);
    // 28 bytes of headers and 3 * 21,835 bytes are 65,533; with one byte more in each there is no room for a third.
    assert_eq!(counts(&stream(udp(), 4, 21_835)), [3, 1]);
    assert_eq!(counts(&stream(udp(), 4, 21_836)), [2, 2]);
}

#[test]
fn udp_without_a_checksum_stays_alone_even_if_vouched_for() {
    let mut offered = stream(L4::Udp { ports: (1, 2) }, 5, 100);
    for frame in &mut offered {
        frame.offload.checksum = Checksum::Valid;
    }
    assert_eq!(counts(&offered), [5]);
    offered[2].sum = Sum::Zero;
    assert_eq!(counts(&offered), [2, 1, 2]);
}

#[test]
fn icmp_between_two_hosts_does_not_end_what_their_tcp_has_merged() {
    let l4 = L4::Udp { ports: (1, 2) };
    let mut frames: Vec<_> =
        stream(l4, 4, 100).iter().map(|frame| (frame.bytes(), frame.egress, frame.offload)).collect();
    let mut ping = frames[0].0.clone();
    ping[23] = 1;
    frames.insert(2, (ping, 1, Offload::NONE));
    let merged = run(&mut Merger::with_capacity(5), &frames);
    assert_eq!(merged.iter().map(|group| group.members.clone()).collect::<Vec<_>>(), [vec![0, 1, 3, 4], vec![2]]);
}
