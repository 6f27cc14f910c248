//! Labs: nodes, pods and the links between them, made of network namespaces on one machine.

mod check;
mod file;
mod problem;
mod spec;

pub use problem::{LAB_FILE_MAX, LabFileError, Problem, Problems};
pub use spec::{
    Encapsulation, Family, LAB_NAME_MAX, LabName, LabNameError, LabSpec, NODE_NAME_MAX, NODES_MAX, NodeSpec,
    POD_ADDRESSES_MAX, POD_NAME_MAX, PODS_MAX, PodSpec, PortMode, UnderlaySpec, VniSpec,
};
