//! `weft show flows`: the flow that carries most comes first, on both nodes that it crosses.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use weft_integration::{Child, CommandLab, Requirement, test_name, unmet};
use weft_testbed::Lab;

const TOOLS: [Requirement; 2] = [Requirement::Root, Requirement::Tool("ping")];
const SERVER: (&str, u16) = ("10.244.2.2", 5201);

/// The flows of a node, from `weft show flows --json`.
fn flows(lab: &CommandLab, node: &str) -> Vec<Value> {
    let place = format!("{}.{node}", lab.name());
    let sample: Value = serde_json::from_str(&lab.run(&["show", "flows", "--json", "--node", &place])).unwrap();
    let seconds = sample["seconds"].as_f64().unwrap();
    assert!((1.0..10.0).contains(&seconds), "{seconds} s");
    sample["flows"].as_array().unwrap().clone()
}

#[test]
fn the_bulk_flow_comes_first() {
    if unmet(test_name!(), &TOOLS) {
        return;
    }
    let lab = CommandLab::up("two-node.yaml");
    let opened = Lab::open(&lab.name().parse().unwrap()).unwrap();
    let listener = opened.netns("c").unwrap().run(|| TcpListener::bind(SERVER)).unwrap().unwrap();
    let mut client = opened.netns("a").unwrap().run(|| TcpStream::connect(SERVER)).unwrap().unwrap();
    let (mut server, _) = listener.accept().unwrap();
    let source_port = client.local_addr().unwrap().port();
    let mut ping = opened.command("b", &["ping", "-q", "-i", "0.1", "10.244.2.3"]).unwrap();
    ping.stdout(std::process::Stdio::null());
    let _pings = Child::spawn(ping);
    let over = AtomicBool::new(false);
    let place = format!("{}.n1", lab.name());
    let (sent, received, in_words) = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                client.write_all(&[7; 1 << 16]).unwrap();
            }
            client.shutdown(std::net::Shutdown::Write).unwrap();
        });
        scope.spawn(|| std::io::copy(&mut server, &mut std::io::sink()).unwrap());
        let told = std::panic::catch_unwind(|| {
            (flows(&lab, "n1"), flows(&lab, "n2"), lab.run(&["show", "flows", "--node", &place]))
        });
        over.store(true, Ordering::Relaxed);
        told.unwrap()
    });
    let key = json!({
        "source": "10.244.1.2", "destination": SERVER.0, "protocol": 6,
        "source_port": source_port, "destination_port": SERVER.1,
    });
    for (node, flows, from, to) in [("n1", &sent, "a", "10.199.0.2"), ("n2", &received, "10.199.0.1", "c")] {
        let (first, others) = flows.split_first().unwrap();
        assert_eq!(first["flow"], key, "{node}: {flows:#?}");
        assert_eq!((&first["vni"], &first["from"], &first["to"]), (&json!(100), &json!(from), &json!([to])), "{node}");
        let bytes = |flow: &Value| flow["bytes"].as_u64().unwrap();
        assert!(bytes(first) > 1 << 20 && bytes(first) > others.iter().map(bytes).sum(), "{node}: {flows:#?}");
        let protocols: Vec<&Value> = others.iter().map(|flow| &flow["flow"]["protocol"]).collect();
        assert!(protocols.contains(&&json!(1)), "{node}: the pings are a flow as well: {flows:#?}");
    }
    let mut lines = in_words.lines();
    assert!(lines.next().unwrap().starts_with("FLOW "), "{in_words}");
    let first = format!("10.244.1.2:{source_port} > 10.244.2.2:5201 TCP ");
    assert!(lines.next().unwrap().starts_with(&first), "{in_words}");
}
