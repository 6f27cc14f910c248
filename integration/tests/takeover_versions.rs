//! Agents that take over from one of the version before, or give to it: played by a test that knows what that one says.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use serde_json::{Value, json};
use weft_integration::{
    AgentNode, Between, Cluster, CniCall, CniNetwork, Conversation, Host, Message, NumberedFlow, SteadyStream,
    addresses_of, eventually, site,
};

/// The version of what is handed over, and the one before.
const NOW: u32 = 2;
const BEFORE: u32 = 1;
/// Datagrams a second.
const PACKETS: u32 = 2_000;
/// Bytes a second.
const STREAM_RATE: u32 = 2_000_000;

/// What an agent of the version before says when it is asked for everything, in this order; some of it may be missing.
const PARTS: [&str; 9] = ["ground", "port", "receivers", "senders", "uplink", "metrics", "run", "state", "all"];

/// A value with these fields alone, all of which are there.
#[track_caller]
fn only(value: &Value, fields: &[&str]) -> Value {
    let pick = |field: &&str| {
        let found = value.get(field).unwrap_or_else(|| panic!("no `{field}` in {value}"));
        ((*field).to_owned(), found.clone())
    };
    Value::Object(fields.iter().map(pick).collect())
}

fn each(values: &Value, fields: &[&str]) -> Value {
    values.as_array().unwrap().iter().map(|value| only(value, fields)).collect()
}

/// What an agent of the version before would have written, that knows the same.
fn as_before(state: &Value) -> Value {
    let cluster = &state["cluster"];
    json!({
        "vteps": each(&state["vteps"], &["address", "pod_mtu", "ungrouped", "hop"]),
        "learned": each(&state["learned"], &["vni", "mac", "age", "behind"]),
        "cluster": {
            "prefix": cluster["prefix"].as_str().unwrap(),
            "revision": cluster["revision"].as_i64().unwrap(),
            "rows": each(&cluster["rows"], &["key", "value", "created", "modified", "lease"]),
        },
    })
}

/// The same message, as an agent of the version before says it.
fn said_before(message: Message) -> Message {
    let about = message.about().to_owned();
    match about.as_str() {
        "ground" => Message::of(json!({
            "ground": only(&message.said["ground"], &["node", "workers", "listen", "zero_checksums_over_ipv6"])
        })),
        "port" => Message { said: json!({ "port": only(&message.said["port"], &["name"]) }), ..message },
        "state" => {
            let state = as_before(&message.file());
            message.with_file(&state)
        }
        _ => message,
    }
}

/// Two nodes of a cluster with a pod each, of which the first has a keeper; all of it is in their stores' rows.
struct Pair {
    cluster: Cluster<2>,
    agents: [AgentNode; 2],
    pods: [Host; 2],
    addresses: [String; 2],
}

impl Pair {
    fn new(cluster: Cluster<2>) -> Self {
        let agents = [0, 1].map(|own| cluster.config(own).with_keeper().start());
        agents.iter().for_each(|agent| agent.wait_for_endpoints(2));
        let pods = ["a", "b"].map(|name| cluster.site().host(name));
        let addresses = [0, 1].map(|own| {
            let path = format!("/run/netns/{}", pods[own].netns().label());
            let network = CniNetwork::new(&cluster.nodes[own], &cluster.run_dir(own));
            addresses_of(&network.add(&CniCall::new(pods[own].name(), &path))).remove(0)
        });
        agents.iter().for_each(|agent| agent.wait_for_endpoints(4));
        Self { cluster, agents, pods, addresses }
    }

    fn flows(&self) -> [NumberedFlow; 2] {
        let flows = [(0, 1), (1, 0)].map(|(from, to): (usize, usize)| {
            NumberedFlow::start(&self.pods[from], &self.pods[to], &self.addresses[to], PACKETS)
        });
        flows.iter().for_each(|flow| wait_for_more(flow, 200));
        flows
    }
}

fn wait_for_more(flow: &NumberedFlow, count: u64) {
    let before = flow.received();
    eventually("the flow goes on", || {
        let now = flow.received();
        if now >= before + count { Ok(()) } else { Err(format!("{now} after {before}")) }
    });
}

#[track_caller]
fn assert_whole(flows: [NumberedFlow; 2]) {
    for flow in flows.map(NumberedFlow::finish) {
        assert!(flow.sent > 0 && (flow.lost, flow.late) == (0, 0), "{flow:?}");
    }
}

