//! The run: for each cable, all planes stand side by side, and each round does every case on every plane before the
//! next round begins. So whatever else the machine does meets all planes alike.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::load::Timing;
use crate::plane::{reach, resident_bytes};
use crate::record::{Better, Failure, Group, Metric, PlaneRecord, Sample, Settings, Skipped};
use crate::spinner::Spinner;
use crate::{BenchError, Cable, Case, Comparison, Machine, Pinning, Plane, Stage, Stages, load::Side};

/// Version of the format of a [`Comparison`].
const VERSION: u32 = 1;
/// Names of the metrics that belong to planes and not to cases.
const START: &str = "start";
const MEMORY: &str = "memory";
const MEBI: f64 = 1_048_576.0;

/// What is compared, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The planes.
    pub planes: Vec<Plane>,
    /// The cases.
    pub cases: Vec<Case>,
    /// The cables.
    pub cables: Vec<Cable>,
    /// Rounds, 1 at least.
    pub rounds: u32,
    /// Of each load.
    pub timing: Timing,
    /// Where programs may run.
    pub pinning: Pinning,
    /// How long all of it may take. A round that would not fit any more is left out, but not a cable's first.
    pub limit: Option<Duration>,
    /// Whether every round sets up every plane once more, to time its start. Otherwise the first time counts.
    pub start_each_round: bool,
    /// The program of agents, forwarders and spinners.
    pub weft: PathBuf,
    /// The programs of the agents of [`Plane::OtherWeft`].
    pub others: Vec<PathBuf>,
}

