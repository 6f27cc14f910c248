use std::fs;
use std::thread::available_parallelism;

use serde::{Deserialize, Serialize};

use crate::plane::version_of;

/// The machine that figures were measured on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Release of the kernel.
    pub kernel: String,
    /// Model of its processors.
    pub processor: String,
    /// How many processors this process may use.
    pub processors: usize,
    /// Memory in bytes.
    pub memory: u64,
    /// Whether it is a virtual machine, as its processors say.
    pub virtual_machine: bool,
    /// Congestion controls of its TCP, the default first.
    pub congestion_controls: Vec<String>,
    /// Processes that wanted a processor before the run: the load average of a minute.
    pub load: String,
    /// Version of Open vSwitch, if it is there.
    pub open_vswitch: Option<String>,
    /// Version of Weft.
    pub weft: String,
}

impl Machine {
    /// This one. What cannot be found out is left empty.
    #[must_use]
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let field = |name: &str| {
            let line = cpuinfo.lines().find_map(|line| line.strip_prefix(name)?.split_once(':'));
            line.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let memory = read("/proc/meminfo");
        let kibibytes = memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next());
        Self {
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            processor: field("model name"),
            processors: available_parallelism().map_or(1, usize::from),
            memory: kibibytes.and_then(|number| number.parse::<u64>().ok()).unwrap_or(0) << 10,
            virtual_machine: field("flags").split_whitespace().any(|flag| flag == "hypervisor"),
            congestion_controls: congestion_controls(
                &read("/proc/sys/net/ipv4/tcp_congestion_control"),
                &read("/proc/sys/net/ipv4/tcp_available_congestion_control"),
            ),
            load: read("/proc/loadavg").split_whitespace().next().unwrap_or_default().to_owned(),
            open_vswitch: version_of("ovs-vswitchd"),
            weft: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Those that are compared: cubic and bbr where the kernel has them, else its default.
    #[must_use]
    pub fn compared_congestion_controls(&self) -> Vec<String> {
        let compared =
            ["cubic", "bbr"].into_iter().filter(|name| self.congestion_controls.iter().any(|own| own == name));
        let compared: Vec<String> = compared.map(str::to_owned).collect();
        if compared.is_empty() { self.congestion_controls.iter().take(1).cloned().collect() } else { compared }
    }
}

fn congestion_controls(default: &str, available: &str) -> Vec<String> {
    let default = default.trim();
    let others = available.split_whitespace().filter(|name| *name != default);
    [default].into_iter().chain(others).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_comes_first_and_cubic_before_bbr() {
        let congestion_controls = congestion_controls("bbr\n", "reno bbr cubic\n");
        assert_eq!(congestion_controls, ["bbr", "reno", "cubic"]);
        let machine = Machine { congestion_controls, ..Machine::default() };
        assert_eq!(machine.compared_congestion_controls(), ["cubic", "bbr"]);
        let machine = Machine { congestion_controls: vec!["reno".to_owned()], ..machine };
        assert_eq!(machine.compared_congestion_controls(), ["reno"]);
    }
}
