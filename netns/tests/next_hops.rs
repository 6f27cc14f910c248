//! Routes, neighbours and their changes. Needs root.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

mod support;

use std::net::{IpAddr, Shutdown};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use support::{Temporary, root_or_skip};
use weft_netns::{LinkError, Links, Neighbour, News, Route};

const PATIENCE: Duration = Duration::from_secs(10);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn wakers() -> (UnixStream, UnixStream) {
    let (wake, waker) = UnixStream::pair().unwrap();
    wake.set_nonblocking(true).unwrap();
    (wake, waker)
}

fn join(purpose: &str) -> [Temporary; 2] {
    let ends = ["l", "r"].map(|end| Temporary::new(&format!("{purpose}-{end}")));
    ends[0].netns.links(|links| links.add_veth("e0", "e0", &ends[1].netns)).unwrap();
    for (end, n) in ends.iter().zip(1..) {
        let up = |links: &mut Links| {
            links.set_up("e0")?;
            links.add_address("e0", format!("192.0.2.{n}/24").parse().unwrap())?;
            links.add_address("e0", format!("2001:db8::{n}/64").parse().unwrap())
        };
        end.netns.links(up).unwrap();
    }
    ends
}

#[test]
fn a_route_tells_interface_and_gateway() {
    if !root_or_skip("a_route_tells_interface_and_gateway") {
        return;
    }
    let [left, _right] = join("route");
    let asked = |links: &mut Links| {
        let index = links.get("e0")?.unwrap().index;
        let on_link = Some(Route { interface: index, gateway: None });
        assert_eq!(links.route(ip("192.0.2.1"), ip("192.0.2.2"))?, on_link, "in {}", left.name());
        assert_eq!(links.route(ip("2001:db8::1"), ip("2001:db8::2"))?, on_link);
        assert_eq!(links.route(ip("192.0.2.1"), ip("192.0.2.1"))?, None, "it would stay here");
        assert_eq!(links.route(ip("192.0.2.1"), ip("198.51.100.1"))?, None);
        links.add_route("198.51.100.0/24".parse().unwrap(), Some(ip("192.0.2.2")), "e0")?;
        let behind = Some(Route { interface: index, gateway: Some(ip("192.0.2.2")) });
        assert_eq!(links.route(ip("192.0.2.1"), ip("198.51.100.1"))?, behind);
        Ok(())
    };
    left.netns.links(asked).unwrap();
}

#[test]
fn a_neighbour_is_found_on_demand_and_told_when_it_changes() {
    if !root_or_skip("a_neighbour_is_found_on_demand_and_told_when_it_changes") {
        return;
    }
    let [left, right] = join("neighbour");
    let (wake, _waker) = wakers();
    let mac = || right.netns.links(|links| links.get("e0")).unwrap().unwrap().mac.unwrap();
    let watched = |links: &mut Links| {
        let index = links.get("e0")?.unwrap().index;
        let mut watch = links.watch()?;
        let until = |links: &mut Links, watch: &mut _, wanted| -> Result<(), LinkError> {
            let started = Instant::now();
            loop {
                let all: Vec<Neighbour> = links.neighbours()?;
                let found = |a: &&Neighbour| a.address == ip("192.0.2.2") && a.interface == index;
                if all.iter().find(found).and_then(|neighbour| neighbour.mac) == Some(wanted) {
                    return Ok(());
                }
                assert!(started.elapsed() < PATIENCE, "{all:?}");
                links.wait_for_news(watch, &wake, PATIENCE)?;
            }
        };
        links.use_neighbour(index, ip("192.0.2.2"))?;
        until(links, &mut watch, mac())?;
        // The other end gets a new MAC and asks for ours: by that we hear of it.
        let changed = weft_encap::MacAddr([2, 0, 0, 0, 0, 9]);
        let change = |links: &mut Links| {
            links.set_mac("e0", changed)?;
            let index = links.get("e0")?.unwrap().index;
            links.use_neighbour(index, ip("192.0.2.1"))
        };
        right.netns.links(change).unwrap();
        until(links, &mut watch, changed)
    };
    left.netns.links(watched).unwrap();
}

#[test]
fn a_change_is_news_and_so_is_the_descriptor() {
    if !root_or_skip("a_change_is_news_and_so_is_the_descriptor") {
        return;
    }
    let [left, _right] = join("news");
    let (wake, waker) = wakers();
    let watched = |links: &mut Links| {
        let mut watch = links.watch()?;
        links.add_route("198.51.100.0/24".parse().unwrap(), Some(ip("192.0.2.2")), "e0")?;
        let started = Instant::now();
        while !links.wait_for_news(&mut watch, &wake, PATIENCE)?.routes {
            assert!(started.elapsed() < PATIENCE);
        }
        links.redirect_all("e0", "lo")?;
        while !links.wait_for_news(&mut watch, &wake, PATIENCE)?.filters {
            assert!(started.elapsed() < PATIENCE);
        }
        waker.shutdown(Shutdown::Both).unwrap();
        while links.wait_for_news(&mut watch, &wake, PATIENCE * 10)? != News::default() {}
        assert!(started.elapsed() < PATIENCE, "the descriptor ends the wait");
        Ok(())
    };
    left.netns.links(watched).unwrap();
}
