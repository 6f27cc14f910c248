//! What values of the file must be, and what they must be to each other.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use weft_bridge::fdb::MAX_AGE_SECONDS;
use weft_encap::{Encapsulation, MacAddr, Vni};
use weft_switch::underlay::Listen;

use super::file::{File, PortEntry, PortMode, Switch, Underlay, VtepEntry};
use super::{Config, PortConfig, VtepConfig};

/// Characters in a name at most.
const NAME_CHARS: usize = 63;
/// Characters in a device's name at most (IFNAMSIZ without its zero).
const INTERFACE_CHARS: usize = 15;
const UNDERLAY_MTU: RangeInclusive<u16> = 576..=u16::MAX;
const PORT_MTU: RangeInclusive<u16> = 68..=u16::MAX;
const FDB_CAPACITY: RangeInclusive<u32> = 64..=1_048_576;
const FDB_AGEING_SECONDS: RangeInclusive<u32> = 1..=86_400;
const LEARN_LIMIT: RangeInclusive<u32> = 1..=65_536;
const UDP_PORT: RangeInclusive<u16> = 1..=u16::MAX;

const _: () = assert!(*FDB_AGEING_SECONDS.end() < MAX_AGE_SECONDS);

/// One thing that is wrong, and where.
#[derive(Debug)]
pub(super) struct Wrong {
    pub(super) span: Range<usize>,
    pub(super) message: String,
}

fn wrong<T, R>(at: &Spanned<T>, message: impl Into<String>) -> Result<R, Wrong> {
    Err(Wrong { span: at.span(), message: message.into() })
}

fn within<T: PartialOrd + Copy + std::fmt::Display>(
    field: &str,
    value: &Spanned<T>,
    allowed: RangeInclusive<T>,
) -> Result<T, Wrong> {
    if allowed.contains(value.as_ref()) {
        return Ok(*value.as_ref());
    }
    wrong(value, format!("`{field}` is {}: allowed are {} to {}", value.as_ref(), allowed.start(), allowed.end()))
}

pub(super) fn check(file: File) -> Result<Config, Wrong> {
    let node = match file.node {
        Some(name) => name,
        None => host_name(),
    };
    if !is_name(&node) {
        let message = format!("`node` is `{node}`: allowed are 1 to {NAME_CHARS} of a-z, 0-9, `-` and `.`");
        return Err(Wrong { span: 0..0, message });
    }
    let listen = listen(&file.underlay)?;
    let mut vnis = Vec::new();
    let mut known = HashSet::new();
    for entry in &file.vnis {
        let id = *entry.id.as_ref();
        if !known.insert(id) {
            return wrong(&entry.id, format!("VNI {id} has two `[[vni]]` entries: leave one"));
        }
        vnis.push((id, entry.vlan_transparent));
    }
    let addresses = file.underlay.addresses.as_ref().clone();
    let mut seen = HashSet::new();
    let vteps = file.vteps.iter().map(|entry| vtep(entry, &addresses, &known, &mut seen)).collect::<Result<_, _>>()?;
    let mut seen = Seen::default();
    let ports = file.ports.iter().map(|entry| port(entry, &node, &known, &mut seen)).collect::<Result<_, _>>()?;
    let underlay_mtu = file.underlay.mtu.as_ref().map(|mtu| within("mtu", mtu, UNDERLAY_MTU)).transpose()?;
    Ok(Config {
        node,
        run_dir: file.run_dir,
        log: file.log,
        addresses,
        underlay_mtu,
        listen,
        offload: file.underlay.offload == Switch::Auto,
        fdb_capacity: within("capacity", &file.fdb.capacity, FDB_CAPACITY)?,
        fdb_ageing_seconds: within("ageing_seconds", &file.fdb.ageing_seconds, FDB_AGEING_SECONDS)?,
        vnis,
        vteps,
        ports,
    })
}

