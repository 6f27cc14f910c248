//! The agent, its kernel, and devices: those of ports, and those that belong to nobody.

use weft_api::PortRow;

use super::{error, note, of_agent, quoted, warning};
use crate::doctor::Finding;
use crate::doctor::facts::{Device, Facts, StaleDevice, StaleRedirect};

/// By how much a clock that is kept may be off, in microseconds: time services keep it within a few milliseconds.
const CLOCK_OFF_US: i64 = 100_000;

/// What to type so that a command works on a device of a namespace, by name or path.
fn ip(netns: Option<&str>) -> String {
    match netns {
        None => "ip".to_owned(),
        Some(path) if path.starts_with('/') => format!("nsenter --net={} ip", quoted(path)),
        Some(name) => format!("ip -n {}", quoted(name)),
    }
}

pub(super) fn agent(facts: &Facts) -> Vec<Finding> {
    if facts.agent.is_some() {
        return Vec::new();
    }
    let run_dir = facts.run_dir.display();
    match &facts.agent_ended {
        Some(sign) if facts.agent_hangs => vec![error(
            "agent_hangs",
            [
                format!("the agent in {run_dir} takes questions and does not answer: {sign}"),
                "it is stopped, or stuck: its workers may forward by what they know, and nothing new comes to them".to_owned(),
                "see whether it is stopped (state T in ps); else systemctl restart weft-agent, which costs pods no link"
                    .to_owned(),
            ],
        )],
        Some(sign) => vec![error(
            "agent_not_running",
            [
                format!("no agent answers in {run_dir}: {sign}"),
                "nobody forwards the frames of this node's pods".to_owned(),
                "start it: systemctl start weft-agent, or weft agent --config FILE; its log says why it ended"
                    .to_owned(),
            ],
        )],
        None => vec![note(
            "no_agent",
            [
                format!("no agent has run in {run_dir}"),
                "what only an agent knows was not looked at: offloads, peers, store, ports".to_owned(),
                "start one with weft agent --config FILE, or name it: --run-dir DIR, --node LAB.NODE".to_owned(),
            ],
        )],
    }
}

pub(super) fn kernel(facts: &Facts) -> Vec<Finding> {
    let Some(reason) = &facts.kernel.no_tun else { return Vec::new() };
    vec![error(
        "no_tun",
        [
            format!("/dev/net/tun cannot be opened: {reason}"),
            "pods' devices are TAPs, and without TUN/TAP there are none".to_owned(),
            "modprobe tun; in a container, pass the device /dev/net/tun in".to_owned(),
        ],
    )]
}

/// Nothing that is forwarded depends on it.
pub(super) fn clock(facts: &Facts) -> Vec<Finding> {
    let Some(clock) = facts.clock else { return Vec::new() };
    let store = facts.agent.as_ref().and_then(|agent| agent.status.control.as_ref());
    let with_certificates = store.is_some_and(|store| store.stores.iter().any(|at| at.starts_with("https://")));
    let why = if with_certificates {
        "certificates of the store are good or not by this clock, and logs are compared with those of other nodes"
    } else {
        "logs are compared with those of other nodes by this clock; forwarding does not depend on it"
    };
    if !clock.synchronised {
        let what = "no time service keeps this machine's clock".to_owned();
        let fix = "start one: timedatectl set-ntp true, or chrony, or what the machine's host offers".to_owned();
        return vec![note("clock_unsynchronised", [what, why.to_owned(), fix])];
    }
    if clock.offset_us.abs() < CLOCK_OFF_US {
        return Vec::new();
    }
    let what = format!("this machine's clock is off by {} ms, and being corrected", clock.offset_us.abs() / 1000);
    let fix = "see what its time service says: timedatectl timesync-status, or chronyc tracking".to_owned();
    vec![warning("clock_off", [what, why.to_owned(), fix])]
}

pub(super) fn ports(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let lost = agent.ports.iter().filter(|row| row.state != "forwarding");
        lost.map(|row| {
            error(
                "port_lost",
                [
                    format!("port `{}` is {}", row.name, row.state),
                    "its pod neither sends nor receives".to_owned(),
                    format!(
                        "see that `{}` exists: ip netns list; the agent makes the device again by itself",
                        row.netns
                    ),
                ],
            )
        })
        .collect()
    })
}

