//! The one place that looks.

use std::collections::{BTreeSet, HashMap};
use std::fs::OpenOptions;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use weft_api::{Client, ClientError, NodeRow, PortRow, Query, Reply, SOCKET_NAME};
use weft_netns::{Link, LinkError, Links, Neighbour, Netns, NetnsError, Route};

use super::Unseen;
use super::facts::{
    AgentFacts, Device, Facts, FixedNeighbour, Interface, KernelFacts, PortDevice, Process, StaleDevice, StaleRedirect,
    UdpSocket,
};
use super::firewall::Ruleset;
use super::proc::{socket_inode, udp_sockets};
use crate::attach::MARK;
use crate::config::Config;

/// How the names of uplinks' devices begin.
const UPLINK_DEVICE: &str = "weft-up";
/// Namespaces that are searched for stale devices at most; each takes about a millisecond.
const NAMESPACES: usize = 2048;
/// Where some systems keep the administrator's programs off the path.
const SBIN: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Where to look.
#[derive(Debug)]
pub struct Place {
    /// The node's network namespace.
    pub netns: Netns,
    /// The agent's run directory.
    pub run_dir: PathBuf,
    /// A configuration, for a node whose agent does not answer.
    pub config: Option<Config>,
    /// Names of the namespaces in which its pods may be.
    pub namespaces: Vec<String>,
    /// Whether all nodes have this machine's clock, as those of a lab.
    pub shares_clock: bool,
}

/// Why nothing could be looked at.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// Without rights most of it would be guesses.
    #[error("only root sees firewall, sockets and namespaces: run `weft doctor` as root")]
    NotRoot,
    /// The node's namespace.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// Looks at everything, and changes nothing.
///
/// # Errors
/// [`GatherError`]. What only a part of it needs becomes [`Facts::unseen`].
pub fn gather(place: &Place) -> Result<Facts, GatherError> {
    if !rustix::process::geteuid().is_root() {
        return Err(GatherError::NotRoot);
    }
    let mut facts = Facts { run_dir: place.run_dir.clone(), kernel: kernel(place)?, ..Facts::default() };
    match ask(&place.run_dir) {
        Ok((agent, listen)) => {
            facts.agent = Some(agent);
            facts.listen = listen;
        }
        Err(ClientError::NotRunning { path }) => facts.agent_ended = sign_of_one(&path),
        Err(error) => {
            let waited = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
            facts.agent_hangs = matches!(&error, ClientError::Io { source, .. } if waited.contains(&source.kind()));
            facts.agent_ended = Some(error.to_string());
        }
    }
    if let (None, Some(config)) = (&facts.agent, &place.config) {
        facts.listen = config.listen.iter().map(|listen| listen.at).collect();
    }
    let peers = facts.agent.as_ref().map_or_else(Vec::new, |agent| {
        agent.vteps.iter().filter_map(|row| row.address.parse().ok()).collect::<Vec<IpAddr>>()
    });
    let own: Vec<IpAddr> = facts.listen.iter().map(SocketAddr::ip).collect();
    let links = place.netns.links(|links| {
        let interfaces = interfaces(links)?;
        let stale = stale_redirects(links, &interfaces);
        let (mut routed, mut unrouted, mut fixed) = (Vec::new(), Vec::new(), Vec::new());
        let neighbours = links.neighbours()?;
        for peer in peers {
            let from = own.iter().find(|address| address.is_ipv4() == peer.is_ipv4() && has(&interfaces, **address));
            let Some(from) = from else { continue };
            match links.route(*from, peer)? {
                Some(route) => {
                    let leaves_by = interfaces.iter().find(|interface| interface.link.index == route.interface);
                    routed.extend(leaves_by.map(|interface| (peer, interface.link.name.clone())));
                    fixed.extend(fixed_neighbour(peer, route, &neighbours, &interfaces));
                }
                None => unrouted.push(peer),
            }
        }
        Ok((interfaces, stale, routed, unrouted, fixed))
    })?;
    (facts.interfaces, facts.stale_redirects, facts.routed, facts.unrouted, facts.fixed_neighbours) = links;
    facts.sockets = place.netns.run(sockets)?;
    match place.netns.run(firewall)? {
        Ok(firewall) => facts.firewall = Some(firewall),
        Err(reason) => facts.unseen.push(Unseen { part: "firewall", reason }),
    }
    let ports = facts.agent.as_ref().map_or(&[][..], |agent| &agent.ports);
    facts.devices = ports.iter().map(device).collect();
    facts.stale_devices = stale_devices(place, &facts.interfaces, ports);
    facts.network_manager = minds_our_devices(&place.netns);
    if !place.shares_clock {
        match weft_switch::clock_state() {
            Ok(clock) => facts.clock = Some(clock),
            Err(error) => facts.unseen.push(Unseen { part: "clock", reason: error.to_string() }),
        }
    }
    Ok(facts)
}

