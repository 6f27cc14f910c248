//! A lab in which faults are planted, one after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child as Process, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::io::{Errno, write};
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use weft_control::doctor::SETTLED;
use weft_integration::{Child, CommandLab, weft, within};
use weft_switch::PacketTap;
use weft_testbed::{AgentState, Lab};

use crate::fault::{Ask, Deed, Fault, Macs, Repair};

/// Within which time a fault has to be named.
const NAMED_WITHIN: Duration = Duration::from_secs(25);
/// Within which time nothing may be found any more: the slowest is a path that widens again.
const GONE_WITHIN: Duration = Duration::from_secs(45);
/// Within which time an agent reads some of what waits in a pod's device.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How often each bad frame is sent: what happens once or twice is no fault yet.
const COPIES: u32 = 40;
/// Frames that a live trace tells of at most before the one that is waited for.
const TOLD: &str = "100000";

/// A lab.
pub(crate) struct Ground {
    lab: CommandLab,
    opened: Lab,
    macs: Macs,
    _traffic: Vec<Child>,
}

/// What a fault leaves open as long as it lasts.
#[derive(Default)]
struct Planted {
    sockets: Vec<UdpSocket>,
}

/// What somebody says who was asked.
struct Answer {
    has_name: bool,
    /// All of it.
    text: String,
}

/// A live trace of a node's drops, which ends with it.
struct Watching {
    process: Process,
    lines: Receiver<String>,
    reason: &'static str,
}

impl Ground {
    /// The lab of this file, with `ping` going on between these pods and addresses, so that paths are in use.
    pub(crate) fn new(file: &str, traffic: &[(&str, &str)]) -> Self {
        let path = std::env::temp_dir().join(format!("weft-it-drill-{}.yaml", std::process::id()));
        std::fs::write(&path, file).unwrap();
        let lab = CommandLab::up_file(&path);
        std::fs::remove_file(path).unwrap();
        let opened = Lab::open(&lab.name().parse().unwrap()).unwrap();
        let mac = |member: &str| {
            let eth0 = opened.netns(member).unwrap().links(|links| links.get("eth0")).unwrap();
            eth0.and_then(|link| link.mac).map(|mac| (member.to_owned(), mac))
        };
        let macs = Macs(opened.spec().members().filter_map(mac).collect::<BTreeMap<_, _>>());
        let ping = |(pod, to): &(&str, &str)| {
            let mut command = opened.command(pod, &["ping", "-q", "-i", "0.1", to]).unwrap();
            command.stdout(Stdio::null()).stderr(Stdio::null());
            Child::spawn(command)
        };
        Self { _traffic: traffic.iter().map(ping).collect(), lab, macs, opened }
    }

    /// Plants each fault, asks, and takes it away. Prints the list and how many were named.
    ///
    /// # Panics
    /// If one was not named, did not go away, or the lab is not well before or after.
    pub(crate) fn drill(&self, kind: &str, faults: &[Fault]) {
        self.has_settled().and(self.is_well()).unwrap_or_else(|seen| panic!("before the first fault: {seen}"));
        let mut missed = Vec::new();
        for fault in faults {
            let started = Instant::now();
            let asks: Vec<String> = fault.asks.iter().map(ToString::to_string).collect();
            let (verdict, why) = match self.one(fault) {
                Ok(()) => ("named", String::new()),
                Err(why) => ("MISSED", why),
            };
            println!("{verdict:<7}{:<58}{} ({} ms)", fault.name, asks.join("; "), started.elapsed().as_millis());
            if verdict != "named" {
                missed.push(format!("{}: {why}", fault.name));
            }
        }
        println!("{kind}: {} of {} faults named", faults.len() - missed.len(), faults.len());
        assert!(missed.is_empty(), "{}", missed.join("\n"));
        self.is_well().unwrap_or_else(|seen| panic!("after the last fault: {seen}"));
    }

    fn one(&self, fault: &Fault) -> Result<(), String> {
        for ask in fault.asks {
            // What the fault before has left may take a while to go.
            within(GONE_WITHIN, || self.is_silent_of(ask))
                .map_err(|seen| format!("before anything is wrong, {seen}"))?;
        }
        let watching: Vec<Watching> = fault.asks.iter().filter_map(|ask| self.watch(ask)).collect();
        let mut planted = Planted::default();
        let named = fault.plant.iter().try_for_each(|deed| self.act(deed, &mut planted)).and_then(|()| {
            let asked = fault.asks.iter().filter(|ask| !matches!(ask, Ask::Live(..)));
            let named = asked.map(|ask| within(NAMED_WITHIN, || self.is_told(ask)));
            named.chain(watching.into_iter().map(Watching::wait)).fold(Ok(()), Result::and)
        });
        drop(planted);
        // What was planted by halves too: the next fault is to be the only one.
        let repaired = self.repair(fault);
        named.and(repaired)?;
        if matches!(fault.repair, Repair::Over) {
            return Ok(());
        }
        self.is_over(fault)
    }

    /// Whether nothing of it is named any more, within the time that this may take.
    fn is_over(&self, fault: &Fault) -> Result<(), String> {
        within(GONE_WITHIN, || fault.asks.iter().try_for_each(|ask| self.is_silent_of(ask)))
    }

