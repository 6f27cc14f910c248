//! The agent, its kernel, and devices: those of ports, and those that belong to nobody.

use super::{error, note, of_agent, warning};
use crate::doctor::Finding;
use crate::doctor::facts::{Facts, StaleDevice};

/// What to type so that a command works on a device of a namespace, by name or path.
fn ip(netns: Option<&str>) -> String {
    match netns {
        None => "ip".to_owned(),
        Some(path) if path.starts_with('/') => format!("nsenter --net={path} ip"),
        Some(name) => format!("ip -n {name}"),
    }
}

pub(super) fn agent(facts: &Facts) -> Vec<Finding> {
    if facts.agent.is_some() {
        return Vec::new();
    }
    let run_dir = facts.run_dir.display();
    match &facts.agent_ended {
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
        let found = agent.ports.iter().filter_map(|row| {
            let device = facts.devices.iter().find(|device| device.port == row.name)?;
            let (up, mtu) = device.link?;
            let (ip, interface) = (ip(Some(&row.netns)), &row.interface);
            if !up {
                return Some(error(
                    "pod_device_down",
                    [
                        format!("`{interface}` of port `{}` is down in its pod", row.name),
                        "frames to the pod are dropped as port_down".to_owned(),
                        format!("{ip} link set {interface} up"),
                    ],
                ));
            }
            (mtu != u32::from(row.mtu)).then(|| {
                warning(
                    "pod_mtu_changed",
                    [
                        format!("`{interface}` of port `{}` has MTU {mtu}, and the port {}", row.name, row.mtu),
                        "somebody changed it in the pod; longer packets are dropped as exceeds_ingress_mtu".to_owned(),
                        format!("{ip} link set {interface} mtu {}", row.mtu),
                    ],
                )
            })
        });
        found.collect()
    })
}

pub(super) fn stale(facts: &Facts) -> Vec<Finding> {
    let redirects = facts.stale_redirects.iter().map(|interface| {
        error(
            "stale_redirect",
            [
                format!("a tc filter at {interface} redirects tunnel packets to a device that is gone"),
                "it swallows every tunnel packet that arrives, and is left of an agent that was killed".to_owned(),
                format!("start the agent, which removes it, or: tc filter del dev {interface} ingress"),
            ],
        )
    });
    let devices = facts.stale_devices.iter().map(|StaleDevice { netns, name }| {
        let place = netns.as_ref().map_or(String::new(), |netns| format!(" in `{netns}`"));
        warning(
            "stale_device",
            [
                format!("`{name}`{place} was made by an agent, and no running agent holds it"),
                "its pod has an interface whose packets nobody reads".to_owned(),
                format!("start the agent whose port it is, or: {} link delete {name}", ip(netns.as_deref())),
            ],
        )
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