fn kernel(place: &Place) -> Result<KernelFacts, NetnsError> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun");
    let forwards = place.netns.run(|| std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward"))?;
    Ok(KernelFacts {
        release: rustix::system::uname().release().to_string_lossy().into_owned(),
        no_tun: tun.err().map(|error| error.to_string()),
        forwards_ipv4: forwards.ok().map(|text| text.trim() != "0"),
    })
}

fn ask(run_dir: &Path) -> Result<(AgentFacts, Vec<SocketAddr>), ClientError> {
    let mut client = Client::connect(run_dir)?;
    let mut agent = AgentFacts::default();
    for query in [Query::Status, Query::Ports, Query::Vteps, Query::Nodes, Query::Drops, Query::Config] {
        match client.ask(query)? {
            Reply::Status(status) => agent.status = *status,
            Reply::Ports(rows) => agent.ports = rows,
            Reply::Vteps(rows) => agent.vteps = rows,
            Reply::Nodes(rows) => agent.nodes = rows.into_iter().collect::<Vec<NodeRow>>(),
            Reply::Drops(rows) => agent.drops = rows,
            Reply::Config(config) => {
                let interface = config.fields.pointer("/network/interface").and_then(|name| name.as_str());
                agent.network_interface = interface.map(str::to_owned);
            }
            _ => {}
        }
    }
    // "192.0.2.1:4789 vxlan"
    let at = |text: &String| text.split(' ').next().and_then(|at| at.parse().ok());
    let listen = agent.status.underlay.listen.iter().filter_map(at).collect();
    Ok((agent, listen))
}

/// What tells that there was an agent, where none answers.
fn sign_of_one(socket: &Path) -> Option<String> {
    socket.exists().then(|| format!("its socket {SOCKET_NAME} is there, and nobody listens"))
}

fn interfaces(links: &mut Links) -> Result<Vec<Interface>, LinkError> {
    links.list()?.into_iter().map(|link| interface(links, link)).collect()
}

fn interface(links: &mut Links, link: Link) -> Result<Interface, LinkError> {
    let addresses = links.addresses(&link.name)?.into_iter().map(|network| network.addr()).collect();
    Ok(Interface { link, addresses })
}

/// The entry by which packets to a peer go, if somebody has fixed it.
fn fixed_neighbour(
    peer: IpAddr,
    route: Route,
    neighbours: &[Neighbour],
    interfaces: &[Interface],
) -> Option<FixedNeighbour> {
    let next_hop = route.gateway.unwrap_or(peer);
    let entry = neighbours.iter().find(|entry| entry.interface == route.interface && entry.address == next_hop)?;
    let interface = interfaces.iter().find(|interface| interface.link.index == route.interface)?;
    let mac = entry.mac.filter(|_| entry.fixed)?;
    Some(FixedNeighbour { peer, next_hop, mac, interface: interface.link.name.clone() })
}

fn has(interfaces: &[Interface], address: IpAddr) -> bool {
    interfaces.iter().any(|interface| interface.addresses.contains(&address))
}

/// A kernel without tc has no redirects either.
fn stale_redirects(links: &mut Links, interfaces: &[Interface]) -> Vec<StaleRedirect> {
    let redirects = links.redirects().unwrap_or_default();
    let stale = redirects.iter().filter(|redirect| redirect.to.is_none());
    let name = |index: u32| {
        let interface = interfaces.iter().find(|interface| interface.link.index == index);
        interface.map_or_else(|| format!("#{index}"), |interface| interface.link.name.clone())
    };
    let stale = stale.map(|redirect| StaleRedirect { interface: name(redirect.from), priority: redirect.priority() });
    let stale: BTreeSet<StaleRedirect> = stale.collect();
    stale.into_iter().collect()
}

/// The UDP sockets of the calling thread's namespace.
fn sockets() -> Vec<UdpSocket> {
    let holders = socket_holders();
    let files = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let texts = files.iter().filter_map(|path| std::fs::read_to_string(path).ok());
    let sockets = texts.flat_map(|text| udp_sockets(&text));
    sockets.map(|(at, inode)| UdpSocket { at, holder: holders.get(&inode).cloned() }).collect()
}

