//! Labs by the command line alone, with the agents that they start: what the README shows.

use weft_integration::{CommandLab, Requirement, eventually, test_name, unmet};

#[test]
fn iperf3_and_ping_between_the_pods_of_a_lab() {
    let tools = ["ip", "ping", "iperf3"].map(Requirement::Tool);
    if unmet(test_name!(), &[&[Requirement::Root][..], &tools].concat()) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    for to in ["10.244.1.3", "10.244.2.2", "fd00:244::2:3"] {
        let told = lab.exec("a", &["ping", "-c", "5", "-i", "0.05", to]);
        assert!(told.contains(" 0% packet loss"), "{told}");
    }
    lab.exec("c", &["iperf3", "--server", "--one-off", "--daemon"]);
    // A daemon of iperf3 goes into the background before it listens.
    let client = ["testbed", "exec", lab.name(), "a", "--", "iperf3", "-c", "10.244.2.2", "-n", "64M", "--json"];
    let told = eventually("iperf3 answers", || {
        let output = CommandLab::try_run(&client);
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() { Ok(told) } else { Err(told) }
    });
    let report: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert!(report["end"]["sum_received"]["bytes"].as_u64() >= Some(60_000_000), "{told}");

    let node = format!("{}.n1", lab.name());
    let fdb: serde_json::Value = serde_json::from_str(&lab.run(&["show", "fdb", "--node", &node, "--json"])).unwrap();
    let published = |row: &&serde_json::Value| row["kind"] == "static" && row["node"] == "n2";
    assert_eq!(fdb.as_array().unwrap().iter().filter(published).count(), 2, "{fdb}");
    assert!(lab.run(&["testbed", "list"]).contains(&node));

    lab.run(&["testbed", "down", lab.name()]);
    assert!(!lab.run(&["testbed", "list"]).contains(&node));
    let gone = CommandLab::try_run(&["testbed", "down", lab.name()]);
    assert!(!gone.status.success() && String::from_utf8_lossy(&gone.stderr).contains("no lab named"), "{gone:?}");
}
