use std::net::IpAddr;
use std::time::Duration;

use weft_netns::Netns;
use weft_testbed::probe::{Amount, BulkOptions, BulkReport, PingOptions, bulk_between, ping_from};

use crate::host::Host;

/// Bytes.
pub const MIB: u64 = 1 << 20;
/// Bytes.
pub const GIB: u64 = 1 << 30;

/// Sends twenty echo requests, of which every one has to be answered once.
///
/// # Panics
/// If one is not.
#[track_caller]
pub fn ping_all(from: &Host, to: &str) {
    ping_all_from(from.netns(), from.name(), to);
}

/// The same from a namespace, which failures call by this name.
#[track_caller]
pub(crate) fn ping_all_from(from: &Netns, name: &str, to: &str) {
    let to: IpAddr = to.parse().unwrap();
    let mut options = PingOptions::default();
    (options.count, options.interval, options.timeout) = (20, Duration::from_millis(5), Duration::from_secs(5));
    for payload in [0, 56, 1300] {
        options.payload = payload;
        let report = ping_from(from, to, &options).unwrap();
        let seen = (report.received, report.duplicates, &report.refused);
        assert_eq!(seen, (options.count, 0, &None), "{name} to {to}, payload {payload}: {report:?}");
    }
}

/// Sends that many bytes over one TCP connection; every one of them is compared where it arrives.
///
/// # Panics
/// If one is not what was sent, or the stream stalls.
#[track_caller]
pub fn stream(from: &Host, to: &Host, address: &str, bytes: u64) -> BulkReport {
    streams(1, from, to, address, bytes).remove(0)
}

/// The same over several connections at once, that many bytes over each.
///
/// # Panics
/// As [`stream`].
#[track_caller]
pub fn streams(count: usize, from: &Host, to: &Host, address: &str, bytes: u64) -> Vec<BulkReport> {
    let (address, options) = (address.parse::<IpAddr>().unwrap(), BulkOptions::new(Amount::Bytes(bytes)));
    let (sender, receiver) = (from.netns(), to.netns());
    let reports: Vec<_> = std::thread::scope(|scope| {
        let one = || bulk_between(sender, receiver, address, &options);
        let running: Vec<_> = (0..count).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let reports: Vec<_> = reports
        .into_iter()
        .map(|report| report.unwrap_or_else(|error| panic!("{} to {}: {error}", from.name(), to.name())))
        .collect();
    for report in &reports {
        assert_eq!(report.bytes, bytes);
        let gigabits = report.bits_per_second / 1e9;
        println!("{} to {} at {address}: {} MiB, {gigabits:.2} Gbit/s", from.name(), to.name(), bytes / MIB);
    }
    reports
}
