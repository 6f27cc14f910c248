//! What values of the file must be, and what they must be to each other.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::ops::{Range, RangeInclusive};
use std::path::PathBuf;

use toml::Spanned;
use weft_bridge::tables::{DomainOptions, FloodLimits};
use weft_encap::mtu::MIN_IPV6;
use weft_encap::probe;
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_switch::levels::Level;
use weft_switch::underlay::{Listen, SocketOptions};

use super::allowed::{
    CPUS, FDB_AGEING_SECONDS, FDB_CAPACITY, FLOODS_PER_SECOND, LEARN_LIMIT, PORT_MTU, PORT_MTU_IPV6, UDP_PORT,
    UNDERLAY_MTU, WORKERS, allowed, is_host, is_interface, is_name, is_netns, not_of_vtep, numbers,
};
use super::file::{File, PortEntry, PortMode, Switch, Underlay, UnderlayKind, VniEntry, VtepEntry, unspanned};
use super::{Config, HOST_PORT, PortConfig, VtepConfig, control, network};
use crate::desired;

/// One thing that is wrong, and where. What stands in no file has an empty span.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

pub(super) fn wrong<T, R>(at: &Spanned<T>, message: impl Into<String>) -> Result<R, Wrong> {
    Err(Wrong { span: at.span(), message: message.into() })
}

/// Refuses a value by what is allowed in its field.
pub(super) fn not_allowed<T, R>(
    at: &Spanned<T>,
    (table, field): (&str, &str),
    seen: impl std::fmt::Display,
) -> Result<R, Wrong> {
    wrong(at, format!("`{field}` {seen}: {}", allowed(table, field).unwrap_or_default()))
}

fn within<T: PartialOrd + Copy + std::fmt::Display>(
    name: (&str, &str),
    value: &Spanned<T>,
    range: RangeInclusive<T>,
) -> Result<T, Wrong> {
    let seen = *value.as_ref();
    if range.contains(&seen) { Ok(seen) } else { not_allowed(value, name, format!("is {seen}")) }
}

/// Where to point at for a value that may be a default: a neighbour that is written.
fn written<T, U>(value: &Spanned<T>, neighbour: &Spanned<U>) -> Range<usize> {
    if value.span().is_empty() { neighbour.span() } else { value.span() }
}

