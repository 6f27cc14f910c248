//! Containers of containerd and podman, whose pods come by the plugin.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;
use weft_integration::{AgentNode, Child, Cluster, Host, Output, eventually, site, weft_cni};

const IMAGE: &str = "example.org/weft/box:1";
/// What is fetched from one container by another.
const FILE: &str = "carried from one node to another, through both runtimes' plugins\n";
/// The plugins that come with the system.
const PLUGINS: &str = "/usr/lib/cni";

/// An image without any registry: busybox, and a file to serve.
fn image(directory: &Path) -> PathBuf {
    let root = directory.join("rootfs");
    for folder in ["bin", "www", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    fs::copy("/usr/bin/busybox", root.join("bin/busybox"))
        .or_else(|_| fs::copy("/bin/busybox", root.join("bin/busybox")))
        .unwrap();
    for applet in ["sh", "httpd", "nc"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("www/file"), FILE).unwrap();
    let tar = |archive: &Path, directory: &Path, what: &[&str]| {
        let status = Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(directory).args(what).status().unwrap();
        assert!(status.success());
    };
    let packed = directory.join("image");
    fs::create_dir(&packed).unwrap();
    tar(&packed.join("layer.tar"), &root, &["."]);
    let sum = Command::new("sha256sum").arg(packed.join("layer.tar")).output().unwrap();
    let digest = String::from_utf8(sum.stdout).unwrap().split(' ').next().unwrap().to_owned();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({ "architecture": architecture, "os": "linux", "config": { "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] } });
    fs::write(packed.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(packed.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = directory.join("box.tar");
    tar(&archive, &packed, &["manifest.json", "config.json", "layer.tar"]);
    archive
}

/// Directories of plugins and configurations, as `weft cni install` makes them, with the system's own plugins.
fn plugins(directory: &Path, run_dir: &Path) -> (PathBuf, PathBuf) {
    let (bin, conf) = (directory.join("bin"), directory.join("net.d"));
    let mut install = Command::new(weft_integration::weft());
    install.args(["cni", "install", "--bin-dir"]).arg(&bin).arg("--conf-dir").arg(&conf).arg("--run-dir").arg(run_dir);
    let output = install.arg("--plugin").arg(weft_cni()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for plugin in fs::read_dir(PLUGINS).unwrap() {
        let plugin = plugin.unwrap();
        symlink(plugin.path(), bin.join(plugin.file_name())).unwrap();
    }
    (bin, conf)
}

/// A containerd of one node.
struct Containerd {
    _process: Child,
    node: Host,
    directory: PathBuf,
    plugins: (PathBuf, PathBuf),
}

impl Containerd {
    fn start(node: &Host, directory: &Path, plugins: (PathBuf, PathBuf)) -> Self {
        let directory = directory.to_owned();
        let place = |name: &str| directory.join(name).display().to_string();
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            place("root"),
            place("state"),
            place("s"),
            place("t")
        );
        fs::write(directory.join("containerd.toml"), config).unwrap();
        let mut command = node.command(&["containerd", "--config", &place("containerd.toml")]);
        let log = fs::File::create(directory.join("containerd.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = Child::spawn(command);
        let one = Self { _process: process, node: node.clone(), directory, plugins };
        eventually("containerd answers", || {
            let output = one.ctr(&["version"]);
            if output.status.success() { Ok(()) } else { Err(output.stderr) }
        });
        one
    }

    /// `ctr`, with the plugins where it looks for them: in a mount namespace of its own.
    fn ctr(&self, words: &[&str]) -> Output {
        let (bin, conf) = (self.plugins.0.display(), self.plugins.1.display());
        let script = format!(
            "mount -t tmpfs none /var/lib && mount -t tmpfs none /opt && mkdir -p /opt/cni/bin && mount --bind {bin} /opt/cni/bin && \
             mount -t tmpfs none /etc/cni && mkdir /etc/cni/net.d && mount --bind {conf} /etc/cni/net.d && exec \"$@\""
        );
        let address = self.directory.join("s").display().to_string();
        let shell = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh", "ctr", "-a", &address];
        self.node.try_run(&[&shell[..], words].concat())
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        let output = self.ctr(words);
        let log = || fs::read_to_string(self.directory.join("containerd.log")).unwrap_or_default();
        assert!(output.status.success(), "{words:?}: {}\n{}\n{}", output.stdout, output.stderr, log());
        output.stdout
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // Containers and their shims outlive containerd.
        for words in [["task", "kill", "-s", "KILL", "server"], ["task", "delete", "-f", "server", ""]] {
            let words: Vec<&str> = words.into_iter().filter(|word| !word.is_empty()).collect();
            let _ = self.ctr(&words);
        }
    }
}

/// A shell's words that fetch the file by HTTP. busybox' own wget does not run everywhere: it looks names up with what its
/// static libraries lack.
fn fetch_from(address: &str) -> String {
    format!("printf 'GET /file HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80")
}

/// The addresses of the one pod of an agent.
fn pod_of(agent: &AgentNode) -> Vec<String> {
    eventually("the agent has a pod", || {
        let pod = agent.ports().into_iter().find(|port| port.name != "host");
        let host = |address: &String| address.split('/').next().unwrap().to_owned();
        pod.map(|pod| pod.addresses.iter().map(host).collect()).ok_or_else(|| agent.log())
    })
}

fn wait_for_no_pod(agent: &AgentNode) {
    eventually("the agent has no pod any longer", || {
        let ports = agent.ports();
        if ports.len() == 1 { Ok(()) } else { Err(format!("{ports:?}\n{}", agent.log())) }
    });
}

#[test]
fn a_container_of_containerd_fetches_a_file_from_one_of_another_node() {
    let cluster = Cluster::<2>::new(site!(
        "ip",
        "containerd",
        "ctr",
        "runc",
        "unshare",
        "busybox",
        "tar",
        "/usr/lib/cni/loopback"
    ));
    let agents = cluster.start();
    let archive = image(cluster.site().directory());
    let runtimes = [0, 1].map(|own| {
        let directory = cluster.site().directory().join(format!("c{own}"));
        fs::create_dir(&directory).unwrap();
        let plugins = plugins(&directory, &cluster.run_dir(own));
        let runtime = Containerd::start(&cluster.nodes[own], &directory, plugins);
        runtime.run(&["images", "import", "--snapshotter", "native", archive.to_str().unwrap()]);
        runtime
    });
    let run = ["run", "--snapshotter", "native", "--cni"];
    let serve = ["-d", IMAGE, "server", "httpd", "-f", "-p", "80", "-h", "/www"];
    runtimes[0].run(&[&run[..], &serve].concat());
    for address in pod_of(&agents[0]) {
        let fetched = eventually("the server listens", || {
            let fetch = ["--rm", IMAGE, "client", "sh", "-c", &fetch_from(&address)];
            let output = runtimes[1].ctr(&[&run[..], &fetch].concat());
            if output.status.success() { Ok(output.stdout) } else { Err(output.stderr) }
        });
        assert!(fetched.ends_with(FILE), "{fetched}");
        // It came with ADD and went with DEL, which says no namespace.
        assert_eq!(agents[1].ports().len(), 1, "{}", agents[1].log());
    }
    // `ctr` detaches nothing that runs on its own: the agent sees by itself that it is gone.
    runtimes[0].run(&["task", "kill", "-s", "KILL", "server"]);
    wait_for_no_pod(&agents[0]);
    for agent in &agents {
        agent.wait_for_endpoints(2);
    }
}

/// `podman` with the plugins, everything of it in one directory.
struct Podman {
    node: Host,
    directory: PathBuf,
}

impl Podman {
    fn new(node: &Host, directory: &Path, (bin, conf): &(PathBuf, PathBuf)) -> Self {
        let config = format!(
            "[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{bin:?}]\nnetwork_config_dir = {conf:?}\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nruntime = \"runc\"\nevents_logger = \"none\"\n\
             [containers]\ndefault_ulimits = [\"nofile=1024:4096\", \"nproc=4096:4096\"]\n"
        );
        fs::write(directory.join("containers.conf"), config).unwrap();
        fs::write(directory.join("policy.json"), r#"{"default":[{"type":"insecureAcceptAnything"}]}"#).unwrap();
        Self { node: node.clone(), directory: directory.to_owned() }
    }

    fn try_run(&self, words: &[&str]) -> Output {
        let place = |name: &str| self.directory.join(name).display().to_string();
        let (root, run, temporary) = (place("root"), place("run"), place("tmp"));
        let own = ["podman", "--root", &root, "--runroot", &run, "--tmpdir", &temporary, "--storage-driver", "vfs"];
        let mut command = self.node.command(&[&own[..], words].concat());
        command.env("CONTAINERS_CONF", place("containers.conf"));
        command.output().unwrap().into()
    }

    #[track_caller]
    fn run(&self, words: &[&str]) -> String {
        let output = self.try_run(words);
        assert!(output.status.success(), "{words:?}: {}\n{}", output.stdout, output.stderr);
        output.stdout
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Containers outlive the program that started them.
        let _ = self.try_run(&["rm", "-f", "-t", "0", "-a"]);
    }
}

#[test]
fn containers_of_podman_get_the_address_and_the_mac_that_they_ask_for() {
    let cluster = Cluster::<1>::new(site!("ip", "podman", "runc", "busybox", "tar", "/usr/lib/cni/loopback"));
    let [agent] = cluster.start();
    let directory = cluster.site().directory();
    let archive = image(directory);
    let plugins = plugins(directory, &cluster.run_dir(0));
    let podman = Podman::new(&cluster.nodes[0], directory, &plugins);
    let policy = directory.join("policy.json").display().to_string();
    podman.run(&["load", "--signature-policy", &policy, "-i", archive.to_str().unwrap()]);
    let range = agent.status().control.unwrap().ranges[0].clone();
    let own = range.replace(".0/24", ".99");
    let run = ["run", "--network", "weft", "--ip", &own, "--mac-address", "02:00:00:00:00:99"];
    podman.run(&[&run[..], &["-d", "--name", "server", IMAGE, "httpd", "-f", "-p", "80", "-h", "/www"]].concat());
    assert_eq!(pod_of(&agent)[0], own);
    assert_eq!(agent.ports().iter().find(|port| port.name != "host").unwrap().mac, "02:00:00:00:00:99");
    let script = fetch_from(&own);
    let fetch = ["run", "--rm", "--network", "weft", IMAGE, "sh", "-c", &script];
    let fetched = eventually("the server listens", || {
        let output = podman.try_run(&fetch);
        if output.status.success() { Ok(output.stdout) } else { Err(output.stderr) }
    });
    assert!(fetched.ends_with(FILE), "{fetched}");
    podman.run(&["rm", "-f", "-t", "0", "server"]);
    wait_for_no_pod(&agent);
}
