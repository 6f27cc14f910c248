use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde::Serialize;

use super::{Amount, BulkOptions, PingOptions, ProbeError, bulk_between, ping};
use crate::Lab;

/// Pairs that are looked at at once.
const AT_ONCE: usize = 8;
/// Echo requests for each pair.
const PINGS: usize = 3;
/// Sent over TCP for each pair, in bytes: enough for superframes.
const BULK: u64 = 256 << 10;
/// How long an answer is waited for.
const PING_PATIENCE: Duration = Duration::from_secs(1);
/// How long TCP may stand still: it waits some seconds itself where losses come together.
const TCP_PATIENCE: Duration = Duration::from_secs(5);

/// Two pods of one virtual network, and what came of pings and TCP from the first to the second.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Pair {
    /// The first pod.
    pub from: String,
    /// The second.
    pub to: String,
    /// An address of the second, of a family that both have.
    pub address: IpAddr,
    /// The shortest time to an answer; none where none came.
    #[serde(rename = "ping_us", serialize_with = "microseconds")]
    pub ping: Option<Duration>,
    /// Why TCP did not carry every byte; none where it did.
    pub tcp_error: Option<String>,
}

impl Pair {
    /// Whether both came through.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.ping.is_some() && self.tcp_error.is_none()
    }
}

fn microseconds<S: serde::Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_micros()).serialize(serializer)
}

/// Pings and TCP between every two pods of each virtual network, in both directions and every family that they
/// share; those of different networks are not to reach each other, and are left out.
///
/// # Errors
/// [`ProbeError`] where a pod is gone; pods that do not reach each other are no error.
pub fn matrix(lab: &Lab, seen: &(impl Fn(&Pair) + Sync)) -> Result<Vec<Pair>, ProbeError> {
    let wanted = pairs(lab);
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let look = || {
        while let Some((from, to, address)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
            let pair = look_at(lab, from, to, *address);
            if let Ok(pair) = &pair {
                seen(pair);
            }
            found.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(pair);
        }
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(look))));
    let found = found.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut pairs: Vec<Pair> = found.into_iter().collect::<Result<_, _>>()?;
    let place = |pair: &Pair| {
        wanted.iter().position(|(from, to, address)| {
            (*from, *to, *address) == (pair.from.as_str(), pair.to.as_str(), pair.address)
        })
    };
    pairs.sort_by_cached_key(place);
    Ok(pairs)
}

fn pairs(lab: &Lab) -> Vec<(&str, &str, IpAddr)> {
    let pods: Vec<_> = lab.spec().pods().map(|(_, pod)| pod).collect();
    let mut pairs = Vec::new();
    for from in &pods {
        for to in pods.iter().filter(|to| to.vni == from.vni && to.name != from.name) {
            for ipv4 in [true, false] {
                let mut own = from.addresses.iter().map(|net| net.addr());
                let address = to.addresses.iter().map(|net| net.addr()).find(|address| address.is_ipv4() == ipv4);
                if let Some(address) = address.filter(|_| own.any(|own| own.is_ipv4() == ipv4)) {
                    pairs.push((from.name.as_str(), to.name.as_str(), address));
                }
            }
        }
    }
    pairs
}

fn look_at(lab: &Lab, from: &str, to: &str, address: IpAddr) -> Result<Pair, ProbeError> {
    let options = PingOptions {
        count: PINGS,
        interval: Duration::from_millis(5),
        timeout: PING_PATIENCE,
        ..PingOptions::default()
    };
    let ping = match ping(lab, from, address, &options) {
        Ok(report) => report.rtt.map(|rtt| rtt.min),
        Err(ProbeError::Socket { .. }) => None,
        Err(error) => return Err(error),
    };
    let (sender, receiver) = (lab.netns(from)?, lab.netns(to)?);
    let options = BulkOptions { patience: TCP_PATIENCE, ..BulkOptions::new(Amount::Bytes(BULK)) };
    let tcp_error = match bulk_between(&sender, &receiver, address, &options) {
        Ok(_) => None,
        Err(error @ ProbeError::Lab(_)) => return Err(error),
        Err(error) => Some(error.to_string()),
    };
    Ok(Pair { from: from.to_owned(), to: to.to_owned(), address, ping, tcp_error })
}
