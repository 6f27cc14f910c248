//! A lab whose agents are killed and started again by the dice, while its pods talk: at every rest all agents know the same,
//! every pod reaches every other, and nothing stale is left; and between two nodes to which nothing happened, nothing was
//! ever lost. With a store of the lab's own and with etcd alike.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use weft_integration::{BOUND, Child, CommandLab, Requirement, StoreKind, StoreNode, test_name, unmet, weft};

/// Agents, where nothing else is asked for.
const AGENTS: usize = 10;
/// How long each store is tried, where nothing else is asked for, in seconds. A rest that has begun is finished.
const SECONDS: u64 = 12;
/// The first roll, where nothing else is asked for: the same in every run, so that a red one speaks of the change.
const SEED: u64 = 24_558;
/// Steps between two rests.
const STEPS: usize = 6;
const VNI: u32 = 7;
/// Between two echo requests of a pod, in seconds as `ping` wants them.
const INTERVAL: &str = "0.02";
/// Requests that may be on their way when a pod stops asking: a second of them, as long as an answer takes on a machine
/// that is busy with others. Before the last answer none may be missing.
const ON_THEIR_WAY: usize = 50;

/// SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides as u64) as usize
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is `{text}`, and no number")))
}

fn agents() -> usize {
    number("WEFT_CHURN_AGENTS").map_or(AGENTS, |agents| usize::try_from(agents).unwrap())
}

fn pod_address(pod: usize) -> String {
    format!("10.0.{}.{}", pod / 200, 1 + pod % 200)
}

fn lab_file(control: &str) -> String {
    let node = |number: usize| {
        let address = pod_address(number);
        format!("  - {{name: n{number}, pods: [{{name: p{number}, vni: {VNI}, addresses: [{address}/16]}}]}}\n")
    };
    format!("control: {control}\nnodes:\n{}", (0..agents()).map(node).collect::<String>())
}

struct Churn {
    lab: CommandLab,
    dice: Dice,
    running: BTreeSet<usize>,
}

impl Churn {
    fn new(control: &str, seed: u64) -> Self {
        let file = std::env::temp_dir().join(format!("weft-it-churn-{}.yaml", std::process::id()));
        std::fs::write(&file, lab_file(control)).unwrap();
        let lab = CommandLab::up_file(&file);
        std::fs::remove_file(&file).unwrap();
        Self { lab, dice: Dice(seed), running: (0..agents()).collect() }
    }

    fn show(&self, node: usize, what: &str) -> Value {
        let place = format!("{}.n{node}", self.lab.name());
        serde_json::from_str(&self.lab.run(&["show", what, "--node", &place, "--json"])).unwrap()
    }

    fn event(&self, node: usize, event: &str) {
        self.lab.run(&["testbed", "node", self.lab.name(), &format!("n{node}"), event]);
    }

    /// Says which node it was.
    fn step(&mut self) -> usize {
        let node = self.dice.roll(agents());
        match (self.running.contains(&node), self.dice.roll(3)) {
            // Some are there all the time, so that somebody notices.
            (true, 0 | 1) if self.running.len() > agents() / 2 => {
                self.event(node, "kill");
                self.running.remove(&node);
            }
            (true, _) => self.event(node, "restart"),
            (false, _) => {
                self.event(node, "start");
                self.running.insert(node);
            }
        }
        node
    }

    /// What an agent has of the cluster, without what is its own: how a MAC is reached from it.
    fn knowledge(&self, node: usize) -> Value {
        let fdb = self.show(node, "fdb");
        let rows = fdb.as_array().unwrap().iter().map(|row| {
            assert_eq!(row["kind"], "static", "n{node} learned what is published: {row}");
            serde_json::json!([row["vni"], row["mac"], row["node"]])
        });
        let rows: Vec<_> = rows.collect();
        serde_json::json!([self.show(node, "nodes"), rows, self.show(node, "neighbours")])
    }

    /// Whether an agent knows those that run and nobody else.
    fn has_settled(&self, known: &Value) -> bool {
        let names: BTreeSet<String> = self.running.iter().map(|node| format!("n{node}")).collect();
        let nodes = known[0].as_array().unwrap();
        let present = |node: &Value| node["state"] == "present" && node["endpoints"] == 1;
        let owners = |rows: &Value, at: fn(&Value) -> &Value| -> BTreeSet<String> {
            rows.as_array().unwrap().iter().filter_map(|row| at(row).as_str().map(str::to_owned)).collect()
        };
        nodes.len() == names.len()
            && nodes.iter().all(present)
            && known[1].as_array().unwrap().len() == names.len()
            && owners(&known[1], |row| &row[2]) == names
            && owners(&known[2], |row| &row["node"]) == names
    }

    /// What a node dropped, and what its agent said last.
    fn losses(&self, node: usize) -> (Vec<String>, String) {
        let drops = self.show(node, "drops");
        let rows = drops.as_array().unwrap().iter().filter(|row| row["count"] != 0);
        let log = self.lab.run(&["testbed", "logs", self.lab.name(), &format!("n{node}")]);
        let last = log.lines().rev().take(12).collect::<Vec<_>>().join("\n");
        (rows.map(|row| format!("{} {}", row["reason"], row["count"])).collect(), last)
    }

