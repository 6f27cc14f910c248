//! Fates on a clock that is moved by hand. Seeds are fixed, so what passes once passes always; the tolerances are
//! those of the distributions.

use std::time::Duration;

use super::*;

const MS: Duration = Duration::from_millis(1);
/// Frames for each frequency that is looked at.
const MANY: u32 = 100_000;
/// 99.9 % of all samples of 9 degrees of freedom are below (chi-square).
const CHI_SQUARE_9: f64 = 27.88;

fn channel(settings: &[&str]) -> Channel {
    let mut both = Impairments::default();
    settings.iter().for_each(|text| both.set(None, text).unwrap());
    both.check().unwrap();
    Channel::new(both.to, 7)
}

/// An Ethernet frame of that many bytes which carries its number.
fn frame(number: u32, bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; bytes];
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&number.to_be_bytes());
    frame
}

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().unwrap())
}

fn drain(channel: &mut Channel, now: Duration) -> Vec<u32> {
    std::iter::from_fn(|| channel.take(now)).map(|frame| number(&frame)).collect()
}

/// Whether each of many frames was lost.
fn losses(channel: &mut Channel) -> Vec<bool> {
    let fates = (0..MANY).map(|number| {
        let lost = channel.offer(&frame(number, 60), Duration::ZERO).is_err();
        drain(channel, Duration::ZERO);
        lost
    });
    fates.collect()
}

/// Within five standard deviations of what is expected.
#[track_caller]
fn assert_frequency(seen: u64, of: u32, expected: f64) {
    let (mean, deviation) = (f64::from(of) * expected, (f64::from(of) * expected * (1.0 - expected)).sqrt());
    assert!((seen as f64 - mean).abs() <= 5.0 * deviation, "{seen} of {of}, expected {mean:.0} +- {deviation:.0}");
}

#[track_caller]
fn assert_balanced(channel: &Channel) {
    let seen = channel.counters();
    let gone = seen.lost + seen.lost_in_bursts + seen.queue_full + seen.too_big;
    assert_eq!(seen.frames + seen.duplicated, seen.delivered + seen.held + gone, "{seen:?}");
}

#[test]
fn an_unimpaired_link_hands_everything_on_at_once() {
    let mut channel = channel(&[]);
    for number in 0..10 {
        channel.offer(&frame(number, 1514), MS).unwrap();
    }
    assert_eq!(drain(&mut channel, MS), (0..10).collect::<Vec<_>>());
    assert_balanced(&channel);
}

#[test]
fn frames_are_lost_as_often_as_asked_and_independently() {
    for (text, expected) in [("loss=1%", 0.01), ("loss=30%", 0.3), ("loss=0.1%", 0.001)] {
        let mut channel = channel(&[text]);
        let lost = losses(&mut channel);
        assert_frequency(channel.counters().lost, MANY, expected);
        // Of independent losses, as many follow a loss as follow anything.
        let pairs = lost.windows(2).filter(|pair| pair[0]).count();
        let again = lost.windows(2).filter(|pair| pair[0] && pair[1]).count();
        assert_frequency(again as u64, u32::try_from(pairs).unwrap(), expected);
        assert_balanced(&channel);
    }
    assert!(losses(&mut channel(&["loss=100%"])).iter().all(|lost| *lost));
}

#[test]
fn bursts_have_the_length_and_share_of_their_model() {
    let mut channel = channel(&["burst=1%/25%"]);
    let lost = losses(&mut channel);
    let bursts = lost.chunk_by(|one, next| one == next).filter(|run| run[0]).count();
    let mean = channel.counters().lost_in_bursts as f64 / bursts as f64;
    assert!((3.7..4.3).contains(&mean), "bursts of {mean} frames, expected 4");
    // The stationary share of the bad state is enter / (enter + leave).
    let share = channel.counters().lost_in_bursts as f64 / f64::from(MANY);
    assert!((0.033..0.044).contains(&share), "{share} lost, expected {}", 0.01 / 0.26);
    assert_balanced(&channel);

    let mut both = self::channel(&["burst=10%/10%/50%/1%"]);
    losses(&mut both);
    let share = both.counters().lost_in_bursts as f64 / f64::from(MANY);
    assert!((0.24..0.27).contains(&share), "{share} lost, expected 0.255");
}

