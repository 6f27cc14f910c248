//! The container image: built by its recipe, without a registry, and its agent with the privileges that the unit lists.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use weft_integration::{Family, Host, Podman, eventually, ping_all, put_busybox, site, weft, weft_cni};

/// The port of the manifest's `[metrics]`.
const METRICS: u16 = 9469;
const IMAGE: &str = "localhost/weft";

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)).unwrap()
}

/// An image of a directory, at a place of the image's.
fn pack(podman: &Podman, directory: &str, at: &str, tag: &str) {
    let recipe = podman.place(&format!("{directory}.recipe"));
    fs::write(&recipe, format!("FROM scratch\nCOPY . {at}\n")).unwrap();
    build(podman, &recipe, &podman.place(directory), tag, &[]);
}

fn build(podman: &Podman, recipe: &str, context: &str, tag: &str, more: &[&str]) {
    let policy = podman.place("policy.json");
    let words = ["build", "--signature-policy", &policy, "--pull=never", "-t", tag, "-f", recipe];
    podman.run(&[&words[..], more, &[context]].concat());
}

/// What the programs run on, as little as will do: the libraries that they name, and a shell.
fn base(directory: &Path) {
    let libraries = Command::new("ldd").arg(weft()).output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    let paths = libraries.split_ascii_whitespace().filter(|word| word.starts_with('/'));
    for path in paths.map(Path::new) {
        let place = directory.join(path.strip_prefix("/").unwrap());
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(path, place).unwrap();
    }
    put_busybox(&directory.join("bin"), &["sh", "sed"]);
}

/// The first line and the body of an answer over HTTP.
fn get(node: &Host, path: &str) -> Result<String, String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", METRICS))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    node.netns().run(ask).unwrap().map_err(|error| error.to_string())
}

/// The options by which a container gets these capabilities and no others.
fn bounds(capabilities: &str) -> Vec<String> {
    let add = capabilities.split_ascii_whitespace().map(|one| format!("--cap-add={one}"));
    ["--cap-drop=all", "--security-opt=no-new-privileges", "--read-only"]
        .map(str::to_owned)
        .into_iter()
        .chain(add)
        .collect()
}

#[test]
fn an_image_by_the_recipe_runs_the_agent_with_the_units_privileges() {
    let site = site!("podman", "runc", "busybox", "ldd", "ping");
    let [node, _] = site.pair();
    let podman = Podman::new(&node, site.directory(), "");
    base(&site.directory().join("base"));
    fs::create_dir(site.directory().join("programs")).unwrap();
    for program in [weft(), weft_cni()] {
        fs::copy(&program, site.directory().join("programs").join(program.file_name().unwrap())).unwrap();
    }
    pack(&podman, "base", "/", "localhost/base");
    pack(&podman, "programs", "/programs/", "localhost/programs");
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/container/Containerfile").display().to_string();
    let given = ["--build-arg", "PROGRAMS=localhost/programs", "--build-arg", "BASE=localhost/base"];
    build(&podman, &recipe, &podman.place("programs"), IMAGE, &given);
    assert!(podman.run(&["run", "--rm", IMAGE, "--version"]).starts_with("weft "));

    // The manifest's first container makes the node's configuration, with no capability at all.
    let manifest = read("deploy/kubernetes/weft.yaml");
    let template = manifest.split("agent.toml: |\n").nth(1).unwrap().split("---\n").next().unwrap();
    let template: String =
        template.lines().flat_map(|line| [line.strip_prefix("    ").unwrap_or(line), "\n"]).collect();
    let script =
        manifest.lines().map(str::trim).find(|line| line.starts_with("- sed ")).unwrap().trim_start_matches("- ");
    for folder in ["template", "config", "tls", "cni-bin", "cni-conf", "run"] {
        fs::create_dir(site.directory().join(folder)).unwrap();
    }
    fs::write(site.directory().join("template/agent.toml"), template).unwrap();
    let volume = |from: &str, to: &str| format!("-v={}:{to}", podman.place(from));
    let address = format!("ADDRESS={}", node.address(Family::Ipv4));
    let unprivileged = |options: &[&str], words: &[&str]| {
        let bounds = bounds("");
        let bounds: Vec<&str> = bounds.iter().map(String::as_str).collect();
        podman.run(&[&["run", "--rm", "--network=none"], &bounds[..], options, &[IMAGE], words].concat())
    };
    let (template, config) = (volume("template", "/config:ro"), volume("config", "/etc/weft"));
    let environment = ["-e", "NODE=n1", "-e", &address, "--entrypoint", "/bin/sh"];
    unprivileged(&[&environment[..], &[&template, &config]].concat(), &["-c", script]);
    let written = fs::read_to_string(site.directory().join("config/agent.toml")).unwrap();
    assert!(written.contains("node = \"n1\"") && !written.contains('@'), "{written}");
    unprivileged(&[&config], &["agent", "--config", "/etc/weft/agent.toml", "--check"]);
    // So does the second one put the plugin in place.
    let (bin, conf) = (volume("cni-bin", "/host/cni-bin"), volume("cni-conf", "/host/cni-conf"));
    let install = ["cni", "install", "--bin-dir", "/host/cni-bin", "--conf-dir", "/host/cni-conf"];
    unprivileged(&[&bin, &conf], &install);
    assert_eq!(fs::read(site.directory().join("cni-bin/weft-cni")).unwrap(), fs::read(weft_cni()).unwrap());
    assert!(site.directory().join("cni-conf/10-weft.conflist").exists());

    let pods = ["a", "b"].map(|name| site.host(name));
    let port = |pod: &Host, address: &str| {
        let (name, netns) = (pod.name(), pod.netns().label());
        format!("[[port]]\nname = \"{name}\"\nvni = 7\nnetns = \"{netns}\"\naddresses = [\"{address}/24\"]\n")
    };
    let own = format!(
        "node = \"n1\"\nkeeper = \"off\"\n[underlay]\naddresses = [\"{}\"]\n[workers]\ncount = 2\n\
         [metrics]\nlisten = \"127.0.0.1:{METRICS}\"\n[[vni]]\nid = 7\n{}{}",
        node.address(Family::Ipv4),
        port(&pods[0], "10.7.0.1"),
        port(&pods[1], "10.7.0.2"),
    );
    fs::write(site.directory().join("config/agent.toml"), own).unwrap();
    let unit = read("deploy/systemd/weft-agent.service");
    let capabilities = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let bounds = bounds(capabilities);
    let bounds: Vec<&str> = bounds.iter().map(String::as_str).collect();
    let place = ["-v=/run/netns:/run/netns:rslave", "--device=/dev/net/tun", "--network=host", "--pid=host"];
    let files = [volume("config", "/etc/weft:ro"), volume("run", "/run/weft")];
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    podman.run(&[&["run", "-d", "--name", "agent"], &bounds[..], &place, &files, &[IMAGE]].concat());
    let log = || podman.try_run(&["logs", "agent"]).stderr;
    eventually("the agent is ready", || {
        let answer = get(&node, "/readyz").map_err(|error| format!("{error}\n{}", log()))?;
        if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(answer) }
    });
    assert!(get(&node, "/healthz").unwrap().ends_with("ok\n"));
    ping_all(&pods[0], "10.7.0.2");
    // Asked to end, it ends well.
    podman.run(&["stop", "-t", "10", "agent"]);
    let status = podman.run(&["inspect", "--format", "{{.State.ExitCode}}", "agent"]);
    assert_eq!(status.trim(), "0", "{}", log());
}
