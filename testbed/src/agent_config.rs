//! The configuration file of one node's agent.

use std::net::IpAddr;
use std::path::Path;

use weft_control::config::file;
use weft_control::config::file::unspanned;
use weft_encap::Vni;

use crate::spec::{LabName, LabSpec, NodeKind, NodeSpec, POD_INTERFACE, PodSpec};
use crate::store;

/// MACs learned behind a learning port at most.
const LEARN_LIMIT: u32 = 256;
/// Name of the socket in an agent's directory where its metrics are.
const METRICS_SOCKET: &str = "metrics.sock";

/// What node number `index` is told: itself, its pods, and where the store is, with this `prefix` of its keys. Without a
/// store it is told of every node it shares a virtual network with, and else of those only that are not ours.
pub(crate) fn render(
    lab: &LabName,
    spec: &LabSpec,
    index: usize,
    run_dir: &Path,
    prefix: &str,
) -> Result<String, toml::ser::Error> {
    let node = &spec.nodes[index];
    let own = node.vnis();
    let published = |peer: &NodeSpec| spec.has_store() && peer.kind == NodeKind::Weft;
    let others = spec.nodes.iter().enumerate().filter(|(other, peer)| *other != index && !published(peer));
    let file = file::File {
        node: Some(unspanned(node.name.clone())),
        run_dir: unspanned(run_dir.to_owned()),
        log: "info".to_owned(),
        log_format: file::LogFormat::default(),
        metrics: Some(file::Metrics { listen: file::MetricsListen::Socket(run_dir.join(METRICS_SOCKET)) }),
        keeper: file::Switch::Off,
        confinement: file::Switch::Auto,
        underlay: underlay(tunnel_address(spec, index).into_iter().collect(), &node.underlay)
            .map_err(<toml::ser::Error as serde::ser::Error>::custom)?,
        offloads: file::Offloads::default(),
        fdb: file::Fdb::default(),
        workers: file::Workers::default(),
        control: spec.has_store().then(|| control(spec, node, prefix)),
        network: None,
        vnis: spec
            .vnis
            .iter()
            .filter(|vni| own.contains(&vni.id))
            .map(|vni| file::VniEntry { vlan_transparent: vni.vlan_transparent, ..file::VniEntry::new(vni.id) })
            .collect(),
        vteps: others.filter_map(|(other, peer)| vtep(spec, &own, other, peer)).collect(),
        ports: node.pods.iter().map(|pod| port(lab, pod)).collect(),
    };
    toml::to_string(&file)
}

/// `[underlay]` with these addresses, and what is said of it in the lab file.
pub(crate) fn underlay(
    addresses: Vec<IpAddr>,
    settings: &serde_json::Map<String, serde_json::Value>,
) -> Result<file::Underlay, String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    let mut table = toml::Table::try_from(file::Underlay::new(addresses)).map_err(|error| told(&error))?;
    for (key, value) in settings {
        table.insert(key.clone(), toml::Value::try_from(value).map_err(|error| told(&error))?);
    }
    let text = toml::to_string(&table).map_err(|error| told(&error))?;
    toml::from_str(&text).map_err(|error| error.message().to_owned())
}

fn control(spec: &LabSpec, node: &NodeSpec, prefix: &str) -> file::Control {
    let store = format!("http://{}:{}", spec.store_address(node.segment).addr(), store::LISTEN.port());
    let mut control = file::Control::new(vec![store]);
    control.prefix = unspanned(prefix.to_owned());
    control.encapsulation = spec.encapsulation_of(node);
    control
}

fn vtep(spec: &LabSpec, own: &[Vni], index: usize, peer: &NodeSpec) -> Option<file::VtepEntry> {
    let shared: Vec<Vni> = peer.vnis().into_iter().filter(|vni| own.contains(vni)).collect();
    if shared.is_empty() || peer.kind == NodeKind::Host {
        return None;
    }
    Some(file::VtepEntry {
        address: unspanned(tunnel_address(spec, index)?),
        encapsulation: spec.encapsulation_of(peer),
        port: None,
        vnis: unspanned(shared),
    })
}

