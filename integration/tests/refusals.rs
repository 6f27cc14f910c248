//! What the command refuses: with a clear message and the next step, a failing exit code, and nothing left.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use weft_control::config::file::unspanned;
use weft_integration::{AgentConfig, AgentNode, Encapsulation, Family, Host, Output, Overlay, Site, site, weft};

fn links(host: &Host) -> Vec<String> {
    host.netns().links(|links| links.list()).unwrap().into_iter().map(|link| link.name).collect()
}

/// Runs `weft` with these arguments and checks that it refuses, with all of these words.
#[track_caller]
fn refused(host: &Host, arguments: &[&str], words: &[&str]) -> Output {
    let program = weft();
    let argv: Vec<_> = [program.to_str().unwrap()].into_iter().chain(arguments.iter().copied()).collect();
    let output = host.try_run(&argv);
    check_refusal(&output, words);
    output
}

#[track_caller]
fn check_refusal(output: &Output, words: &[&str]) {
    let Output { status, stdout, stderr } = output;
    println!("{stderr}");
    assert_eq!(status.code(), Some(1), "{stdout}{stderr}");
    for word in words {
        assert!(stderr.contains(word), "no `{word}` in:\n{stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
    // The first thing to read is what failed, and it is said once.
    let line = stderr.lines().find(|line| line.starts_with("weft: ")).unwrap_or_else(|| panic!("{stderr}"));
    for part in line.split(": ").filter(|part| part.len() > 12) {
        assert_eq!(line.matches(part).count(), 1, "`{part}` is said twice:\n{stderr}");
    }
}

/// An agent with one pod, `pod`, that was not started.
fn config(site: &Site) -> (Host, Host, AgentConfig) {
    let [node, peer] = site.pair();
    let pod = site.host("pod");
    let config = AgentConfig::new(site, &node, &[Family::Ipv4])
        .vni(Overlay::VNI)
        .peer(peer.address(Family::Ipv4), Encapsulation::Vxlan, &[Overlay::VNI])
        .port(&pod, Overlay::VNI, &["10.0.0.1/24"]);
    (Host::clone(&node), pod, config)
}

#[test]
fn a_second_agent_in_the_same_run_directory() {
    let site = site!();
    let (_, _, first) = config(&site);
    let second = first.clone();
    let first = first.start();
    let refused = second.attempt().unwrap_err();
    let pid = format!("(process {})", first.pid());
    refused.assert_says(&["another agent", &pid, "stop it first", "`run_dir`"]);
    assert_eq!(first.port("pod").state, "forwarding");
    first.finish();
}

#[test]
fn a_second_agent_on_the_same_tunnel_port() {
    let site = site!();
    let (_, _, first) = config(&site);
    let mut second = first.clone();
    let other = site.host("other");
    second.file.ports[0].netns = unspanned(other.netns().label().to_owned());
    let first = first.start();
    let run_dir = site.directory().join("second");
    fs::create_dir(&run_dir).unwrap();
    second.file.run_dir = unspanned(run_dir.clone());
    let refused = second.attempt().unwrap_err();
    refused.assert_says(&["192.0.2.1:4789", "in use", "a second agent?", "choose another port"]);
    assert_eq!(links(&other), ["lo"], "a device was left");
    assert!(!run_dir.join("agent.sock").exists());
    first.finish();
}

#[test]
fn a_missing_namespace() {
    let site = site!();
    let (_, pod, mut config) = config(&site);
    config.file.ports[0].netns = unspanned("no-such-namespace".to_owned());
    let refused = config.attempt().unwrap_err();
    refused.assert_says(&["port `pod`", "`no-such-namespace`"]);
    assert_eq!(links(&pod), ["lo"]);
}

#[test]
fn a_name_taken_by_another_device() {
    for make in ["link add eth0 type veth peer name eth9", "tuntap add eth0 mode tap"] {
        let site = site!("ip");
        let (_, pod, config) = config(&site);
        pod.ip(make);
        let before = links(&pod);
        let refused = config.attempt().unwrap_err();
        refused.assert_says(&["port `pod`", "`eth0`", "taken", "choose another `interface`"]);
        assert_eq!(links(&pod), before);
    }
}

#[test]
fn an_ipv6_address_where_ipv6_is_off() {
    let site = site!();
    let (_, pod, mut config) = config(&site);
    let off = || fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    pod.netns().run(off).unwrap().unwrap();
    let addresses = ["10.0.0.1/24", "fd00::1/64"].map(|address| address.parse().unwrap());
    config.file.ports[0].addresses = unspanned(addresses.to_vec());
    let refused = config.attempt().unwrap_err();
    refused.assert_says(&["port `pod`", "fd00::1/64", "IPv6 is switched off", "net.ipv6.conf.eth0.disable_ipv6=0"]);
    assert_eq!(links(&pod), ["lo"], "a device was left");
}

#[test]
fn a_local_socket_that_cannot_be_made() {
    let site = site!();
    let (_, pod, config) = config(&site);
    let in_the_way = config.file.run_dir.as_ref().join("agent.sock");
    fs::create_dir_all(&in_the_way).unwrap();
    let refused = config.attempt().unwrap_err();
    refused.assert_says(&["the agent's socket", "agent.sock", "remove what is in its place", "`run_dir`"]);
    assert_eq!(links(&pod), ["lo"], "a device was left");
}

#[test]
fn an_address_that_no_interface_has() {
    let site = site!();
    let (_, pod, mut config) = config(&site);
    config.file.underlay.addresses = unspanned(vec!["192.0.2.77".parse().unwrap()]);
    let refused = config.attempt().unwrap_err();
    refused.assert_says(&["192.0.2.77", "no interface", "`underlay.addresses`"]);
    assert_eq!(links(&pod), ["lo"]);
}

/// The program where every user may run it.
fn program_for_all(site: &Site) -> String {
    let copy = site.directory().join("weft");
    fs::copy(weft(), &copy).unwrap();
    copy.to_str().unwrap().to_owned()
}

/// A directory that every user may write.
fn directory_for_all(site: &Site) -> std::path::PathBuf {
    let directory = site.directory().join("open");
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
    directory
}

#[test]
fn no_privilege() {
    let site = site!("setpriv");
    let (node, pod, mut config) = config(&site);
    let program = program_for_all(&site);
    let run = |config: &AgentConfig| {
        let file = config.write();
        let agent = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &program, "agent", "--config"];
        let argv: Vec<_> = agent.into_iter().chain([file.to_str().unwrap()]).collect();
        node.try_run(&argv)
    };
    let needed = ["needs root", "CAP_NET_ADMIN and CAP_SYS_ADMIN"];
    check_refusal(&run(&config), &needed);
    config.file.run_dir = unspanned(directory_for_all(&site));
    check_refusal(&run(&config), &needed);
    assert_eq!(links(&pod), ["lo"]);
    assert!(!config.file.run_dir.as_ref().join("agent.sock").exists());
    // Without ports it may do without, and then needs a place for its socket.
    config.file.ports.clear();
    config.file.run_dir = unspanned(site.directory().join("closed"));
    let run_dir = config.file.run_dir.as_ref().display().to_string();
    check_refusal(&run(&config), &[&run_dir, "Permission denied", "`run_dir`"]);
}

#[test]
fn no_tun_device() {
    let site = site!("unshare", "mount", "sh");
    let (node, pod, config) = config(&site);
    let hidden = "mount -t tmpfs none /dev/net && exec \"$0\" agent --config \"$1\"";
    let (program, file) = (weft(), config.write());
    let argv = ["unshare", "-m", "sh", "-c", hidden, program.to_str().unwrap(), file.to_str().unwrap()];
    check_refusal(&node.try_run(&argv), &["port `pod`", "/dev/net/tun", "load `tun`"]);
    assert_eq!(links(&pod), ["lo"]);
    assert!(Path::new("/dev/net/tun").exists(), "only the private view was changed");
}

#[test]
fn nobody_to_ask() {
    let site = site!("setpriv");
    let (node, _, config) = config(&site);
    let run_dir = config.file.run_dir.as_ref().display().to_string();
    let ask = |arguments: &[&str]| -> Vec<String> { arguments.iter().map(|word| (*word).to_owned()).collect() };
    let questions = [ask(&["status"]), ask(&["show", "drops"]), ask(&["show", "fdb", "--json"])];
    let all = |words: &[&str]| {
        for question in &questions {
            let question: Vec<_> = question.iter().map(String::as_str).chain(["--run-dir", &run_dir]).collect();
            let output = refused(&node, &question, words);
            assert_eq!(output.stdout, "");
        }
    };
    all(&["no agent answers at", &run_dir, "weft agent --config FILE"]);
    let agent = config.start();
    let program = program_for_all(&site);
    let nobody =
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &program, "status", "--run-dir", &run_dir];
    check_refusal(&node.try_run(&nobody), &["may not be opened by this user"]);
    // What a killed agent leaves answers nobody, and is in no successor's way.
    agent.kill();
    assert!(Path::new(&run_dir).join("agent.sock").exists());
    all(&["no agent answers at", &run_dir]);
}

