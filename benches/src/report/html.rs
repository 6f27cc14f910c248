//! The report as one page without scripts or anything from elsewhere.

use std::fmt::Write;

use super::chart::{Bar, bars};
use super::table::GROUPS;
use super::{BASELINE, Standing, Summary, number};
use crate::{Better, Cable, CableKind, Comparison, Metric, Pinning};

const STYLE: &str = include_str!("report.css");

/// The Weft that a user gets without settings, best first: what a kernel with everything gives, and what others do.
const WEFT: [&str; 4] = ["weft", "weft-uplink-vxlan", "weft-socket-vxlan", "weft-plain-vxlan"];

/// Processes that want a processor before the run, for each that there is, from which on the report warns.
const BUSY: f64 = 0.25;

/// A metric on kernel VXLAN and on Weft.
struct Pair<'a> {
    metric: &'a Metric,
    kernel: Summary,
    weft: Summary,
}

/// The whole page.
#[must_use]
pub fn html(comparison: &Comparison) -> String {
    let mut page = String::new();
    page += "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n";
    page += "<meta name=\"viewport\" content=\"width=device-width\">\n<title>Overlays side by side</title>\n";
    page += &format!("<style>\n{STYLE}</style>\n<h1>Overlays side by side</h1>\n");
    page += &settings(comparison);
    page += &legend(comparison);
    for cable in &comparison.cables {
        let (name, about) = (escape(&cable.to_string()), about(*cable));
        page += &format!("<h2>Cable: {name}</h2>\n<p>{about}</p>\n");
        page += &verdict(comparison, *cable);
        let metrics = comparison.measured(*cable);
        for (group, name) in GROUPS {
            let charts: Vec<String> = metrics
                .iter()
                .filter(|metric| metric.group == group)
                .map(|metric| chart(comparison, *cable, metric))
                .collect();
            if !charts.is_empty() {
                page += &format!("<h3>{name}</h3>\n<div class=\"charts\">\n{}</div>\n", charts.concat());
            }
        }
    }
    page += &absent(comparison);
    page += &method(comparison);
    page + "</html>\n"
}

/// Text as HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn about(cable: Cable) -> &'static str {
    match cable.kind {
        CableKind::Offloaded => {
            "A veth pair as it comes: superframes cross it whole and without checksums. This is how two nodes of one \
             machine are joined, and it flatters whoever hands on superframes."
        }
        CableKind::Wire => {
            "A veth pair that cuts everything to its MTU and fills in checksums, and joins again what arrives (GRO): \
             what a NIC without tunnel offloads makes a kernel do."
        }
    }
}

fn settings(comparison: &Comparison) -> String {
    let (machine, settings) = (&comparison.machine, &comparison.settings);
    let place = if machine.virtual_machine { "a virtual machine" } else { "no virtual machine" };
    let pinning = match settings.pinning {
        Pinning::None => "none; the kernel places every program",
        Pinning::Node => "each node with its pods on its own half of the processors",
    };
    let rounds = rounds_of(comparison);
    let rows = [
        (
            "Machine",
            format!("{} × {}, {:.0} GiB, {place}", machine.processors, machine.processor, gibibytes(machine.memory)),
        ),
        ("Kernel", format!("Linux {}", machine.kernel)),
        (
            "Versions",
            format!("Weft {}; {}", machine.weft, machine.open_vswitch.as_deref().unwrap_or("no Open vSwitch")),
        ),
        ("Congestion control", format!("stated with each figure; here: {}", machine.congestion_controls.join(", "))),
        ("Pinning", pinning.to_owned()),
        (
            "Rounds",
            format!(
                "{rounds}, interleaved, {} s each after {} s of warm-up; {:.0} s in all",
                settings.period_seconds, settings.warm_up_seconds, settings.took_seconds
            ),
        ),
        ("Load before the run", format!("{} (average of a minute)", machine.load)),
    ];
    let rows = rows.map(|(name, value)| format!("<tr><th>{name}<td>{}\n", escape(&value)));
    let busy = machine.load.parse().is_ok_and(|load: f64| load > machine.processors as f64 * BUSY);
    let warning = if busy {
        "<p class=\"warning\">The machine was busy with other work: waiting for a processor is in these figures.</p>\n"
    } else {
        ""
    };
    format!("<table class=\"facts\">\n{}</table>\n{warning}", rows.concat())
}

