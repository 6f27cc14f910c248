//! Puts a relay between a node's cable and the underlay switch, and takes it out again.
//!
//! ```text
//!   as made     node eth0 ── n1 (br0)
//!   impaired    node eth0 ── n1 (br.0) in.0 ── relay ── out.0 (br0)
//! ```
//!
//! The cable moves from one bridge to another in one step, so that its other end keeps carrier and addresses. The
//! bridge in front of the relay makes the kernel cut superframes and fill in checksums on the way to a TAP that
//! knows no offloads: what the relay gets are the packets that a wire would have carried.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use weft_netns::{LinkError, Links, Netns};

use super::relay::{self, RelayPlan};
use super::{Impairments, LinkSettings};
use crate::agent::{self, Service};
use crate::error::io_error;
use crate::journal::{LinkEntry, directory};
use crate::spec::UNDERLAY;
use crate::topology::{Cable, bridge};
use crate::{Lab, LabError, Progress, down};

/// MTU of the relay's TAPs in bytes: the most that the kernel allows them.
const TAP_MTU: u32 = 65_521;
/// Frames that may wait for the relay.
const TAP_QUEUE: u32 = 10_000;
/// How long a relay may take to start.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

/// The relay's interfaces of one cable. No node is named with a dot.
struct Splice {
    bridge: String,
    node_side: String,
    network_side: String,
}

impl Splice {
    fn of(cable: &Cable) -> Self {
        let number = cable.number;
        Self {
            bridge: format!("br.{number}"),
            node_side: format!("in.{number}"),
            network_side: format!("out.{number}"),
        }
    }
}

impl Lab {
    fn relay_dir(&self) -> PathBuf {
        directory(self.name()).join("links")
    }

    pub(crate) fn relay_socket_of(&self, link: &str) -> PathBuf {
        self.relay_dir().join(format!("{link}.sock"))
    }

    /// The log of an impaired link's relay.
    #[must_use]
    pub fn relay_log_of(&self, link: &str) -> PathBuf {
        self.relay_dir().join(format!("{link}.log"))
    }
}

/// Makes a link as it is to be, whatever it was, and notes it.
pub(crate) fn apply(
    lab: &mut Lab,
    link: &str,
    settings: LinkSettings,
    weft: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), LabError> {
    let netns = lab.netns(UNDERLAY)?;
    let relay = lab.journal.link(link).and_then(|entry| entry.relay);
    let impairments = &settings.impairments;
    if impairments.is_none() {
        note(lab, LinkEntry { link: link.to_owned(), settings: settings.clone(), relay })?;
        straighten(lab, &netns, link, &settings)?;
        if let Some(relay) = relay {
            down::end(lab.name(), relay)?;
        }
        return note(lab, LinkEntry { link: link.to_owned(), settings, relay: None });
    }
    let carried =
        relay.is_some_and(|relay| relay.is_running()) && relay::change(&lab.relay_socket_of(link), impairments).is_ok();
    if carried {
        note(lab, LinkEntry { link: link.to_owned(), settings: settings.clone(), relay })?;
    } else {
        if let Some(relay) = relay {
            down::end(lab.name(), relay)?;
        }
        start_relay(lab, &netns, link, &settings, weft, progress)?;
    }
    splice(lab, &netns, link, &settings)
}

fn note(lab: &mut Lab, entry: LinkEntry) -> Result<(), LabError> {
    lab.journal.note_link(entry);
    lab.journal.write(&lab.name)
}

fn start_relay(
    lab: &mut Lab,
    netns: &Netns,
    link: &str,
    settings: &LinkSettings,
    weft: &Path,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), LabError> {
    let Some(cable) = cable(lab, link) else { return Ok(()) };
    let plan = write_plan(lab, link, &Splice::of(&cable), &settings.impairments)?;
    let service = Service::Relay(link.to_owned());
    let starting = agent::start(service, netns, &agent::find(weft)?, &plan, &lab.relay_log_of(link))?;
    note(lab, LinkEntry { link: link.to_owned(), settings: settings.clone(), relay: Some(starting.id) })?;
    progress(starting.service.started(starting.id.pid));
    agent::wait_ready(vec![starting], READY_TIMEOUT, progress)
}

