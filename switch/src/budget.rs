use weft_bridge::Seconds;

/// So many of something in one second of the coarse clock, not more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    second: Seconds,
    used: u32,
}

impl Budget {
    pub(crate) const fn new() -> Self {
        Self { second: Seconds(0), used: 0 }
    }

    /// Whether there may be one more in this second.
    pub(crate) fn take(&mut self, per_second: u32, now: Seconds) -> bool {
        if self.second != now {
            *self = Self { second: now, used: 0 };
        }
        let granted = self.used < per_second;
        self.used += u32::from(granted);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_a_second() {
        let mut budget = Budget::new();
        let granted = |budget: &mut Budget, now| (0..1000).filter(|_| budget.take(200, now)).count();
        assert_eq!(granted(&mut budget, Seconds(7)), 200);
        assert_eq!(granted(&mut budget, Seconds(7)), 0);
        assert_eq!(granted(&mut budget, Seconds(8)), 200);
        assert!(!budget.take(0, Seconds(9)));
    }
}
