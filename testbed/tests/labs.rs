//! Labs are made and leave nothing behind. Needs root.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{FakeAgent, Name, READY, alone, root_or_skip, two_nodes};
use weft_netns::Netns;
use weft_testbed::{AgentState, Lab, LabError, LabName, LabState, LabStatus, Progress, UpOptions};

fn up(name: &LabName, agent: &FakeAgent) -> Result<Lab, LabError> {
    Lab::up(&two_nodes(), name, &agent.options(), &mut |_| {})
}

fn down(name: &LabName) -> Result<(), LabError> {
    Lab::down(name, &mut |_| {})
}

fn status(name: &LabName) -> LabStatus {
    Lab::list().unwrap().into_iter().find(|lab| lab.name == *name).unwrap()
}

fn output(lab: &Lab, member: &str, argv: &[&str]) -> String {
    String::from_utf8(lab.command(member, argv).unwrap().output().unwrap().stdout).unwrap()
}

#[test]
fn a_lab_is_made_and_leaves_nothing() {
    alone("a_lab_is_made_and_leaves_nothing", || {
        let (name, agent) = (Name::new("life"), FakeAgent::new("life", READY));
        let lab = up(&name, &agent).unwrap();
        assert_eq!(status(&name).state, LabState::Complete);
        assert_eq!(status(&name), Lab::open(&name).unwrap().status());
        for node in status(&name).nodes {
            let AgentState::Running { pid } = node.agent else { panic!("{node:?}") };
            let inside = Netns::open(&format!("/proc/{pid}/ns/net")).unwrap().inode();
            assert_eq!(inside, lab.netns(&node.name).unwrap().inode());
            assert_eq!(rustix::process::getsid(rustix::process::Pid::from_raw(pid)).unwrap().as_raw_pid(), pid);
            let log = fs::read_to_string(lab.log_of(&node.name)).unwrap();
            assert_eq!(log, format!("called as agent --config {}\n", lab.config_of(&node.name).display()));
        }
        assert!(output(&lab, "n1", &["ping", "-c1", "-W5", "10.199.0.2"]).contains(" 0% packet loss"));
        assert!(output(&lab, "n2", &["ping", "-c1", "-W5", "fd99::1"]).contains(" 0% packet loss"));
        assert!(output(&lab, "a", &["ip", "-br", "link"]).starts_with("lo "));
        down(&name).unwrap();
        assert_eq!(name.traces(), [""; 0]);
        let again = down(&name).unwrap_err();
        assert!(matches!(again, LabError::NoSuchLab { .. }), "{again}");
    });
}

#[test]
fn whatever_runs_in_a_lab_ends_with_it() {
    alone("whatever_runs_in_a_lab_ends_with_it", || {
        let (name, agent) = (Name::new("guests"), FakeAgent::new("guests", &format!("trap '' TERM; {READY}")));
        let lab = up(&name, &agent).unwrap();
        let mut guest = lab.command("a", &["sleep", "1000000"]).unwrap();
        let mut guest = guest.env("WEFT_TEST_LAB", name.as_str()).spawn().unwrap();
        down(&name).unwrap();
        assert!(!guest.wait().unwrap().success());
        assert_eq!(name.traces(), [""; 0]);
    });
}

/// Its traces but for processes: a stand-in becomes another program just after it is ready.
fn lasting(name: &Name) -> Vec<String> {
    name.traces().into_iter().filter(|trace| !trace.starts_with("process ")).collect()
}

#[test]
fn two_labs_stand_side_by_side() {
    alone("two_labs_stand_side_by_side", || {
        let agent = FakeAgent::new("twins", READY);
        // The name of one begins like that of the other.
        let (one, other) = (Name::new("twin"), Name::new("twin0"));
        std::thread::scope(|scope| {
            let made = [&one, &other].map(|name| scope.spawn(|| up(name, &agent).unwrap()));
            made.into_iter().for_each(|lab| drop(lab.join().unwrap()));
        });
        let bystander = Netns::create(&format!("{one}.bystander")).unwrap();
        let before = lasting(&other);
        down(&one).unwrap();
        assert_eq!(lasting(&other), before);
        assert!(Netns::list().unwrap().contains(&bystander.label().to_owned()));
        Netns::delete(bystander.label()).unwrap();
        assert_eq!(one.traces(), [""; 0]);
        assert!(status(&other).nodes.iter().all(|node| matches!(node.agent, AgentState::Running { .. })));
        down(&other).unwrap();
        assert_eq!(other.traces(), [""; 0]);
    });
}

