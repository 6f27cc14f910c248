//! Millions of random flows through split and merge, against the plain references, byte for byte.
//!
//! Each case has a seed of its own, which a failure tells. `WEFT_SEED=THAT WEFT_FLOWS=1` repeats it alone;
//! `WEFT_FLOWS` and another `WEFT_SEED` make other runs, as long as one likes.

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseResult, TestError, TestRng, TestRunner};
use weft_encap::merge::MAX_SEGMENTS;
use weft_encap::split::MAX_UDP_SEGMENTS;
use weft_encap::{Checksum, Merger, Offload, SplitError};

use crate::merge::run;
use crate::merge_model::{Merged, Offered, reference};
use crate::packet::{ACK, CWR, ECE, FIN, Ip, L4, PSH, Packet, Sum};
use crate::split::cut;
use crate::strategies::{packet, superframe};
use crate::stream::{Event, Source, event, source};

/// Flows of each test where `WEFT_FLOWS` does not say.
const FLOWS: u64 = 1_000_000;
/// The first case's seed where `WEFT_SEED` does not say: the same cases in every run, so that a red one speaks of the
/// change.
const SEED: u64 = 0x005e_ed0f_f10e;
/// From one case's seed to the next one's: 2^64 by the golden ratio, so that none comes twice.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// A run of that many flows has to have met every feature.
const TELLING_FLOWS: u64 = 100_000;
/// Of how many flows one at least has to have each feature.
const RARITY: u64 = 2_000;
/// How much smaller a failing case is made, in steps.
const SHRINK_STEPS: u32 = 20_000;
/// Frames in a merger's batch at most.
const BATCH: usize = 160;

/// What a flow may have in it.
#[derive(Clone, Copy, Debug)]
enum Feature {
    Tcp4,
    Tcp6,
    Udp4,
    Udp6,
    OneTag,
    TwoTags,
    Timestamps,
    Sack,
    EcnCapable,
    CongestionExperienced,
    CongestionEcho,
    WindowReduced,
    Push,
    Fin,
    SequenceWraps,
    IdentificationWraps,
    OddSize,
    ShortLast,
    NoPayload,
    IpOptions,
    DontFragment,
    /// More than a merger takes, too.
    ManySegments,
    /// More than 32 KiB.
    Long,
    /// Split and merged, it is what it was.
    Identical,
    /// IPv4 identifications that stand still.
    IdentificationStill,
    FullGroup,
    Vouched,
    Damaged,
}

const LAST: Feature = Feature::Damaged;

/// In how many flows each feature was.
#[derive(Default)]
struct Seen {
    flows: Cell<u64>,
    counts: [Cell<u64>; LAST as usize + 1],
}

impl Seen {
    fn note(&self, feature: Feature, is: bool) {
        let count = &self.counts[feature as usize];
        count.set(count.get() + u64::from(is));
    }

    /// Notes what is in the headers of frames of `size` bytes of payload, `payload` in all.
    fn headers(&self, packet: &Packet, size: usize, payload: usize) {
        use Feature::{
            CongestionEcho, CongestionExperienced, DontFragment, EcnCapable, Fin, IdentificationWraps, IpOptions, Long,
            NoPayload, OddSize, OneTag, Push, Sack, SequenceWraps, ShortLast, Tcp4, Tcp6, Timestamps, TwoTags, Udp4,
            Udp6, WindowReduced,
        };
        self.note([[Udp4, Udp6], [Tcp4, Tcp6]][usize::from(packet.is_tcp())][usize::from(packet.is_v6())], true);
        self.note(OneTag, packet.tags.len() == 1);
        self.note(TwoTags, packet.tags.len() == 2);
        self.note(OddSize, size % 2 == 1 && payload > size);
        self.note(ShortLast, !payload.is_multiple_of(size) && payload > size);
        self.note(NoPayload, payload == 0);
        self.note(Long, payload > 32 << 10);
        let (tos, options) = match &packet.ip {
            Ip::V4 { tos, id, df, options, .. } => {
                let last = usize::from(*id) + payload.div_ceil(size).max(1) - 1;
                self.note(IdentificationWraps, last > usize::from(u16::MAX));
                self.note(DontFragment, *df);
                (*tos, !options.is_empty())
            }
            Ip::V6 { class, destination_options, .. } => (*class, *destination_options),
        };
        self.note(IpOptions, options);
        self.note(EcnCapable, matches!(tos & 3, 1 | 2));
        self.note(CongestionExperienced, tos & 3 == 3);
        if let L4::Tcp { seq, flags, options, .. } = &packet.l4 {
            let option = |kind: u8| options.chunks(12).any(|chunk| chunk[2..4] == [kind, 10]);
            self.note(Timestamps, option(8));
            self.note(Sack, option(5));
            self.note(Push, flags & PSH != 0);
            self.note(Fin, flags & FIN != 0);
            self.note(WindowReduced, flags & CWR != 0);
            self.note(CongestionEcho, flags & ECE != 0);
            // More than one segment, and the wrap among them.
            self.note(SequenceWraps, payload > size && seq.checked_add((payload - 1) as u32).is_none());
        }
    }
}

