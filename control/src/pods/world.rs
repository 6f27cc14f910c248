//! The agent as the world of its ledger: devices, tables, the file.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use weft_api::{PodInterface, Refusal, spool};
use weft_bridge::Tables;
use weft_encap::mtu::MIN_IPV6;

use super::evidence::{Processes, boot, find, leads_to};
use super::file::LedgerFile;
use super::ledger::{Change, Identity, Ledger, Pod, Refused};
use super::steps::{self, Presence, World};
use super::waiting::Waits;
use super::{COLLECT, LedgerError, PodPlace, Pods};
use crate::agent::{Agent, AttachedPort};
use crate::attach::remove_device;
use crate::config::PortConfig;
use crate::desired::{add_port, port_mtu};

impl Pods {
    /// Those that an agent before this one attached.
    pub(crate) fn load(run_dir: &Path) -> Result<Self, LedgerError> {
        let no_boot = |source| LedgerError::Io { path: "/proc/sys/kernel/random/boot_id".into(), source };
        let boot = boot().map_err(no_boot)?;
        let (file, ledger) = LedgerFile::open(run_dir, &boot)?;
        Ok(Self {
            ranges: Vec::new(),
            ledger,
            file,
            open: std::collections::BTreeMap::new(),
            processes: None,
            waits: Waits::default(),
            collect_at: Instant::now(),
        })
    }
}

impl World for Agent {
    fn keep(&mut self, change: &Change, ledger: &Ledger) -> Result<(), Refused> {
        let kept = self.pods.file.append(change, ledger);
        kept.map_err(|error| Refused::new(Refusal::Failed, error.to_string()))
    }

    fn connect(&mut self, pod: &Pod) -> Result<(), Refused> {
        let failed = |error: &dyn std::fmt::Display| Refused::new(Refusal::Failed, error.to_string());
        if let Some(port) = self.ports.iter_mut().find(|port| port.config.name == pod.port && port.config.pod.is_some())
        {
            return if port.lost.is_none() {
                Ok(())
            } else {
                port.try_again(&self.switch, Vec::new()).map_err(|error| failed(&error))
            };
        }
        let netns = match self.open(pod) {
            Some(netns) => netns,
            None => Arc::new(find(&pod.namespace, self.processes()).ok_or_else(|| {
                let path = &pod.namespace.path;
                Refused::new(
                    Refusal::Failed,
                    format!("the pod's namespace is not found, neither at {path} nor by a process in it"),
                )
            })?),
        };
        self.pods.open.insert(pod.id.clone(), netns.clone());
        let config = port_config(pod, netns);
        let mtu = port_mtu(&self.config, &config, self.underlay_mtu);
        if mtu < MIN_IPV6 && config.addresses.iter().any(|one| one.addr().is_ipv6()) {
            return Err(failed(&format!(
                "only {mtu} bytes fit through the tunnel, and the pod's IPv6 address needs {MIN_IPV6}: widen the underlay"
            )));
        }
        let mut tables = Tables::clone(&self.switch.tables());
        let id = add_port(&mut tables, &self.config, &config, mtu).map_err(|error| failed(&error))?;
        self.switch.publish(tables);
        let mut port = AttachedPort::without_device(config, id, mtu);
        let attached = port.try_again(&self.switch, self.keeper.claim(&pod.port));
        self.ports.push(port);
        if let Err(error) = attached {
            self.forget_port(&pod.port);
            return Err(failed(&error));
        }
        Ok(())
    }

    fn disconnect(&mut self, pod: &Pod) -> Result<(), Refused> {
        self.forget_port(&pod.port);
        let netns = match self.open(pod) {
            Some(netns) => Some(netns),
            None => find(&pod.namespace, self.processes()).map(Arc::new),
        };
        if let Some(netns) = netns {
            let removed = remove_device(&netns, &pod.id.interface);
            removed.map_err(|error| Refused::new(Refusal::Failed, error.to_string()))?;
        }
        if self.open(pod).is_some() {
            self.pods.open.remove(&pod.id);
        }
        Ok(())
    }

    fn presence(&mut self, namespace: &Identity) -> Presence {
        let held = self.pods.open.values().any(|netns| netns.inode() == namespace.inode);
        let there = if held {
            // As long as it is held, no other namespace has its inode.
            leads_to(&namespace.path, namespace.inode) || self.processes().is_in(namespace.inode)
        } else {
            find(namespace, self.processes()).is_some()
        };
        if there {
            Presence::There
        } else if namespace.visible {
            Presence::Gone
        } else {
            Presence::Unknown
        }
    }
}

impl Agent {
    /// Does something with the ledger and all around it.
    pub(super) fn with_ledger<T>(&mut self, act: impl FnOnce(&mut Ledger, &mut Self) -> T) -> T {
        let mut ledger = std::mem::take(&mut self.pods.ledger);
        let outcome = act(&mut ledger, self);
        self.pods.ledger = ledger;
        self.pods.processes = None;
        outcome
    }

    /// Attaches what an agent before this one had attached, and detaches what should have been detached meanwhile.
    pub(crate) fn restore_pods(&mut self) {
        self.settle();
        let failed = self.with_ledger(steps::restore);
        self.say_restored(failed);
        self.pods.collect_at = Instant::now() + COLLECT;
    }

    /// Attaches what the running agent has attached. Nothing is detached before that one has ended, for it may go on; what has
    /// to be is as soon as this one serves.
    pub(crate) fn inherit_pods(&mut self) {
        let failed = self.with_ledger(|ledger, agent| {
            ledger.pods().filter_map(|pod| Some((pod.id.clone(), agent.connect(pod).err()?))).collect()
        });
        self.say_restored(failed);
    }

