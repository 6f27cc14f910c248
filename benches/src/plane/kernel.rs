//! What the kernel has itself.

use std::net::IpAddr;

use weft_encap::Vni;

use super::{OVERHEAD, VNI, connect};
use crate::BenchError;
use crate::stage::{INTERFACE, Stage};

const BRIDGE: &str = "br0";
const TUNNEL: &str = "vx0";
/// UDP port of VXLAN (RFC 7348 section 5).
const VXLAN_PORT: u16 = 4789;

/// Bridges with the cable as a port.
pub(super) fn bridge(stage: &Stage) -> Result<(), BenchError> {
    for node in [0, 1] {
        stage.node(node).links(|links| {
            links.add_bridge(BRIDGE)?;
            links.set_master(INTERFACE, BRIDGE)?;
            links.set_up(BRIDGE)
        })?;
    }
    connect_pods(stage, stage.cable().mtu)
}

/// Bridges with a VXLAN device as a port, which floods to the other node and learns.
pub(super) fn vxlan(stage: &Stage) -> Result<(), BenchError> {
    for node in [0, 1] {
        let (local, remote) = (IpAddr::from(stage.vtep(node)), IpAddr::from(stage.vtep(1 - node)));
        stage.node(node).links(|links| {
            // Its outer checksums are on unless somebody says otherwise, as Weft's are.
            links.add_vxlan(TUNNEL, Vni::new(VNI).unwrap_or(Vni::MAX), local, VXLAN_PORT, INTERFACE)?;
            links.flood_to(TUNNEL, remote)?;
            links.add_bridge(BRIDGE)?;
            links.set_master(TUNNEL, BRIDGE)?;
            links.set_up(TUNNEL)?;
            links.set_up(BRIDGE)
        })?;
    }
    connect_pods(stage, stage.cable().mtu - OVERHEAD)
}

fn connect_pods(stage: &Stage, mtu: u16) -> Result<(), BenchError> {
    for (index, pod) in stage.pods().iter().enumerate() {
        let port = connect(stage, index, mtu)?;
        stage.node(pod.node).links(|links| links.set_master(&port, BRIDGE))?;
    }
    Ok(())
}
