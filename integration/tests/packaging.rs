//! What `make install` puts in place, started as systemd would; and what `cargo install` makes.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use weft_integration::{BOUND, Child, Family, Requirement, ping_all, site, test_name, unmet, weft};

fn script(verb: &str, root: &Path) -> String {
    let built = weft();
    run_script(verb, built.parent().unwrap(), root)
}

fn run_script(verb: &str, built: &Path, root: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/install.sh");
    let mut command = Command::new(script);
    command.arg(verb).arg(built).env("DESTDIR", root).env("PREFIX", "/usr/local");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

/// All that is in a directory, directories included.
fn contents(directory: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        found.extend(contents(&path));
        found.insert(path);
    }
    found
}

/// The value of a field in a unit.
fn field<'a>(unit: &'a str, name: &str) -> &'a str {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn cargo_installs_both_programs() {
    if unmet(test_name!(), &[Requirement::Tool("cargo")]) {
        return;
    }
    // In target/PROFILE/deps. What this build has compiled of `weft` is as it would be for it alone; the plugin's libraries
    // have fewer features by themselves, and to put another `weft-cni` there would pull it from under other tests.
    let test = std::env::current_exe().unwrap();
    let [_, profile, target] = [1, 2, 3].map(|up| test.ancestors().nth(up).unwrap());
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let root = std::env::temp_dir().join(format!("weft-it-cargo-{}", std::process::id()));
    for (package, target) in [("weft", target.to_owned()), ("cni-shim", target.join("install"))] {
        let mut cargo = Command::new("cargo");
        cargo.args(["install", "--path", package, "--locked", "--offline", "--no-track", "--root"]).arg(&root);
        cargo.arg("--target-dir").arg(target);
        if profile.ends_with("debug") {
            cargo.arg("--debug");
        }
        let output = cargo.current_dir(&repository).output().unwrap();
        assert!(output.status.success(), "{package}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let said = |program: &mut Command| String::from_utf8(program.output().unwrap().stdout).unwrap();
    let weft = said(Command::new(root.join("bin/weft")).arg("--version"));
    assert_eq!(weft.trim(), concat!("weft ", env!("CARGO_PKG_VERSION")));
    let question = root.join("question");
    fs::write(&question, "{\"cniVersion\": \"1.1.0\"}").unwrap();
    let question = fs::File::open(question).unwrap();
    let plugin = said(Command::new(root.join("bin/weft-cni")).env("CNI_COMMAND", "VERSION").stdin(question));
    assert!(plugin.contains("supportedVersions"), "{plugin}");
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn what_is_installed_runs_with_the_units_privileges_and_goes_without_a_trace() {
    let site = site!("setpriv", "ping");
    let root = site.directory().join("root");
    // Of somebody else, and there before.
    let strange = root.join("usr/local/bin/strange");
    fs::create_dir_all(strange.parent().unwrap()).unwrap();
    fs::write(&strange, "").unwrap();
    let before = contents(&root);
    assert!(script("install", &root).contains("systemctl enable --now weft-agent"));
    let installed = contents(&root);
    for one in ["bin/weft", "bin/weft-cni", "share/man/man1/weft.1", "share/bash-completion/completions/weft"] {
        assert!(installed.contains(&root.join("usr/local").join(one)), "{one}: {installed:?}");
    }

    let unit = fs::read_to_string(root.join("usr/local/lib/systemd/system/weft-agent.service")).unwrap();
    let [node, _] = site.pair();
    let pods = ["a", "b"].map(|name| site.host(name));
    let place = |name: &str| site.directory().join(name).display().to_string();
    let port = |pod: &weft_integration::Host, address: &str| {
        let (name, netns) = (pod.name(), pod.netns().label());
        format!("[[port]]\nname = \"{name}\"\nvni = 7\nnetns = \"{netns}\"\naddresses = [\"{address}/24\"]\n")
    };
    let config = format!(
        "node = \"n1\"\nrun_dir = \"{}\"\nkeeper = \"off\"\n[underlay]\naddresses = [\"{}\"]\n[workers]\ncount = 2\n\
         [[vni]]\nid = 7\n{}{}",
        place("run"),
        node.address(Family::Ipv4),
        port(&pods[0], "10.7.0.1"),
        port(&pods[1], "10.7.0.2"),
    );
    fs::write(place("agent.toml"), config).unwrap();
    fs::create_dir_all(place("run")).unwrap();

    // As the unit says, but for where its files are.
    let start = field(&unit, "ExecStart").replace("/etc/weft/agent.toml", &place("agent.toml"));
    let start = start.replace("/usr/local", &root.join("usr/local").display().to_string());
    let bounds: String = field(&unit, "CapabilityBoundingSet")
        .split_ascii_whitespace()
        .map(|one| format!(",+{}", one.trim_start_matches("CAP_").to_ascii_lowercase()))
        .collect();
    assert_eq!(field(&unit, "NoNewPrivileges"), "yes");
    let bounding = format!("--bounding-set=-all{bounds}");
    let words: Vec<&str> = ["setpriv", "--no-new-privs", &bounding, "--inh-caps=-all"]
        .into_iter()
        .chain(start.split_ascii_whitespace())
        .collect();
    let supervisor = UnixDatagram::bind(place("notify")).unwrap();
    supervisor.set_read_timeout(Some(BOUND)).unwrap();
    let mut command = node.command(&words);
    let watchdog = Duration::from_secs(field(&unit, "WatchdogSec").trim_end_matches('s').parse().unwrap());
    command.env("NOTIFY_SOCKET", place("notify")).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
    let log = fs::File::create(place("log")).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let agent = Child::spawn(command);
    assert_eq!(field(&unit, "Type"), "notify");
    let mut said = String::new();
    while !said.contains("READY=1") || !said.contains("WATCHDOG=1") {
        let mut buffer = [0; 1024];
        let length = supervisor.recv(&mut buffer);
        let log = || fs::read_to_string(place("log")).unwrap_or_default();
        let length = length.unwrap_or_else(|error| panic!("{error}, after {said}: {}", log()));
        said += &String::from_utf8_lossy(&buffer[..length]);
    }
    ping_all(&pods[0], "10.7.0.2");
    drop(agent);

    script("uninstall", &root);
    assert_eq!(contents(&root), before);
}

#[test]
fn another_version_leaves_nothing_of_the_one_before() {
    let root = std::env::temp_dir().join(format!("weft-it-versions-{}", std::process::id()));
    let [old, new] = ["old", "new"].map(|version| {
        let built = root.join(version);
        fs::create_dir_all(&built).unwrap();
        // What the script asks of the program: manual pages, of which each version has one of its own.
        let program = format!("#!/bin/sh\n[ \"$1\" != man ] || echo page >\"$2/weft-{version}.1\"\n");
        for name in ["weft", "weft-cni"] {
            let path = built.join(name);
            fs::write(&path, &program).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        built
    });
    let place = root.join("place");
    // Somebody else's, and there before.
    fs::create_dir_all(place.join("usr/local/share/man")).unwrap();
    let before = contents(&place);
    let page = |version: &str| place.join(format!("usr/local/share/man/man1/weft-{version}.1"));
    run_script("install", &old, &place);
    assert!(page("old").exists());
    run_script("install", &new, &place);
    assert!(!page("old").exists() && page("new").exists());
    let strange = place.join("usr/local/share/fish/vendor_completions.d/strange.fish");
    fs::write(&strange, "").unwrap();
    run_script("uninstall", &new, &place);
    let left: BTreeSet<PathBuf> = contents(&place).difference(&before).cloned().collect();
    let others = strange.ancestors().take(3).map(Path::to_owned);
    assert_eq!(left, others.collect());
    fs::remove_dir_all(root).unwrap();
}