    fn say_restored(&self, failed: Vec<(PodInterface, Refused)>) {
        for (id, refused) in failed {
            tracing::warn!(container = id.container, interface = id.interface, %refused, "pod not attached again");
        }
        let count = self.pods.ledger.living().count();
        if count > 0 {
            tracing::info!(pods = count, "pods attached again");
        }
    }

    /// What is due once a second.
    pub(crate) fn keep_pods(&mut self) {
        self.settle();
        self.answer_the_patient();
        if let Err(error) = self.pods.file.shorten(&self.pods.ledger) {
            tracing::warn!(%error, "the ledger's file grows until it can be written anew");
        }
        if Instant::now() < self.pods.collect_at {
            return;
        }
        self.pods.collect_at = Instant::now() + COLLECT;
        let (gone, failed) = self.with_ledger(|ledger, agent| {
            let collected = steps::collect(ledger, agent);
            // Whose namespace was not found once may be found by now.
            let missing: Vec<Pod> = ledger.living().filter(|pod| !agent.has_port(&pod.port)).cloned().collect();
            for pod in missing {
                let _ = agent.connect(&pod);
            }
            collected
        });
        for id in &gone {
            tracing::info!(container = id.container, interface = id.interface, "pod detached: its namespace is gone");
        }
        for (id, refused) in failed {
            tracing::warn!(container = id.container, interface = id.interface, %refused, "pod not detached");
        }
        if !gone.is_empty() {
            self.tell_ports();
        }
    }

    /// Detaches what was to be detached while no agent answered.
    fn settle(&mut self) {
        let noted = match spool::list(&self.config.run_dir) {
            Ok(noted) => noted,
            Err(error) => return tracing::warn!(%error, "the spool of pods to detach cannot be read"),
        };
        for (path, pod) in noted {
            let pod = pod.map_err(|error| Refused::new(Refusal::Invalid, error.to_string()));
            match pod.and_then(|id| self.settle_one(&path, &id)) {
                Ok(()) => tracing::info!(file = %path.display(), "pod detached that was to be while no agent answered"),
                Err(refused) => {
                    tracing::warn!(file = %path.display(), %refused, "pod not detached: remove the file if it is none of Weft's");
                }
            }
        }
    }

    /// Does so with what was noted of one pod. What is attached under its name from then on is another.
    pub(super) fn settle_before(&mut self, id: &PodInterface) -> Result<(), Refused> {
        let noted = spool::list(&self.config.run_dir);
        let noted =
            noted.map_err(|error| Refused::new(Refusal::Failed, format!("the spool of pods to detach: {error}")))?;
        let of_it = noted.into_iter().filter(|(_, noted)| noted.as_ref().is_ok_and(|noted| noted == id));
        of_it.map(|(path, _)| path).try_for_each(|path| self.settle_one(&path, id))
    }

    fn settle_one(&mut self, path: &Path, id: &PodInterface) -> Result<(), Refused> {
        self.detach_pod(id)?;
        let removed = spool::remove(path);
        removed.map_err(|error| Refused::new(Refusal::Failed, format!("removing {}: {error}", path.display())))
    }

    /// Publishes what is behind the ports now; says by which number that is known when the store has it.
    pub(super) fn tell_ports(&self) -> Option<u64> {
        self.following.as_ref().map(|following| following.tell(&self.ports))
    }

    fn has_port(&self, name: &str) -> bool {
        self.ports.iter().any(|port| port.config.name == name && port.config.pod.is_some())
    }

    /// Addresses of ports that are no pod's of the ledger.
    pub(super) fn other_addresses(&self) -> BTreeSet<std::net::IpAddr> {
        let others = self.ports.iter().filter(|port| port.config.pod.is_none());
        others.flat_map(|port| &port.config.addresses).map(ipnet::IpNet::addr).collect()
    }

    fn forget_port(&mut self, name: &str) {
        let Some(place) = self.ports.iter().position(|port| port.config.name == name && port.config.pod.is_some())
        else {
            return;
        };
        let port = self.ports.remove(place);
        let mut tables = Tables::clone(&self.switch.tables());
        tables.remove_port(port.id);
        self.switch.publish(tables);
        self.switch.remove_port(port.id);
    }

    /// The pod's namespace, where it is held open.
    fn open(&self, pod: &Pod) -> Option<Arc<weft_netns::Netns>> {
        self.pods.open.get(&pod.id).filter(|netns| netns.inode() == pod.namespace.inode).cloned()
    }

    fn processes(&mut self) -> &Processes {
        self.pods.processes.get_or_insert_with(Processes::look)
    }

    /// The pod of the ledger that has this port.
    pub(super) fn port_of(&self, id: &PodInterface) -> Option<&AttachedPort> {
        let name = &self.pods.ledger.get(id).filter(|pod| !pod.ended)?.port;
        self.ports.iter().find(|port| port.config.name == *name && port.config.pod.is_some())
    }
}

fn port_config(pod: &Pod, netns: Arc<weft_netns::Netns>) -> PortConfig {
    PortConfig {
        name: pod.port.clone(),
        netns: pod.namespace.path.clone(),
        interface: pod.id.interface.clone(),
        vni: pod.vni,
        mac: pod.mac,
        addresses: pod.addresses.iter().map(|one| one.address).collect(),
        mtu: pod.mtu,
        learn_limit: None,
        routes: false,
        pod: Some(Arc::new(PodPlace { netns, routes: pod.routes.clone() })),
    }
}
