//! Tests across namespaces, with real peers.
