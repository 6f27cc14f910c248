//! What a test needs of the machine. Where it is missing the test is skipped, by name and with the reason;
//! under CI nothing may be skipped.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::skip::skip;

/// One thing that a test needs.
#[derive(Clone, Copy, Debug)]
pub enum Requirement {
    /// To be root, with TUN/TAP.
    Root,
    /// A program on the path.
    Tool(&'static str),
    /// The kernel's own VXLAN devices.
    KernelVxlan,
    /// A kernel of this version at least.
    Linux(u32, u32),
}

/// The name of the function in which it stands.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        let path = std::any::type_name_of_val(&here);
        let path = path.strip_suffix("::here").unwrap_or(path).trim_end_matches("::{{closure}}");
        path.rsplit("::").next().unwrap_or(path)
    }};
}

/// A [`Site`](crate::Site) for this test, or the end of it where root or one of the named tools is missing.
#[macro_export]
macro_rules! site {
    ($($tool:literal),* $(; $($needed:ident),+)?) => {{
        let needed = [
            $crate::Requirement::Root,
            $($crate::Requirement::Tool($tool),)*
            $($($crate::Requirement::$needed,)+)?
        ];
        if $crate::unmet($crate::test_name!(), &needed) {
            return;
        }
        $crate::Site::new($crate::test_name!())
    }};
}

/// Whether the test cannot run here, which is then reported.
///
/// # Panics
/// Under CI, where nothing may be skipped.
#[must_use]
pub fn unmet(test: &str, needed: &[Requirement]) -> bool {
    let Some(reason) = needed.iter().find_map(missing) else { return false };
    skip(test, &reason);
    true
}

fn missing(needed: &Requirement) -> Option<String> {
    match needed {
        Requirement::Root if !rustix::process::geteuid().is_root() => Some("needs root".to_owned()),
        Requirement::Root if !Path::new("/dev/net/tun").exists() => Some("needs /dev/net/tun".to_owned()),
        Requirement::Root => None,
        Requirement::Tool(tool) => (!is_on_path(tool)).then(|| format!("needs the program `{tool}`")),
        Requirement::Linux(major, minor) => {
            let release = rustix::system::uname().release().to_string_lossy().into_owned();
            let mut numbers =
                release.split(|letter: char| !letter.is_ascii_digit()).map_while(|part| part.parse().ok());
            let have: (u32, u32) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
            (have < (*major, *minor)).then(|| format!("needs Linux {major}.{minor}, and this is {release}"))
        }
        Requirement::KernelVxlan => {
            let missing = rustix::process::geteuid().is_root() && !kernel_has_vxlan();
            missing.then(|| "needs the kernel's VXLAN devices".to_owned())
        }
    }
}

fn is_on_path(tool: &str) -> bool {
    // Some systems keep the administrator's programs off the path.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/sbin"].map(std::path::PathBuf::from);
    std::env::split_paths(&path).chain(usual).any(|directory| directory.join(tool).is_file())
}

fn kernel_has_vxlan() -> bool {
    let netns = format!("weft-it.vxlan.{}.probe", std::process::id());
    let ip = |arguments: &[&str]| {
        let mut command = Command::new("ip");
        command.args(arguments).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    if !ip(&["netns", "add", &netns]) {
        return false;
    }
    let made = ip(&["-n", &netns, "link", "add", "vx0", "type", "vxlan", "id", "1", "dstport", "4789"]);
    ip(&["netns", "delete", &netns]) && made
}
