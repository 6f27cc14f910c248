//! Nodes, pods and real peers for the tests in `tests/`.
//!
//! Everything here panics where something fails: a test whose set-up fails has failed. What a test makes is
//! gone when its [`Site`] is dropped; what a killed test left, the next one removes.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod agent;
mod bytes;
mod capture;
mod child;
mod cluster;
mod cni;
mod config;
mod container_image;
mod containerd;
mod cri;
mod datagrams;
mod dissect;
mod host;
mod kernel;
mod lab;
mod laws;
mod numbered;
mod overlay;
mod ovs;
mod packet;
mod podman;
mod probe;
mod require;
mod site;
mod skip;
mod steady;
mod store;
mod sys;
mod takeover;
mod wait;
mod weft;

pub use agent::{AgentNode, Refused};
pub use bytes::{
    ETHERNET_LEN, End, Geneve, arp_request, ethernet, mac_of, random_bytes, tagged, udp_over_ipv4, udp_over_ipv6, vxlan,
};
pub use capture::{Capture, Frame, keep_as_taps, keep_as_vectors};
pub use child::{Child, Output};
pub use cluster::Cluster;
pub use cni::{CniCall, CniDirectories, CniNetwork, addresses_of, weft_cni};
pub use config::AgentConfig;
pub use container_image::{BOX_FILE, BOX_IMAGE, BOX_SERVER, fetch_box_file, pack_box_image, put_busybox};
pub use containerd::Containerd;
pub use cri::{Cri, Sandbox};
pub use datagrams::{exchange, exchange_fragmentable, exchange_superframes, passes, send_superframe};
pub use dissect::{PAYLOAD_PORTS, Packet, dissect, dissect_vectors};
pub use host::Host;
pub use kernel::{KernelNode, KernelTunnel};
pub use lab::CommandLab;
pub use numbered::{Numbered, NumberedFlow};
pub use overlay::Overlay;
pub use ovs::OvsNode;
pub use packet::PacketSocket;
pub use podman::Podman;
pub use probe::{GIB, MIB, ping_all, stream, streams};
pub use require::{Requirement, unmet};
pub use site::{Node, Site, WIRE};
pub use steady::SteadyStream;
pub use store::{StoreClients, StoreKind, StoreNode};
pub use sys::{receive_buffer, segment_size};
pub use takeover::{Between, Conversation, Message};
pub use wait::{BOUND, eventually, within};
pub use weft::weft;
pub use weft_control::config::file::UnderlayKind;
pub use weft_encap::{Encapsulation, MacAddr};
pub use weft_testbed::Family;
