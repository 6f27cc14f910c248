use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::Netns;

/// Makes the process that `command` starts enter `netns` before it executes its program.
///
/// Only the network namespace changes: mounts, and so `/sys` and `/etc`, stay the caller's.
#[expect(unsafe_code, reason = "std offers no safe way to act between fork and exec")]
pub fn enter_in_child(command: &mut Command, netns: Netns) -> &mut Command {
    let enter = move || {
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes one system call on a descriptor it owns; it neither
    // allocates nor takes a lock.
    unsafe { command.pre_exec(enter) }
}