fn environment(name: &str, default: u64) -> u64 {
    let Ok(value) = std::env::var(name) else { return default };
    value.parse().unwrap_or_else(|_| panic!("{name}={value}: a number is needed"))
}

/// Draws cases on every processor until there were enough flows, and asks `check` of each. What fails is shrunk.
fn hold<S: Strategy>(strategy: fn() -> S, check: fn(&S::Value, &Seen) -> TestCaseResult, wanted: &[Feature]) {
    let (flows, seed) = (environment("WEFT_FLOWS", FLOWS), environment("WEFT_SEED", SEED));
    let threads = thread::available_parallelism().map_or(1, |count| count.get() as u64).min(flows);
    let failed = AtomicBool::new(false);
    let draw = |place: u64| {
        let (strategy, seen) = (strategy(), Seen::default());
        let mut seed = seed.wrapping_add(STEP.wrapping_mul(place));
        while seen.flows.get() < flows / threads && !failed.load(Ordering::Relaxed) {
            if let Err(error) = draw_one(&strategy, seed, |case| check(&case, &seen)) {
                failed.store(true, Ordering::Relaxed);
                return Err(format!("{error}\nto repeat it: WEFT_SEED={seed} WEFT_FLOWS=1"));
            }
            seed = seed.wrapping_add(STEP.wrapping_mul(threads));
        }
        Ok(seen)
    };
    let outcomes: Vec<Result<Seen, String>> = thread::scope(|scope| {
        let draw = &draw;
        let running: Vec<_> = (0..threads).map(|place| scope.spawn(move || draw(place))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let seen: Vec<Seen> = outcomes.into_iter().collect::<Result<_, _>>().unwrap_or_else(|error| panic!("{error}"));
    let drawn: u64 = seen.iter().map(|seen| seen.flows.get()).sum();
    println!("{drawn} flows, the first case of seed {seed}");
    for feature in wanted {
        let count: u64 = seen.iter().map(|seen| seen.counts[*feature as usize].get()).sum();
        println!("{count:>9} {feature:?}");
        assert!(drawn < TELLING_FLOWS || count >= drawn / RARITY, "{feature:?} was in {count} of {drawn} flows");
    }
}

fn draw_one<S: Strategy>(
    strategy: &S,
    seed: u64,
    check: impl Fn(S::Value) -> TestCaseResult,
) -> Result<bool, TestError<S::Value>> {
    let seed = [mixed(seed).to_le_bytes(), mixed(!seed).to_le_bytes()].concat();
    let config = Config { failure_persistence: None, max_shrink_iters: SHRINK_STEPS, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::XorShift, &seed));
    let case = strategy.new_tree(&mut runner).map_err(TestError::Abort)?;
    runner.run_one(case, check)
}

/// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): neighbours among seeds have nothing in common.
const fn mixed(seed: u64) -> u64 {
    let seed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ seed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ seed >> 31
}

/// Says where two lists of frames differ first.
fn same(what: &str, seen: &[Vec<u8>], wanted: &[Vec<u8>]) -> TestCaseResult {
    prop_assert_eq!(seen.len(), wanted.len(), "number of {}s", what);
    for (index, (seen, wanted)) in seen.iter().zip(wanted).enumerate() {
        let at = seen.iter().zip(wanted).position(|(seen, wanted)| seen != wanted);
        prop_assert!(seen == wanted, "{what} {index}: {} bytes of {}, differing from {at:?}", seen.len(), wanted.len());
    }
    Ok(())
}

fn alone(packet: &Packet) -> Offered {
    Offered { packet: packet.clone(), sum: Sum::Right, offload: Offload::NONE, egress: 9, padding: 0, spoilt: false }
}

/// Whether the rules let all segments of a superframe become one again.
fn is_plain(packet: &Packet, segments: usize) -> bool {
    let plain_ip = match &packet.ip {
        Ip::V4 { options, .. } => options.is_empty(),
        Ip::V6 { destination_options, .. } => !destination_options,
    };
    let plain_l4 = match packet.l4 {
        L4::Tcp { flags, .. } => flags & !PSH == ACK,
        L4::Udp { .. } => true,
    };
    plain_ip && plain_l4 && segments <= MAX_SEGMENTS && !packet.payload.is_empty()
}

fn superframes() -> impl Strategy<Value = (Packet, u16)> {
    prop_oneof![
        400 => (packet(400), 8..160u16),
        20 => (packet(9000), 32..1500u16),
        1 => (packet(65_300), 500..9000u16),
    ]
}

fn split_and_merge((packet, size): &(Packet, u16), seen: &Seen) -> TestCaseResult {
    seen.flows.set(seen.flows.get() + 1);
    seen.headers(packet, usize::from(*size), packet.payload.len());
    let (frame, offload) = (packet.bytes(Sum::Partial), superframe(packet, *size));
    let segments = packet.split(usize::from(*size));
    let count = segments.len();
    seen.note(Feature::ManySegments, count > MAX_SEGMENTS);
    if !packet.is_tcp() && count > MAX_UDP_SEGMENTS {
        let error = SplitError::TooManySegments { seen: count, max: MAX_UDP_SEGMENTS };
        prop_assert_eq!(cut(&frame, &offload), Err(error));
        return Ok(());
    }
    let wanted: Vec<_> = segments.iter().map(|segment| segment.bytes(Sum::Right)).collect();
    let cut = cut(&frame, &offload).map_err(|error| TestCaseError::fail(error.to_string()))?;
    same("segment", &cut, &wanted)?;

    let frames: Vec<_> = cut.into_iter().map(|segment| (segment, 9, Offload::NONE)).collect();
    let merged = run(&mut Merger::with_capacity(count), &frames);
    if is_plain(packet, count) {
        seen.note(Feature::Identical, count > 1);
        let (bytes, offload) = if count == 1 { (&wanted[0], Offload::NONE) } else { (&frame, offload) };
        prop_assert_eq!(merged.len(), 1, "groups");
        same("merged frame", std::slice::from_ref(&merged[0].bytes), std::slice::from_ref(bytes))?;
        prop_assert_eq!(merged[0].offload, offload);
    } else {
        let offered: Vec<_> = segments.iter().map(alone).collect();
        prop_assert!(merged == reference(&offered), "groups are not those of the reference");
    }
    Ok(())
}

/// Flows, whether they are between the same two hosts, and whose frame comes next, with what about it.
type Batch = (Vec<Source>, bool, Vec<(u8, Event)>);

fn batches() -> impl Strategy<Value = Batch> {
    let short = (vec(source(), 1..5), any::<bool>(), vec((any::<u8>(), event()), 1..20));
    let long = (vec(source(), 1..3), any::<bool>(), vec((any::<u8>(), event()), 32..BATCH));
    let calm = (vec(source(), 1..2), any::<bool>(), vec((any::<u8>(), Just(Event::Full)), 64..BATCH));
    prop_oneof![120 => short, 3 => long, 1 => calm]
}

fn merge_and_split((sources, related, script): &Batch, seen: &Seen) -> TestCaseResult {
    let mut sources = sources.clone();
    if *related {
        // So that a fragment concerns them all.
        let ip = sources[0].packet.ip.clone();
        sources.iter_mut().for_each(|source| source.packet.ip = ip.clone());
    }
    let count = sources.len();
    let turns = script.iter().map(|(which, _)| usize::from(*which) % count);
    let began = turns.clone().fold(0u32, |began, which| began | 1 << which);
    let offered: Vec<_> = turns.zip(script).map(|(which, (_, event))| sources[which].next(*event)).collect();
    if offered.iter().any(is_zero_sum_right) {
        return Ok(());
    }
    seen.flows.set(seen.flows.get() + u64::from(began.count_ones()));
    let frames: Vec<_> = offered.iter().map(|frame| (frame.bytes(), frame.egress, frame.offload)).collect();
    let mut merger = Merger::with_capacity(BATCH);
    let merged = run(&mut merger, &frames);
    let wanted = reference(&offered);
    prop_assert!(merged == wanted, "{:?} is not {:?}, as the reference says", Summary(&merged), Summary(&wanted));
    prop_assert!(run(&mut merger, &frames) == merged, "a cleared merger is as good as a new one");

    for group in &merged {
        seen.note(Feature::Damaged, group.damaged);
        if group.members.len() > 1 {
            split_again(group, &offered, seen)?;
        }
    }
    Ok(())
}

/// Splitting gives back what was merged, where identifications went up; vouched frames with right checksums, whatever
/// they had.
fn split_again(group: &Merged, offered: &[Offered], seen: &Seen) -> TestCaseResult {
    let members = || group.members.iter().map(|member| &offered[*member]);
    let first = &offered[group.members[0]].packet;
    seen.headers(first, first.payload.len(), members().map(|member| member.packet.payload.len()).sum());
    seen.note(Feature::FullGroup, group.members.len() == MAX_SEGMENTS);
    seen.note(Feature::Vouched, members().any(|member| member.offload.checksum == Checksum::Valid));
    let ids = members().filter_map(|member| match member.packet.ip {
        Ip::V4 { id, .. } => Some(id),
        Ip::V6 { .. } => None,
    });
    let still = ids.clone().zip(ids.skip(1)).any(|(id, next)| id == next);
    seen.note(Feature::IdentificationStill, still);
    if still {
        return Ok(());
    }
    let wanted: Vec<_> = members().map(|member| member.packet.bytes(Sum::Right)).collect();
    let cut = cut(&group.bytes, &group.offload).map_err(|error| TestCaseError::fail(error.to_string()))?;
    same("segment", &cut, &wanted)
}

/// A zero TCP checksum is right once in a while; the reference would call it wrong.
fn is_zero_sum_right(offered: &Offered) -> bool {
    offered.sum == Sum::Zero
        && offered.packet.is_tcp()
        && offered.packet.bytes(Sum::Zero) == offered.packet.bytes(Sum::Right)
}

/// Groups without their bytes.
struct Summary<'a>(&'a [Merged]);

impl fmt::Debug for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = self.0.iter().map(|group| (&group.members, group.bytes.len(), group.damaged));
        f.debug_list().entries(groups).finish()
    }
}

