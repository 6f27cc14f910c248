//! What goes on failing is said once a minute, not at every turn.

use weft_bridge::Seconds;

/// Time between two lines about one source, in seconds.
const SILENCE_SECONDS: u32 = 60;

/// One source that may fail.
#[derive(Clone, Debug, Default)]
pub(crate) struct Complaint {
    said: Option<Seconds>,
    untold: u64,
}

impl Complaint {
    /// Notes a failure. If it is to be said: how many were not said before it.
    pub(crate) fn note(&mut self, now: Seconds) -> Option<u64> {
        if self.said.is_some_and(|said| now.0.wrapping_sub(said.0) < SILENCE_SECONDS) {
            self.untold += 1;
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lasting_failure_is_said_once_a_minute_with_its_number() {
        let mut complaint = Complaint::default();
        assert_eq!(complaint.note(Seconds(100)), Some(0));
        assert_eq!((0..1000).filter_map(|_| complaint.note(Seconds(159))).count(), 0);
        assert_eq!(complaint.note(Seconds(160)), Some(1000));
        assert_eq!(complaint.note(Seconds(161)), None);
        assert_eq!(complaint.note(Seconds(300)), Some(1));
    }
}
