//! Labs: nodes, pods and the links between them, made of network namespaces on one machine.
//!
//! [`LabSpec`] is what a lab file says, [`Lab`] is what is made of it. Nothing here prints: what is being
//! done goes to a callback as [`Progress`], and what went wrong is an error that says what to do.

mod agent;
mod agent_config;
mod capture;
mod check;
mod cluster;
mod commands;
mod connect;
mod down;
mod draw;
mod error;
mod file;
mod journal;
mod kernel_node;
mod lab;
pub mod link;
mod live;
mod neighbours;
mod node;
pub mod pcapng;
pub mod probe;
mod problem;
mod process;
mod progress;
pub mod script;
mod spec;
pub mod store;
mod svg;
mod topology;
mod up;

pub use agent::{READY, READY_FD};
pub use capture::Capture;
pub use draw::draw;
pub use error::LabError;
pub use journal::LABS_DIR;
pub use lab::{AgentState, Lab, LabLog, LabState, LabStatus, NodeStatus};
pub use live::Live;
pub use node::{NodeEvent, NodeEventError};
pub use problem::{LAB_FILE_MAX, LabFileError, Problem, Problems};
pub use progress::Progress;
pub use spec::{
    ControlSpec, Encapsulation, Family, LAB_NAME_MAX, LabName, LabNameError, LabSpec, NODE_NAME_MAX, NODES_MAX,
    NodeKind, NodeSpec, POD_ADDRESSES_MAX, POD_NAME_MAX, PODS_MAX, PodSpec, PortMode, ROUTER_NAME_MAX, RouterSpec,
    SEGMENTS_MAX, SegmentSpec, UnderlaySpec, VniSpec,
};
pub use svg::draw_svg;
pub use up::UpOptions;
