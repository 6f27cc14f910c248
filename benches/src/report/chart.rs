//! Bars as SVG.

use std::fmt::Write;

use super::{Summary, number};

/// Pixels: the whole, the names left of the bars, the figures right of them, and a bar with the gap below it.
const WIDTH: f64 = 560.0;
const NAMES: f64 = 140.0;
const FIGURES: f64 = 66.0;
const ROW: f64 = 19.0;
const BAR: f64 = 12.0;
/// Pixels of the ends of a line from least to greatest.
const TICK: f64 = 3.0;
/// How much longer than the longest median the axis is at most, however far the rounds are apart.
const SPREAD: f64 = 1.6;

/// One bar.
pub(super) struct Bar<'a> {
    pub(super) name: &'a str,
    /// Its class in the style sheet.
    pub(super) class: &'static str,
    /// None where it does not run or failed.
    pub(super) summary: Option<Summary>,
}

/// Bars from zero to the medians, with lines from least to greatest, and a dashed line through the baseline's median.
pub(super) fn bars(bars: &[Bar<'_>], baseline: Option<f64>) -> String {
    let known = || bars.iter().filter_map(|bar| bar.summary);
    let longest = known().map(|summary| summary.median).fold(0.0, f64::max);
    let furthest = known().map(|summary| summary.max).fold(0.0, f64::max);
    let end = furthest.min(longest * SPREAD).max(f64::MIN_POSITIVE);
    let scale = |value: f64| NAMES + (value / end).min(1.0) * (WIDTH - NAMES - FIGURES);
    let height = ROW * bars.len() as f64;
    let mut svg = format!("<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n");
    for (index, bar) in bars.iter().enumerate() {
        let (top, name, class) = (ROW * index as f64, super::html::escape(bar.name), bar.class);
        let (text, middle) = (top + BAR, top + (ROW - BAR) / 2.0 + BAR / 2.0);
        // Writing to a text does not fail.
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{text:.1}\" class=\"name\">{name}</text>", NAMES - 6.0);
        let Some(Summary { median, min, max, .. }) = bar.summary else {
            let _ = writeln!(svg, "<text x=\"{NAMES}\" y=\"{text:.1}\" class=\"none\">none</text>");
            continue;
        };
        let _ = writeln!(
            svg,
            "<rect x=\"{NAMES}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{BAR}\" class=\"{class}\"/>",
            middle - BAR / 2.0,
            (scale(median) - NAMES).max(1.0),
        );
        let (left, right) = (scale(min), scale(max));
        let _ = writeln!(
            svg,
            "<path d=\"M{left:.1} {middle:.1}H{right:.1}M{left:.1} {:.1}V{:.1}M{right:.1} {:.1}V{:.1}\" class=\"range\"/>",
            middle - TICK,
            middle + TICK,
            middle - TICK,
            middle + TICK,
        );
        let _ = writeln!(svg, "<text x=\"{WIDTH}\" y=\"{text:.1}\" class=\"figure\">{}</text>", number(median));
    }
    if let Some(at) = baseline.map(scale) {
        let _ = writeln!(svg, "<path d=\"M{at:.1} 0V{height}\" class=\"baseline\"/>");
    }
    svg + "</svg>\n"
}
