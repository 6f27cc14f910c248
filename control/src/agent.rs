//! One node's agent: the data plane that its configuration asks for.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use weft_bridge::PortId;
use weft_bridge::tables::TableError;
use weft_encap::mtu::MIN_IPV6;
use weft_netns::{Netns, NetnsError};
use weft_store::client::AccessError;
use weft_switch::port::{Port, Tap, TapOffloads};
use weft_switch::underlay::Uplink as SwitchUplink;
use weft_switch::{Options, StartError, Switch};

use crate::api::{self, ApiError};
use crate::attach::{AttachError, Place, attach};
use crate::cluster::{Holder, NoRanges, View};
use crate::config::FileError;
use crate::config::{Config, PortConfig};
use crate::desired::{Desired, desired, fitting_mtu, port_mtu, too_narrow_for_ipv6};
use crate::following::{Following, forward_by, local};
use crate::host_port::{host_port, load};
use crate::keeper::Keeper;
use crate::lock::{LockError, RunDirLock};
use crate::metrics::{MetricsError, Server};
use crate::paths::Paths;
use crate::pods::{LedgerError, Pods};
use crate::privileges::Confinement;
use crate::prove::prove;
use crate::recent::RecentDrops;
use crate::takeover::{Inherited, Successors, TakeoverError};
use crate::uplink::{Choice, Uplink, UplinkError, choose, remove_stale};

/// What is said of a port whose device was removed.
const REMOVED: &str = "the device was removed in the pod; it is made again once the namespace is there";

