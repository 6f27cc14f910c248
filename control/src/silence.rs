//! When a suspect counts as silent. Pure.

use std::time::Duration;

use weft_encap::search::State;

/// After how long a suspect is let go whose path cannot be probed.
const UNPROBED_GRACE: Duration = Duration::from_secs(600);

/// After how long a suspect counts as silent that has never echoed a probe: time enough for the first to be lost.
const NEVER_ECHOED: Duration = Duration::from_secs(10);

/// Whether a node is silent that is suspected for so long, by the states of the paths to its VTEPs in this node's tables;
/// none at all where there are no probes. No path that is looked at says nothing.
pub(crate) fn is_silent(paths: Option<&[Option<State>]>, suspected: Duration) -> bool {
    let Some(paths) = paths.filter(|paths| !paths.is_empty()) else { return suspected >= UNPROBED_GRACE };
    paths.iter().all(|state| match state {
        None | Some(State::Down) => true,
        // It said that it echoes probes, and never did.
        Some(State::Unprobed) => suspected >= NEVER_ECHOED,
        Some(State::Searching | State::Up { .. } | State::BlackHole) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suspect_without_a_path_is_not_silent_yet() {
        let at_once = |paths: Option<&[Option<State>]>| is_silent(paths, Duration::ZERO);
        assert!(!at_once(Some(&[])), "it has no VTEP in these tables, of which nothing follows");
        assert!(!at_once(None), "and neither where nothing is probed");
        assert!([Some(&[][..]), None].into_iter().all(|paths| is_silent(paths, UNPROBED_GRACE)), "not for ever");
        assert!(at_once(Some(&[Some(State::Down)])));
        assert!(at_once(Some(&[None, Some(State::Down)])));
        assert!(!at_once(Some(&[Some(State::Down), Some(State::Searching)])), "one of its VTEPs may answer");
        assert!(!at_once(Some(&[Some(State::Unprobed)])));
        assert!(is_silent(Some(&[Some(State::Unprobed)]), NEVER_ECHOED));
    }
}