#[test]
fn delay_keeps_time_and_order() {
    let mut channel = channel(&["delay=20ms"]);
    channel.offer(&frame(0, 60), Duration::ZERO).unwrap();
    channel.offer(&frame(1, 60), 5 * MS).unwrap();
    assert_eq!(channel.next(), Some(20 * MS));
    assert_eq!(drain(&mut channel, 20 * MS - Duration::from_nanos(1)), [0_u32; 0]);
    assert_eq!(drain(&mut channel, 20 * MS), [0]);
    assert_eq!(channel.next(), Some(25 * MS));
    assert_eq!(drain(&mut channel, 25 * MS), [1]);
}

#[test]
fn jitter_is_even_and_reorders_nothing() {
    let mut channel = channel(&["delay=20ms", "jitter=10ms"]);
    let mut tenths = [0_u32; 10];
    for number in 0..MANY {
        // So far apart that nobody waits for the one before.
        let sent = 100 * MS * number;
        channel.offer(&frame(number, 60), sent).unwrap();
        let delay = channel.next().unwrap() - sent;
        tenths[((delay - 10 * MS).as_nanos() / (2 * MS).as_nanos()).min(9) as usize] += 1;
        assert_eq!(drain(&mut channel, sent + 30 * MS), [number]);
    }
    let expected = f64::from(MANY) / 10.0;
    let chi_square: f64 = tenths.iter().map(|seen| (f64::from(*seen) - expected).powi(2) / expected).sum();
    assert!(chi_square < CHI_SQUARE_9, "{chi_square}: {tenths:?}");

    (0..100).for_each(|number| channel.offer(&frame(number, 60), 100 * MS * MANY).unwrap());
    assert_eq!(drain(&mut channel, 200 * MS * MANY), (0..100).collect::<Vec<_>>());
}

#[test]
fn reordered_frames_overtake() {
    let mut channel = channel(&["delay=20ms", "reorder=10%"]);
    (0..MANY).for_each(|number| channel.offer(&frame(number, 60), Duration::ZERO).unwrap());
    let early = drain(&mut channel, Duration::ZERO);
    assert_eq!(early.len() as u64, channel.counters().reordered);
    assert_frequency(channel.counters().reordered, MANY, 0.1);
    let late = drain(&mut channel, 20 * MS);
    assert_eq!(early.len() + late.len(), MANY as usize);
    assert!(early.is_sorted() && late.is_sorted());
}

#[test]
fn duplicates_and_damage_come_as_often_as_asked() {
    let mut channel = channel(&["duplicate=5%", "corrupt=2%"]);
    let mut damaged = 0;
    let mut bits = [0_u32; 10];
    let whole = frame(0, 54);
    for _ in 0..MANY {
        channel.offer(&whole, Duration::ZERO).unwrap();
        let copies: Vec<Vec<u8>> = std::iter::from_fn(|| channel.take(Duration::ZERO)).collect();
        assert!(copies.windows(2).all(|pair| pair[0] == pair[1]));
        let turned: Vec<usize> =
            (0..whole.len() * 8).filter(|bit| (copies[0][bit / 8] ^ whole[bit / 8]) >> (bit % 8) & 1 == 1).collect();
        match turned.as_slice() {
            [] => {}
            [bit] => {
                damaged += 1;
                bits[(bit - 14 * 8) / 32] += 1;
            }
            more => panic!("{} bits of one frame were turned over", more.len()),
        }
    }
    assert_eq!(damaged, channel.counters().corrupted);
    assert_frequency(damaged, MANY, 0.02);
    assert_frequency(channel.counters().duplicated, MANY, 0.05);
    let expected = f64::from(u32::try_from(damaged).unwrap()) / 10.0;
    let chi_square: f64 = bits.iter().map(|seen| (f64::from(*seen) - expected).powi(2) / expected).sum();
    assert!(chi_square < CHI_SQUARE_9, "{chi_square}: {bits:?}");
    assert_balanced(&channel);
}

#[test]
fn a_rate_spaces_frames_and_its_queue_is_bounded() {
    let mut channel = channel(&["rate=1mbit", "queue=3", "delay=7ms"]);
    let fates: Vec<_> = (0..6).map(|number| channel.offer(&frame(number, 125), Duration::ZERO)).collect();
    // One is on the wire and three wait.
    assert_eq!(fates, [Ok(()), Ok(()), Ok(()), Ok(()), Err(Loss::QueueFull), Err(Loss::QueueFull)]);
    for number in 0..4 {
        assert_eq!(channel.next(), Some(MS * (number + 1) + 7 * MS), "125 bytes take a millisecond");
        assert_eq!(drain(&mut channel, MS * (number + 1) + 7 * MS), [number]);
    }
    // What was sent at the first moment has left by now: there is room again, and the wire is idle.
    channel.offer(&frame(9, 125), 50 * MS).unwrap();
    assert_eq!(channel.next(), Some(58 * MS));
    assert_eq!(channel.counters().queue_full, 2);
    assert_balanced(&channel);
}