#[test]
fn an_agent_of_another_version() {
    let site = site!();
    let (node, _, config) = config(&site);
    let agent = config.start();
    let socket = agent.run_dir().join("agent.sock");
    let say = |request: &[u8]| {
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.write_all(request).unwrap();
        let mut reply = String::new();
        BufReader::new(stream).read_line(&mut reply).unwrap();
        serde_json::from_str::<serde_json::Value>(&reply).unwrap()
    };
    for request in [
        "{\"api\":999,\"query\":\"status\"}\n",
        "{\"api\":0,\"query\":\"status\"}\n",
        "{\"api\":999,\"whatever\":[]}\n",
    ] {
        let reply = say(request.as_bytes());
        assert_eq!(reply["api"], weft_api::API_VERSION, "{reply}");
        let message = reply["error"]["message"].as_str().unwrap();
        assert!(message.contains("version 1") && message.contains("installed with the agent"), "{message}");
    }
    for garbage in [
        &b"\n"[..],
        b"no JSON\n",
        b"{}\n",
        b"[1, 2]\n",
        b"{\"api\":1}\n",
        b"{\"api\":1,\"query\":\"soup\"}\n",
        b"\xff\xfe\n",
    ] {
        let reply = say(garbage);
        assert!(reply["error"]["message"].is_string(), "{reply}");
    }
    // More than a request may have, without an end.
    let mut flood = UnixStream::connect(&socket).unwrap();
    let _ = flood.write_all(&vec![b'x'; 1 << 20]);
    assert_eq!(agent.status().node, "n1");
    agent.finish();

    // The other way round: an agent of tomorrow.
    let directory = site.directory().join("tomorrow");
    fs::create_dir(&directory).unwrap();
    let listener = UnixListener::bind(directory.join("agent.sock")).unwrap();
    let tomorrow = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        stream.read_line(&mut String::new()).unwrap();
        stream.get_mut().write_all(b"{\"api\":999,\"status_of_tomorrow\":{}}\n").unwrap();
    });
    let run_dir = directory.to_str().unwrap();
    refused(&node, &["status", "--run-dir", run_dir], &["version 999", "version 1", "installed with the agent"]);
    tomorrow.join().unwrap();
}