/// What is being done.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// A plane is set up.
    SettingUp {
        /// Between what.
        cable: Cable,
        /// Its name.
        plane: &'a str,
    },
    /// A plane does not run here.
    Skipped(&'a Skipped),
    /// A case is measured.
    Measuring {
        /// Between what.
        cable: Cable,
        /// The round, from 1.
        round: u32,
        /// The plane's name.
        plane: &'a str,
        /// The case's name.
        case: &'a str,
    },
    /// A round is over.
    Round(&'a Comparison),
}

struct Standing {
    plane: Plane,
    name: String,
    stage: Stage,
}

/// Does all of it.
///
/// # Errors
/// [`BenchError::Interrupted`], and what keeps any plane from being tried. A plane that does not run and a load that
/// fails are part of the outcome.
pub fn compare(
    stages: &Stages,
    options: &Options,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Comparison, BenchError> {
    let begin = Instant::now();
    let mut comparison = empty(options);
    for (index, cable) in options.cables.iter().enumerate() {
        let standing = set_up(stages, options, *cable, &mut comparison, progress)?;
        let share = (index + 1) as f64 / options.cables.len() as f64;
        let deadline = options.limit.map(|limit| begin + limit.mul_f64(share));
        let mut longest = Duration::ZERO;
        for round in 1..=options.rounds {
            let started = Instant::now();
            if round > 1 && deadline.is_some_and(|deadline| started + longest > deadline) {
                break;
            }
            one_round(stages, options, &standing, round, &mut comparison, progress)?;
            longest = longest.max(started.elapsed());
            comparison.settings.took_seconds = begin.elapsed().as_secs_f64();
            progress(Progress::Round(&comparison));
        }
    }
    comparison.settings.took_seconds = begin.elapsed().as_secs_f64();
    Ok(comparison)
}

fn empty(options: &Options) -> Comparison {
    let metric = |id: &str, title: &str, unit: &str| Metric {
        id: id.to_owned(),
        group: Group::Cost,
        title: title.to_owned(),
        unit: unit.to_owned(),
        better: Better::Lower,
    };
    let mut metrics: Vec<Metric> = options.cases.iter().filter(|case| !case.awake).flat_map(Case::metrics).collect();
    for case in options.cases.iter().filter(|case| case.awake) {
        // Beside its other condition, where it is measured in both.
        let other = Case { awake: false, ..case.clone() }.metrics();
        let after = other.last().and_then(|last| metrics.iter().position(|metric| metric.id == last.id));
        let at = after.map_or(metrics.len(), |at| at + 1);
        metrics.splice(at..at, case.metrics());
    }
    metrics.push(metric(START, "start, until the first answer between the nodes", "ms"));
    metrics.push(metric(MEMORY, "resident memory of its processes on both nodes", "MiB"));
    Comparison {
        version: VERSION,
        machine: Machine::here(),
        settings: Settings {
            rounds: options.rounds,
            period_seconds: options.timing.period.as_secs_f64(),
            warm_up_seconds: options.timing.warm_up.as_secs_f64(),
            pinning: options.pinning,
            took_seconds: 0.0,
        },
        planes: options
            .planes
            .iter()
            .map(|plane| PlaneRecord { name: plane.name(), about: plane.about().to_owned(), weft: plane.is_weft() })
            .collect(),
        cables: options.cables.clone(),
        metrics,
        skipped: Vec::new(),
        failures: Vec::new(),
        samples: Vec::new(),
    }
}

/// The planes that run, standing side by side.
fn set_up(
    stages: &Stages,
    options: &Options,
    cable: Cable,
    comparison: &mut Comparison,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<Standing>, BenchError> {
    let mut standing = Vec::new();
    for plane in &options.planes {
        let name = plane.name();
        progress(Progress::SettingUp { cable, plane: &name });
        match start(stages, options, *plane, cable) {
            Ok((stage, started)) => {
                comparison.add(&name, cable, START, 1, started.as_secs_f64() * 1e3);
                standing.push(Standing { plane: *plane, name, stage });
            }
            Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
            Err(error) => {
                let skipped = Skipped { plane: name, cable, reason: error.to_string() };
                progress(Progress::Skipped(&skipped));
                comparison.skipped.push(skipped);
            }
        }
    }
    Ok(standing)
}

/// A plane on a stage of its own, and how long that took from the bare stage to the first answer across.
fn start(stages: &Stages, options: &Options, plane: Plane, cable: Cable) -> Result<(Stage, Duration), BenchError> {
    let stage = Stage::new(stages, cable, options.pinning)?;
    let begin = Instant::now();
    let program = match plane {
        Plane::OtherWeft(index) => options.others.get(usize::from(index)).unwrap_or(&options.weft),
        _ => &options.weft,
    };
    plane.set_up(&stage, program)?;
    let [a, _, c] = stage.pods().each_ref().map(|pod| Side::new(pod, stage.pinning()));
    reach(&stage, &a, &c)?;
    let started = begin.elapsed();
    plane.wait_until_joined(&stage)?;
    Ok((stage, started))
}

fn one_round(
    stages: &Stages,
    options: &Options,
    standing: &[Standing],
    round: u32,
    comparison: &mut Comparison,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), BenchError> {
    for case in &options.cases {
        let name = case.name();
        let spinner = case.awake.then(|| Spinner::start(&options.weft)).transpose();
        if let Err(error) = &spinner {
            for Standing { name: plane, stage, .. } in standing {
                comparison.failed(plane, stage.cable(), &name, round, error);
            }
            continue;
        }
        for Standing { plane: way, name: plane, stage } in in_turn(standing, round) {
            let cable = stage.cable();
            let before = way.effort(stage);
            progress(Progress::Measuring { cable, round, plane, case: &name });
            match case.run(stage, options.timing) {
                Ok(mut figures) => {
                    let calls = before.and_then(|before| way.effort(stage)?.calls_per_frame(before));
                    figures.extend(calls.map(|calls| ("calls", calls)));
                    for (figure, value) in figures {
                        comparison.add(plane, cable, &format!("{name} {figure}"), round, value);
                    }
                }
                Err(error) => {
                    // Whoever interrupts takes namespaces away, and so every load fails.
                    stages.check()?;
                    comparison.failed(plane, cable, &name, round, &error);
                }
            }
        }
    }
    for Standing { plane, name, stage } in in_turn(standing, round) {
        let cable = stage.cable();
        comparison.add(name, cable, MEMORY, round, resident_bytes(stage) as f64 / MEBI);
        if options.start_each_round && round > 1 {
            progress(Progress::SettingUp { cable, plane: name });
            match start(stages, options, *plane, cable) {
                Ok((_, started)) => comparison.add(name, cable, START, round, started.as_secs_f64() * 1e3),
                Err(BenchError::Interrupted) => return Err(BenchError::Interrupted),
                Err(error) => comparison.failed(name, cable, START, round, &error),
            }
        }
    }
    Ok(())
}

fn in_turn(standing: &[Standing], round: u32) -> impl Iterator<Item = &Standing> {
    order(standing.len(), round as usize).map(|index| &standing[index])
}

/// In which order `n` planes are measured in a round. As many rounds as planes, twice as many where that is odd, have each
/// plane in each place, and right behind each other one, equally often: none is always behind the same one's load
/// (E. J. Williams, Experimental designs balanced for the estimation of residual effects of treatments, 1949).
fn order(n: usize, round: usize) -> impl Iterator<Item = usize> {
    let mirrored = n % 2 == 1 && round / n % 2 == 1;
    (0..n).map(move |place| {
        let place = if mirrored { n - 1 - place } else { place };
        let zigzag = if place % 2 == 1 { place.div_ceil(2) } else { n - place / 2 };
        (round + zigzag) % n
    })
}

impl Comparison {
    fn add(&mut self, plane: &str, cable: Cable, metric: &str, round: u32, value: f64) {
        // A figure that is no metric of its case is not kept.
        if self.metrics.iter().any(|known| known.id == metric) {
            let (plane, metric) = (plane.to_owned(), metric.to_owned());
            self.samples.push(Sample { plane, cable, metric, round, value });
        }
    }

    fn failed(&mut self, plane: &str, cable: Cable, case: &str, round: u32, error: &BenchError) {
        let (plane, case, reason) = (plane.to_owned(), case.to_owned(), error.to_string());
        self.failures.push(Failure { plane, cable, case, round, reason });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::order;

    #[test]
    fn every_plane_comes_in_every_place_and_behind_every_other_equally_often() {
        for planes in 1..8 {
            let (mut places, mut neighbours) = (HashMap::new(), HashMap::new());
            let rounds = if planes % 2 == 0 { planes } else { 2 * planes };
            for round in 0..rounds {
                let turn: Vec<_> = order(planes, round).collect();
                turn.iter().enumerate().for_each(|at| *places.entry((at.0, *at.1)).or_insert(0) += 1);
                turn.windows(2).for_each(|pair| *neighbours.entry((pair[0], pair[1])).or_insert(0) += 1);
            }
            assert_eq!((places.len(), neighbours.len()), (planes * planes, planes * (planes - 1)));
            assert!(places.values().all(|times| *times == rounds / planes), "{planes}: {places:?}");
            assert!(neighbours.values().all(|times| *times == rounds / planes), "{planes}: {neighbours:?}");
        }
    }
}
