//! Steps done, and what came of them.

use std::net::IpAddr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Action, Expectation, Script, Step};
use crate::probe::{Amount, BulkOptions, PING_COUNT_MAX, PingOptions, PingReport, ProbeError, bulk_between, ping};
use crate::process::wait_until;
use crate::{Lab, LabError};

/// Between two pings of a check.
const PING_INTERVAL: Duration = Duration::from_millis(20);
/// How long one ping is waited for while others follow.
const PING_PATIENCE: Duration = Duration::from_millis(250);
/// How long the last ping of a check is waited for.
const LAST_PING: Duration = Duration::from_secs(1);
/// What TCP has to carry, in bytes.
const TCP_BYTES: u64 = 1 << 20;

/// What came of a script.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ScriptReport {
    /// Whether every step was done and every expectation was met.
    pub passed: bool,
    /// Each step that was begun, in order.
    pub steps: Vec<StepReport>,
}

/// What came of a step.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// Its line in the script.
    pub line: usize,
    /// As it is written.
    pub step: String,
    /// When it began, in milliseconds since the script did.
    pub began_ms: u128,
    /// When it ended, in milliseconds since the script began.
    pub ended_ms: u128,
    /// Why it failed; none where it did not.
    pub failure: Option<String>,
    /// What was measured.
    pub measured: Option<String>,
}

impl Script {
    /// Does the steps. After one that could not be done nothing more is; what is expected is looked at to the end.
    ///
    /// `weft` is the executable of agents and relays; `told` is called with each step that has ended.
    #[must_use]
    pub fn run(&self, lab: &Lab, weft: &Path, told: &(impl Fn(&StepReport) + Sync)) -> ScriptReport {
        let begin = Instant::now();
        let steps = thread::scope(|scope| {
            let mut running = Vec::new();
            for step in &self.steps {
                if let Some(at) = step.at {
                    wait_until(begin + at);
                }
                let look = move || {
                    let report = report(step, lab, weft, begin);
                    told(&report);
                    report
                };
                if step.action.is_beside() {
                    running.push(Running::Beside(scope.spawn(look)));
                    continue;
                }
                let report = look();
                let stuck = report.failure.is_some() && !matches!(step.action, Action::Expect { .. });
                running.push(Running::Ended(report));
                if stuck {
                    break;
                }
            }
            running.into_iter().map(Running::join).collect::<Vec<_>>()
        });
        ScriptReport { passed: steps.iter().all(|step| step.failure.is_none()), steps }
    }
}

enum Running<'scope> {
    Ended(StepReport),
    Beside(thread::ScopedJoinHandle<'scope, StepReport>),
}

impl Running<'_> {
    fn join(self) -> StepReport {
        match self {
            Self::Ended(report) => report,
            Self::Beside(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        }
    }
}

fn report(step: &Step, lab: &Lab, weft: &Path, begin: Instant) -> StepReport {
    let began_ms = begin.elapsed().as_millis();
    let outcome = act(&step.action, lab, weft);
    let (measured, failure) = match outcome {
        Ok(measured) => (measured, None),
        Err(failure) => (None, Some(failure)),
    };
    let ended_ms = begin.elapsed().as_millis();
    StepReport { line: step.line, step: step.text.clone(), began_ms, ended_ms, failure, measured }
}

/// What was measured, or why it failed.
fn act(action: &Action, lab: &Lab, weft: &Path) -> Result<Option<String>, String> {
    let told = |error: LabError| error.to_string();
    match action {
        Action::Link { links, change } => {
            for link in links {
                Lab::change_link(lab.name(), link, weft, |settings| change.apply(settings), &mut |_| {})
                    .map_err(told)?;
            }
            Ok(None)
        }
        Action::Node { node, event } => {
            Lab::node_event(lab.name(), node, *event, weft, &mut |_| {}).map_err(told).map(|()| None)
        }
        Action::Wait(time) => {
            wait_until(Instant::now() + *time);
            Ok(None)
        }
        Action::Expect { from, to, expectation } => {
            let address = lab.spec().common_address(from, to).ok_or("no address in common")?;
            let check = Check { lab, from, to, address };
            match expectation {
                Expectation::PingWithin(time) => check.ping_within(*time),
                Expectation::NoPingDuring(time) => check.no_ping_during(*time),
                Expectation::NoLossDuring(time) => check.no_loss_during(*time),
                Expectation::TcpWithin(time) => check.tcp_within(*time),
            }
            .map(Some)
        }
    }
}

