//! The store of a lab: one of its own, or a way to an etcd outside of it. Either listens in the underlay's namespace,
//! with an address on the bridge of each segment, so that no node needs a router to reach it.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use weft_encap::MacAddr;
use weft_netns::Netns;

use crate::agent::{self, Service};
use crate::error::io_error;
use crate::journal::directory;
use crate::spec::{ControlSpec, STORE, UNDERLAY};
use crate::{Lab, LabError, LabName, Progress, UpOptions};

/// Where it listens in the underlay's namespace: etcd's port for clients.
pub(crate) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 2379);
/// What packets to and from it are long at most, in bytes: it is to be reached over narrow links as well, and this much
/// every IPv4 host takes (RFC 791 section 3.1).
pub(crate) const MTU: u32 = 576;
/// That of every bridge, for its addresses. A bridge that is given none takes one of its ports', and another when that
/// port goes, so that nodes would send to where nobody is.
pub(crate) const MAC: MacAddr = MacAddr([0x02, 0, 0, 0, 0xff, 0xfe]);
/// What keys begin with in a store that is the lab's own.
const PREFIX: &str = "/weft";

/// What a forwarder is told.
#[derive(Debug, Deserialize, Serialize)]
struct ForwarderPlan {
    /// The network namespace from which the endpoints are reached, by its path.
    from: String,
    /// `HOST:PORT`, tried in order.
    endpoints: Vec<String>,
}

/// What the keys of a lab begin with. In a store that others use as well it is another one each time, so that what the
/// leases of an earlier lab of that name still hold is not met.
pub(crate) fn prefix(name: &LabName, control: &ControlSpec) -> String {
    match control {
        ControlSpec::Etcd(_) => {
            #[expect(
                clippy::disallowed_methods,
                reason = "a number that no lab had before; a clock that was set back may repeat one"
            )]
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            format!("{PREFIX}/labs/{name}/{}", since.as_nanos())
        }
        ControlSpec::Embedded | ControlSpec::None => PREFIX.to_owned(),
    }
}

impl Lab {
    /// The log of the store, or of what leads to it.
    #[must_use]
    pub fn store_log(&self) -> PathBuf {
        self.store_dir().join("store.log")
    }

    fn store_dir(&self) -> PathBuf {
        directory(&self.name).join(STORE)
    }

    /// Starts the store where the lab has one, and waits until it answers.
    pub(crate) fn start_store(
        &mut self,
        options: &UpOptions,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), LabError> {
        if !self.spec().has_store() {
            return Ok(());
        }
        let home = self.store_dir();
        DirBuilder::new().mode(0o755).create(&home).map_err(io_error("make", &home))?;
        let (service, file) = match &self.spec().control {
            ControlSpec::Etcd(endpoints) => (Service::Forwarder, write_plan(&home, endpoints)?),
            ControlSpec::Embedded | ControlSpec::None => (Service::Store, home.join("data")),
        };
        let starting = agent::start(service, &self.netns(UNDERLAY)?, &options.weft, &file, &self.store_log())?;
        self.journal.store = Some(starting.id);
        self.journal.write(&self.name)?;
        progress(starting.service.started(starting.id.pid));
        agent::wait_ready(vec![starting], options.ready_timeout, progress)
    }
}

fn write_plan(home: &Path, endpoints: &[String]) -> Result<PathBuf, LabError> {
    // The maker is there until the forwarder is ready, and has opened it.
    let from = format!("/proc/{}/ns/net", std::process::id());
    let plan = ForwarderPlan { from, endpoints: endpoints.to_vec() };
    let path = home.join("forwarder.json");
    let text = serde_json::to_string_pretty(&plan).map_err(io::Error::from);
    text.and_then(|text| fs::write(&path, text)).map_err(io_error("write", &path))?;
    Ok(path)
}

/// Leads from the underlay's namespace, in which it is called, to the endpoints of a plan, until the process is ended.
/// `ready` is called once it listens.
///
/// # Errors
/// A plan that cannot be read, and what the kernel refused.
pub fn run_forwarder(plan: &Path, ready: impl FnOnce()) -> Result<(), LabError> {
    let read = || -> io::Result<ForwarderPlan> { Ok(serde_json::from_str(&fs::read_to_string(plan)?)?) };
    let ForwarderPlan { from, endpoints } = read().map_err(io_error("read", plan))?;
    let outside = Arc::new((Netns::open(&from)?, endpoints));
    let listener = TcpListener::bind(LISTEN).map_err(io_error("listen for agents by", plan))?;
    ready();
    for inside in listener.incoming() {
        let inside = inside.map_err(io_error("accept an agent by", plan))?;
        let outside = outside.clone();
        thread::spawn(move || {
            // An agent that finds its connection closed tries again.
            let _ = carry(&inside, &outside.0, &outside.1);
        });
    }
    Ok(())
}

/// Carries bytes both ways until both ends are done.
fn carry(inside: &TcpStream, netns: &Netns, endpoints: &[String]) -> io::Result<()> {
    let connect = || {
        let mut tried = Err(io::ErrorKind::AddrNotAvailable.into());
        for endpoint in endpoints {
            tried = TcpStream::connect(endpoint);
            if tried.is_ok() {
                break;
            }
        }
        tried
    };
    let outside = netns.run(connect).map_err(io::Error::other)??;
    for end in [inside, &outside] {
        end.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        scope.spawn(|| copy(inside, &outside));
        copy(&outside, inside);
    });
    Ok(())
}

/// What one end says to the other; a connection that breaks ends both directions.
fn copy(mut from: &TcpStream, mut to: &TcpStream) {
    match io::copy(&mut from, &mut to) {
        Ok(_) => _ = to.shutdown(Shutdown::Write),
        Err(_) => [from, to].iter().for_each(|end| _ = end.shutdown(Shutdown::Both)),
    }
}
