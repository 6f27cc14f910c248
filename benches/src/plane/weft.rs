//! An agent on each node.

use std::fs;
use std::path::Path;
use std::process::Command;

use weft_api::{Query, Reply};
use weft_control::config::file::{
    Fdb, File, LogFormat, Offloads, PortEntry, PortMode, Switch, Underlay, UnderlayKind, VniEntry, VtepEntry, Workers,
    unspanned,
};
use weft_encap::{Encapsulation, Vni};

use super::{Effort, VNI, WeftUnderlay, ask, directory_of, eventually};
use crate::BenchError;
use crate::error::file;
use crate::stage::{INTERFACE, Stage};

/// MACs learned behind a learning port at most; the pods' are bound.
const LEARN_LIMIT: u32 = 256;
/// The counters of system calls that workers make.
const CALLS: [&str; 6] =
    ["port_reads", "port_writes", "underlay_receives", "underlay_sends", "worker_looks", "worker_sleeps"];

pub(super) fn set_up(
    stage: &Stage,
    weft: &Path,
    underlay: WeftUnderlay,
    encapsulation: Encapsulation,
) -> Result<(), BenchError> {
    for node in [0, 1] {
        let directory = directory_of(stage, node)?;
        let path = directory.join("agent.toml");
        let text = toml::to_string(&config(stage, node, &directory, underlay, encapsulation)).map_err(|error| {
            BenchError::File { operation: "write", path: path.clone(), source: std::io::Error::other(error) }
        })?;
        fs::write(&path, text).map_err(file("write", &path))?;
        let mut command = Command::new(weft);
        command.arg("agent").arg("--config").arg(&path);
        stage.start(node, command)?;
    }
    Ok(())
}

/// Everything as it comes, but for the underlay.
fn config(stage: &Stage, node: usize, directory: &Path, underlay: WeftUnderlay, encapsulation: Encapsulation) -> File {
    let vni = Vni::new(VNI).unwrap_or(Vni::MAX);
    let kind = match underlay {
        WeftUnderlay::Auto => UnderlayKind::Auto,
        WeftUnderlay::PlainSocket | WeftUnderlay::Socket => UnderlayKind::Socket,
        WeftUnderlay::Uplink => UnderlayKind::Uplink,
    };
    let offloads = match underlay {
        WeftUnderlay::PlainSocket => Offloads { segment: Switch::Off, gro: Switch::Off, ..Offloads::default() },
        WeftUnderlay::Auto | WeftUnderlay::Socket | WeftUnderlay::Uplink => Offloads::default(),
    };
    let remote = stage.vtep(1 - node).into();
    File {
        node: Some(unspanned(format!("n{}", node + 1))),
        run_dir: unspanned(directory.to_owned()),
        log: "warn".to_owned(),
        log_format: LogFormat::default(),
        metrics: None,
        keeper: Switch::Off,
        confinement: Switch::Auto,
        underlay: Underlay { kind, ..Underlay::new(vec![stage.vtep(node).into()]) },
        offloads,
        control: None,
        network: None,
        fdb: Fdb::default(),
        workers: Workers::default(),
        vnis: vec![VniEntry::new(vni)],
        vteps: vec![VtepEntry { address: unspanned(remote), encapsulation, port: None, vnis: unspanned(vec![vni]) }],
        ports: stage
            .pods_of(node)
            .map(|pod| PortEntry {
                name: unspanned(format!("pod{}", pod.address.addr().octets()[3])),
                netns: unspanned(pod.netns.label().to_owned()),
                interface: unspanned(INTERFACE.to_owned()),
                vni: unspanned(vni),
                mac: None,
                addresses: unspanned(vec![pod.address.into()]),
                mtu: None,
                mode: PortMode::Bound,
                learn_limit: unspanned(LEARN_LIMIT),
            })
            .collect(),
    }
}

/// What the workers of both agents did since they started.
pub(super) fn effort(stage: &Stage) -> Option<Effort> {
    let mut effort = Effort::default();
    for node in [0, 1] {
        let Some(Reply::Counters(counters)) = ask(&directory_of(stage, node).ok()?, Query::Counters) else {
            return None;
        };
        let count = |name: &str| counters.forwarding.get(name).copied();
        effort.frames += count("frames_in")?;
        for name in CALLS {
            effort.calls += count(name)?;
        }
    }
    Some(effort)
}

/// Waits until both agents send their tunnel packets as they are meant to.
pub(super) fn wait_for(stage: &Stage, underlay: WeftUnderlay) -> Result<(), BenchError> {
    let wanted = match underlay {
        WeftUnderlay::Auto => None,
        WeftUnderlay::PlainSocket => Some("socket"),
        WeftUnderlay::Socket => Some("socket+offload"),
        WeftUnderlay::Uplink => Some("uplink"),
    };
    for node in [0, 1] {
        let directory = directory_of(stage, node)?;
        eventually(stage, &format!("tunnel packets by {}", wanted.unwrap_or("what was chosen")), || {
            let Some(Reply::Status(status)) = ask(&directory, Query::Status) else { return None };
            let Some(Reply::Vteps(vteps)) = ask(&directory, Query::Vteps) else { return None };
            let level = status.underlay.level.as_str();
            let via = if level == "uplink" { "uplink" } else { "socket" };
            (wanted.is_none_or(|wanted| wanted == level) && vteps.iter().all(|vtep| vtep.via == via)).then_some(())
        })?;
    }
    Ok(())
}