#[test]
fn a_taken_name_is_refused_and_the_lab_unharmed() {
    alone("a_taken_name_is_refused_and_the_lab_unharmed", || {
        let (name, agent) = (Name::new("taken"), FakeAgent::new("taken", READY));
        up(&name, &agent).unwrap();
        let (before, agents) = (lasting(&name), status(&name).nodes);
        let error = up(&name, &agent).unwrap_err().to_string();
        assert_eq!(error, format!("a lab named `{name}` exists already; `weft testbed down {name}` removes it"));
        assert_eq!((lasting(&name), status(&name).nodes), (before, agents));
        down(&name).unwrap();
    });
}

#[test]
fn a_namespace_in_the_way_is_not_touched() {
    alone("a_namespace_in_the_way_is_not_touched", || {
        let (name, agent) = (Name::new("way"), FakeAgent::new("way", READY));
        let strange = Netns::create(&format!("{name}.b")).unwrap();
        let error = up(&name, &agent).unwrap_err();
        assert!(matches!(&error, LabError::NamespaceTaken { namespace } if namespace == strange.label()), "{error}");
        assert!(Netns::list().unwrap().contains(&strange.label().to_owned()));
        Netns::delete(strange.label()).unwrap();
        assert_eq!(name.traces(), [""; 0]);
    });
}

#[test]
fn a_missing_agent_is_noticed_before_anything_is_made() {
    alone("a_missing_agent_is_noticed_before_anything_is_made", || {
        let name = Name::new("missing");
        for path in ["/no/such/weft", "/proc/version", "/etc"] {
            let mut steps = 0;
            let options = UpOptions::new(PathBuf::from(path));
            let error = Lab::up(&two_nodes(), &name, &options, &mut |_| steps += 1).unwrap_err();
            assert!(matches!(error, LabError::NoAgent { .. }), "{error}");
            assert_eq!(steps, 0);
        }
        assert_eq!(name.traces(), [""; 0]);
    });
}

#[test]
fn an_agent_that_fails_takes_the_lab_with_it_and_says_why() {
    alone("an_agent_that_fails_takes_the_lab_with_it_and_says_why", || {
        let only_n2 = |script: &str| format!("case $3 in */n2/*) {script};; esac; {READY}");
        for (purpose, script, expected) in [
            ("exits", "echo 'no such offload'; exit 3", "it ended with exit status: 3; its log ends with:\n"),
            ("killed", "kill -9 $$", "it ended with signal: 9 (SIGKILL)"),
            ("talks", "echo what > /proc/self/fd/$WEFT_READY_FD; exec sleep 1000000", "it said `what`"),
            ("silent", "exec sleep 1000000", "it said nothing for 1 s"),
        ] {
            let (name, agent) = (Name::new(purpose), FakeAgent::new(purpose, &only_n2(script)));
            let mut options = agent.options();
            options.ready_timeout = Duration::from_secs(if purpose == "silent" { 1 } else { 30 });
            let error = Lab::up(&two_nodes(), &name, &options, &mut |_| {}).unwrap_err().to_string();
            assert!(error.starts_with("the agent of node `n2` did not become ready: "), "{error}");
            assert!(error.contains(expected), "{error}");
            assert!(error.contains("called as agent --config"), "{error}");
            assert_eq!(name.traces(), [""; 0]);
        }
    });
}

#[test]
fn down_works_after_the_agents_were_killed() {
    alone("down_works_after_the_agents_were_killed", || {
        let (name, agent) = (Name::new("widow"), FakeAgent::new("widow", READY));
        up(&name, &agent).unwrap();
        for node in status(&name).nodes {
            let AgentState::Running { pid } = node.agent else { panic!("{node:?}") };
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        }
        assert!(status(&name).nodes.iter().all(|node| node.agent == AgentState::Ended));
        down(&name).unwrap();
        assert_eq!(name.traces(), [""; 0]);
    });
}