/// Every socket that some process has open, by its inode. Processes that end meanwhile are left out.
fn socket_holders() -> HashMap<u64, Process> {
    let mut holders = HashMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim_end().to_owned();
        for descriptor in std::fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten() {
            let target = std::fs::read_link(descriptor.path()).ok();
            if let Some(inode) = target.as_deref().and_then(Path::to_str).and_then(socket_inode) {
                holders.insert(inode, Process { pid, name: name.clone() });
            }
        }
    }
    holders
}

/// The firewall of the calling thread's namespace.
fn firewall() -> Result<Ruleset, String> {
    let mut ruleset = Ruleset::default();
    match output("nft", &["-j", "list", "ruleset"]) {
        Ok(text) => ruleset.extend(Ruleset::from_nft(&text).map_err(|error| format!("what nft prints: {error}"))?),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !Path::new("/sys/module/nf_tables").exists() => {}
        Err(error) => {
            return Err(format!("nft -j list ruleset: {error}; install nftables to have its rules looked at"));
        }
    }
    for (program, save) in [("iptables", "iptables-save"), ("ip6tables", "ip6tables-save")] {
        match output(save, &[]) {
            Ok(text) => ruleset.extend_by_iptables(Ruleset::from_iptables(&text, program), program),
            // Its rules are then those of nobody's, or nft told of them.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(format!("{save}: {error}")),
        }
    }
    Ok(ruleset)
}

/// What a program prints.
fn output(program: &str, arguments: &[&str]) -> io::Result<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&path).chain(SBIN.map(PathBuf::from));
    let found = directories.find(|directory| directory.join(program).is_file()).ok_or(io::ErrorKind::NotFound)?;
    let output = Command::new(found.join(program)).args(arguments).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn device(port: &PortRow) -> PortDevice {
    let look = |links: &mut Links| links.get(&port.interface)?.map(|link| interface(links, link)).transpose();
    let found = Netns::open(&port.netns).and_then(|netns| netns.links(look)).ok().flatten();
    let found =
        found.map(|Interface { link, addresses }| Device { up: link.up, mtu: link.mtu, mac: link.mac, addresses });
    PortDevice { port: port.name.clone(), found }
}

/// Made by an agent, and held by nobody.
fn is_stale(link: &Link) -> bool {
    link.alias.as_deref() == Some(MARK) && link.open_queues == Some(0)
}

fn stale_devices(place: &Place, own: &[Interface], ports: &[PortRow]) -> Vec<StaleDevice> {
    let is_port = |netns: Option<&str>, name: &str| {
        ports.iter().any(|port| port.interface == name && netns.is_none_or(|netns| port.netns.ends_with(netns)))
    };
    let here = own
        .iter()
        .map(|interface| &interface.link)
        .filter(|link| is_stale(link) || link.name.starts_with(UPLINK_DEVICE) && link.open_queues == Some(0));
    let here = here.map(|link| StaleDevice { netns: None, name: link.name.clone() });
    let names = place.namespaces.iter().take(NAMESPACES);
    let elsewhere = names.flat_map(|name| {
        // A namespace that goes meanwhile has no devices.
        let netns = Netns::open(name).ok().filter(|netns| netns.inode() != place.netns.inode());
        let links = netns.and_then(|netns| netns.links(Links::list).ok()).unwrap_or_default();
        let stale = links.into_iter().filter(is_stale);
        stale.map(|link| StaleDevice { netns: Some(name.clone()), name: link.name }).collect::<Vec<_>>()
    });
    here.chain(elsewhere).filter(|device| !is_port(device.netns.as_deref(), &device.name)).collect()
}

/// Whether NetworkManager runs, in this namespace and so in the machine's first, without being told to leave ours alone.
fn minds_our_devices(netns: &Netns) -> bool {
    let first = Netns::open("/proc/1/ns/net");
    if first.map_or(true, |first| first.inode() != netns.inode()) || !Path::new("/run/NetworkManager").exists() {
        return false;
    }
    let directories = [
        "/etc/NetworkManager",
        "/etc/NetworkManager/conf.d",
        "/run/NetworkManager/conf.d",
        "/usr/lib/NetworkManager/conf.d",
    ];
    let files = directories.iter().flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten());
    let mut texts = files.filter_map(|file| std::fs::read_to_string(file.path()).ok());
    !texts.any(|text| text.lines().any(|line| line.contains("unmanaged-devices") && line.contains("weft")))
}