pub(super) fn check(file: File) -> Result<Config, Wrong> {
    let mut written = Box::new(file.clone());
    let node = node(file.node)?;
    written.node = Some(unspanned(node.clone()));
    let run_dir = run_dir(file.run_dir)?;
    let listen = listen(&file.underlay)?;
    let underlay_mtu =
        file.underlay.mtu.as_ref().map(|mtu| within(("underlay", "mtu"), mtu, UNDERLAY_MTU)).transpose()?;
    let fdb_capacity = within(("fdb", "capacity"), &file.fdb.capacity, FDB_CAPACITY)?;
    let fdb_ageing_seconds = within(("fdb", "ageing_seconds"), &file.fdb.ageing_seconds, FDB_AGEING_SECONDS)?;
    let socket = SocketOptions { zero_checksums_over_ipv6: file.underlay.zero_checksums_over_ipv6 };
    let mut offloads = file.offloads;
    if file.underlay.kind == UnderlayKind::Socket {
        offloads.uplink = Switch::Off;
    }
    let switched_off = Level::ALL.into_iter().filter(|level| *offloads.switch(*level) == Switch::Off).collect();
    let count = within(("workers", "count"), &file.workers.count, WORKERS)?;
    let workers = NonZero::new(usize::from(count)).unwrap_or(NonZero::<usize>::MIN);
    let cpus: Vec<usize> = file.workers.cpus.as_ref().iter().map(|cpu| usize::from(*cpu)).collect();
    if let Some(cpu) = cpus.iter().find(|cpu| !CPUS.contains(cpu)) {
        return not_allowed(&file.workers.cpus, ("workers", "cpus"), format!("has {cpu}"));
    }
    let mut vnis = Vec::new();
    let mut known = HashSet::new();
    for entry in &file.vnis {
        let id = *entry.id.as_ref();
        if id == probe::VNI {
            return wrong(&entry.id, format!("`id` is {id}, which path probes use: choose another"));
        }
        if !known.insert(id) {
            return wrong(&entry.id, format!("VNI {id} has two `[[vni]]` entries: leave one"));
        }
        let VniEntry { vlan_transparent, clamp_mss, .. } = *entry;
        let limit = |field, value| within(("vni", field), value, FLOODS_PER_SECOND);
        let flood_limits = FloodLimits {
            unknown: limit("flood_unknown_per_second", &entry.flood_unknown_per_second)?,
            group: limit("flood_group_per_second", &entry.flood_group_per_second)?,
        };
        vnis.push((id, DomainOptions { vlan_transparent, clamp_mss, flood_limits }));
    }
    let addresses = file.underlay.addresses.as_ref().clone();
    let mut seen = HashSet::new();
    let vteps = file.vteps.iter().map(|entry| vtep(entry, &addresses, &known, &mut seen)).collect::<Result<_, _>>()?;
    let mut seen = Seen::default();
    let ports = file.ports.iter().map(|entry| port(entry, &node, &known, &mut seen)).collect::<Result<_, _>>()?;
    let around = (file.ports.as_slice(), &known, addresses.as_slice());
    let network = network::check(file.network, file.control.as_ref(), around, derived_mac(&node, HOST_PORT))?;
    let config = Config {
        file: written,
        path: PathBuf::new(),
        node,
        run_dir,
        log: file.log,
        log_format: file.log_format,
        metrics: file.metrics.map(|metrics| metrics.listen),
        keeper: file.keeper == Switch::Auto,
        confinement: file.confinement == Switch::Auto,
        addresses,
        underlay_mtu,
        listen,
        socket,
        switched_off,
        underlay_kind: file.underlay.kind,
        dscp: file.underlay.dscp.0,
        ttl: file.underlay.ttl.0,
        path_probes: file.underlay.path_probes == Switch::Auto,
        workers,
        cpus,
        polling: file.workers.polling.0,
        fdb_capacity,
        fdb_ageing_seconds,
        control: file.control.map(control::check).transpose()?,
        network,
        vnis,
        vteps,
        ports,
    };
    fits_ipv6(&config, file.underlay.mtu.as_ref())?;
    Ok(config)
}

fn node(name: Option<Spanned<String>>) -> Result<String, Wrong> {
    let Some(name) = name else {
        let host = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
        if is_name(&host) {
            return Ok(host);
        }
        let allowed = allowed("", "node").unwrap_or_default();
        let message = format!("`node` is not set, and the host name `{host}` cannot stand in for it: {allowed}");
        return Err(Wrong { span: 0..0, message });
    };
    if is_name(name.as_ref()) {
        return Ok(name.into_inner());
    }
    not_allowed(&name, ("", "node"), format!("is `{}`", name.as_ref()))
}

fn run_dir(path: Spanned<PathBuf>) -> Result<PathBuf, Wrong> {
    if path.as_ref().is_absolute() {
        return Ok(path.into_inner());
    }
    not_allowed(&path, ("", "run_dir"), format!("is `{}`", path.as_ref().display()))
}