#[test]
fn superframes_split_as_the_reference_says_and_merge_again() {
    use Feature::{
        CongestionEcho, CongestionExperienced, DontFragment, EcnCapable, Fin, Identical, IdentificationWraps,
        IpOptions, Long, ManySegments, NoPayload, OddSize, OneTag, Push, Sack, SequenceWraps, ShortLast, Tcp4, Tcp6,
        Timestamps, TwoTags, Udp4, Udp6, WindowReduced,
    };
    let wanted = [
        Tcp4,
        Tcp6,
        Udp4,
        Udp6,
        OneTag,
        TwoTags,
        Timestamps,
        Sack,
        EcnCapable,
        CongestionExperienced,
        CongestionEcho,
        WindowReduced,
        Push,
        Fin,
        SequenceWraps,
        IdentificationWraps,
        OddSize,
        ShortLast,
        NoPayload,
        IpOptions,
        DontFragment,
        ManySegments,
        Long,
        Identical,
    ];
    hold(superframes, split_and_merge, &wanted);
}

#[test]
fn flows_merge_as_the_reference_says_and_split_again() {
    use Feature::{
        CongestionExperienced, Damaged, DontFragment, EcnCapable, FullGroup, IdentificationStill, IdentificationWraps,
        Long, OddSize, OneTag, Sack, SequenceWraps, ShortLast, Tcp4, Tcp6, Timestamps, TwoTags, Udp4, Udp6, Vouched,
    };
    let wanted = [
        Tcp4,
        Tcp6,
        Udp4,
        Udp6,
        OneTag,
        TwoTags,
        Timestamps,
        Sack,
        EcnCapable,
        CongestionExperienced,
        SequenceWraps,
        IdentificationWraps,
        IdentificationStill,
        OddSize,
        ShortLast,
        DontFragment,
        Long,
        FullGroup,
        Vouched,
        Damaged,
    ];
    hold(batches, merge_and_split, &wanted);
}