    /// Waits until all agents that run know the same, and it is what runs.
    fn rest(&self, said: &str) {
        // A lease, and as much again for a path that was never seen alive.
        let deadline = Instant::now() + 2 * BOUND + Duration::from_millis(200) * agents() as u32;
        let mut left: Vec<usize> = self.running.iter().copied().collect();
        while let Some(node) = left.last() {
            let known = self.knowledge(*node);
            if self.has_settled(&known) {
                left.pop();
            } else {
                assert!(Instant::now() < deadline, "{said}: n{node}: {known:#}");
            }
        }
        let known: BTreeMap<_, _> = self.running.iter().map(|node| (node, self.knowledge(*node))).collect();
        let mut values = known.values();
        let first = values.next().unwrap();
        assert!(values.all(|other| other == first), "{said}: {known:#?}");
        // Each reaches the next two of those that run, round about: every node sends, and receives.
        let running: Vec<usize> = self.running.iter().copied().collect();
        for (place, from) in running.iter().enumerate() {
            for ahead in 1..=2 {
                let other = running[(place + ahead) % running.len()];
                let report = self.lab.ping(&format!("p{from}"), &pod_address(other));
                assert!(
                    report.received == report.sent,
                    "{said}: p{from} to p{other}: {report:?} {:#?}",
                    [*from, other].map(|node| self.losses(node))
                );
            }
        }
    }

    /// Pods that talk all the time, each to the one in the middle of the others.
    fn traffic(&self) -> Vec<Talk> {
        (0..agents()).map(|from| Talk::begin(self.lab.name(), from, (from + agents() / 2) % agents())).collect()
    }
}

/// A pod that sends echo requests to another.
struct Talk {
    from: usize,
    to: usize,
    ping: Child,
    told: File,
}

impl Talk {
    fn begin(lab: &str, from: usize, to: usize) -> Self {
        let path = std::env::temp_dir().join(format!("weft-it-churn-{}-{from}.ping", std::process::id()));
        let told = File::options().create(true).truncate(true).read(true).write(true).open(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let mut command = Command::new(weft());
        command.args(["testbed", "exec", lab, &format!("p{from}"), "--"]);
        command.args(["ping", "-n", "-i", INTERVAL, &pod_address(to)]).stdin(Stdio::null());
        command.stdout(told.try_clone().unwrap()).stderr(Stdio::null());
        Self { from, to, ping: Child::spawn(command), told }
    }

    /// Stops, and says how many were answered. If nothing happened to either node, all were.
    fn end(mut self, untouched: bool, said: &str) -> usize {
        self.ping.signal(Signal::INT);
        self.ping.wait();
        let mut told = String::new();
        self.told.rewind().unwrap();
        self.told.read_to_string(&mut told).unwrap();
        let number = |line: &str, before: &str| -> Option<usize> {
            line.split_once(before)?.1.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        let answered: BTreeSet<usize> = told.lines().filter_map(|line| number(line, "icmp_seq=")).collect();
        let sent = told.lines().find(|line| line.contains("packets transmitted"));
        let sent = sent.and_then(|line| number(&format!(" {line}"), " "));
        if untouched {
            let (sent, last) = (sent.unwrap(), answered.last().copied().unwrap_or_default());
            let lost: Vec<usize> = (1..=last).filter(|number| !answered.contains(number)).collect();
            let Self { from, to, .. } = self;
            assert!(
                lost.is_empty() && last + ON_THEIR_WAY >= sent,
                "{said}: nothing happened to n{from} and n{to}, and of {sent} echo requests are lost {lost:?}, after {last} all"
            );
        }
        answered.len()
    }
}

/// What all agents know at the end, when all run.
fn churn(control: &str) -> Value {
    let seed = number("WEFT_SEED").unwrap_or(SEED);
    let said = format!("control: {control}; these chances again: WEFT_SEED={seed}");
    println!("{said}");
    let mut churn = Churn::new(control, seed);
    let span = Duration::from_secs(number("WEFT_CHURN_SECONDS").unwrap_or(SECONDS));
    churn.rest(&said);
    let (began, mut rests, mut kept, mut answered) = (Instant::now(), 0, 0, 0);
    while began.elapsed() < span || kept == 0 {
        let traffic = churn.traffic();
        let mut untouched = churn.running.clone();
        for _ in 0..STEPS {
            untouched.remove(&churn.step());
        }
        churn.rest(&said);
        rests += 1;
        for talk in traffic {
            let is_kept = untouched.contains(&talk.from) && untouched.contains(&talk.to);
            let told = talk.end(is_kept, &said);
            if is_kept {
                (kept, answered) = (kept + 1, answered + told);
            }
        }
    }
    for node in 0..agents() {
        if churn.running.insert(node) {
            churn.event(node, "start");
        }
    }
    churn.rest(&said);
    let pairs = churn.lab.run(&["testbed", "matrix", churn.lab.name()]);
    assert!(pairs.contains(&format!("{0} of {0} pairs", agents() * (agents() - 1))), "{said}: {pairs}");
    println!(
        "{control}: {rests} rests in {:.0} s; {kept} conversations of nodes to which nothing happened, {answered} answers",
        began.elapsed().as_secs_f64()
    );
    churn.knowledge(0)
}

#[tokio::test]
async fn agents_killed_by_the_dice_agree_at_every_rest_with_either_store() {
    let tools = ["ip", "ping", "etcd"].map(Requirement::Tool);
    if unmet(test_name!(), &[&[Requirement::Root][..], &tools].concat()) {
        return;
    }
    let (etcd, _) = StoreNode::start(StoreKind::Etcd, test_name!()).await;
    let seen =
        ["embedded".to_owned(), format!("{{etcd: ['http://{}']}}", etcd.address())].map(|control| churn(&control));
    assert_eq!(seen[0], seen[1]);
}
