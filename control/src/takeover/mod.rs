//! Taking over from a running agent: a new process goes on where it is, and nothing is lost.
//!
//! Theory of operation. The new process tests its kernel and reads its configuration while the old one forwards; then it
//! asks. The old one sends copies of all descriptors that frames come in by, and what it knows; frames still go through it.
//! When the new one is ready, with workers that pause, it has the old one's workers pause too. From then on nobody reads, and
//! what comes waits in the kernel. It says "commit"; the old one says "committed" and ends, and the new one's workers go on.
//! Its last word is for systemd, where that started it: which process is the service now.
//! Whatever goes wrong before that word, the old one's workers go on, and the new process ends without having read a frame.
//!
//! Which version they speak, the running agent decides, and it is the new process that asks: for its own first and, where that is
//! refused, in another conversation for the one before. An agent speaks its own version and the one before. So it may be taken
//! over from by the next version, which has to ask for this one, and by the one before, which is a way back.
//!
//! [`give`] is the old one's end, [`take`] the new one's, [`state`] what both know.

mod give;
mod state;
mod take;

use std::io;
use std::path::PathBuf;

use rustix::process::{getpriority_process, setpriority_process};
use serde::{Deserialize, Serialize};
use weft_encap::Encapsulation;

use crate::config::Config;

pub(crate) use give::Successors;
use state::State;
pub(crate) use take::Inherited;

/// The socket for successors in the run directory.
pub(crate) const SOCKET: &str = "takeover.sock";
/// The version of [`Ask`], [`Say`] and [`State`]: changes with every change that the other end would misread. What a version has
/// that the one before has not has a default here, and is not said to who asks for the one before unless that ignores it. The
/// field of this name stays where it is in [`Ask::Hello`], and others there have a default, so that it can always be read.
const STATE_VERSION: u32 = 2;
/// The oldest version that is spoken.
const OLDEST_STATE: u32 = STATE_VERSION - 1;
/// The first version whose agents tell systemd which process the service is next.
const NAMES_SUCCESSOR: u32 = 2;
/// The nice value, sched(7), of the threads that hand over and take.
const HURRY_NICE: i32 = -20;

/// What a new process asks of the running agent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// To be handed everything.
    Hello {
        /// The version in which it wants that.
        state: u32,
        /// Its version, for people.
        version: String,
        /// Whether whoever supervises the running agent hears this one too, and is to be told of it.
        #[serde(default)]
        supervised: bool,
    },
    /// To read no frame any more.
    Quiesce,
    /// To end.
    Commit,
}

/// What the running agent says. Each part comes with its descriptors.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Say {
    /// It hands nothing over.
    Refused {
        /// Why.
        why: String,
    },
    /// What it forwards with.
    Ground(Ground),
    /// The queues of a port's device, one for each worker.
    Port {
        /// Its name.
        name: String,
    },
    /// A worker's tunnel sockets, in the order of [`Ground::listen`].
    Receivers,
    /// The sockets that send.
    Senders,
    /// The uplink's device.
    Uplink,
    /// The socket where metrics are served.
    Metrics,
    /// The run directory's lock, the local API's socket, and the one for successors.
    Run,
    /// A file with the [`State`].
    State,
    /// That was all.
    All,
    /// To [`Ask::Quiesce`]: nobody reads.
    Quiesced,
    /// To [`Ask::Commit`]: it ends.
    Committed,
}

/// What a takeover cannot change.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) struct Ground {
    node: String,
    workers: usize,
    listen: Vec<String>,
    zero_checksums_over_ipv6: bool,
}

/// Why nothing was taken over. The running agent goes on.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// There is nobody.
    #[error("no agent runs in {} to take over from: start this one without --takeover", run_dir.display())]
    Nobody {
        /// The run directory.
        run_dir: PathBuf,
    },
    /// It refuses.
    #[error("the running agent hands nothing over: {why}")]
    Refused {
        /// What it says.
        why: String,
    },
    /// What was agreed on when it started.
    #[error(
        "a takeover cannot change `{field}`, which is {theirs} in the running agent and {ours} here: restart it instead"
    )]
    Differs {
        /// The configuration's field.
        field: &'static str,
        /// The running agent's value.
        theirs: String,
        /// This configuration's.
        ours: String,
    },
    /// The uplink.
    #[error("the running agent's uplink cannot be gone on with: {why}: restart it instead")]
    Uplink {
        /// Why.
        why: String,
    },
    /// The conversation.
    #[error("{step} with the running agent: {source}; it goes on by itself")]
    Io {
        /// What was done.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// While nobody reads, both processes go before others, as workers do: what frames wait for is these threads. Ends when
/// this is dropped.
pub(crate) struct Hurry {
    /// The thread's nice value before; none where it may not change it.
    was: Option<i32>,
}

impl Hurry {
    pub(crate) fn begin() -> Self {
        let was = getpriority_process(None).ok();
        Self { was: was.filter(|was| *was > HURRY_NICE && setpriority_process(None, HURRY_NICE).is_ok()) }
    }
}

impl Drop for Hurry {
    fn drop(&mut self) {
        if let Some(was) = self.was {
            // Everybody may wait longer than before.
            let _ = setpriority_process(None, was);
        }
    }
}

impl Ground {
    pub(crate) fn of(config: &Config) -> Self {
        let encapsulation = |one| if one == Encapsulation::Vxlan { "VXLAN" } else { "Geneve" };
        let listen =
            config.listen.iter().map(|listen| format!("{} {}", listen.at, encapsulation(listen.encapsulation)));
        Self {
            node: config.node.clone(),
            workers: config.workers.get(),
            listen: listen.collect(),
            zero_checksums_over_ipv6: config.socket.zero_checksums_over_ipv6,
        }
    }

    /// What differs first between the running agent's and this.
    fn difference(&self, ours: &Self) -> Option<TakeoverError> {
        let fields = [
            ("node", self.node.clone(), ours.node.clone()),
            ("workers.count", self.workers.to_string(), ours.workers.to_string()),
            (
                "underlay.addresses` and its ports, `vxlan_ports` and `geneve_ports",
                self.listen.join(", "),
                ours.listen.join(", "),
            ),
            (
                "underlay.zero_checksums_over_ipv6",
                self.zero_checksums_over_ipv6.to_string(),
                ours.zero_checksums_over_ipv6.to_string(),
            ),
        ];
        let mut differing = fields.into_iter().filter(|(_, theirs, ours)| theirs != ours);
        differing.next().map(|(field, theirs, ours)| TakeoverError::Differs { field, theirs, ours })
    }
}