fn listen(underlay: &Underlay) -> Result<Vec<Listen>, Wrong> {
    let addresses = &underlay.addresses;
    let of_family = |ipv6| addresses.as_ref().iter().filter(|address| address.is_ipv6() == ipv6).count();
    if addresses.as_ref().is_empty() || of_family(false) > 1 || of_family(true) > 1 {
        return wrong(addresses, "`addresses` needs one IPv4 address, one IPv6 address, or one of each");
    }
    if let Some(bad) = addresses.as_ref().iter().find(|address| !is_host(**address)) {
        return wrong(addresses, format!("{bad} is no address of a single host"));
    }
    let mut seen = HashSet::new();
    let mut listen = Vec::new();
    let vxlan = ("vxlan_ports", &underlay.vxlan_ports, Encapsulation::Vxlan);
    let geneve = ("geneve_ports", &underlay.geneve_ports, Encapsulation::Geneve);
    for (field, ports, encapsulation) in [vxlan, geneve] {
        for port in ports.as_ref() {
            if *port == 0 || !seen.insert(*port) {
                let message = format!("`{field}` has {port}: allowed are 1 to 65535, each once in both lists");
                return wrong(ports, message);
            }
            listen.extend(
                addresses.as_ref().iter().map(|address| Listen { at: SocketAddr::new(*address, *port), encapsulation }),
            );
        }
    }
    if listen.is_empty() {
        return wrong(&underlay.vxlan_ports, "`vxlan_ports` and `geneve_ports` are both empty: nothing could arrive");
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
    if !is_host(address) {
        return wrong(&entry.address, format!("{address} is no address of a single host"));
    }
    if own.contains(&address) {
        return wrong(&entry.address, format!("{address} is this node's own: a `[[vtep]]` is another node"));
    }
    if !own.iter().any(|own| own.is_ipv6() == address.is_ipv6()) {
        let family = if address.is_ipv6() { "IPv6" } else { "IPv4" };
        let message = format!("{address} is not reachable: `underlay.addresses` has no {family} address");
        return wrong(&entry.address, message);
    }
    if !seen.insert(address) {
        return wrong(&entry.address, format!("{address} has two `[[vtep]]` entries: list all its VNIs in one"));
    }
    if let Some(vni) = entry.vnis.as_ref().iter().find(|vni| !vnis.contains(vni)) {
        return wrong(&entry.vnis, format!("VNI {vni} has no `[[vni]]` entry: add one with `id = {vni}`"));
    }
    let port = entry.port.as_ref().map(|port| within("port", port, UDP_PORT)).transpose()?;
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
}

fn port(entry: &PortEntry, node: &str, vnis: &HashSet<Vni>, seen: &mut Seen) -> Result<PortConfig, Wrong> {
    let (name, interface) = (entry.name.as_ref(), entry.interface.as_ref());
    if !is_name(name) {
        let message = format!("`{name}` is no port name: allowed are 1 to {NAME_CHARS} of a-z, 0-9, `-` and `.`");
        return wrong(&entry.name, message);
    }
    if !seen.names.insert(name.clone()) {
        return wrong(&entry.name, format!("two ports are called `{name}`: names are unique on a node"));
    }
    if !is_interface(interface) {
        let message = format!(
            "`{interface}` is no device name: allowed are 1 to {INTERFACE_CHARS} characters without `/`, `:` and blanks"
        );
        return wrong(&entry.interface, message);
    }
    if !seen.devices.insert((entry.netns.clone(), interface.clone())) {
        return wrong(&entry.interface, format!("`{interface}` in `{}` belongs to another port already", entry.netns));
    }
    let vni = *entry.vni.as_ref();
    if !vnis.contains(&vni) {
        return wrong(&entry.vni, format!("VNI {vni} has no `[[vni]]` entry: add one with `id = {vni}`"));
    }
    let mac = entry.mac.as_ref().map_or_else(|| derived_mac(node, name), |mac| *mac.as_ref());
    let at = entry.mac.as_ref().map_or(entry.name.span(), Spanned::span);
    if mac.is_multicast() || mac == MacAddr::ZERO {
        return Err(Wrong { span: at, message: format!("{mac} is no address of a single device") });
    }
    if !seen.macs.insert((vni, mac)) {
        return Err(Wrong { span: at, message: format!("two ports of VNI {vni} have the MAC {mac}") });
    }
    let limit = within("learn_limit", &entry.learn_limit, LEARN_LIMIT)?;
    Ok(PortConfig {
        name: name.clone(),
        netns: entry.netns.clone(),
        interface: interface.clone(),
        vni,
        mac,
        addresses: entry.addresses.clone(),
        mtu: entry.mtu.as_ref().map(|mtu| within("mtu", mtu, PORT_MTU)).transpose()?,
        learn_limit: (entry.mode == PortMode::Learning).then_some(limit),
    })
}

/// A locally administered MAC that two nodes, or two starts of one, derive alike (FNV-1a over both names).
fn derived_mac(node: &str, port: &str) -> MacAddr {
    let bytes = node.bytes().chain([0]).chain(port.bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let folded = (hash ^ hash >> 40) & 0x00ff_ffff_ffff;
    MacAddr::from_u64(0x0200_0000_0000 | folded)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

fn is_name(name: &str) -> bool {
    (1..=NAME_CHARS).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
}

fn is_interface(name: &str) -> bool {
    (1..=INTERFACE_CHARS).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_graphic() && !b"/:".contains(&byte))
        && ![".", ".."].contains(&name)
}

fn is_host(address: IpAddr) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    !(address.is_unspecified() || address.is_multicast() || broadcast)
}
