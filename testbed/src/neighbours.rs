//! Room for a lab's neighbours. The network namespaces of a machine have one limit between them for those that the kernel
//! resolves itself (`gc_thresh3`, net/core/neighbour.c), made for one machine among 1,024 others: a lab of 33 nodes, each
//! of which knows the others, is past it, and then a new neighbour is not found at all.

use std::fs;
use std::path::PathBuf;

use crate::{LabError, LabSpec, Progress};

/// One for each family.
const LIMITS: [&str; 2] =
    ["/proc/sys/net/ipv4/neigh/default/gc_thresh3", "/proc/sys/net/ipv6/neigh/default/gc_thresh3"];
/// What a limit is raised to at most: entries of half a KiB.
const MOST: usize = 1 << 20;

/// The neighbours of all namespaces of a lab together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Neighbours {
    /// Of nodes, which all have each other.
    least: usize,
    /// And of pods, if each talks to all.
    most: usize,
}

impl Neighbours {
    fn of(spec: &LabSpec) -> Self {
        let (nodes, pods) = (spec.nodes.len() + spec.routers.len() + 1, spec.pods().count());
        Self { least: nodes * nodes, most: nodes * nodes + pods * pods }
    }

    /// What a limit has to be raised to, if it has to.
    fn raised(self, limit: usize) -> Option<usize> {
        // Other labs, and the machine's own.
        let wanted = (2 * self.most).next_power_of_two().min(MOST);
        (2 * self.most > limit && wanted > limit).then_some(wanted)
    }
}

/// Raises the machine's limits where a lab needs that. They stay so: others may need them by the time that it goes.
pub(crate) fn make_room(spec: &LabSpec, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
    let neighbours = Neighbours::of(spec);
    for path in LIMITS {
        // A kernel without the family, or a namespace from which the limit is not seen: then it is not ours to raise.
        let Some(limit) = fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()) else { continue };
        let Some(wanted) = neighbours.raised(limit) else { continue };
        match fs::write(path, wanted.to_string()) {
            Ok(()) => progress(Progress::LimitRaised { path, from: limit, to: wanted }),
            Err(source) if neighbours.least > limit => {
                return Err(LabError::TooManyNeighbours { path: PathBuf::from(path), limit, wanted, source });
            }
            // Nodes fit in. Pods do, too, as long as few of them talk at once.
            Err(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_where_it_may_be_met() {
        let lab = |nodes: usize, pods: usize| Neighbours { least: nodes * nodes, most: nodes * nodes + pods * pods };
        assert_eq!(lab(2, 4).raised(1024), None);
        assert_eq!(lab(33, 0).raised(1024), Some(4096));
        assert_eq!(lab(33, 0).raised(8192), None);
        assert_eq!(lab(50, 200).raised(1024), Some(1 << 17));
        assert_eq!(lab(2000, 0).raised(MOST), None, "as high as it goes");
    }
}
