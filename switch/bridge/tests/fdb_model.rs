//! The shared table, used by one thread, against a map.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::collections::HashMap;

use proptest::prelude::*;
use weft_bridge::fdb::{FLAP_HOLD_SECONDS, MAX_AGE_SECONDS};
use weft_bridge::tables::DomainOptions;
use weft_bridge::{Attachment, DomainId, Fdb, Learn, Learned, Port, PortMode, Seconds, Tables, Vtep, VtepKind};
use weft_encap::{Encapsulation, MacAddr, Vni};

const CAPACITY: u32 = 48;
const MACS: u64 = 64;
/// Below this many entries no key finds both of its buckets full.
const TWO_BUCKETS: usize = 16;

#[derive(Clone, Debug)]
enum Step {
    Learn { domain: usize, mac: u64, attachment: usize, limit: u32 },
    Wait { seconds: u32 },
    Sweep { ageing: u32 },
    Purge { attachment: usize },
}

#[derive(Debug)]
struct Known {
    attachment: Attachment,
    stamp: u32,
    moved: Option<u32>,
}

struct Model {
    now: Seconds,
    entries: HashMap<(DomainId, MacAddr), Known>,
}

impl Model {
    fn behind(&self, attachment: Attachment) -> usize {
        self.entries.values().filter(|known| known.attachment == attachment).count()
    }

    fn learn(&mut self, learn: &Learn) -> Learned {
        let (behind, now) = (self.behind(learn.attachment), self.now.0);
        let crowded = behind >= learn.limit as usize;
        let Some(known) = self.entries.get_mut(&(learn.domain, learn.mac)) else {
            if self.entries.len() >= CAPACITY as usize {
                return Learned::Full;
            }
            if crowded {
                return Learned::LimitReached;
            }
            let known = Known { attachment: learn.attachment, stamp: now, moved: None };
            self.entries.insert((learn.domain, learn.mac), known);
            return Learned::New;
        };
        if known.attachment == learn.attachment {
            known.stamp = now;
            return Learned::Refreshed;
        }
        if known.moved.is_some_and(|moved| now - moved < FLAP_HOLD_SECONDS) {
            return Learned::Damped;
        }
        if crowded {
            return Learned::LimitReached;
        }
        *known = Known { attachment: learn.attachment, stamp: now, moved: Some(now) };
        Learned::Moved
    }

    fn forget(&mut self, doomed: impl Fn(&Known) -> bool) -> u32 {
        let before = self.entries.len();
        self.entries.retain(|_, known| !doomed(known));
        (before - self.entries.len()) as u32
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let learn = (0..2_usize, 0..MACS, 0..4_usize, prop_oneof![Just(u32::MAX), 1..20_u32])
        .prop_map(|(domain, mac, attachment, limit)| Step::Learn { domain, mac, attachment, limit });
    let step = prop_oneof![
        30 => learn,
        4 => (0..4_u32).prop_map(|seconds| Step::Wait { seconds }),
        1 => (1..12_u32).prop_map(|ageing| Step::Sweep { ageing }),
        1 => (0..4_usize).prop_map(|attachment| Step::Purge { attachment }),
    ];
    prop::collection::vec(step, 0..400)
}

/// Domains and attachments as tables number them.
fn names() -> ([DomainId; 2], [Attachment; 4]) {
    let mut tables = Tables::new(Vec::new(), Vec::new());
    let vni = |id| Vni::new(id).unwrap();
    let domains = [1, 2].map(|id| tables.add_domain(vni(id), DomainOptions::default()).unwrap());
    let port = |mac| Port {
        name: String::new(),
        vni: vni(1),
        mac: MacAddr::from_u64(mac),
        mtu: 1500,
        mode: PortMode::Learning { limit: 1 },
    };
    let vtep = |last| Vtep {
        address: [192, 0, 2, last].into(),
        udp_port: 4789,
        encapsulation: Encapsulation::Vxlan,
        kind: VtepKind::Foreign,
        pod_mtu: 1450,
    };
    let ports = [1, 2].map(|mac| Attachment::Port(tables.add_port(port(mac)).unwrap()));
    let vteps = [1, 2].map(|last| Attachment::Vtep(tables.add_vtep(vtep(last), &[]).unwrap()));
    (domains, [ports[0], ports[1], vteps[0], vteps[1]])
}

fn compare(fdb: &Fdb, model: &Model, domains: [DomainId; 2], attachments: [Attachment; 4]) {
    assert_eq!(fdb.len() as usize, model.entries.len());
    for attachment in attachments {
        assert_eq!(fdb.len_behind(attachment) as usize, model.behind(attachment));
    }
    for domain in domains {
        for mac in (0..MACS).map(MacAddr::from_u64) {
            let seen = fdb.lookup(domain, mac).map(|entry| (entry.attachment, entry.age(model.now)));
            let known = model.entries.get(&(domain, mac));
            assert_eq!(seen, known.map(|known| (known.attachment, model.now.0 - known.stamp)));
        }
    }
    for row in fdb.rows(model.now) {
        assert_eq!(model.entries[&(row.domain, row.mac)].attachment, row.attachment);
    }
    assert_eq!(fdb.rows(model.now).count(), model.entries.len());
}

proptest! {
    #[test]
    fn does_what_a_map_does(start in prop_oneof![Just(1), Just(MAX_AGE_SECONDS - 20)], steps in steps()) {
        let (domains, attachments) = names();
        let fdb = Fdb::new(CAPACITY);
        let mut model = Model { now: Seconds(start), entries: HashMap::new() };
        for step in steps {
            match step {
                Step::Learn { domain, mac, attachment, limit } => {
                    let (domain, mac) = (domains[domain], MacAddr::from_u64(mac));
                    let learn = Learn { domain, mac, attachment: attachments[attachment], limit };
                    let outcome = fdb.learn(&learn, model.now);
                    let expected = model.learn(&learn);
                    if outcome == Learned::Full && expected == Learned::New {
                        prop_assert!(model.entries.len() > TWO_BUCKETS);
                        model.entries.remove(&(domain, mac));
                    } else {
                        prop_assert_eq!(outcome, expected);
                    }
                }
                Step::Wait { seconds } => model.now.0 += seconds,
                Step::Sweep { ageing } => {
                    let now = model.now;
                    prop_assert_eq!(fdb.sweep(now, ageing), model.forget(|known| now.0 - known.stamp >= ageing));
                }
                Step::Purge { attachment } => {
                    let attachment = attachments[attachment];
                    prop_assert_eq!(fdb.purge(attachment), model.forget(|known| known.attachment == attachment));
                }
            }
            compare(&fdb, &model, domains, attachments);
        }
    }
}