fn listen(underlay: &Underlay) -> Result<Vec<Listen>, Wrong> {
    let addresses = &underlay.addresses;
    let of_family = |ipv6| addresses.as_ref().iter().filter(|address| address.is_ipv6() == ipv6).count();
    let name = ("underlay", "addresses");
    for (count, family) in [(of_family(false), "IPv4"), (of_family(true), "IPv6")] {
        if count > 1 {
            return not_allowed(addresses, name, format!("has {count} {family} addresses"));
        }
    }
    if addresses.as_ref().is_empty() {
        return not_allowed(addresses, name, "is empty");
    }
    if let Some((bad, why)) = addresses.as_ref().iter().find_map(|bad| Some((bad, not_of_vtep(*bad)?))) {
        return not_allowed(addresses, name, format!("has {bad}, {why}"));
    }
    let mut seen = HashSet::new();
    let mut listen = Vec::new();
    let vxlan = ("vxlan_ports", &underlay.vxlan_ports, &underlay.geneve_ports, Encapsulation::Vxlan);
    let geneve = ("geneve_ports", &underlay.geneve_ports, &underlay.vxlan_ports, Encapsulation::Geneve);
    for (field, ports, others, encapsulation) in [vxlan, geneve] {
        for port in ports.as_ref() {
            if !UDP_PORT.contains(port) || !seen.insert(*port) {
                let default = if ports.span().is_empty() { " by default" } else { "" };
                let message =
                    format!("`{field}` has {port}{default}: {}", allowed("underlay", field).unwrap_or_default());
                return Err(Wrong { span: written(ports, others), message });
            }
            listen.extend(
                addresses.as_ref().iter().map(|address| Listen { at: SocketAddr::new(*address, *port), encapsulation }),
            );
        }
    }
    if listen.is_empty() {
        let message = "`vxlan_ports` and `geneve_ports` are both empty: nothing could arrive";
        return wrong(&underlay.vxlan_ports, message);
    }
    Ok(listen)
}

fn vtep(
    entry: &VtepEntry,
    own: &[IpAddr],
    vnis: &HashSet<Vni>,
    seen: &mut HashSet<IpAddr>,
) -> Result<VtepConfig, Wrong> {
    let address = *entry.address.as_ref();
    if let Some(why) = not_of_vtep(address) {
        return not_allowed(&entry.address, ("vtep", "address"), format!("is {address}, {why}"));
    }
    if own.contains(&address) {
        return wrong(&entry.address, format!("`address` is this node's own {address}: a `[[vtep]]` is another node"));
    }
    if !own.iter().any(|own| own.is_ipv6() == address.is_ipv6()) {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        let message = format!("`address` is {address}: for that, `underlay.addresses` needs an {family} address too");
        return wrong(&entry.address, message);
    }
    if !seen.insert(address) {
        return wrong(&entry.address, format!("{address} has two `[[vtep]]` entries: list all its VNIs in one"));
    }
    if let Some(vni) = entry.vnis.as_ref().iter().find(|vni| !vnis.contains(vni)) {
        return wrong(
            &entry.vnis,
            format!("`vnis` has {vni}, which has no `[[vni]]` entry: add one with `id = {vni}`"),
        );
    }
    let port = entry.port.as_ref().map(|port| within(("vtep", "port"), port, UDP_PORT)).transpose()?;
    Ok(VtepConfig {
        at: SocketAddr::new(address, port.unwrap_or(entry.encapsulation.default_port())),
        encapsulation: entry.encapsulation,
        vnis: entry.vnis.as_ref().clone(),
    })
}

#[derive(Default)]
struct Seen {
    names: HashSet<String>,
    devices: HashSet<(String, String)>,
    macs: HashSet<(Vni, MacAddr)>,
    addresses: HashSet<(Vni, IpAddr)>,
}