pub(super) fn pod_devices(facts: &Facts) -> Vec<Finding> {
    of_agent(facts, |agent| {
        let devices = agent.ports.iter().filter_map(|row| {
            let device = facts.devices.iter().find(|device| device.port == row.name)?;
            device.found.as_ref().map(|found| pod_device(row, found))
        });
        devices.flatten().collect()
    })
}

fn pod_device(row: &PortRow, device: &Device) -> Vec<Finding> {
    let (ip, interface) = (ip(Some(&row.netns)), quoted(&row.interface));
    let place = format!("`{}` of port `{}`", row.interface, row.name);
    if !device.up {
        let down = error(
            "pod_device_down",
            [
                format!("{place} is down in its pod"),
                "frames to the pod are dropped as port_down".to_owned(),
                format!("{ip} link set dev {interface} up"),
            ],
        );
        return vec![down.by_command()];
    }
    let mut found = Vec::new();
    let mtu = device.mtu;
    if mtu != u32::from(row.mtu) {
        let changed = warning(
            "pod_mtu_changed",
            [
                format!("{place} has MTU {mtu}, and the port {}", row.mtu),
                "somebody changed it in the pod; longer packets are dropped as exceeds_ingress_mtu".to_owned(),
                format!("{ip} link set dev {interface} mtu {}", row.mtu),
            ],
        );
        found.push(changed.by_command());
    }
    // Behind a learning port any MAC is right.
    let mac = device.mac.map(|mac| mac.to_string()).filter(|mac| row.mode == "bound" && *mac != row.mac);
    if let Some(mac) = mac {
        let changed = error(
            "pod_mac_changed",
            [
                format!("{place} has the MAC {mac}, and the port {}", row.mac),
                "what the pod sends is dropped as spoofed_mac, and it does not take what is for it".to_owned(),
                format!("{ip} link set dev {interface} address {}", row.mac),
            ],
        );
        found.push(changed.by_command());
    }
    let has = |network: &&String| {
        let address = network.split('/').next().and_then(|address| address.parse().ok());
        address.is_none_or(|address| device.addresses.contains(&address))
    };
    for network in row.addresses.iter().filter(|network| !has(network)) {
        let gone = error(
            "pod_address_gone",
            [
                format!("{place} has not its address {network}"),
                "others are told that the pod has it, and it does not answer".to_owned(),
                format!("{ip} address add {network} dev {interface}"),
            ],
        );
        found.push(gone.by_command());
    }
    found
}

pub(super) fn stale(facts: &Facts) -> Vec<Finding> {
    let redirects = facts.stale_redirects.iter().map(|StaleRedirect { interface, priority }| {
        error(
            "stale_redirect",
            [
                format!("the tc filter of priority {priority} at {interface} redirects tunnel packets to a device that is gone"),
                "it swallows every tunnel packet that arrives, and is left of an agent that was killed".to_owned(),
                format!("tc filter del dev {} ingress pref {priority}", quoted(interface)),
            ],
        )
        .by_command()
        .or("start the agent, which removes it")
    });
    let devices = facts.stale_devices.iter().map(|StaleDevice { netns, name }| {
        let place = netns.as_ref().map_or(String::new(), |netns| format!(" in `{netns}`"));
        let stale = warning(
            "stale_device",
            [
                format!("`{}`{place} was made by an agent, and no running agent holds it", name.escape_debug()),
                "its pod has an interface whose packets nobody reads".to_owned(),
                format!("{} link delete dev {}", ip(netns.as_deref()), quoted(name)),
            ],
        );
        let other = "start the agent whose port it is";
        // Control characters would do to a terminal what its pod wants.
        if name.contains(char::is_control) {
            return Finding { fix: other.to_owned(), ..stale };
        }
        stale.by_command().or(other)
    });
    redirects.chain(devices).collect()
}

pub(super) fn network_manager(facts: &Facts) -> Vec<Finding> {
    if !facts.network_manager {
        return Vec::new();
    }
    vec![warning(
        "network_manager",
        [
            "NetworkManager runs, and nothing keeps it from minding weft's devices".to_owned(),
            "it may take addresses and routes off weft0 and weft-up0 again, or put some there".to_owned(),
            "printf '[keyfile]\\nunmanaged-devices+=interface-name:weft*\\n' >/etc/NetworkManager/conf.d/weft.conf && \
             systemctl reload NetworkManager"
                .to_owned(),
        ],
    )]
}
