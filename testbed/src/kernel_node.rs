//! Nodes whose pods are joined by the kernel's own VXLAN: for each virtual network a bridge with the VXLAN device
//! and the pods' cables.

use weft_encap::Vni;

use crate::agent_config::tunnel_address;
use crate::spec::{NODE_INTERFACE, NodeKind, NodeSpec, POD_INTERFACE};
use crate::{Lab, LabError, Progress};

/// UDP port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

impl Lab {
    /// Makes tunnels and pods of every node that is the kernel's.
    pub(crate) fn make_kernel_nodes(&self, progress: &mut dyn FnMut(Progress<'_>)) -> Result<(), LabError> {
        let nodes = self.spec().nodes.iter().enumerate();
        for (index, node) in nodes.filter(|(_, node)| node.kind == NodeKind::KernelVxlan) {
            for vni in node.vnis() {
                self.make_tunnel(index, node, vni)?;
            }
            self.connect_pods(node)?;
            progress(Progress::NodeMade { node: &node.name });
        }
        Ok(())
    }

    fn make_tunnel(&self, index: usize, node: &NodeSpec, vni: Vni) -> Result<(), LabError> {
        let (vxlan, bridge) = (format!("vx{vni}"), format!("br{vni}"));
        let Some(local) = tunnel_address(self.spec(), index) else { return Ok(()) };
        let others = self.spec().nodes.iter().enumerate().filter(|(other, _)| *other != index);
        let peers = others.filter(|(_, peer)| peer.vnis().contains(&vni));
        let remotes: Vec<_> = peers.filter_map(|(other, _)| tunnel_address(self.spec(), other)).collect();
        Ok(self.netns(&node.name)?.links(|links| {
            links.add_vxlan(&vxlan, vni, local, VXLAN_PORT, NODE_INTERFACE)?;
            remotes.iter().try_for_each(|remote| links.flood_to(&vxlan, *remote))?;
            links.add_bridge(&bridge)?;
            links.set_master(&vxlan, &bridge)?;
            links.set_up(&vxlan)?;
            links.set_up(&bridge)
        })?)
    }

    fn connect_pods(&self, node: &NodeSpec) -> Result<(), LabError> {
        let netns = self.netns(&node.name)?;
        for (index, pod) in node.pods.iter().enumerate() {
            let (inside, port) = (self.netns(&pod.name)?, format!("pod{index}"));
            let (vxlan, bridge) = (format!("vx{}", pod.vni), format!("br{}", pod.vni));
            let mtu = netns.links(|links| {
                let fitting = links.get(&vxlan)?.map_or(0, |vxlan| vxlan.mtu);
                let mtu = pod.mtu.map_or(fitting, u32::from);
                links.add_veth(&port, POD_INTERFACE, &inside)?;
                links.set_mtu(&port, mtu)?;
                links.set_master(&port, &bridge)?;
                links.set_up(&port)?;
                Ok(mtu)
            })?;
            inside.links(|links| {
                links.set_mtu(POD_INTERFACE, mtu)?;
                pod.mac.map_or(Ok(()), |mac| links.set_mac(POD_INTERFACE, mac))?;
                links.set_up(POD_INTERFACE)?;
                links.set_addresses(POD_INTERFACE, &pod.addresses)
            })?;
        }
        Ok(())
    }
}
