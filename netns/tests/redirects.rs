//! Redirects beside other people's filters. Needs root and `tc`.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod support;

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;

use support::{Temporary, root_or_skip};
use weft_netns::enter_in_child;

const WANTED: [&str; 2] = ["192.0.2.1:4789", "[2001:db8::1]:4789"];

fn tc(place: &Temporary, words: &str) -> String {
    let mut command = Command::new("tc");
    command.args(words.split_ascii_whitespace());
    enter_in_child(&mut command, weft_netns::Netns::open(place.name()).unwrap());
    let output = command.output().unwrap();
    assert!(output.status.success(), "tc {words}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn wanted() -> Vec<SocketAddr> {
    WANTED.iter().map(|at| at.parse().unwrap()).collect()
}

/// A namespace with `e0`, whose other end sends to it, and a pair `t0` and `t1`, where redirected packets come out.
fn place(purpose: &str) -> [Temporary; 2] {
    let [here, there] = ["here", "there"].map(|end| Temporary::new(&format!("{purpose}-{end}")));
    here.netns
        .links(|links| {
            links.add_veth("e0", "e0", &there.netns)?;
            links.add_veth("t0", "t1", &here.netns)?;
            // So that nothing but what is redirected passes there.
            for name in ["t0", "t1"] {
                std::fs::write(format!("/proc/sys/net/ipv6/conf/{name}/disable_ipv6"), "1").unwrap();
            }
            for name in ["e0", "t0", "t1"] {
                links.set_up(name)?;
            }
            links.add_address("e0", "192.0.2.1/24".parse().unwrap())?;
            links.add_address("e0", "2001:db8::1/64".parse().unwrap())
        })
        .unwrap();
    there
        .netns
        .links(|links| {
            links.set_up("e0")?;
            links.add_address("e0", "192.0.2.2/24".parse().unwrap())?;
            links.add_address("e0", "2001:db8::2/64".parse().unwrap())
        })
        .unwrap();
    [here, there]
}

fn set_up(here: &Temporary) {
    here.netns.links(|links| links.redirect_udp("e0", &wanted(), "t0")).unwrap();
}

fn take_down(here: &Temporary) {
    let removed = here.netns.links(|links| links.redirects().and_then(|all| links.remove_redirects(&all)));
    removed.unwrap();
}

#[test]
fn what_matches_goes_elsewhere_and_all_else_as_before() {
    if !root_or_skip("what_matches_goes_elsewhere_and_all_else_as_before") {
        return;
    }
    let [here, there] = place("match");
    set_up(&here);
    let passed = || here.netns.links(|links| links.get("t1")).unwrap().unwrap().stats.rx_packets;
    let send = |to: SocketAddr| {
        let any: SocketAddr = if to.is_ipv4() { "192.0.2.2:0" } else { "[2001:db8::2]:0" }.parse().unwrap();
        there.netns.run(|| UdpSocket::bind(any).unwrap().send_to(b"x", to).unwrap()).unwrap();
    };
    let wait = |receiver: &UdpSocket| {
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        assert_eq!(receiver.recv(&mut [0; 4]).unwrap(), 1);
    };
    for at in wanted() {
        let other = SocketAddr::new(at.ip(), 4790);
        let receiver = here.netns.run(|| UdpSocket::bind(other).unwrap()).unwrap();
        // What goes elsewhere is sent before what arrives: then it has gone there.
        send(other);
        wait(&receiver);
        let before = passed();
        send(at);
        send(other);
        wait(&receiver);
        assert_eq!(passed() - before, 1, "{at}");
    }
    take_down(&here);
    for at in wanted() {
        let receiver = here.netns.run(|| UdpSocket::bind(at).unwrap()).unwrap();
        send(at);
        wait(&receiver);
    }
}

#[test]
fn nothing_is_left_but_what_others_made() {
    if !root_or_skip("nothing_is_left_but_what_others_made") {
        return;
    }
    let [here, _there] = place("left");
    set_up(&here);
    assert!(tc(&here, "qdisc show dev e0").contains("clsact"));
    take_down(&here);
    assert!(!tc(&here, "qdisc show dev e0").contains("clsact"));

    // Somebody else's filter keeps the qdisc that was made here.
    set_up(&here);
    tc(&here, "filter add dev e0 egress protocol ip prio 7 u32 match u32 0 0 flowid 1:1");
    take_down(&here);
    assert!(tc(&here, "filter show dev e0 egress").contains("u32"));

    // And a qdisc that is somebody else's stays, with a filter of theirs at our own priority.
    tc(&here, "qdisc del dev e0 clsact");
    tc(&here, "qdisc add dev e0 clsact");
    let theirs = format!("filter add dev e0 ingress protocol ip prio {} u32", weft_netns::REDIRECT_PRIORITY);
    tc(&here, &format!("{theirs} match ip protocol 1 0xff flowid 1:1"));
    let before = tc(&here, "filter show dev e0 ingress");
    set_up(&here);
    assert_ne!(tc(&here, "filter show dev e0 ingress"), before);
    take_down(&here);
    assert_eq!(tc(&here, "filter show dev e0 ingress"), before);
    assert!(tc(&here, "qdisc show dev e0").contains("clsact"));
}

#[test]
fn a_redirect_whose_target_is_gone_is_told_as_stale() {
    if !root_or_skip("a_redirect_whose_target_is_gone_is_told_as_stale") {
        return;
    }
    let [here, _there] = place("stale");
    set_up(&here);
    let index = here.netns.links(|links| links.get("t0")).unwrap().unwrap().index;
    let targets = || here.netns.links(|links| links.redirects()).unwrap().iter().map(|r| r.to).collect::<Vec<_>>();
    assert_eq!(targets(), [Some(index); 2]);
    here.netns.links(|links| links.delete("t0")).unwrap();
    assert_eq!(targets(), [None; 2]);
    take_down(&here);
    assert_eq!(targets(), []);
}
