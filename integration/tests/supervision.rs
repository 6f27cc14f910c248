//! An agent whose successors systemd starts, by the lines of its unit: which process is the service, and when.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs::{self, File};
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt::set_socket_passcred;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;
use weft_api::{Client, Query, Reply};
use weft_control::config::file::unspanned;
use weft_integration::{
    AgentConfig, BOUND, Between, Child, Encapsulation, Family, Host, Message, Node, NumberedFlow, Output, Overlay,
    eventually, ping_all, site, weft,
};

const UNIT: &str = include_str!("../../deploy/systemd/weft-agent.service");
/// Datagrams a second of the numbered flow.
const PACKETS: u32 = 5_000;

/// The value of a field of the unit.
fn field(name: &str) -> &'static str {
    UNIT.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_else(|| panic!("no {name}"))
}

/// systemd, as far as an agent notices.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
    node: Node,
    config: PathBuf,
    run_dir: PathBuf,
    /// The service's process, as soon as there is one.
    main: Option<Pid>,
    /// What was heard of it, by process, and not asked about yet.
    heard: Vec<(Pid, String)>,
}

impl Systemd {
    fn new(directory: &Path, node: &Node, config: &AgentConfig) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        set_socket_passcred(&socket, true).unwrap();
        let run_dir = config.file.run_dir.as_ref().to_owned();
        Self { socket, path, node: node.clone(), config: config.write(), run_dir, main: None, heard: Vec::new() }
    }

    /// A line of the unit, with what systemd tells all processes that it starts which may talk to it.
    fn command(&self, line: &str) -> Command {
        let (weft, config) = (weft(), self.config.display().to_string());
        let line =
            field(line).replace("@BINDIR@/weft", weft.to_str().unwrap()).replace("/etc/weft/agent.toml", &config);
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let mut command = self.node.command(&words);
        command.env("NOTIFY_SOCKET", &self.path).stdin(Stdio::null());
        command
    }

    fn start(&mut self) -> Child {
        let (log, mut command) = (self.log(), self.command("ExecStart"));
        command.env("WATCHDOG_USEC", "30000000").stdout(log.try_clone().unwrap()).stderr(log);
        let child = Child::spawn(command);
        self.main = Pid::from_raw(child.pid() as i32);
        child
    }

    /// `systemctl reload`: over when the process is that it starts for it, whose end says how it went. Only with this
    /// access does such a process learn where systemd listens; of the watchdog it hears nothing.
    fn reload(&self) -> Output {
        assert_eq!(field("NotifyAccess"), "exec");
        let before = self.journal().len();
        let (log, mut command) = (self.log(), self.command("ExecReload"));
        command.env("MAINPID", self.main.unwrap().to_string());
        // What stays has its output as long as it is there.
        let status = command.stdout(log.try_clone().unwrap()).stderr(log).status().unwrap();
        Output { status, stdout: String::new(), stderr: self.journal().split_off(before) }
    }

    /// Where all that it starts writes.
    fn log(&self) -> File {
        File::options().append(true).create(true).open(self.config.with_extension("log")).unwrap()
    }

    fn journal(&self) -> String {
        fs::read_to_string(self.config.with_extension("log")).unwrap()
    }

    /// The next message, of which systemd takes what the service's process says, and nothing else.
    fn hear(&mut self) {
        let mut bytes = [0; 1024];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty());
        let length = received.unwrap_or_else(|error| panic!("{error}, after {:?}", self.heard)).bytes;
        let process = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => Some(sender.pid),
            _ => None,
        });
        let text = String::from_utf8_lossy(&bytes[..length]).into_owned();
        assert_eq!(process, self.main, "{text:?} is another process's: systemd does not listen to it");
        let process = process.unwrap();
        for line in text.lines() {
            if let Some(next) = line.strip_prefix("MAINPID=") {
                let next = Pid::from_raw(next.parse().unwrap()).unwrap();
                // systemd believes in none that is not there.
                test_kill_process(next).unwrap();
                self.main = Some(next);
            }
            self.heard.push((process, line.to_owned()));
        }
    }

    /// Listens until the service's process says this; what was said until then.
    fn wait_for(&mut self, wanted: &str) -> Vec<(Pid, String)> {
        loop {
            let said = |(process, line): &(Pid, String)| line == wanted && Some(*process) == self.main;
            if let Some(place) = self.heard.iter().position(said) {
                return self.heard.drain(..=place).collect();
            }
            self.hear();
        }
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // Where the test failed, an agent may serve of which nothing was heard. Otherwise all have ended.
        for agent in [self.main, serving(&self.run_dir)].into_iter().flatten() {
            let _ = kill_process(agent, Signal::KILL);
        }
    }
}

/// The process that answers at the local socket.
fn serving(run_dir: &Path) -> Option<Pid> {
    match Client::connect(run_dir).ok()?.ask(Query::Status).ok()? {
        Reply::Status(status) => Pid::from_raw(status.pid as i32),
        _ => None,
    }
}