    fn is_told(&self, ask: &Ask) -> Result<(), String> {
        let Answer { has_name, text } = self.answer(ask)?;
        if has_name { Ok(()) } else { Err(format!("{ask}: {text}")) }
    }

    /// Who does not answer is not silent: the name may be in the answer.
    fn is_silent_of(&self, ask: &Ask) -> Result<(), String> {
        if matches!(ask, Ask::Live(..)) {
            return Ok(());
        }
        if self.answer(ask)?.has_name { Err(format!("{ask} is named")) } else { Ok(()) }
    }

    /// Asks. An error is no answer, or one of somebody who does not see everything.
    fn answer(&self, ask: &Ask) -> Result<Answer, String> {
        match ask {
            Ask::Doctor(node, name) => {
                let report = self.doctor(node)?;
                let has_name = findings(&report).iter().any(|finding| finding["name"] == *name);
                let sees_all = report["agent_answers"] == true && report["unseen"] == Value::Array(Vec::new());
                let text = report.to_string();
                if has_name || sees_all { Ok(Answer { has_name, text }) } else { Err(format!("{ask}: {text}")) }
            }
            Ask::Trace(words, name) => {
                let output = CommandLab::try_run(&[&["trace", "--lab", self.lab.name(), "--json"], *words].concat());
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                if text.is_empty() {
                    return Err(format!("{ask}: {}", String::from_utf8_lossy(&output.stderr)));
                }
                Ok(Answer { has_name: !output.status.success() && text.contains(name), text })
            }
            Ask::Live(..) => Err(format!("{ask}: is asked while the fault is planted")),
        }
    }

    fn doctor(&self, node: &str) -> Result<Value, String> {
        let place = format!("{}.{node}", self.lab.name());
        let config = self.opened.config_of(node).display().to_string();
        let output = CommandLab::try_run(&["doctor", "--json", "--node", &place, "--config", &config]);
        serde_json::from_slice(&output.stdout).map_err(|_| String::from_utf8_lossy(&output.stderr).into_owned())
    }

    fn watch(&self, ask: &Ask) -> Option<Watching> {
        let Ask::Live(node, reason) = ask else { return None };
        let place = format!("{}.{node}", self.lab.name());
        let mut command = Command::new(weft());
        command.args(["trace", "--node", &place, "--live", "--drops", "--json", "-n", TOLD]);
        let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut complaints = BufReader::new(process.stderr.take().unwrap());
        let told = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || told.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let watching = Watching { process, lines, reason };
        let mut first = String::new();
        complaints.read_line(&mut first).unwrap();
        assert!(first.starts_with("tracing on"), "{first}");
        Some(watching)
    }

    fn act(&self, deed: &Deed, planted: &mut Planted) -> Result<(), String> {
        match deed {
            Deed::In(member, command) => self.shell(member, command),
            Deed::Testbed(verb, words) => {
                let output = CommandLab::try_run(&[&["testbed", verb, self.lab.name()], *words].concat());
                succeeded(&output, words)
            }
            Deed::Sends(member, frames) => {
                let frames = frames(&self.macs);
                let socket = self.socket(member);
                for frame in frames.iter().cycle().take(frames.len().max(COPIES as usize)) {
                    let failed = |error| format!("{member} sends {} bytes: {error}", frame.len());
                    // The device's queue is full: the agent has yet to read what is in it.
                    let sent = within(READ_WITHIN, || match write(&socket, frame) {
                        Err(Errno::NOBUFS) => Err(failed(Errno::NOBUFS)),
                        sent => Ok(sent),
                    });
                    sent?.map_err(failed)?;
                }
                Ok(())
            }
            Deed::Tunnels(from, port, payload) => {
                let [own, to] = [from, "n1"].map(|node| self.address_of(node));
                let netns = self.opened.netns(from).unwrap();
                let socket = netns.run(|| UdpSocket::bind((own, 0))).unwrap().unwrap();
                (0..COPIES).try_for_each(|number| {
                    let sent = socket.send_to(&payload(&self.macs, number), (to, *port));
                    sent.map(drop).map_err(|error| format!("{from} sends to {to}: {error}"))
                })
            }
            Deed::Listens(node, port) => {
                let netns = self.opened.netns(node).unwrap();
                let socket = netns.run(|| UdpSocket::bind(("0.0.0.0", *port))).unwrap();
                planted.sockets.push(socket.map_err(|error| error.to_string())?);
                Ok(())
            }
            Deed::Signals(service, signal) => {
                kill_process(self.process(service), *signal).map_err(|error| error.to_string())
            }
        }
    }

    fn repair(&self, fault: &Fault) -> Result<(), String> {
        match &fault.repair {
            Repair::Over => Ok(()),
            Repair::By(deeds) => self.act_all(deeds),
            Repair::AsTold(rest) => {
                // What else there is may not be what ended it.
                let ended = self.do_as_told(fault).and_then(|()| self.is_over(fault));
                ended.and(self.act_all(rest))
            }
        }
    }

