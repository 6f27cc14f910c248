use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::mount::{UnmountFlags, unmount};

use crate::child::{Child, Output};
use crate::cni::CniDirectories;
use crate::container_image::BOX_IMAGE;
use crate::cri::Cri;
use crate::host::Host;
use crate::wait::eventually;

/// What `ctr` and the Container Runtime Interface call their containers' realms.
const NAMESPACES: [&str; 2] = ["default", "k8s.io"];

/// A containerd of one node, with the Container Runtime Interface. Containers and their shims outlive it: dropping it
/// removes them.
#[derive(Debug)]
pub struct Containerd {
    _process: Child,
    node: Host,
    directory: PathBuf,
    plugins: CniDirectories,
}

impl Containerd {
    /// Starts it, with everything of it in one directory, and imports an image.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn start(node: &Host, directory: &Path, plugins: CniDirectories, archive: &Path) -> Self {
        let place = |name: &str| directory.join(name).display().to_string();
        // Root without CAP_SYS_RESOURCE may not make a process less likely to be killed.
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n[grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\n\
             restrict_oom_score_adj = true\nnetns_mounts_under_state_dir = true\nsandbox_image = {BOX_IMAGE:?}\n\
             containerd = {{ snapshotter = \"native\" }}\ncni = {{ bin_dir = {:?}, conf_dir = {:?} }}\n",
            place("root"),
            place("state"),
            place("s"),
            place("t"),
            plugins.bin,
            plugins.conf,
        );
        fs::write(place("containerd.toml"), config).unwrap();
        let mut command = node.command(&["containerd", "--config", &place("containerd.toml")]);
        let log = fs::File::create(place("containerd.log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let process = Child::spawn(command);
        let one = Self { _process: process, node: node.clone(), directory: directory.to_owned(), plugins };
        eventually("containerd answers", || {
            let output = one.ctr(&["version"]);
            if output.status.success() { Ok(()) } else { Err(output.stderr) }
        });
        for namespace in NAMESPACES {
            let archive = archive.to_str().unwrap();
            one.run(&["-n", namespace, "images", "import", "--snapshotter", "native", archive]);
        }
        one
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.join("containerd.log")).unwrap_or_default()
    }

    /// A client of its Container Runtime Interface.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn cri(&self) -> Cri {
        Cri::new(&self.directory.join("s"))
    }

    /// `ctr`, with the plugins where it looks for them: in a mount namespace of its own.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn ctr(&self, words: &[&str]) -> Output {
        let (bin, conf) = (self.plugins.bin.display(), self.plugins.conf.display());
        let script = format!(
            "mount -t tmpfs none /var/lib && mount -t tmpfs none /opt && mkdir -p /opt/cni/bin && mount --bind {bin} /opt/cni/bin && \
             mount -t tmpfs none /etc/cni && mkdir /etc/cni/net.d && mount --bind {conf} /etc/cni/net.d && exec \"$@\""
        );
        let address = self.directory.join("s").display().to_string();
        let shell = ["unshare", "-m", "--propagation", "private", "sh", "-c", &script, "sh", "ctr", "-a", &address];
        self.node.try_run(&[&shell[..], words].concat())
    }

    /// The same, and what it printed.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        let output = self.ctr(words);
        assert!(output.status.success(), "{words:?}: {}\n{}\n{}", output.stdout, output.stderr, self.log());
        output.stdout
    }

    fn remove_containers(&self) {
        let cri = self.cri();
        for sandbox in cri.sandboxes().unwrap_or_default() {
            let _ = cri.stop_sandbox(&sandbox).and_then(|()| cri.remove_sandbox(&sandbox));
        }
        for namespace in NAMESPACES {
            for task in self.ctr(&["-n", namespace, "tasks", "list", "-q"]).stdout.lines() {
                let _ = self.ctr(&["-n", namespace, "tasks", "kill", "-s", "KILL", task]);
                let _ = self.ctr(&["-n", namespace, "tasks", "delete", "-f", task]);
            }
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.remove_containers();
        // What a sandbox left that did not go would keep the test's directory.
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let places = mounts.lines().rev().filter_map(|line| line.split(' ').nth(1));
        for place in places.filter(|place| Path::new(place).starts_with(&self.directory)) {
            if let Err(error) = unmount(place, UnmountFlags::DETACH) {
                eprintln!("unmounting {place}: {error}");
            }
        }
    }
}