fn wait_for_more(flow: &NumberedFlow, count: u64) {
    let before = flow.received();
    eventually("the flow goes on", || {
        let received = flow.received();
        if received >= before + count { Ok(()) } else { Err(format!("{received} datagrams")) }
    });
}

fn flow(pods: &[Host; 2]) -> NumberedFlow {
    let flow = NumberedFlow::start(&pods[0], &pods[1], Overlay::IPV4[1], PACKETS);
    wait_for_more(&flow, 200);
    flow
}

#[test]
fn a_reload_by_systemd_takes_over_and_the_successor_is_the_service() {
    let site = site!("ping");
    let nodes = site.pair();
    let pods = ["a", "b"].map(|name| site.host(name));
    let [config, other] = [0, 1].map(|own| {
        let config = AgentConfig::new(&site, &nodes[own], &[Family::Ipv4]).vni(Overlay::VNI);
        let config = config.peer(nodes[1 - own].address(Family::Ipv4), Encapsulation::Vxlan, &[Overlay::VNI]);
        config.port(&pods[own], Overlay::VNI, &Overlay::NETWORKS[own])
    });
    let other = other.start();
    let mut systemd = Systemd::new(site.directory(), &nodes[0], &config);
    let mut first = systemd.start();
    systemd.wait_for("READY=1");
    ping_all(&pods[0], Overlay::IPV4[1]);

    // Twice: the first is systemd's child, the second is not.
    let flows = flow(&pods);
    let mut before = systemd.main.unwrap();
    for _ in 0..2 {
        let reload = systemd.reload();
        assert!(reload.status.success(), "{}", reload.stderr);
        let said = systemd.wait_for("READY=1");
        let main = systemd.main.unwrap();
        assert_ne!(main, before, "{said:?}");
        let mut last = said.iter().rev().filter(|(process, _)| *process == before);
        assert_eq!(last.next().unwrap().1, format!("MAINPID={main}"), "the last word: {said:?}");
        assert!(!said.iter().any(|(_, line)| line == "STOPPING=1"), "the service does not end: {said:?}");
        systemd.wait_for("WATCHDOG=1");
        assert_eq!(serving(&systemd.run_dir), systemd.main);
        wait_for_more(&flows, 200);
        before = main;
    }
    assert!(first.wait().success());
    let seen = flows.finish();
    assert_eq!((seen.lost, seen.late), (0, 0), "{seen:?}");

    // What fails says so by its end, and the service is what it was.
    fs::write(&systemd.config, "[underlie]\n").unwrap();
    let unreadable = systemd.reload();
    let mut impossible = config.clone();
    impossible.file.workers.count = unspanned(3);
    let _ = impossible.write();
    for (refused, word) in [(unreadable, "underlie"), (systemd.reload(), "cannot change `workers.count`")] {
        assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
        assert!(refused.stderr.contains(word), "{}", refused.stderr);
    }
    systemd.heard.clear();
    systemd.wait_for("WATCHDOG=1");
    assert_eq!((systemd.main, serving(&systemd.run_dir)), (Some(before), Some(before)));
    ping_all(&pods[0], Overlay::IPV4[1]);

    // An agent of version 1 is not asked in that: it would not say who goes on, and the service would end.
    let _ = config.write();
    let between = Between::new(&systemd.run_dir);
    let refused = std::thread::scope(|scope| {
        scope.spawn(|| {
            let successor = between.welcome();
            let _ = successor.hear();
            successor.say(&Message::of(json!({ "refused": { "why": "it reads state version 1" } })));
        });
        systemd.reload()
    });
    drop(between);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.stderr);
    assert!(refused.stderr.contains("hands nothing over: it reads state version 1"), "{}", refused.stderr);
    ping_all(&pods[0], Overlay::IPV4[1]);

    // One that was started by hand goes by systemd, which sees the service end.
    systemd.heard.clear();
    let by_hand = config.take_over().unwrap();
    eventually("its end", || {
        // Whoever adopted it may be slow to ask for its status.
        let stat = fs::read_to_string(format!("/proc/{before}/stat")).unwrap_or_default();
        if stat.is_empty() || stat.contains(") Z ") { Ok(()) } else { Err(stat) }
    });
    while poll(&mut [PollFd::new(&systemd.socket, PollFlags::IN)], Some(&Timespec::default())) == Ok(1) {
        systemd.hear();
    }
    assert!(!systemd.heard.iter().any(|(_, line)| line.starts_with("MAINPID=")), "{:?}", systemd.heard);
    let log = systemd.journal();
    assert!(log.contains("the service ends for systemd"), "{log}");
    ping_all(&pods[0], Overlay::IPV4[1]);
    systemd.main = None;
    by_hand.finish();
    other.finish();
}