/// An agent of the version before, as far as a successor notices: it refuses what it does not know, and gives what the agent
/// has that stands behind it, in its own words.
fn play_the_version_before(between: &Between) {
    let newer = between.welcome();
    let hello = newer.hear().unwrap().said;
    assert_eq!(hello["hello"]["state"], json!(NOW), "its own version first");
    newer.say(&Message::of(json!({ "refused": { "why": format!(
        "it reads state version {BEFORE} (weft 0.1.0), and the new process state version {NOW} (weft 0.1.0): stop the one and \
         start the other; pods keep their links meanwhile"
    ) } })));
    let (successor, agent) = (between.welcome(), between.agent());
    let hello = successor.hear().unwrap();
    assert_eq!(hello.said["hello"]["state"], json!(BEFORE));
    agent.say(&hello);
    let mut rows = 0;
    for message in agent.hear_all() {
        let message = said_before(message);
        if message.about() == "state" {
            rows = message.file()["cluster"]["rows"].as_array().unwrap().len();
        }
        successor.say(&message);
    }
    assert!(rows >= 4, "two nodes and their endpoints: {rows}");
    for wanted in ["quiesced", "committed"] {
        agent.say(&successor.hear().unwrap());
        let answer = agent.hear().unwrap();
        assert_eq!(answer.about(), wanted);
        successor.say(&answer);
    }
    assert!(agent.hear().is_none(), "it ends");
}

#[test]
fn an_agent_takes_over_from_one_of_the_version_before() {
    let mut pair = Pair::new(Cluster::<2>::new(site!()));
    let flows = pair.flows();
    let stream = SteadyStream::start(&pair.pods[0], &pair.pods[1], &pair.addresses[1], STREAM_RATE);
    // What it knows of the cluster then, it knows by what it is given.
    pair.cluster.kill_store();
    eventually("the agent misses its store", || {
        let state = pair.agents[0].status().control.unwrap().state;
        if state == "stale" { Ok(()) } else { Err(state) }
    });
    let between = Between::new(pair.agents[0].run_dir());
    let config = pair.cluster.config(0).with_keeper();
    let next = std::thread::scope(|scope| {
        scope.spawn(|| play_the_version_before(&between));
        config.take_over()
    });
    let next = next.unwrap_or_else(|refused| panic!("{}\n{}", refused.message, pair.agents[0].log()));
    std::mem::replace(&mut pair.agents[0], next).handed_over();
    drop(between);
    let control = pair.agents[0].status().control.unwrap();
    assert_eq!((control.nodes, control.endpoints), (2, 4), "{control:?}");
    wait_for_more(&flows[0], 200);
    let bytes = stream.bytes();
    eventually("the stream goes on", || if stream.bytes() > bytes { Ok(()) } else { Err(String::new()) });
    drop(stream);
    assert_whole(flows);
    // It is an agent as any other: the next takes over from it in their own version.
    pair.cluster.start_store();
    let flows = pair.flows();
    let next = config.take_over().unwrap();
    std::mem::replace(&mut pair.agents[0], next).handed_over();
    wait_for_more(&flows[1], 200);
    assert_whole(flows);
    pair.agents.into_iter().for_each(AgentNode::finish);
}

#[test]
fn an_agent_gives_to_one_of_the_version_before_and_to_none_before_that() {
    let pair = Pair::new(Cluster::<2>::new(site!()));
    let agent = &pair.agents[0];
    let flows = pair.flows();
    let went_on = |count: usize| {
        eventually("the agent goes on", || {
            let log = agent.log();
            if log.matches("this agent goes on").count() == count { Ok(()) } else { Err(log) }
        });
        wait_for_more(&flows[0], 200);
        wait_for_more(&flows[1], 200);
    };
    let hello = |state: u32| Message::of(json!({ "hello": { "state": state, "version": "older" } }));
    let successor = Conversation::with_agent(agent.run_dir());
    successor.say(&hello(BEFORE));
    let said = successor.hear_all();
    let about: Vec<&str> = said.iter().map(Message::about).collect();
    assert!(about.iter().all(|one| PARTS.contains(one)) && about.last() == Some(&"all"), "{about:?}");
    let descriptors = |wanted: &str| -> Vec<usize> {
        let found = said.iter().filter(|message| message.about() == wanted);
        found.map(|message| message.descriptors.len()).collect()
    };
    // The node's own port and its pod's, one queue each.
    assert_eq!((descriptors("port"), descriptors("run"), descriptors("state")), (vec![1, 1], vec![3], vec![1]));
    let state = said.iter().find(|message| message.about() == "state").unwrap().file();
    let before = as_before(&state);
    assert_eq!(before["vteps"].as_array().unwrap().len(), 1, "{state}");
    assert!(before["cluster"]["rows"].as_array().unwrap().len() >= 4, "{state}");
    successor.say(&Message::of(json!("quiesce")));
    assert_eq!(successor.hear().unwrap().about(), "quiesced");
    // It ends before it says the last word, as one does that finds out late that it cannot go on.
    drop((successor, said));
    went_on(1);
    let older = Conversation::with_agent(agent.run_dir());
    older.say(&hello(BEFORE - 1));
    let refusal = older.hear().unwrap();
    let why = refusal.said["refused"]["why"].as_str().unwrap_or_default().to_owned();
    for word in ["state version 2 and the one before", "asks for state version 0", "weft older", "stop the one"] {
        assert!(why.contains(word), "{refusal:?}");
    }
    assert!(older.hear().is_none());
    wait_for_more(&flows[0], 200);
    assert_whole(flows);
    pair.agents.into_iter().for_each(AgentNode::finish);
}
