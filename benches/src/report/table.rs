use super::{BASELINE, Standing, number};
use crate::record::Group;
use crate::{Cable, Comparison, Metric};

/// Columns that stand side by side at most.
const ABREAST: usize = 6;

/// A table for the terminal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// What it shows.
    pub title: String,
    /// Its columns; those that begin with `#` hold numbers.
    pub headings: Vec<String>,
    /// Its rows.
    pub rows: Vec<Vec<String>>,
}

/// What the groups are called.
pub(super) const GROUPS: [(Group, &str); 6] = [
    (Group::Bulk, "TCP throughput"),
    (Group::Datagrams, "UDP packets received per second"),
    (Group::Latency, "Latency"),
    (Group::Rates, "Round trips and connections per second"),
    (Group::Cost, "What it costs"),
    (Group::Fidelity, "Loss and order"),
];

/// Tables of every plane's median as a multiple of kernel VXLAN's, whose own row has the figures themselves. A value
/// whose rounds overlap with kernel VXLAN's is marked with `~`. Without kernel VXLAN, every row has figures.
#[must_use]
pub fn ratios(comparison: &Comparison) -> Vec<Table> {
    let mut tables = Vec::new();
    for cable in &comparison.cables {
        let metrics = comparison.measured(*cable);
        for (group, name) in GROUPS {
            let of_group: Vec<&Metric> = metrics.iter().copied().filter(|metric| metric.group == group).collect();
            for some in of_group.chunks(ABREAST) {
                tables.push(table(comparison, *cable, name, some));
            }
        }
    }
    tables
}

fn table(comparison: &Comparison, cable: Cable, name: &str, metrics: &[&Metric]) -> Table {
    let heading = |metric: &&Metric| format!("#{}", metric.id.replace("throughput", "").trim());
    let headings = ["plane".to_owned()].into_iter().chain(metrics.iter().map(heading)).collect();
    let mut units: Vec<&str> = metrics.iter().map(|metric| metric.unit.as_str()).collect();
    units.dedup();
    let rows = comparison.planes.iter().filter_map(|plane| {
        let cells: Vec<String> = metrics.iter().map(|metric| cell(comparison, cable, &plane.name, metric)).collect();
        let empty = cells.iter().all(|cell| cell == "-");
        (!empty).then(|| [plane.name.clone()].into_iter().chain(cells).collect())
    });
    Table { title: format!("{name}, {}; {cable}", units.join(" or ")), headings, rows: rows.collect() }
}

fn cell(comparison: &Comparison, cable: Cable, plane: &str, metric: &Metric) -> String {
    let Some(own) = comparison.summary(cable, plane, &metric.id) else { return "-".to_owned() };
    match comparison.summary(cable, BASELINE, &metric.id) {
        Some(baseline) if plane != BASELINE && baseline.median > 0.0 => {
            let even = own.beside(&baseline, metric.better) == Standing::Even;
            format!("{}{}x", if even { "~" } else { "" }, number(own.median / baseline.median))
        }
        _ => number(own.median),
    }
}