/// Rounds that were done, which may be fewer than were asked for.
fn rounds_of(comparison: &Comparison) -> String {
    let done = comparison.cables.iter().map(|cable| {
        let of = comparison.samples.iter().filter(|sample| sample.cable == *cable);
        of.map(|sample| sample.round).max().unwrap_or(0)
    });
    let (least, most) = (done.clone().min().unwrap_or(0), done.max().unwrap_or(0));
    let asked = comparison.settings.rounds;
    match (least, most) {
        _ if least == asked => format!("{asked}"),
        _ if least == most => format!("{least} of {asked} that were asked for"),
        _ => format!("{least} to {most} of {asked} that were asked for"),
    }
}

fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

fn legend(comparison: &Comparison) -> String {
    let rows = comparison.planes.iter().map(|plane| {
        let (class, name, about) = (class(comparison, &plane.name), escape(&plane.name), escape(&plane.about));
        format!("<tr><td><svg class=\"key\" viewBox=\"0 0 12 12\"><rect width=\"12\" height=\"12\" class=\"{class}\"/></svg><th>{name}<td>{about}\n")
    });
    format!("<h2>What is compared</h2>\n<table class=\"facts\">\n{}</table>\n", rows.collect::<String>())
}

fn class(comparison: &Comparison, plane: &str) -> &'static str {
    let weft = comparison.planes.iter().any(|known| known.name == plane && known.weft);
    match plane {
        BASELINE => "kernel",
        _ if weft => "weft",
        _ => "other",
    }
}

/// Who wins where, for the Weft that a user gets.
fn verdict(comparison: &Comparison, cable: Cable) -> String {
    let ran = |name: &&str| comparison.samples.iter().any(|sample| sample.cable == cable && sample.plane == *name);
    let Some(weft) = WEFT.into_iter().find(ran).filter(|_| ran(&BASELINE)) else {
        return "<p>Kernel VXLAN and Weft did not both run here: there is nothing to weigh.</p>\n".to_owned();
    };
    let pairs: Vec<Pair<'_>> = comparison
        .measured(cable)
        .into_iter()
        .filter_map(|metric| {
            let kernel = comparison.summary(cable, BASELINE, &metric.id)?;
            Some(Pair { metric, kernel, weft: comparison.summary(cable, weft, &metric.id)? })
        })
        .collect();
    let mut text = String::new();
    let sections = [
        (Standing::Worse, "Where kernel VXLAN wins", "Its worst round is better than the best of"),
        (Standing::Better, "Where Weft wins", "Kernel VXLAN's best round is worse than the worst of"),
        (Standing::Even, "Where the rounds do not tell them apart", "The rounds overlap with those of"),
    ];
    for (standing, title, meaning) in sections {
        let mut some: Vec<&Pair<'_>> =
            pairs.iter().filter(|pair| pair.weft.beside(&pair.kernel, pair.metric.better) == standing).collect();
        some.sort_by(|one, other| distance(other).total_cmp(&distance(one)));
        // Writing to a text does not fail.
        let _ = writeln!(text, "<section><h3>{title}</h3>");
        if some.is_empty() {
            text += "<p>Nowhere.</p></section>\n";
            continue;
        }
        let _ = writeln!(text, "<p>{meaning} {weft}.</p>\n<table>");
        text += "<tr><th>metric<th>unit<th class=\"number\">kernel VXLAN<th class=\"number\">Weft<th class=\"number\">ratio\n";
        text += &some.into_iter().map(row).collect::<String>();
        text += "</table></section>\n";
    }
    format!("<div class=\"verdict\">\n{text}</div>\n")
}