#[test]
fn answers_as_text_and_as_json() {
    let site = site!();
    let overlay = Overlay::pair(&site, Encapsulation::Vxlan, Family::Ipv4);
    weft_integration::ping_all(&overlay.pods[0], Overlay::IPV4[1]);
    let program = weft();
    let run_dir = overlay.agents[0].run_dir().to_str().unwrap();
    let ask = |words: &[&str]| {
        let argv: Vec<_> = [program.to_str().unwrap()]
            .into_iter()
            .chain(words.iter().copied())
            .chain(["--run-dir", run_dir])
            .collect();
        overlay.nodes[0].run(&argv)
    };
    let mac = overlay.pods[1].mac("eth0").to_string();
    for (words, part) in [
        (&["status"][..], overlay.agents[0].status().underlay.level.as_str()),
        (&["show", "ports"], "forwarding"),
        (&["show", "vteps"], "192.0.2.2"),
        (&["show", "fdb"], &mac),
        (&["show", "drops", "--all"], "unknown_source"),
        (&["show", "counters"], "frames_in"),
    ] {
        assert!(ask(words).contains(part), "{}", ask(words));
        let json = ask(&[words, &["--json"]].concat());
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(json.contains(part) && (value.is_object() || value.is_array()), "{json}");
    }
    overlay.agents.into_iter().for_each(AgentNode::finish);
}
