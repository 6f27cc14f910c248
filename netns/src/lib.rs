//! Network namespaces and the links in them, by netlink.