#[test]
fn memory_is_bounded_without_a_rate() {
    let mut channel = channel(&["delay=60s"]);
    let big = vec![0; 1 << 20];
    let taken = (0..100).filter(|_| channel.offer(&big, Duration::ZERO).is_ok()).count();
    assert_eq!(taken, 64);
    assert_eq!(channel.counters().queue_full, 36);
}

#[test]
fn what_is_longer_than_the_mtu_goes_no_further() {
    let mut channel = channel(&["mtu=1400"]);
    assert_eq!(channel.offer(&frame(0, 14 + 1400), Duration::ZERO), Ok(()));
    assert_eq!(channel.offer(&frame(1, 14 + 1401), Duration::ZERO), Err(Loss::TooBig));
    assert_eq!(drain(&mut channel, Duration::ZERO), [0]);
    // A tag does not count.
    let mut tagged = frame(2, 18 + 1400);
    tagged[12..18].copy_from_slice(&[0x81, 0, 0, 5, 0x88, 0xb5]);
    assert_eq!(channel.offer(&tagged, Duration::ZERO), Ok(()));
}

#[test]
fn a_seed_decides_everything() {
    let settings = ["loss=10%", "duplicate=10%", "delay=10ms", "jitter=10ms", "reorder=5%", "corrupt=5%"];
    let run = |seed: u64| {
        let mut channel = channel(&settings);
        channel.seed(seed);
        for number in 0..1000 {
            let _ = channel.offer(&frame(number, 200), MS * number);
        }
        std::iter::from_fn(|| channel.next().and_then(|at| Some((at, channel.take(at)?)))).collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn a_change_leaves_alone_what_is_on_its_way() {
    let mut channel = channel(&["delay=20ms"]);
    channel.offer(&frame(0, 60), Duration::ZERO).unwrap();
    channel.change(Impairment::default());
    channel.offer(&frame(1, 60), 20 * MS).unwrap();
    assert_eq!(drain(&mut channel, 20 * MS), [0, 1]);
}

#[test]
fn settings_read_as_they_are_shown() {
    let text = "delay=1.5s jitter=300us loss=0.0001% burst=1%/25%/100%/0% duplicate=2% reorder=3% corrupt=4.5% \
                rate=1500kbit queue=10 mtu=1400 too-big=icmp";
    let mut both = Impairments::default();
    text.split(' ').for_each(|part| both.set(Some(Direction::To), part).unwrap());
    both.check().unwrap();
    assert_eq!(both.to.to_string(), text);
    assert_eq!(both.from, Impairment::default());
    both.set(None, "seed=9").unwrap();
    let json = serde_json::to_string(&both).unwrap();
    assert_eq!(serde_json::from_str::<Impairments>(&json).unwrap(), both);
    for part in ["delay=0", "jitter=0s", "loss=0", "burst=off", "rate=off", "mtu=off"] {
        both.set(None, part).unwrap();
    }
    assert_eq!(both.to.to_string(), "duplicate=2% reorder=3% corrupt=4.5% queue=10 too-big=icmp");
}

#[test]
fn wrong_settings_are_answered_with_what_is_allowed() {
    let mut both = Impairments::default();
    for text in [
        "loss",
        "lose=1%",
        "loss=1",
        "loss=101%",
        "loss=-1%",
        "loss=0.00001%",
        "loss=1.%",
        "delay=20",
        "delay=61s",
        "delay=1h",
        "rate=1",
        "rate=0.5kbit",
        "burst=1%",
        "burst=1%/2%/3%/4%/5%",
        "queue=0",
        "queue=100001",
        "mtu=67",
        "too-big=maybe",
        "seed=-1",
        "loss=%",
        "delay=ms",
    ] {
        let error = both.set(None, text).unwrap_err().to_string();
        assert!(error.contains("allowed are") || error.contains("write KEY=VALUE"), "{text}: {error}");
        assert_eq!(both, Impairments::default());
    }
    for (settings, told) in [
        (&["reorder=1%"][..], "reorder without delay changes nothing: set both"),
        (&["delay=1ms", "jitter=2ms"], "jitter without a delay at least as long changes nothing: set both"),
        (&["queue=3"], "queue without rate changes nothing: set both"),
        (&["too-big=icmp"], "too-big without mtu changes nothing: set both"),
    ] {
        let mut both = Impairments::default();
        settings.iter().for_each(|text| both.set(None, text).unwrap());
        assert_eq!(both.check().unwrap_err().to_string(), told);
    }
}
