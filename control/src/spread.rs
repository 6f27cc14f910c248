//! When an agent does what all agents do again and again: anywhere in the period, and not when the others do it, though
//! they were started together or lost their store together.

use std::time::Duration;

/// Somewhere in a period, evenly, by a number drawn from all that there are.
pub(crate) fn within(period: Duration, drawn: u64) -> Duration {
    let nanoseconds = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(((u128::from(nanoseconds) * u128::from(drawn)) >> u64::BITS) as u64)
}

/// The period, or up to half of it less or more.
pub(crate) fn about(period: Duration, drawn: u64) -> Duration {
    period / 2 + within(period, drawn)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENTS: u64 = 1000;
    const SEED: u64 = 24_558;

    /// What a thousand agents draw: SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
    fn draws() -> impl Iterator<Item = u64> {
        (1..=AGENTS).map(|agent| {
            let z = SEED.wrapping_add(agent.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }

    /// The most that fall into one of so many equal parts of a span.
    fn most(moments: impl Iterator<Item = Duration>, span: Duration, parts: usize) -> usize {
        let mut counts = vec![0; parts];
        for moment in moments {
            counts[(moment.as_nanos() * parts as u128 / span.as_nanos()) as usize] += 1;
        }
        counts.into_iter().max().unwrap_or_default()
    }

    #[test]
    fn a_thousand_agents_started_together_do_nothing_together() {
        let [verify, list] = [10, 600].map(Duration::from_secs);
        // 10 and 1.7 are to be expected.
        assert!(most(draws().map(|drawn| within(verify, drawn)), verify, 100) <= 25);
        assert!(most(draws().map(|drawn| within(list, drawn)), list, 600) <= 9);
        let retry = Duration::from_secs(1);
        let retries = || draws().map(|drawn| about(retry, drawn));
        assert!(retries().all(|after| after >= retry / 2), "never at once");
        assert!(most(retries().map(|after| after - retry / 2), retry, 100) <= 25);
    }

    #[test]
    fn a_period_has_both_its_ends_and_no_more() {
        let period = Duration::from_secs(600);
        assert_eq!(within(period, 0), Duration::ZERO);
        assert_eq!(within(period, u64::MAX / 2 + 1), period / 2);
        let last = within(period, u64::MAX);
        assert!(last < period && last > period - Duration::from_micros(1), "{last:?}");
    }
}
