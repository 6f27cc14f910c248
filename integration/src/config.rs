use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;

use weft_control::config::file::{
    Encapsulation, Fdb, File, LogFormat, Offloads, PortEntry, PortMode, Switch, Underlay, UnderlayKind, VniEntry,
    VtepEntry, Workers, unspanned,
};
use weft_encap::{MacAddr, Vni};
use weft_testbed::Family;

use crate::agent::{AgentNode, Refused};
use crate::host::Host;
use crate::site::{Node, Site};

/// The interface of every pod.
const POD_INTERFACE: &str = "eth0";

/// Names the kind of underlay of agents whose test does not care.
const UNDERLAY_KIND: &str = "WEFT_UNDERLAY";

/// The configuration of an agent that is still to start.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// What will be written to the file; for what the methods here do not say.
    pub file: File,
    host: Host,
    path: PathBuf,
}

impl AgentConfig {
    /// An agent on this node, with tunnels over these families and neither networks nor pods as yet.
    ///
    /// # Panics
    /// If its directory cannot be made.
    #[must_use]
    pub fn new(site: &Site, node: &Node, families: &[Family]) -> Self {
        let directory = site.directory().join(node.name());
        fs::create_dir_all(&directory).unwrap();
        let addresses = families.iter().map(|family| node.address(*family)).collect();
        let file = File {
            node: Some(unspanned(node.name().to_owned())),
            run_dir: unspanned(directory.clone()),
            log: "info".to_owned(),
            log_format: LogFormat::default(),
            metrics: None,
            keeper: Switch::Off,
            confinement: Switch::Auto,
            underlay: Underlay { kind: default_kind(), ..Underlay::new(addresses) },
            offloads: Offloads::default(),
            fdb: Fdb::default(),
            workers: Workers::default(),
            control: None,
            network: None,
            vnis: Vec::new(),
            vteps: Vec::new(),
            ports: Vec::new(),
        };
        Self { file, host: Host::clone(node), path: directory.join("agent.toml") }
    }

    /// Adds a virtual network by its VNI, 1 to 16,777,215.
    #[must_use]
    pub fn vni(mut self, id: u32) -> Self {
        self.file.vnis.push(VniEntry::new(vni(id)));
        self
    }

    /// Adds another node's tunnel end.
    #[must_use]
    pub fn peer(mut self, address: IpAddr, encapsulation: Encapsulation, vnis: &[u32]) -> Self {
        let vnis = vnis.iter().copied().map(vni).collect();
        let entry = VtepEntry { address: unspanned(address), encapsulation, port: None, vnis: unspanned(vnis) };
        self.file.vteps.push(entry);
        self
    }

    /// Adds a bound port with these addresses.
    ///
    /// # Panics
    /// If an address is none.
    #[must_use]
    pub fn port(self, pod: &Host, id: u32, addresses: &[&str]) -> Self {
        self.add_port(pod, id, addresses, PortMode::Bound)
    }

    /// Adds a learning port with these addresses.
    ///
    /// # Panics
    /// If an address is none.
    #[must_use]
    pub fn learning_port(self, pod: &Host, id: u32, addresses: &[&str]) -> Self {
        self.add_port(pod, id, addresses, PortMode::Learning)
    }

    /// Lets the agent send no path probes, so that what its peers receive is what pods sent.
    #[must_use]
    pub fn without_probes(mut self) -> Self {
        self.file.underlay.path_probes = Switch::Off;
        self
    }

    /// Lets a keeper hold the pods' devices, as agents outside of tests do.
    #[must_use]
    pub fn with_keeper(mut self) -> Self {
        self.file.keeper = Switch::Auto;
        self
    }

    /// Lets tunnel packets travel in this way.
    #[must_use]
    pub fn underlay(mut self, kind: UnderlayKind) -> Self {
        self.file.underlay.kind = kind;
        self
    }

    /// Gives the port added last this MAC.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn with_mac(mut self, mac: MacAddr) -> Self {
        self.file.ports.last_mut().unwrap().mac = Some(unspanned(mac));
        self
    }

    /// Gives the device of the port added last this name.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn with_interface(mut self, name: &str) -> Self {
        self.file.ports.last_mut().unwrap().interface = unspanned(name.to_owned());
        self
    }

    /// Gives the port added last this MTU.
    ///
    /// # Panics
    /// If there is no port.
    #[must_use]
    pub fn with_mtu(mut self, mtu: u16) -> Self {
        self.file.ports.last_mut().unwrap().mtu = Some(unspanned(mtu));
        self
    }

    /// Writes the file and starts the agent; when it returns, the agent is ready.
    ///
    /// # Panics
    /// If the agent ends instead.
    #[must_use]
    #[track_caller]
    pub fn start(self) -> AgentNode {
        self.attempt().unwrap_or_else(|refused| panic!("the agent {}:\n{}", refused.status, refused.message))
    }

    /// Writes the file and starts the agent.
    ///
    /// # Errors
    /// How the agent ended, if it does so without being ready.
    ///
    /// # Panics
    /// If the file cannot be written or the program not started.
    pub fn attempt(self) -> Result<AgentNode, Refused> {
        let file = self.write();
        AgentNode::launch(&self.host, &file, self.file.run_dir.as_ref(), &[])
    }

    /// Writes the file and starts an agent that takes over from the one that runs there.
    ///
    /// # Errors
    /// How the agent ended, if it does so without being ready.
    ///
    /// # Panics
    /// If the file cannot be written or the program not started.
    pub fn take_over(&self) -> Result<AgentNode, Refused> {
        AgentNode::launch(&self.host, &self.write(), self.file.run_dir.as_ref(), &["--takeover"])
    }

    /// The program that would take over, not started.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    pub fn takeover_command(&self) -> std::process::Command {
        let (file, weft) = (self.write(), crate::weft());
        self.host.command(&[weft.to_str().unwrap(), "agent", "--takeover", "--config", file.to_str().unwrap()])
    }

    /// Writes the file.
    ///
    /// # Panics
    /// If that cannot be done.
    #[must_use]
    pub fn write(&self) -> PathBuf {
        fs::write(&self.path, toml::to_string(&self.file).unwrap()).unwrap();
        self.path.clone()
    }

    fn add_port(mut self, pod: &Host, id: u32, addresses: &[&str], mode: PortMode) -> Self {
        self.file.ports.push(PortEntry {
            name: unspanned(pod.name().to_owned()),
            netns: unspanned(pod.netns().label().to_owned()),
            interface: unspanned(POD_INTERFACE.to_owned()),
            vni: unspanned(vni(id)),
            mac: None,
            addresses: unspanned(addresses.iter().map(|address| address.parse().unwrap()).collect()),
            mtu: None,
            mode,
            learn_limit: unspanned(256),
        });
        self
    }
}

/// The kind of underlay of agents whose test does not care: `WEFT_UNDERLAY`, or the configuration's default.
///
/// # Panics
/// If the variable names no kind.
#[must_use]
pub(crate) fn default_kind() -> UnderlayKind {
    match std::env::var(UNDERLAY_KIND).as_deref() {
        Err(_) => UnderlayKind::default(),
        Ok("auto") => UnderlayKind::Auto,
        Ok("uplink") => UnderlayKind::Uplink,
        Ok("socket") => UnderlayKind::Socket,
        Ok(other) => panic!("{UNDERLAY_KIND} is {other}: allowed are auto, uplink and socket"),
    }
}

fn vni(id: u32) -> Vni {
    Vni::new(id).unwrap()
}
