//! The CNI plugin, driven as the specification lets a runtime drive it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::child::Child;
use crate::host::Host;
use crate::weft::weft;

/// The plugin `weft-cni` of this build, beside `weft`.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn weft_cni() -> PathBuf {
    let path = weft().with_file_name("weft-cni");
    assert!(path.is_file(), "no {}: run `cargo build -p weft-cni`", path.display());
    path
}

/// The plugins that come with the system.
const PLUGINS: &str = "/usr/lib/cni";

/// Where a runtime finds plugins and networks: as `weft cni install` makes it, with the system's own plugins.
#[derive(Clone, Debug)]
pub struct CniDirectories {
    /// Of programs.
    pub bin: PathBuf,
    /// Of network configurations.
    pub conf: PathBuf,
}

impl CniDirectories {
    /// Makes them below a directory, for an agent with this run directory.
    ///
    /// # Panics
    /// If that cannot be done.
    #[must_use]
    pub fn install(directory: &Path, run_dir: &Path) -> Self {
        let (bin, conf) = (directory.join("bin"), directory.join("net.d"));
        let mut install = Command::new(weft());
        install
            .args(["cni", "install", "--bin-dir"])
            .arg(&bin)
            .arg("--conf-dir")
            .arg(&conf)
            .arg("--run-dir")
            .arg(run_dir);
        let output = install.arg("--plugin").arg(weft_cni()).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        for plugin in fs::read_dir(PLUGINS).unwrap() {
            let plugin = plugin.unwrap();
            symlink(plugin.path(), bin.join(plugin.file_name())).unwrap();
        }
        Self { bin, conf }
    }

    /// Has each call of Weft's plugin leave a line in a file: its verb, and `-` where it names no namespace.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn record_calls(&self, file: &Path) {
        let (plugin, behind) = (self.bin.join("weft-cni"), self.bin.join("weft-cni.behind"));
        fs::rename(&plugin, &behind).unwrap();
        let script = format!(
            "#!/bin/sh\necho \"$CNI_COMMAND ${{CNI_NETNS:--}}\" >> {}\nexec {} \"$@\"\n",
            file.display(),
            behind.display()
        );
        fs::write(&plugin, script).unwrap();
        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

/// A network on one node: its configuration, and who is called.
#[derive(Clone, Debug)]
pub struct CniNetwork {
    /// The network configuration, without what a call adds.
    pub config: Value,
    /// What starts the plugin, which is the last word; none: itself.
    pub through: Vec<String>,
    /// The node on which the plugin runs.
    node: Host,
    /// Directories of plugins.
    path: String,
}

/// One call.
#[derive(Clone, Debug)]
pub struct CniCall<'a> {
    /// The container.
    pub container: &'a str,
    /// Its namespace; empty: none.
    pub netns: &'a str,
    /// The device.
    pub interface: &'a str,
    /// `CNI_ARGS`.
    pub args: &'a str,
    /// What is added to the configuration.
    pub more: Value,
}

impl<'a> CniCall<'a> {
    /// A call about `eth0`.
    #[must_use]
    pub fn new(container: &'a str, netns: &'a str) -> Self {
        Self { container, netns, interface: "eth0", args: "", more: json!({}) }
    }

    /// Adds something to the configuration.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.more[key] = value;
        self
    }
}

impl CniNetwork {
    /// The network that `weft cni install` writes, as a runtime hands it to the plugin, of an agent with this run directory.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn new(node: &Host, run_dir: &Path) -> Self {
        let list: Value = serde_json::from_str(include_str!("../../deploy/cni/10-weft.conflist")).unwrap();
        let mut config = list["plugins"][0].clone();
        config["name"] = list["name"].clone();
        config["cniVersion"] = json!("1.1.0");
        config["runDir"] = json!(run_dir);
        Self { config, through: Vec::new(), node: node.clone(), path: PLUGINS.to_owned() }
    }

    /// The same with more in its configuration.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.config[key] = value;
        self
    }

    /// The same with plugins of this directory.
    #[must_use]
    pub fn with_plugins(mut self, directory: &str) -> Self {
        directory.clone_into(&mut self.path);
        self
    }

    /// Starts a call; its output is to be read.
    ///
    /// # Panics
    /// If that cannot be done.
    #[must_use]
    pub fn start(&self, verb: &str, call: &CniCall<'_>) -> std::process::Child {
        let mut process = self.command(verb, call).spawn().unwrap();
        // A program may end before it has read all of it.
        let _ = process.stdin.take().unwrap().write_all(self.input(call).as_bytes());
        process
    }

    /// The same, as a process that ends with the test.
    ///
    /// # Panics
    /// If that cannot be done.
    #[must_use]
    pub fn start_child(&self, verb: &str, call: &CniCall<'_>, input: &Path) -> Child {
        fs::write(input, self.input(call)).unwrap();
        let mut command = self.command(verb, call);
        command.stdin(fs::File::open(input).unwrap()).stdout(Stdio::null());
        Child::spawn(command)
    }

    fn input(&self, call: &CniCall<'_>) -> String {
        let mut config = self.config.clone();
        for (key, value) in call.more.as_object().unwrap() {
            config[key] = value.clone();
        }
        config.to_string()
    }

    fn command(&self, verb: &str, call: &CniCall<'_>) -> Command {
        let plugin = weft_cni();
        let words: Vec<&str> = self.through.iter().map(String::as_str).chain([plugin.to_str().unwrap()]).collect();
        let mut command = self.node.command(&words);
        command.env("CNI_COMMAND", verb).env("CNI_PATH", &self.path).env("CNI_ARGS", call.args);
        command.env("CNI_CONTAINERID", call.container).env("CNI_NETNS", call.netns);
        command.env("CNI_IFNAME", call.interface);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Makes a call. What it answers, or refuses with.
    ///
    /// # Errors
    /// The plugin's error.
    ///
    /// # Panics
    /// If that is neither.
    pub fn call(&self, verb: &str, call: &CniCall<'_>) -> Result<Value, Value> {
        let output = self.start(verb, call).wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let value = if said.trim().is_empty() { Value::Null } else { serde_json::from_str(&said).unwrap() };
        match output.status.code() {
            Some(0) => Ok(value),
            Some(1) => Err(value),
            _ => panic!("{verb}: {}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)),
        }
    }

    /// Attaches a pod; says what the plugin answers.
    ///
    /// # Panics
    /// If it refuses.
    #[track_caller]
    pub fn add(&self, call: &CniCall<'_>) -> Value {
        self.call("ADD", call).unwrap_or_else(|error| panic!("ADD {}: {error}", call.container))
    }

    /// Detaches a pod.
    ///
    /// # Panics
    /// If the plugin refuses.
    #[track_caller]
    pub fn del(&self, call: &CniCall<'_>) {
        self.call("DEL", call).unwrap_or_else(|error| panic!("DEL {}: {error}", call.container));
    }
}

/// The addresses of a result of ADD, without their prefix lengths.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn addresses_of(result: &Value) -> Vec<String> {
    let address = |ip: &Value| ip["address"].as_str().unwrap().split('/').next().unwrap().to_owned();
    result["ips"].as_array().unwrap().iter().map(address).collect()
}