/// Why an agent did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// It may not do what ports need.
    #[error("the agent may not make devices in pods: it needs root, or the capabilities {missing}")]
    Privilege {
        /// The capabilities that it lacks.
        missing: String,
    },
    /// Its run directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// Its tables.
    #[error("configuration: {0}")]
    Tables(#[from] TableError),
    /// Its data plane.
    #[error(transparent)]
    Switch(#[from] StartError),
    /// Its uplink, where nothing else is wanted.
    #[error("{0}; or set `underlay.kind` to \"auto\"")]
    Uplink(#[from] UplinkError),
    /// Its local socket.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// Where its metrics are served.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// No interface has a VTEP address.
    #[error("no interface of this node has the address {address}: give it to one, or correct `underlay.addresses`")]
    NoSuchAddress {
        /// The address.
        address: IpAddr,
    },
    /// The node's own namespace cannot be looked at.
    #[error("looking at this node's interfaces: {0}")]
    Node(NetnsError),
    /// A port's device.
    #[error("port `{port}`: {source}")]
    Attach {
        /// The port.
        port: String,
        /// What failed.
        source: AttachError,
    },
    /// A port whose MTU, which follows from the underlay's, is below what its IPv6 addresses need.
    #[error(
        "port `{port}`: only {mtu} bytes fit through the tunnel, and its IPv6 addresses need {MIN_IPV6}: widen the underlay, or give the port an `mtu` of at least {MIN_IPV6}"
    )]
    TooNarrowForIpv6 {
        /// The port.
        port: String,
        /// MTU of the pods that fits, in bytes.
        mtu: u16,
    },
    /// Two ports are one device, under two names of one namespace.
    #[error(
        "ports `{first}` and `{second}`: their `netns` are one namespace, and both have `{interface}` in it: choose another `interface` for one"
    )]
    OneDevice {
        /// A port.
        first: String,
        /// Another.
        second: String,
        /// The device.
        interface: String,
    },
    /// How its store is reached.
    #[error("`[control]`: {0}")]
    Store(#[from] AccessError),
    /// A file that reaching the store needs.
    #[error(transparent)]
    ControlFile(#[from] FileError),
    /// Another agent has the node's name.
    #[error(
        "another agent, at {}, has the name `{name}`: give one of them another `node`, or end the other",
        addresses(holder)
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Who has it.
        holder: Holder,
    },
    /// The running agent, from which it was to take over.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// The cluster's network is not what the configuration says.
    #[error(transparent)]
    Network(NoRanges),
    /// Which pods are attached is not known.
    #[error(transparent)]
    Pods(#[from] LedgerError),
    /// The process itself.
    #[error("{what}: {source}")]
    Process {
        /// What failed.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A port as the agent keeps it.
pub(crate) struct AttachedPort {
    pub(crate) config: PortConfig,
    pub(crate) id: PortId,
    pub(crate) mtu: u16,
    pub(crate) offloads: TapOffloads,
    /// Its device's queues, which the workers have: to be handed on. None without a device.
    pub(crate) queues: Vec<Arc<OwnedFd>>,
    /// Why its device is gone, if it is.
    pub(crate) lost: Option<String>,
}

/// A running agent.
pub struct Agent {
    pub(crate) config: Config,
    pub(crate) underlay_mtu: u16,
    /// None where the sockets carry everything from the start. Ends before the switch does.
    pub(crate) uplink: Option<Uplink>,
    /// Why there is none, unless none was asked for.
    pub(crate) no_uplink: Option<String>,
    pub(crate) switch: Switch,
    pub(crate) ports: Vec<AttachedPort>,
    /// None where probes are switched off.
    pub(crate) paths: Option<Paths>,
    /// None without a control plane.
    pub(crate) following: Option<Following>,
    pub(crate) pods: Pods,
    /// Why pods are not masqueraded, though they should be.
    pub(crate) not_masqueraded: Option<String>,
    pub(crate) started: Instant,
    pub(crate) recent_drops: RecentDrops,
    pub(crate) listener: UnixListener,
    /// None where metrics are not served.
    pub(crate) metrics: Option<Server>,
    pub(crate) keeper: Keeper,
    /// Where one comes that takes over.
    pub(crate) successors: OwnedFd,
    /// What its predecessor knew of the cluster, until it follows that itself.
    pub(crate) inherited_view: Option<View>,
    pub(crate) lock: RunDirLock,
}

impl Agent {
    /// Sets everything up: when it returns, every port forwards.
    ///
    /// # Errors
    /// [`AgentError`]; nothing is left of what was made until then.
    pub fn start(config: Config) -> Result<Self, AgentError> {
        may_attach(&config)?;
        Confinement::of(&config).prepare();
        open_as_many_as_allowed();
        let lock = RunDirLock::take(&config.run_dir)?;
        let keeper = Keeper::find(&config.run_dir);
        let mut agent = Self::set_up(config, lock, keeper, None)?;
        agent.open_outside();
        agent.restore_pods();
        Ok(agent)
    }

    /// With what was inherited nothing is read before the switch is told to resume, and nothing is undone that the agent before
    /// this one would miss.
    pub(crate) fn set_up(
        mut config: Config,
        lock: RunDirLock,
        mut keeper: Keeper,
        inherited: Option<Inherited>,
    ) -> Result<Self, AgentError> {
        let mut pods = Pods::load(&config.run_dir)?;
        if let Some(network) = &config.network {
            let unreadable = |source| AgentError::Process { what: "this node's ranges, in the run directory", source };
            let had = load(&config.run_dir, network).map_err(unreadable)?;
            if !had.is_empty() {
                config.ports.push(host_port(network, &had));
            }
            pods.ranges = had;
        }
        let (interfaces, least_mtu) = interfaces(&config.addresses)?;
        let underlay_mtu = config.underlay_mtu.unwrap_or(least_mtu);
        let Desired { tables, ports: ids } = desired(&config, underlay_mtu)?;
        if let Some((port, mtu)) = too_narrow_for_ipv6(&config, underlay_mtu) {
            return Err(AgentError::TooNarrowForIpv6 { port: port.name.clone(), mtu });
        }
        // All pods are looked at before anything is changed.
        look_at(&config.ports, &keeper)?;
        let levels = match &inherited {
            Some(inherited) => inherited.levels.clone(),
            None => Arc::new(prove(&config.switched_off, &config.addresses, &interfaces)),
        };
        let offloads = TapOffloads::of(&levels);
        let options = Options {
            listen: config.listen.clone(),
            socket: config.socket,
            levels: levels.clone(),
            fdb_capacity: config.fdb_capacity,
            polling: config.polling,
            workers: config.workers,
            cpus: config.cpus.clone(),
        };
        let (mut uplink, mut no_uplink, mut inherited_view) = (None, None, None);
        let (switch, sockets, served) = match inherited {
            Some(Inherited { sockets, uplink, state, listener, successors, metrics, .. }) => {
                let hops = uplink.as_ref().map(|uplink| uplink.state.clone());
                if uplink.is_none() {
                    no_uplink = Some("the agent before this one had none".to_owned());
                }
                let switch = Switch::take_over(&options, tables, uplink, sockets)?;
                inherited_view = state.view(&config);
                if let Some(view) = &inherited_view {
                    drop(forward_by(view, &local(&config, underlay_mtu), &switch, None));
                }
                state.teach(&switch);
                if let Some(hops) = hops {
                    hops.publish(state.hops(&switch.tables()));
                }
                (switch, Some((listener, successors)), metrics)
            }
            None => {
                remove_stale();
                let device;
                (uplink, device, no_uplink) = match choose(&config, &levels)? {
                    Choice::Uplink(uplink, device) => (Some(uplink), Some(device), None),
                    Choice::Socket(reason) => (None, None, reason),
                };
                let for_switch = uplink.as_ref().zip(device);
                let for_switch =
                    for_switch.map(|(uplink, device)| SwitchUplink { device, state: uplink.state.clone() });
                let switch = Switch::start(&options, tables, for_switch)?;
                if let Some(uplink) = &uplink {
                    uplink.follow(&switch.tables());
                }
                (switch, None, None)
            }
        };
        // All devices are up before the first is served, so that no early frame meets one that is down.
        let mut taps = Vec::with_capacity(ids.len());
        let mut ports = Vec::with_capacity(ids.len());
        for (port, id) in config.ports.iter().zip(ids) {
            let mtu = port_mtu(&config, port, underlay_mtu);
            let fitting = fitting_mtu(&config, port.vni, underlay_mtu);
            if mtu > fitting {
                tracing::warn!(
                    port = port.name,
                    mtu,
                    fitting,
                    "longer packets than fit through the tunnel will be dropped"
                );
            }
            let kept = keeper.claim(&port.name);
            let queues = attach(port, mtu, offloads, config.workers, kept).map_err(of_port(port))?;
            let offloads = offloads_of(&queues);
            let descriptors = queues.iter().map(Tap::descriptor).collect();
            ports.push(AttachedPort { config: port.clone(), id, mtu, offloads, queues: descriptors, lost: None });
            taps.push((id, queues));
            tracing::info!(port = port.name, vni = port.vni.get(), netns = port.netns, mac = %port.mac, mtu, "port attached");
        }
        let (listener, successors) = match sockets {
            Some(sockets) => sockets,
            None => {
                let failed =
                    |source| AgentError::Process { what: "the socket for a successor, in the run directory", source };
                (api::listen(&config.run_dir)?, Successors::listen(&config.run_dir).map_err(failed)?)
            }
        };
        let metrics = config.metrics.as_ref().map(|at| Server::go_on(at, served)).transpose()?;
        // What a start made that failed before this went with it.
        for ((_, queues), port) in taps.iter().zip(&config.ports) {
            keep(queues, port).map_err(of_port(port))?;
        }
        for (id, queues) in taps {
            switch.add_port(id, queues);
        }
        let paths = config.path_probes.then(|| Paths::new(&switch.tables(), underlay_mtu));
        Ok(Self {
            config,
            underlay_mtu,
            uplink,
            no_uplink,
            switch,
            ports,
            paths,
            following: None,
            pods,
            not_masqueraded: None,
            started: Instant::now(),
            recent_drops: RecentDrops::new(Instant::now()),
            listener,
            metrics,
            keeper,
            successors,
            inherited_view,
            lock,
        })
    }

    /// Sends and takes path probes. Returns how soon that is due again; none where they are switched off.
    pub(crate) fn look_at_paths(&mut self) -> Option<Duration> {
        self.paths.as_mut().map(|paths| paths.tick(&self.switch))
    }

    /// What is due once a second.
    pub(crate) fn keep_house(&mut self) {
        if let Some(uplink) = &self.uplink {
            uplink.follow(&self.switch.tables());
        }
        self.switch.fdb().sweep(self.switch.now(), self.config.fdb_ageing_seconds);
        self.recent_drops.look(&self.switch, Instant::now());
        for gone in self.switch.lost_ports() {
            if let Some(port) = self.ports.iter_mut().find(|port| port.id == gone.id) {
                let why = why_lost(&gone.error);
                tracing::warn!(port = port.config.name, error = %gone.error, "port lost: {why}");
                port.lose(why);
            }
        }
        // What it holds of a lost device would keep the next one from being opened.
        self.keep_devices();
        for port in self.ports.iter_mut().filter(|port| port.lost.is_some()) {
            port.look_again(&self.switch);
        }
        self.keep_devices();
        if let Some(following) = &mut self.following {
            following.keep_house(&self.ports, &self.switch, self.paths.as_mut());
        }
        self.keep_pods();
    }
}

impl Agent {
    /// Has the keeper hold what the ports have now.
    pub(crate) fn keep_devices(&mut self) {
        if self.config.keeper {
            let held = self.ports.iter().map(|port| (port.config.name.as_str(), port.queues.as_slice()));
            self.keeper.follow(held);
        } else {
            self.keeper.end();
        }
    }
}

impl AttachedPort {
    /// A port whose row is in the tables, and that has no device yet.
    pub(crate) fn without_device(config: PortConfig, id: PortId, mtu: u16) -> Self {
        let lost = Some("it has no device yet".to_owned());
        Self { config, id, mtu, offloads: TapOffloads::NONE, queues: Vec::new(), lost }
    }

    /// It has no device any more.
    fn lose(&mut self, why: String) {
        self.queues.clear();
        self.lost = Some(why);
    }

    /// Makes the device of a port that has none, of the queues that were kept of it if there are any.
    pub(crate) fn try_again(&mut self, switch: &Switch, kept: Vec<OwnedFd>) -> Result<(), AttachError> {
        let queues = attach(&self.config, self.mtu, TapOffloads::of(switch.levels()), switch.workers(), kept)?;
        keep(&queues, &self.config)?;
        self.offloads = offloads_of(&queues);
        self.queues = queues.iter().map(Tap::descriptor).collect();
        self.lost = None;
        switch.add_port(self.id, queues);
        Ok(())
    }

    /// Makes the device of a lost port again, if that is possible by now.
    fn look_again(&mut self, switch: &Switch) {
        match self.try_again(switch, Vec::new()) {
            Ok(()) => tracing::info!(port = self.config.name, "port attached again"),
            Err(AttachError::Netns(NetnsError::NotFound { .. } | NetnsError::NotANamespace { .. })) => {
                self.lost = Some(REMOVED.to_owned());
            }
            // Shown, and not logged every second.
            Err(error) => self.lost = Some(error.to_string()),
        }
    }
}

/// Lets a device stay when its queues are closed.
fn keep(queues: &[Tap], port: &PortConfig) -> Result<(), AttachError> {
    queues.iter().take(1).try_for_each(Tap::keep).map_err(|source| AttachError::tap(port, source))
}

/// What a device does for its pod's stack; all its queues agree.
fn offloads_of(queues: &[Tap]) -> TapOffloads {
    queues.first().map_or(TapOffloads::NONE, Port::offloads)
}

fn addresses(holder: &Holder) -> String {
    let addresses: Vec<_> = holder.addresses.iter().map(ToString::to_string).collect();
    addresses.join(", ")
}

fn why_lost(error: &io::Error) -> String {
    // What every call says that meets a TAP without a device.
    let removed = error.raw_os_error() == Some(Errno::BADFD.raw_os_error());
    if removed { REMOVED.to_owned() } else { error.to_string() }
}

fn of_port(port: &PortConfig) -> impl Fn(AttachError) -> AgentError {
    |source| AgentError::Attach { port: port.name.clone(), source }
}

/// Each pod takes a descriptor for every worker, and one for its namespace: many systems allow 1,024 at first and far more
/// to who asks.
fn open_as_many_as_allowed() {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, allowed = limit.current, "this process may open few files, and so attach few pods");
    }
}

/// Refuses a process that may not enter pods and make devices there.
pub(crate) fn may_attach(config: &Config) -> Result<(), AgentError> {
    let Ok(sets) = capabilities(None) else { return Ok(()) };
    let needed = [(CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"), (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN")];
    let missing: Vec<_> =
        needed.iter().filter(|(one, _)| !sets.effective.contains(*one)).map(|(_, name)| *name).collect();
    if config.ports.is_empty() && config.network.is_none() || missing.is_empty() {
        return Ok(());
    }
    Err(AgentError::Privilege { missing: missing.join(" and ") })
}

/// Refuses where a pod is missing, or its device may not be ours. No namespace stays open: they may be many.
fn look_at(ports: &[PortConfig], keeper: &Keeper) -> Result<(), AgentError> {
    let mut seen = HashMap::new();
    for port in ports {
        let place = Place::open(port).map_err(of_port(port))?;
        if let Some(first) = seen.insert((place.inode(), &port.interface), port) {
            let (first, second) = (first.name.clone(), port.name.clone());
            return Err(AgentError::OneDevice { first, second, interface: port.interface.clone() });
        }
        place.check(port, keeper.kept(&port.name)).map_err(of_port(port))?;
    }
    Ok(())
}

/// The interfaces that have our addresses, by name, and the least of their MTUs in bytes.
pub(crate) fn interfaces(addresses: &[IpAddr]) -> Result<(Vec<String>, u16), AgentError> {
    let link = |address: IpAddr| {
        let netns = Netns::current().map_err(AgentError::Node)?;
        let link = netns.links(move |links| links.link_with_address(address)).map_err(AgentError::Node)?;
        link.ok_or(AgentError::NoSuchAddress { address })
    };
    let found = addresses.iter().map(|address| link(*address)).collect::<Result<Vec<_>, _>>()?;
    let least = found.iter().map(|link| link.mtu).min().unwrap_or_default();
    Ok((found.into_iter().map(|link| link.name).collect(), u16::try_from(least).unwrap_or(u16::MAX)))
}