fn port(lab: &LabName, pod: &PodSpec) -> file::PortEntry {
    file::PortEntry {
        name: unspanned(pod.name.clone()),
        netns: unspanned(lab.namespace_of(&pod.name)),
        interface: unspanned(POD_INTERFACE.to_owned()),
        vni: unspanned(pod.vni),
        mac: pod.mac.map(unspanned),
        addresses: unspanned(pod.addresses.clone()),
        mtu: pod.mtu.map(unspanned),
        mode: pod.mode,
        learn_limit: unspanned(LEARN_LIMIT),
    }
}

pub(crate) fn tunnel_address(spec: &LabSpec, index: usize) -> Option<IpAddr> {
    spec.node_address(index, spec.underlay.family).map(|net| net.addr())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::ControlSpec;

    const LAB: &str = "
        encapsulation: geneve
        underlay: {family: ipv6}
        nodes:
          - {name: n1, pods: [{name: a, vni: 1, addresses: [10.0.0.1/24], mac: '02:00:00:00:00:01', mtu: 1400},
                              {name: b, vni: 2, mode: learning}]}
          - {name: n2, pods: [{name: c, vni: 1}, {name: d, vni: 3}]}
          - {name: n3, pods: [{name: e, vni: 3}]}
          - {name: n4}
          - {name: k, kind: kernel-vxlan, encapsulation: vxlan, pods: [{name: f, vni: 3}]}
    ";

    fn rendered(control: ControlSpec, index: usize) -> file::File {
        let mut spec = LabSpec::parse(LAB, "lab.yaml").unwrap();
        spec.control = control;
        let text = render(&"t".parse().unwrap(), &spec, index, Path::new("/run/x"), "/x").unwrap();
        toml::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    fn peers(file: &file::File) -> Vec<String> {
        file.vteps.iter().map(|vtep| vtep.address.get_ref().to_string()).collect()
    }

    #[test]
    fn without_a_store_a_node_knows_the_nodes_it_shares_a_network_with() {
        let n1 = rendered(ControlSpec::None, 0);
        assert_eq!(n1.node.as_ref().map(|node| node.get_ref().as_str()), Some("n1"));
        assert_eq!(n1.underlay.addresses.get_ref(), &["fd99::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(n1.vnis.iter().map(|vni| vni.id.get_ref().get()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(peers(&n1), ["fd99::2"]);
        assert_eq!(n1.vteps[0].encapsulation, file::Encapsulation::Geneve);
        assert_eq!(n1.vteps[0].vnis.get_ref(), &[Vni::new(1).unwrap()]);
        assert!(n1.control.is_none());
        assert_eq!(peers(&rendered(ControlSpec::None, 1)), ["fd99::1", "fd99::3", "fd99::5"]);
        let n4 = rendered(ControlSpec::None, 3);
        assert_eq!((n4.vteps.len(), n4.vnis.len()), (0, 0));
    }

    #[test]
    fn with_a_store_a_node_is_told_only_of_those_that_publish_nothing() {
        for (control, prefix) in [(ControlSpec::Embedded, "/x"), (ControlSpec::Etcd(vec!["10.0.0.1:1".into()]), "/x")] {
            let n2 = rendered(control, 1);
            assert_eq!(peers(&n2), ["fd99::5"]);
            assert_eq!(n2.vteps[0].encapsulation, file::Encapsulation::Vxlan);
            let told = n2.control.unwrap();
            assert_eq!(told.stores.get_ref(), &["http://10.199.0.254:2379"]);
            assert_eq!((told.prefix.get_ref().as_str(), told.encapsulation), (prefix, file::Encapsulation::Geneve));
        }
    }

    #[test]
    fn a_port_is_what_the_pod_asked_for() {
        let ports = rendered(ControlSpec::Embedded, 0).ports;
        assert_eq!((ports[0].name.get_ref().as_str(), ports[0].netns.get_ref().as_str()), ("a", "t.a"));
        assert_eq!(ports[0].mtu.as_ref().map(|mtu| *mtu.get_ref()), Some(1400));
        assert_eq!(ports[0].mac.as_ref().map(|mac| mac.get_ref().to_string()), Some("02:00:00:00:00:01".to_owned()));
        assert_eq!(ports[0].addresses.get_ref(), &["10.0.0.1/24".parse::<ipnet::IpNet>().unwrap()]);
        assert_eq!((ports[1].mode, &ports[1].mac), (file::PortMode::Learning, &None));
    }
}
