//! What happened between two looks, by the second.

use std::time::Duration;

use weft_api::{DropRow, Link, PortRow, Status, VtepRow, WorkerRow};

/// One look.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    /// When, since the first.
    pub(super) at: Duration,
    pub(super) status: Status,
    pub(super) ports: Vec<PortRow>,
    pub(super) vteps: Vec<VtepRow>,
    pub(super) drops: Vec<DropRow>,
    pub(super) workers: Vec<WorkerRow>,
}

/// What goes through a link, by the second; rx and tx as the switch sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) rx_frames: f64,
    pub(super) rx_bits: f64,
    pub(super) tx_frames: f64,
    pub(super) tx_bits: f64,
    pub(super) drops: f64,
}

/// How a worker spends its time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Work {
    /// Part of the time for which it had a processor, 0 to 1; none where the kernel does not say.
    pub(super) ran: Option<f64>,
    /// Part of the time for which it waited for one.
    pub(super) waited: Option<f64>,
    pub(super) frames: f64,
    /// Frames taken at once, on average; none without any.
    pub(super) at_once: Option<f64>,
    pub(super) looks: f64,
}

/// Two looks, one after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Between<'a> {
    pub(super) before: &'a Sample,
    pub(super) now: &'a Sample,
}

impl Between<'_> {
    fn seconds(self) -> f64 {
        self.now.at.saturating_sub(self.before.at).as_secs_f64()
    }

    /// By the second; nothing where it went backwards, as it does when the agent starts again.
    fn rate(self, now: u64, before: Option<u64>) -> f64 {
        let more = before.and_then(|before| now.checked_sub(before)).unwrap_or_default();
        if self.seconds() > 0.0 { more as f64 / self.seconds() } else { 0.0 }
    }

    fn link(self, now: Link, before: Option<Link>) -> Rates {
        let rate = |number: fn(&Link) -> u64| self.rate(number(&now), before.as_ref().map(number));
        Rates {
            rx_frames: rate(|link| link.rx_frames),
            rx_bits: 8.0 * rate(|link| link.rx_bytes),
            tx_frames: rate(|link| link.tx_frames),
            tx_bits: 8.0 * rate(|link| link.tx_bytes),
            drops: rate(|link| link.drops),
        }
    }

    pub(super) fn port(self, row: &PortRow) -> Rates {
        let before = self.before.ports.iter().find(|port| port.name == row.name && port.vni == row.vni);
        self.link(row.link, before.map(|port| port.link))
    }

    pub(super) fn vtep(self, row: &VtepRow) -> Rates {
        let before = self.before.vteps.iter().find(|vtep| vtep.address == row.address);
        self.link(row.link, before.map(|vtep| vtep.link))
    }

    pub(super) fn dropped(self, row: &DropRow) -> f64 {
        let before = self.before.drops.iter().find(|drop| drop.reason == row.reason);
        self.rate(row.count, before.map(|drop| drop.count))
    }

    pub(super) fn worker(self, row: &WorkerRow) -> Work {
        let before = self.before.workers.iter().find(|worker| worker.name == row.name);
        let part = |time: fn(&WorkerRow) -> Option<u64>| {
            let before = before.and_then(time);
            time(row).map(|now| self.rate(now, before) / 1e6)
        };
        let turns = |row: &WorkerRow| row.batches.iter().map(|batch| batch.turns).sum();
        let frames = self.rate(row.frames, before.map(|worker| worker.frames));
        let took = self.rate(turns(row), before.map(turns));
        Work {
            ran: part(|worker| worker.run_us),
            waited: part(|worker| worker.waited_us),
            frames,
            at_once: (took > 0.0).then(|| frames / took),
            looks: self.rate(row.looks, before.map(|worker| worker.looks)),
        }
    }
}

impl Rates {
    pub(super) fn bits(self) -> f64 {
        self.rx_bits + self.tx_bits
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            rx_frames: self.rx_frames + other.rx_frames,
            rx_bits: self.rx_bits + other.rx_bits,
            tx_frames: self.tx_frames + other.tx_frames,
            tx_bits: self.tx_bits + other.tx_bits,
            drops: self.drops + other.drops,
        }
    }
}

/// A number in the unit that keeps it short: `12`, `3.4 k`, `1.2 M`; nothing at all is `-`.
pub(super) fn short(number: f64) -> String {
    match number {
        _ if number < 0.05 => "-".to_owned(),
        _ if number < 9.95 => format!("{number:.1}"),
        _ if number < 999.5 => format!("{number:.0}"),
        _ if number < 999.95e3 => format!("{:.1} k", number / 1e3),
        _ if number < 999.95e6 => format!("{:.1} M", number / 1e6),
        _ => format!("{:.1} G", number / 1e9),
    }
}

pub(super) fn percent(part: Option<f64>) -> String {
    part.map_or_else(|| "?".to_owned(), |part| format!("{:.0} %", 100.0 * part))
}