struct Check<'a> {
    lab: &'a Lab,
    from: &'a str,
    to: &'a str,
    address: IpAddr,
}

impl Check<'_> {
    fn ping_within(&self, time: Duration) -> Result<String, String> {
        let begin = Instant::now();
        let mut last = String::new();
        while begin.elapsed() < time {
            let again = begin + begin.elapsed() + PING_INTERVAL;
            let patience = PING_PATIENCE.min(time.saturating_sub(begin.elapsed()));
            match self.ping(1, PING_INTERVAL, patience) {
                Ok(PingReport { rtt: Some(rtt), .. }) => {
                    return Ok(format!(
                        "answered in {} us, after {} ms",
                        rtt.min.as_micros(),
                        begin.elapsed().as_millis()
                    ));
                }
                Ok(report) => last = report.refused.map(|reason| format!(": {reason}")).unwrap_or_default(),
                Err(error) => last = format!(": {error}"),
            }
            wait_until(again.min(begin + time));
        }
        Err(format!("no answer within {time:?}{last}"))
    }

    fn no_ping_during(&self, time: Duration) -> Result<String, String> {
        // What is answered later is not answered meanwhile: a kernel keeps packets for a neighbour that is silent.
        match self.pings(time, Duration::ZERO) {
            // What cannot be sent is not answered.
            Err(ProbeError::Socket { .. }) => Ok("nothing could be sent".to_owned()),
            Err(error) => Err(error.to_string()),
            Ok(PingReport { sent, received: 0, .. }) => Ok(format!("none of {sent} answered")),
            Ok(PingReport { sent, received, .. }) => Err(format!("{received} of {sent} pings were answered")),
        }
    }

    fn no_loss_during(&self, time: Duration) -> Result<String, String> {
        let report = self.pings(time, LAST_PING).map_err(|error| error.to_string())?;
        let PingReport { sent, received, ref refused, .. } = report;
        if received == sent {
            let median = report.rtt.map_or(0, |rtt| rtt.median.as_micros());
            return Ok(format!("all of {sent} answered, median {median} us"));
        }
        let reason = refused.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
        Err(format!("{} of {sent} pings were lost{reason}", sent - received))
    }

    fn tcp_within(&self, time: Duration) -> Result<String, String> {
        let begin = Instant::now();
        let mut last = String::new();
        while begin.elapsed() < time {
            let patience = time.saturating_sub(begin.elapsed()).max(PING_PATIENCE);
            match self.tcp(patience) {
                Ok(rate) if begin.elapsed() <= time => {
                    return Ok(format!("{TCP_BYTES} bytes at {:.1} Mbit/s", rate / 1e6));
                }
                Ok(_) => last = format!("; it took {} ms", begin.elapsed().as_millis()),
                // Bytes that are not those sent are no matter of patience.
                Err(error @ (ProbeError::Corrupt { .. } | ProbeError::Truncated { .. })) => {
                    return Err(error.to_string());
                }
                Err(error) => last = format!("; {error}"),
            }
            wait_until((Instant::now() + PING_INTERVAL).min(begin + time));
        }
        Err(format!("{TCP_BYTES} bytes did not arrive within {time:?}{last}"))
    }

    fn tcp(&self, patience: Duration) -> Result<f64, ProbeError> {
        let (sender, receiver) = (self.lab.netns(self.from)?, self.lab.netns(self.to)?);
        let options = BulkOptions { patience, ..BulkOptions::new(Amount::Bytes(TCP_BYTES)) };
        Ok(bulk_between(&sender, &receiver, self.address, &options)?.bits_per_second)
    }

    fn pings(&self, time: Duration, last: Duration) -> Result<PingReport, ProbeError> {
        // No more than an ICMP sequence has numbers.
        let interval = PING_INTERVAL.max(time / u32::try_from(PING_COUNT_MAX).unwrap_or(u32::MAX));
        let count = usize::try_from(time.as_nanos() / interval.as_nanos()).unwrap_or(PING_COUNT_MAX);
        self.ping(count.clamp(1, PING_COUNT_MAX), interval, last)
    }

    fn ping(&self, count: usize, interval: Duration, timeout: Duration) -> Result<PingReport, ProbeError> {
        let options = PingOptions { count, interval, timeout, ..PingOptions::default() };
        ping(self.lab, self.from, self.address, &options)
    }
}