fn row(pair: &Pair<'_>) -> String {
    let cell = |summary: &Summary| {
        let Summary { median, min, max, .. } = *summary;
        format!("{} <small>{} – {}</small>", number(median), number(min), number(max))
    };
    let ratio = if pair.kernel.median > 0.0 {
        format!("{}×", number(pair.weft.median / pair.kernel.median))
    } else {
        "–".to_owned()
    };
    let better = if pair.metric.better == Better::Higher { "" } else { " <small>less is better</small>" };
    format!(
        "<tr><td>{}{better}<td>{}<td class=\"number\">{}<td class=\"number\">{}<td class=\"number\">{ratio}\n",
        escape(&pair.metric.title),
        escape(&pair.metric.unit),
        cell(&pair.kernel),
        cell(&pair.weft)
    )
}

/// How far apart the two are, whichever is ahead.
fn distance(pair: &Pair<'_>) -> f64 {
    let ratio = pair.weft.median / pair.kernel.median;
    if ratio.is_finite() && ratio > 0.0 { ratio.ln().abs() } else { 0.0 }
}

fn chart(comparison: &Comparison, cable: Cable, metric: &Metric) -> String {
    let skipped = |plane: &str| comparison.skipped.iter().any(|skip| skip.plane == plane && skip.cable == cable);
    let rows: Vec<Bar<'_>> = comparison
        .planes
        .iter()
        .map(|plane| Bar {
            name: &plane.name,
            class: class(comparison, &plane.name),
            summary: comparison.summary(cable, &plane.name, &metric.id),
        })
        .filter(|bar| bar.summary.is_some() || !skipped(bar.name))
        .collect();
    let baseline = comparison.summary(cable, BASELINE, &metric.id).map(|summary| summary.median);
    let better = if metric.better == Better::Higher { "more is better" } else { "less is better" };
    let (title, unit) = (escape(&metric.title), escape(&metric.unit));
    format!(
        "<figure><figcaption>{title} <small>{unit}, {better}</small></figcaption>\n{}</figure>\n",
        bars(&rows, baseline)
    )
}

/// What did not run, and what failed.
fn absent(comparison: &Comparison) -> String {
    let mut text = String::from("<h2>What is missing</h2>\n");
    if comparison.skipped.is_empty() && comparison.failures.is_empty() {
        return text + "<p>Nothing: every plane ran, and every load went through.</p>\n";
    }
    text += "<table>\n<tr><th>plane<th>cable<th>what<th>why\n";
    for skip in &comparison.skipped {
        let (plane, cable, reason) = (escape(&skip.plane), skip.cable, escape(&skip.reason));
        let _ = writeln!(text, "<tr><td>{plane}<td>{cable}<td>all of it<td>{reason}");
    }
    for failure in &comparison.failures {
        let (plane, cable, case) = (escape(&failure.plane), failure.cable, escape(&failure.case));
        let (round, reason) = (failure.round, escape(&failure.reason));
        let _ = writeln!(text, "<tr><td>{plane}<td>{cable}<td>{case}, round {round}<td>{reason}");
    }
    text + "</table>\n"
}

fn method(comparison: &Comparison) -> String {
    format!(
        "<h2>How to read it</h2>\n<ul>\n\
         <li>Bars end at the median of the rounds; the thin line goes from the least to the greatest of them. The dashed \
         line is the median of {BASELINE}.\n\
         <li>All planes stand side by side in namespaces of their own; a round does every load on each of them, \
         and each round begins with another plane.\n\
         <li>Load and overlay share the same processors: throughput is what is left of them. Processor time is that of \
         the whole machine ({} processors, /proc/stat), load included, so the difference between planes counts.\n\
         <li>Two nodes of one machine have no cable between them that could be the limit, and no NIC that could help: \
         on hardware with tunnel offloads the kernel gains most.\n\
         <li>Memory is that of processes. What a kernel datapath uses is in the kernel and not counted.\n</ul>\n",
        comparison.machine.processors
    )
}
