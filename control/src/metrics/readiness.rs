use std::time::Duration;

use super::Snapshot;

/// How long peers that never answered a probe may keep an agent from being ready: as long as the first rounds of
/// probes take on a slow path. Who is silent for longer is dead, or does not echo probes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an agent is not ready; nothing where it is.
///
/// Ready means: every port has its device, and a probe of full length was answered by a managed peer that is alive, if
/// there is one. So one dead peer, or all of them, keeps no agent from being ready; paths that carry no packets of
/// full length do. Whether the store is there does not matter: forwarding goes on without it.
#[must_use]
pub fn readiness(snapshot: &Snapshot) -> Vec<String> {
    let starts = (!snapshot.has_started).then(|| "the agent is starting".to_owned());
    let lost = snapshot.ports.iter().filter(|row| row.state != "forwarding");
    let lost = lost.map(|row| format!("port `{}` is {}", row.name, row.state));
    starts.into_iter().chain(lost).chain(no_path(snapshot)).collect()
}

fn no_path(snapshot: &Snapshot) -> Option<String> {
    let in_state = |wanted: &'static str| {
        let managed = snapshot.vteps.iter().filter(|row| row.kind == "managed");
        managed.filter(move |row| row.path == wanted).map(|row| row.address.as_str())
    };
    let named = |states: [&'static str; 2]| {
        let vteps: Vec<_> = states.into_iter().flat_map(in_state).collect();
        (!vteps.is_empty()).then(|| vteps.join(", "))
    };
    if in_state("up").next().is_some() {
        return None;
    }
    if let Some(vteps) = named(["searching", "black hole"]) {
        return Some(format!("no probe of full length was answered yet, though these are alive: {vteps}"));
    }
    let young = Duration::from_secs(snapshot.status.uptime_seconds) < PATIENCE;
    let vteps = named(["unprobed", "unprobed"]).filter(|_| young)?;
    Some(format!("no probe was answered yet by {vteps}"))
}

#[cfg(test)]
mod tests {
    use weft_api::{PortRow, VtepRow};

    use super::*;

    fn port(state: &str) -> PortRow {
        let row = serde_json::json!({
            "name": "web", "vni": 1, "interface": "eth0", "netns": "web", "mac": "02:00:00:00:00:01", "addresses": [],
            "mtu": 1450, "mode": "bound", "state": state, "udp_superframes": true, "offloads": [], "learned": 0,
            "rx_frames": 0, "rx_bytes": 0, "tx_frames": 0, "tx_bytes": 0, "drops": 0, "kernel_tx_dropped": null,
        });
        serde_json::from_value(row).unwrap()
    }

    fn vtep(address: &str, kind: &str, path: &str) -> VtepRow {
        let row = serde_json::json!({
            "address": address, "port": 4789, "encapsulation": "vxlan", "kind": kind, "pod_mtu": 1450, "path": path,
            "path_mtu": null, "path_rtt_us": null, "vnis": [1], "learned": 0,
            "rx_frames": 0, "rx_bytes": 0, "tx_frames": 0, "tx_bytes": 0, "drops": 0,
        });
        serde_json::from_value(row).unwrap()
    }

    fn reasons(uptime_seconds: u64, ports: &[&str], vteps: &[(&str, &str)]) -> Vec<String> {
        let mut snapshot = Snapshot { has_started: true, ..Snapshot::default() };
        snapshot.status.uptime_seconds = uptime_seconds;
        snapshot.ports = ports.iter().map(|state| port(state)).collect();
        let address = |place: usize| format!("192.0.2.{}", place + 1);
        let rows = vteps.iter().enumerate().map(|(place, (kind, path))| vtep(&address(place), kind, path));
        snapshot.vteps = rows.collect();
        readiness(&snapshot)
    }

    #[test]
    fn a_lost_port_keeps_an_agent_from_being_ready() {
        assert_eq!(reasons(9, &["forwarding"], &[]), [""; 0]);
        assert_eq!(reasons(9, &["forwarding", "lost: gone"], &[]), ["port `web` is lost: gone"]);
    }

    #[test]
    fn an_agent_that_starts_is_not_ready() {
        assert_eq!(readiness(&Snapshot::default()), ["the agent is starting"]);
    }

    #[test]
    fn one_dead_peer_blocks_nobody_and_neither_do_all() {
        assert_eq!(reasons(0, &[], &[("managed", "down"), ("managed", "up")]), [""; 0]);
        assert_eq!(reasons(0, &[], &[("managed", "unprobed"), ("managed", "up")]), [""; 0]);
        assert_eq!(reasons(9, &[], &[("managed", "down"), ("managed", "unprobed")]), [""; 0]);
    }

    #[test]
    fn a_live_path_has_to_carry_a_probe_of_full_length() {
        for state in ["searching", "black hole"] {
            let told = reasons(900, &[], &[("managed", state), ("managed", "down")]);
            assert_eq!(told.len(), 1, "{state}");
            assert!(told[0].ends_with("192.0.2.1"), "{}", told[0]);
        }
        assert_eq!(reasons(0, &[], &[("managed", "unprobed")]).len(), 1, "it had no time yet");
    }

    #[test]
    fn peers_that_need_not_echo_are_not_waited_for() {
        assert_eq!(reasons(0, &[], &[("foreign", "unprobed"), ("foreign", "down")]), [""; 0]);
        assert_eq!(reasons(0, &[], &[("managed", "off")]), [""; 0]);
    }
}
