//! Namespaces by name. Needs root.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod support;

use std::fs::{self, File};
use std::process::Command;

use support::{Temporary, root_or_skip};
use weft_netns::{Netns, NetnsError};

fn inode_here() -> u64 {
    Netns::current().unwrap().inode()
}

#[test]
fn a_created_namespace_is_listed_entered_and_removed() {
    if !root_or_skip("a_created_namespace_is_listed_entered_and_removed") {
        return;
    }
    let temporary = Temporary::new("life");
    let name = temporary.name().to_owned();
    assert!(Netns::list().unwrap().contains(&name));
    assert_ne!(temporary.netns.inode(), inode_here());
    assert_eq!(temporary.netns.run(inode_here).unwrap(), temporary.netns.inode());
    assert_eq!(Netns::open(&name).unwrap().inode(), temporary.netns.inode());
    assert_eq!(Netns::open(&format!("/run/netns/{name}")).unwrap().inode(), temporary.netns.inode());
    let lo = temporary.netns.links(|links| links.get("lo")).unwrap().unwrap();
    assert!(lo.up);

    let taken = Netns::create(&name).unwrap_err();
    assert!(matches!(taken, NetnsError::NameTaken { .. }), "{taken}");
    assert!(Netns::open(&name).is_ok(), "the refused creation must not remove the namespace");

    drop(temporary);
    assert!(!Netns::list().unwrap().contains(&name));
    assert!(!fs::read_to_string("/proc/self/mounts").unwrap().contains(&name));
}

#[test]
fn an_error_says_what_is_missing() {
    if !root_or_skip("an_error_says_what_is_missing") {
        return;
    }
    let error = Netns::open("weft-no-such").unwrap_err().to_string();
    assert!(error.contains("/run/netns/weft-no-such does not exist"), "{error}");
    let error = Netns::open("/etc/hostname").unwrap_err();
    assert!(matches!(error, NetnsError::NotANamespace { .. }), "{error}");
    assert!(matches!(Netns::create("a/b"), Err(NetnsError::Name { .. })));
}

#[test]
fn a_half_made_namespace_can_be_deleted() {
    if !root_or_skip("a_half_made_namespace_can_be_deleted") {
        return;
    }
    let name = format!("weft-test-{}-half", std::process::id());
    drop(Temporary::new("half-prepare"));
    File::create(format!("/run/netns/{name}")).unwrap();
    assert!(matches!(Netns::open(&name), Err(NetnsError::NotANamespace { .. })));
    Netns::delete(&name).unwrap();
    Netns::delete(&name).unwrap();
    assert!(!Netns::list().unwrap().contains(&name));
}

#[test]
fn namespaces_made_at_once_do_not_stack_mounts() {
    if !root_or_skip("namespaces_made_at_once_do_not_stack_mounts") {
        return;
    }
    std::thread::scope(|scope| {
        for number in 0..8 {
            scope.spawn(move || drop(Temporary::new(&format!("parallel-{number}"))));
        }
    });
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let on_directory = mounts.lines().filter(|line| line.split(' ').nth(1) == Some("/run/netns")).count();
    assert_eq!(on_directory, 1, "{mounts}");
}

#[test]
fn the_callers_thread_stays_where_it_is() {
    if !root_or_skip("the_callers_thread_stays_where_it_is") {
        return;
    }
    let before = inode_here();
    let temporary = Temporary::new("caller");
    temporary.netns.links(|links| links.list()).unwrap();
    assert_eq!(inode_here(), before);
    let panicked = std::panic::catch_unwind(|| temporary.netns.run(|| panic!("expected by the test")));
    assert!(panicked.is_err());
}

#[test]
fn a_child_enters_only_the_network_namespace() {
    if !root_or_skip("a_child_enters_only_the_network_namespace") {
        return;
    }
    let temporary = Temporary::new("child");
    let inode = temporary.netns.inode();
    let mut command = Command::new("readlink");
    command.args(["/proc/self/ns/net", "/proc/self/ns/mnt"]);
    let output = weft_netns::enter_in_child(&mut command, Netns::open(temporary.name()).unwrap()).output().unwrap();
    let output = String::from_utf8(output.stdout).unwrap();
    let mount_namespace = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_eq!(output, format!("net:[{inode}]\n{}\n", mount_namespace.display()));
}