    /// Does each, also after one has failed.
    fn act_all(&self, deeds: &[Deed]) -> Result<(), String> {
        deeds.iter().map(|deed| self.act(deed, &mut Planted::default())).fold(Ok(()), Result::and)
    }

    /// Runs the commands of the findings.
    fn do_as_told(&self, fault: &Fault) -> Result<(), String> {
        fault.asks.iter().try_for_each(|ask| {
            let Ask::Doctor(node, name) = ask else { return Ok(()) };
            let report = self.doctor(node)?;
            let named = findings(&report).iter().filter(|finding| finding["name"] == *name);
            // One may need several commands: there may be several findings of its name.
            let commands: BTreeSet<&str> = named.filter_map(|finding| finding["command"].as_str()).collect();
            if commands.is_empty() {
                return Err(format!("{name} tells no command: {report}"));
            }
            commands.iter().try_for_each(|command| self.shell(node, command))
        })
    }

    /// Runs a shell command in a member.
    fn shell(&self, member: &str, command: &str) -> Result<(), String> {
        let mut shell = self.opened.command(member, &["sh", "-ec", command]).map_err(|error| error.to_string())?;
        shell.env("WEFT", weft()).env("LAB", self.lab.name()).env("DIR", self.directory());
        succeeded(&shell.output().map_err(|error| error.to_string())?, command)
    }

    fn socket(&self, member: &str) -> PacketTap {
        let netns = self.opened.netns(member).unwrap();
        let index = netns.links(|links| Ok(links.get("eth0")?.unwrap().index)).unwrap();
        netns.run(|| PacketTap::open(index)).unwrap().unwrap()
    }

    /// The process of a node's agent, or of the store, as the lab has noted it.
    fn process(&self, service: &str) -> Pid {
        let text = std::fs::read_to_string(self.directory().join("lab.json")).unwrap();
        let noted: Value = serde_json::from_str(&text).unwrap();
        let agents = noted["agents"].as_array().unwrap();
        let agent = agents.iter().find(|entry| entry["node"] == service).map(|entry| &entry["process"]);
        let pid = agent.unwrap_or(&noted["store"])["pid"].as_i64().unwrap();
        Pid::from_raw(pid as i32).unwrap()
    }

    fn directory(&self) -> PathBuf {
        self.opened.run_dir_of("n1").parent().unwrap().to_owned()
    }

    fn address_of(&self, node: &str) -> std::net::Ipv4Addr {
        let place = self.opened.spec().nodes.iter().position(|spec| spec.name == node).unwrap();
        std::net::Ipv4Addr::new(10, 199, 0, place as u8 + 1)
    }

    /// Whether all agents have run for so long that the doctor tells of drops.
    fn has_settled(&self) -> Result<(), String> {
        within(GONE_WITHIN, || {
            self.agents().iter().try_for_each(|node| {
                let place = format!("{}.{node}", self.lab.name());
                let status: Value =
                    serde_json::from_str(&self.lab.run(&["status", "--json", "--node", &place])).unwrap();
                let seconds = status["uptime_seconds"].as_u64().unwrap();
                if seconds >= SETTLED.as_secs() { Ok(()) } else { Err(format!("{node} has run for {seconds} s")) }
            })
        })
    }

    fn agents(&self) -> Vec<String> {
        let nodes = self.opened.status().nodes.into_iter();
        nodes.filter(|node| node.agent != AgentState::NotNeeded).map(|node| node.name).collect()
    }

    /// Whether no doctor of any node finds anything, within the time that this may take.
    fn is_well(&self) -> Result<(), String> {
        let agents = self.agents();
        within(GONE_WITHIN, || {
            agents.iter().try_for_each(|node| {
                let report = self.doctor(node)?;
                let is_well = findings(&report).is_empty() && report["unseen"].as_array().is_some_and(Vec::is_empty);
                if is_well { Ok(()) } else { Err(format!("{report}")) }
            })
        })
    }
}

impl Watching {
    /// Waits until a frame is dropped for the reason.
    fn wait(self) -> Result<(), String> {
        let deadline = Instant::now() + NAMED_WITHIN;
        let mut told = String::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if has_reason(&line, self.reason) => break Ok(()),
                Ok(line) => told = line,
                Err(_) => break Err(format!("no frame was dropped as {}; the last: {told}", self.reason)),
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // Both fail where it has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn has_reason(line: &str, reason: &str) -> bool {
    let rows: Value = serde_json::from_str(line).unwrap();
    rows.as_array().is_some_and(|rows| rows.iter().any(|row| row["dropped"]["reason"] == reason))
}

fn findings(report: &Value) -> &[Value] {
    report["findings"].as_array().map_or(&[], Vec::as_slice)
}

fn succeeded(output: &std::process::Output, what: impl std::fmt::Debug) -> Result<(), String> {
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{what:?}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

impl std::fmt::Display for Ask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Doctor(node, name) => write!(f, "doctor on {node}: {name}"),
            Self::Trace(words, name) => write!(f, "trace {}: {name}", words.join(" ")),
            Self::Live(node, name) => write!(f, "live trace on {node}: {name}"),
        }
    }
}