#[test]
fn an_unknown_member_or_lab_is_answered_with_those_known() {
    alone("an_unknown_member_or_lab_is_answered_with_those_known", || {
        let (name, agent) = (Name::new("known"), FakeAgent::new("known", READY));
        let lab = up(&name, &agent).unwrap();
        let error = lab.command("e", &["true"]).unwrap_err().to_string();
        assert_eq!(error, format!("lab `{name}` has no node or pod `e`; it has n1, n2, a, b, c, d, underlay"));
        let error = Lab::open(&"no-such".parse().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("no lab named `no-such`; there are: ") && error.contains(name.as_str()), "{error}");
        down(&name).unwrap();
    });
}

/// Steps of making the lab of two nodes, each reported once.
const STEPS: usize = 14;

/// Not a test by itself: the process that is killed in the one below.
#[test]
fn up_until_killed() {
    let Ok(lab) = std::env::var("WEFT_TEST_LAB") else { return };
    let last: usize = std::env::var("WEFT_TEST_STEPS").unwrap().parse().unwrap();
    let options = UpOptions::new(std::env::var_os("WEFT_TEST_AGENT").unwrap().into());
    let mut steps = 0;
    let mut die = |_: Progress<'_>| {
        steps += 1;
        if steps == last {
            let ourselves = rustix::process::getpid();
            rustix::process::kill_process(ourselves, rustix::process::Signal::KILL).unwrap();
        }
    };
    Lab::up(&two_nodes(), &lab.parse().unwrap(), &options, &mut die).unwrap();
}

#[test]
fn a_lab_killed_at_any_step_can_be_taken_down() {
    alone("a_lab_killed_at_any_step_can_be_taken_down", || {
        let agent = FakeAgent::new("steps", READY);
        for last in 1..=STEPS {
            let name = Name::new(&format!("step{last}"));
            let killed = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "up_until_killed", "--nocapture"])
                .env("WEFT_TEST_LAB", name.as_str())
                .env("WEFT_TEST_STEPS", last.to_string())
                .env("WEFT_TEST_AGENT", agent.path())
                .stdout(Stdio::null())
                .status()
                .unwrap();
            assert!(killed.code().is_none(), "step {last} was never reached: {killed}");
            assert_eq!(status(&name).state, LabState::HalfMade);
            let error = up(&name, &agent).unwrap_err();
            assert!(matches!(error, LabError::NameTaken { .. }), "{error}");
            down(&name).unwrap();
            assert_eq!(name.traces(), [""; 0], "killed at step {last}");
        }
    });
}

#[test]
fn a_lab_killed_at_any_moment_can_be_taken_down() {
    /// From one moment to the next; making the lab takes some 40 ms.
    const STRIDE: Duration = Duration::from_micros(1700);
    alone("a_lab_killed_at_any_moment_can_be_taken_down", || {
        let agent = FakeAgent::new("moments", READY);
        for number in 1..=30 {
            let name = Name::new(&format!("moment{number}"));
            let mut maker = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "up_until_killed", "--nocapture"])
                .env("WEFT_TEST_LAB", name.as_str())
                .env("WEFT_TEST_STEPS", "1000")
                .env("WEFT_TEST_AGENT", agent.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(STRIDE * number);
            maker.kill().unwrap();
            maker.wait().unwrap();
            match down(&name) {
                Ok(()) => {}
                Err(error) => assert!(matches!(error, LabError::NoSuchLab { .. }), "{error}"),
            }
            assert_eq!(name.traces(), [""; 0], "killed at moment {number}");
        }
    });
}

#[test]
fn a_lab_without_a_usable_journal_can_be_taken_down() {
    if !root_or_skip("a_lab_without_a_usable_journal_can_be_taken_down") {
        return;
    }
    let (name, agent) = (Name::new("journal"), FakeAgent::new("journal", READY));
    let lab = up(&name, &agent).unwrap();
    let journal = lab.run_dir_of("lab.json");
    fs::write(&journal, "{\"version\": 1, ").unwrap();
    assert!(matches!(status(&name).state, LabState::Unreadable { .. }));
    down(&name).unwrap();
    assert_eq!(name.traces(), [""; 0]);

    fs::create_dir_all(journal.parent().unwrap()).unwrap();
    down(&name).unwrap();
    assert_eq!(name.traces(), [""; 0]);
}