fn port(entry: &PortEntry, node: &str, vnis: &HashSet<Vni>, seen: &mut Seen) -> Result<PortConfig, Wrong> {
    let (name, netns, interface) = (entry.name.as_ref(), entry.netns.as_ref(), entry.interface.as_ref());
    if !is_name(name) {
        return not_allowed(&entry.name, ("port", "name"), format!("is `{name}`"));
    }
    if !seen.names.insert(name.clone()) {
        return wrong(&entry.name, format!("two ports have the `name` `{name}`: names are unique on a node"));
    }
    if !is_netns(netns) {
        return not_allowed(&entry.netns, ("port", "netns"), format!("is `{netns}`"));
    }
    if !is_interface(interface) {
        return not_allowed(&entry.interface, ("port", "interface"), format!("is `{interface}`"));
    }
    if !seen.devices.insert((netns.clone(), interface.clone())) {
        let message =
            format!("`interface` is `{interface}`, which another port has in `{netns}` already: choose another");
        return Err(Wrong { span: written(&entry.interface, &entry.netns), message });
    }
    let vni = *entry.vni.as_ref();
    if !vnis.contains(&vni) {
        return wrong(&entry.vni, format!("`vni` is {vni}, which has no `[[vni]]` entry: add one with `id = {vni}`"));
    }
    let addresses = entry.addresses.as_ref();
    if let Some(bad) = addresses.iter().find(|address| !is_host(address.addr())) {
        let what = format!("has {bad}, which is no address of a single host");
        return not_allowed(&entry.addresses, ("port", "addresses"), what);
    }
    if let Some(taken) = addresses.iter().find(|address| seen.addresses.contains(&(vni, address.addr()))) {
        let address = taken.addr();
        let message = format!("`addresses` has {address}, which another port of VNI {vni} has already: choose another");
        return wrong(&entry.addresses, message);
    }
    seen.addresses.extend(addresses.iter().map(|address| (vni, address.addr())));
    let limit = within(("port", "learn_limit"), &entry.learn_limit, LEARN_LIMIT)?;
    Ok(PortConfig {
        name: name.clone(),
        netns: netns.clone(),
        interface: interface.clone(),
        vni,
        mac: port_mac(entry, node, seen)?,
        addresses: addresses.clone(),
        mtu: port_mtu(entry)?,
        learn_limit: (entry.mode == PortMode::Learning).then_some(limit),
        routes: false,
        pod: None,
    })
}

fn port_mtu(entry: &PortEntry) -> Result<Option<u16>, Wrong> {
    let Some(written) = &entry.mtu else { return Ok(None) };
    let mtu = within(("port", "mtu"), written, PORT_MTU)?;
    let ipv6 = entry.addresses.as_ref().iter().find(|address| address.addr().is_ipv6());
    match ipv6 {
        Some(ipv6) if !PORT_MTU_IPV6.contains(&mtu) => {
            let allowed = numbers(&PORT_MTU_IPV6);
            wrong(written, format!("`mtu` is {mtu}, too little for the IPv6 address {ipv6} of the port: {allowed}"))
        }
        _ => Ok(Some(mtu)),
    }
}

/// Refuses an underlay that is written to be too narrow for an IPv6 address of a port which takes what fits.
fn fits_ipv6(config: &Config, written: Option<&Spanned<u16>>) -> Result<(), Wrong> {
    let Some((written, underlay_mtu)) = written.zip(config.underlay_mtu) else { return Ok(()) };
    match desired::too_narrow_for_ipv6(config, underlay_mtu) {
        Some((port, mtu)) => wrong(
            written,
            format!(
                "`mtu` is {underlay_mtu}, which leaves {mtu} for port `{}`, and its IPv6 addresses need {MIN_IPV6}: \
                 allowed is more here, or an `mtu` of at least {MIN_IPV6} for the port",
                port.name
            ),
        ),
        None => Ok(()),
    }
}

fn port_mac(entry: &PortEntry, node: &str, seen: &mut Seen) -> Result<MacAddr, Wrong> {
    let vni = *entry.vni.as_ref();
    let Some(written) = &entry.mac else {
        let mac = derived_mac(node, entry.name.as_ref());
        if seen.macs.insert((vni, mac)) {
            return Ok(mac);
        }
        return wrong(&entry.name, format!("two ports of VNI {vni} derive the MAC {mac}: give one a `mac`"));
    };
    let mac = *written.as_ref();
    if mac.is_multicast() || mac == MacAddr::ZERO {
        return not_allowed(written, ("port", "mac"), format!("is {mac}"));
    }
    if !seen.macs.insert((vni, mac)) {
        return wrong(written, format!("`mac` is {mac}, which another port of VNI {vni} has already: choose another"));
    }
    Ok(mac)
}

/// A locally administered MAC that two nodes, or two starts of one, derive alike (FNV-1a over both names).
fn derived_mac(node: &str, port: &str) -> MacAddr {
    let bytes = node.bytes().chain([0]).chain(port.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let folded = (hash ^ hash >> 40) & 0x00ff_ffff_ffff;
    MacAddr::from_u64(0x0200_0000_0000 | folded)
}
