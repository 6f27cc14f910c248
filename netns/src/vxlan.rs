//! The kernel's own VXLAN devices.

use std::net::IpAddr;

use futures_util::StreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::neighbour::NeighbourFlags;
use rtnetlink::{LinkMessageBuilder, LinkVxlan};
use weft_encap::{MacAddr, Vni};

use crate::links::{Step, check_name};
use crate::{LinkError, Links};

impl Links {
    /// Makes a VXLAN device that sends from an address of `dev`, to and from this UDP port. It is down, and its MTU
    /// is what fits through `dev`.
    ///
    /// # Errors
    /// [`LinkError`], also where the name or the VNI is taken, and on kernels without VXLAN.
    pub fn add_vxlan(&mut self, name: &str, vni: Vni, local: IpAddr, port: u16, dev: &str) -> Result<(), LinkError> {
        check_name(name)?;
        let step = Step { operation: "add VXLAN device", interface: name };
        let below = self.index(Step { operation: "add a VXLAN device to", interface: dev })?;
        let message = LinkMessageBuilder::<LinkVxlan>::new(name).id(vni.get()).dev(below).port(port);
        let message = match local {
            IpAddr::V4(local) => message.local(local),
            IpAddr::V6(local) => message.local6(local),
        };
        let request = self.handle.link().add(message.build());
        self.wait(step, request.execute())
    }

    /// Has a VXLAN device send what is for all, or for nobody known, to that address too.
    ///
    /// # Errors
    /// [`LinkError`].
    pub fn flood_to(&mut self, vxlan: &str, remote: IpAddr) -> Result<(), LinkError> {
        let step = Step { operation: "add a remote to", interface: vxlan };
        let index = self.index(step)?;
        // The device itself keeps the entry (NTF_SELF), not a bridge it may belong to.
        let request = self.handle.neighbours().add_bridge(index, &MacAddr::ZERO.0);
        let mut request = request.destination(remote).flags(NeighbourFlags::Own);
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(request.message_mut().clone()));
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_APPEND;
        let mut handle = self.handle.clone();
        let asked = async move {
            let mut answers = handle.request(message)?;
            while let Some(answer) = answers.next().await {
                if let NetlinkPayload::Error(error) = answer.payload
                    && error.code.is_some()
                {
                    return Err(rtnetlink::Error::NetlinkError(error));
                }
            }
            Ok(())
        };
        self.wait(step, asked)
    }
}
