//! Labs of network namespaces: nodes, pods and links.