fn write_plan(lab: &Lab, link: &str, splice: &Splice, impairments: &Impairments) -> Result<PathBuf, LabError> {
    let directory = lab.relay_dir();
    match DirBuilder::new().create(&directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(io_error("make", &directory)(error)),
        _ => {}
    }
    let plan = RelayPlan {
        node_side: splice.node_side.clone(),
        network_side: splice.network_side.clone(),
        socket: lab.relay_socket_of(link),
        impairments: impairments.clone(),
    };
    let path = directory.join(format!("{link}.json"));
    let text = serde_json::to_vec_pretty(&plan).map_err(std::io::Error::from).map_err(io_error("write", &path))?;
    fs::write(&path, text).map_err(io_error("write", &path))?;
    Ok(path)
}

/// Leads the cable through the relay.
fn splice(lab: &Lab, netns: &Netns, link: &str, settings: &LinkSettings) -> Result<(), LabError> {
    let Some(cable) = cable(lab, link) else { return Ok(()) };
    let Splice { bridge: own_bridge, node_side, network_side } = Splice::of(&cable);
    Ok(netns.links(|links| {
        if links.get(&own_bridge)?.is_none() {
            links.add_bridge(&own_bridge)?;
        }
        links.set_up(&own_bridge)?;
        for tap in [&node_side, &network_side] {
            links.set_mtu(tap, TAP_MTU)?;
            links.set_tx_queue_len(tap, TAP_QUEUE)?;
        }
        links.set_master(&node_side, &own_bridge)?;
        join(links, &network_side, &cable, settings)?;
        links.set_up(&node_side)?;
        links.set_up(&network_side)?;
        // Last, once what is behind it carries.
        links.set_master(&cable.name, &own_bridge)?;
        plug(links, &cable, settings)
    })?)
}

/// Leads the cable straight to the switch.
fn straighten(lab: &Lab, netns: &Netns, link: &str, settings: &LinkSettings) -> Result<(), LabError> {
    let Some(cable) = cable(lab, link) else { return Ok(()) };
    let own_bridge = Splice::of(&cable).bridge;
    Ok(netns.links(|links| {
        join(links, &cable.name, &cable, settings)?;
        plug(links, &cable, settings)?;
        links.delete(&own_bridge)
    })?)
}

/// Frames that the relay of a link did not take in time, towards the node and from it.
pub(super) fn overruns(lab: &Lab, link: &str) -> Result<[u64; 2], LabError> {
    let Some(cable) = cable(lab, link) else { return Ok([0; 2]) };
    let Splice { node_side, network_side, .. } = Splice::of(&cable);
    let dropped = |links: &mut Links, tap| Ok(links.get(tap)?.map_or(0, |tap| tap.stats.tx_dropped));
    Ok(lab.netns(UNDERLAY)?.links(|links| Ok([dropped(links, &network_side)?, dropped(links, &node_side)?]))?)
}

/// Connects one end to the switch, or keeps it from there.
fn join(links: &mut Links, name: &str, cable: &Cable, settings: &LinkSettings) -> Result<(), LinkError> {
    if settings.partitioned { links.leave_master(name) } else { links.set_master(name, &bridge(cable.segment)) }
}

fn plug(links: &mut Links, cable: &Cable, settings: &LinkSettings) -> Result<(), LinkError> {
    if settings.down { links.set_down(&cable.name) } else { links.set_up(&cable.name) }
}

fn cable(lab: &Lab, link: &str) -> Option<Cable> {
    lab.spec().cables().find(|cable| cable.name == link)
}
