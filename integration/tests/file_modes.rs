//! Who may use what an agent leaves on its node: as docs/security.md says.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use weft_api::PodInterface;
use weft_integration::{Cluster, CniCall, CniNetwork, eventually, site};

const PERMISSIONS: u32 = 0o7777;

/// Names of the page's rows that have a mode, with that.
fn rows(page: &str) -> Vec<(String, u32)> {
    let section = page.split("\n## On the node\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let row = |line: &str| {
        let mut cells = line.strip_prefix("| `")?.split('|');
        let name = cells.next()?.split('`').next()?.to_owned();
        let mode = cells.next()?.trim().get(..4)?;
        Some((name, u32::from_str_radix(mode, 8).ok()?))
    };
    section.lines().filter_map(row).collect()
}

#[test]
fn sockets_and_files_are_for_the_agents_user_alone() {
    let cluster = Cluster::<1>::new(site!("ip"));
    let run_dir = cluster.run_dir(0);
    let agent = cluster.config(0).with_keeper().start();
    let pod = cluster.site().host("a");
    let netns = format!("/run/netns/{}", pod.netns().label());
    let _ = CniNetwork::new(&cluster.nodes[0], &run_dir).add(&CniCall::new("c", &netns));
    let gone = PodInterface { network: "weft".into(), container: "gone".into(), interface: "eth0".into() };
    let noted = weft_api::spool::put(&run_dir, &gone).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & PERMISSIONS;

    let page = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/security.md")).unwrap();
    let rows = rows(&page);
    let names: Vec<&str> = rows.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["agent.sock", "keeper.sock", "pods.json", "spool/"]);
    for (name, expected) in &rows {
        // The keeper is a process of its own, and begins a little later.
        let path = run_dir.join(name);
        eventually(name, || if path.exists() { Ok(()) } else { Err(agent.log()) });
        let seen = mode(&path);
        assert_eq!(seen, *expected, "{name} has mode {seen:04o}\n{}", agent.log());
    }
    assert_eq!(mode(&noted), 0o600);
    // Nothing else there may be written by others.
    for entry in fs::read_dir(&run_dir).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path) & 0o022, 0, "{}", path.display());
    }
}
