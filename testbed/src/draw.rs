//! A lab as a drawing for a terminal.

use std::iter::repeat_n;

use crate::Live;
use crate::link::Impairments;
use crate::spec::{Encapsulation, Family, LabSpec, NodeKind, NodeSpec, PodSpec, PortMode};

/// Pods side by side in one node at most.
const PODS_ABREAST_MAX: usize = 4;
/// Columns between two nodes.
const GAP: usize = 2;
/// Columns left of the nodes, where the underlay comes down from row to row.
const MARGIN: usize = 3;

/// Draws a lab: nodes as boxes with their pods, all on the underlay. At most `width` columns wide, unless a
/// single pod needs more; every line ends without spaces.
#[must_use]
pub fn draw(spec: &LabSpec, live: &Live, title: &str, width: usize) -> String {
    let abreast = 1..=PODS_ABREAST_MAX;
    let drawings = abreast.map(|abreast| rows(spec, live, abreast, width));
    let fitting = drawings.min_by_key(|lines| {
        let widest = lines.iter().map(|line| columns(line)).max().unwrap_or(0);
        (widest.saturating_sub(width), lines.len())
    });
    let mut lines = vec![heading(spec, title), String::new()];
    lines.extend(fitting.unwrap_or_default());
    lines.extend(underlay(spec).into_iter().map(|line| format!("{}{line}", " ".repeat(MARGIN))));
    lines.iter().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

fn heading(spec: &LabSpec, title: &str) -> String {
    let encapsulation = match spec.encapsulation {
        Encapsulation::Vxlan => "VXLAN",
        Encapsulation::Geneve => "Geneve",
    };
    let family = match spec.underlay.family {
        Family::Ipv4 => "IPv4",
        Family::Ipv6 => "IPv6",
    };
    let (nodes, pods) = (counted(spec.nodes.len(), "node"), counted(spec.pods().count(), "pod"));
    format!("{title}: {encapsulation} over {family}, {nodes}, {pods}")
}

/// What the nodes stand on: one line for each segment, router, and link that is impaired.
fn underlay(spec: &LabSpec) -> Vec<String> {
    let single = spec.segments.len() == 1 && spec.routers.is_empty();
    let segments = spec.segments.iter().enumerate().map(|(index, segment)| {
        let facts = format!("{}, {}, MTU {}", segment.ipv4, segment.ipv6, segment.mtu);
        if single {
            return format!("underlay {facts}");
        }
        let nodes = spec.nodes.iter().filter(|node| node.segment == index).map(|node| node.name.as_str());
        format!("segment {} {facts}: {}", segment.name, nodes.collect::<Vec<_>>().join(" "))
    });
    let routers = spec.routers.iter().map(|router| {
        let joined = router.segments.iter().map(|segment| spec.segments[*segment].name.as_str());
        format!("router {}: {}", router.name, joined.collect::<Vec<_>>().join(" - "))
    });
    let impaired = spec.nodes.iter().filter(|node| !node.link.is_none()).map(|node| {
        let Impairments { to, from, .. } = &node.link;
        let ways = if to == from { vec![("", to)] } else { vec![(" to", to), (" from", from)] };
        let told = ways.iter().map(|(way, impairment)| format!("{way} {impairment}"));
        format!("link {}:{}", node.name, told.filter(|told| told.contains('=')).collect::<Vec<_>>().join(","))
    });
    segments.chain(routers).chain(impaired).collect()
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// Rows of nodes, each with its stretch of the underlay below.
fn rows(spec: &LabSpec, live: &Live, abreast: usize, width: usize) -> Vec<String> {
    let content_width =
        spec.pods().flat_map(|(_, pod)| pod_lines(pod, live)).map(|line| columns(&line)).max().unwrap_or(0);
    let nodes = (0..spec.nodes.len()).map(|index| node_block(spec, live, index, abreast, content_width));
    let rows = fill_rows(nodes.collect(), width.saturating_sub(MARGIN));
    let last = rows.len().saturating_sub(1);
    let bus = rows.iter().map(|row| taps(row, '═', '╧').chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let trunk = if number == 0 { ' ' } else { '║' };
        lines.extend(side_by_side(row, GAP).into_iter().map(|line| format!("{trunk}{}{line}", " ".repeat(MARGIN - 1))));
        let corner = match (number == 0, number == last) {
            (true, true) => '═',
            (true, false) => '╔',
            (false, false) => '╠',
            (false, true) => '╚',
        };
        lines.push(format!("{trunk}{}{}", " ".repeat(MARGIN - 1), taps(row, ' ', '│')));
        lines.push(format!("{corner}{}{:═<bus$}", "═".repeat(MARGIN - 1), taps(row, '═', '╧')));
        if number != last {
            lines.push("║".to_owned());
        }
    }
    lines
}

/// One line under a row: `tap` below the middle of each node, `filling` elsewhere.
fn taps(row: &[Block], filling: char, tap: char) -> String {
    let mut line = String::new();
    for (number, block) in row.iter().enumerate() {
        let gap = if number == 0 { 0 } else { GAP };
        line.extend(repeat_n(filling, gap + middle(block.width)));
        line.push(tap);
        line.extend(repeat_n(filling, block.width - middle(block.width) - 1));
    }
    line
}

const fn middle(width: usize) -> usize {
    (width - 1) / 2
}

/// Lines of equal width.
struct Block {
    width: usize,
    lines: Vec<String>,
}

impl Block {
    fn new(lines: Vec<String>) -> Self {
        let width = lines.iter().map(|line| columns(line)).max().unwrap_or(0);
        let lines = lines.into_iter().map(|line| padded(&line, width)).collect();
        Self { width, lines }
    }
}

fn fill_rows(blocks: Vec<Block>, width: usize) -> Vec<Vec<Block>> {
    let mut rows: Vec<Vec<Block>> = Vec::new();
    let mut used = 0;
    for block in blocks {
        let needed = GAP + block.width;
        match rows.last_mut() {
            Some(row) if used + needed <= width => {
                used += needed;
                row.push(block);
            }
            _ => {
                used = block.width;
                rows.push(vec![block]);
            }
        }
    }
    for row in &mut rows {
        let height = row.iter().map(|block| block.lines.len()).max().unwrap_or(0);
        row.iter_mut().for_each(|block| stretch(block, height));
    }
    rows
}

/// Makes a node's box as high as its neighbours', by empty lines above its addresses.
fn stretch(block: &mut Block, height: usize) {
    let empty = format!("│{}│", " ".repeat(block.width - 2));
    let above_addresses = block.lines.len() - 2;
    let missing = height - block.lines.len();
    block.lines.splice(above_addresses..above_addresses, repeat_n(empty, missing));
}

fn side_by_side(blocks: &[Block], gap: usize) -> Vec<String> {
    let height = blocks.iter().map(|block| block.lines.len()).max().unwrap_or(0);
    let line = |number: usize| {
        let parts: Vec<String> = blocks
            .iter()
            .map(|block| block.lines.get(number).cloned().unwrap_or_else(|| " ".repeat(block.width)))
            .collect();
        parts.join(&" ".repeat(gap))
    };
    (0..height).map(line).collect()
}

fn node_block(spec: &LabSpec, live: &Live, index: usize, abreast: usize, content_width: usize) -> Block {
    let NodeSpec { name, pods, kind, .. } = &spec.nodes[index];
    let mut lines = Vec::new();
    for group in pods.chunks(abreast) {
        let height = group.iter().map(|pod| pod_lines(pod, live).len()).max().unwrap_or(0);
        let blocks: Vec<Block> = group.iter().map(|pod| pod_block(pod, live, content_width, height)).collect();
        lines.extend(side_by_side(&blocks, 1));
    }
    lines.extend(live.node(name).map(str::to_owned));
    let families = match spec.underlay.family {
        Family::Ipv4 => [Family::Ipv4, Family::Ipv6],
        Family::Ipv6 => [Family::Ipv6, Family::Ipv4],
    };
    let addresses = families.iter().filter_map(|family| spec.node_address(index, *family));
    lines.push(addresses.map(|net| net.addr().to_string()).collect::<Vec<_>>().join("  "));
    let name = match kind {
        NodeKind::Weft => name.clone(),
        NodeKind::KernelVxlan => format!("{name}, kernel VXLAN"),
        NodeKind::Host => format!("{name}, host"),
    };
    boxed(&name, &lines, ["┌", "┐", "└", "┘"], '┬')
}

fn pod_block(pod: &PodSpec, live: &Live, content_width: usize, height: usize) -> Block {
    let mut lines = pod_lines(pod, live);
    lines.resize(height, String::new());
    lines.iter_mut().for_each(|line| *line = padded(line, content_width));
    boxed(&pod.name, &lines, ["╭", "╮", "╰", "╯"], '─')
}

fn pod_lines(pod: &PodSpec, live: &Live) -> Vec<String> {
    let learning = if pod.mode == PortMode::Learning { ", learning" } else { "" };
    let mut lines = vec![format!("VNI {}{learning}", pod.vni)];
    lines.extend(pod.addresses.iter().map(ToString::to_string));
    lines.extend(pod.mac.map(|mac| mac.to_string()));
    lines.extend(pod.mtu.map(|mtu| format!("MTU {mtu}")));
    lines.extend(live.pod(&pod.name).map(str::to_owned));
    // Keeps the frame wide enough for the name in it.
    lines[0] = padded(&lines[0], columns(&pod.name) + 1);
    lines
}

/// Draws a frame with its name in the upper edge and `foot` in the middle of the lower one.
fn boxed(name: &str, lines: &[String], corners: [&str; 4], foot: char) -> Block {
    let inner = lines.iter().map(|line| columns(line)).chain([columns(name) + 1]).max().unwrap_or(0);
    let [top_left, top_right, bottom_left, bottom_right] = corners;
    let mut boxed = vec![format!("{top_left}─ {name} {}{top_right}", "─".repeat(inner - columns(name) - 1))];
    boxed.extend(lines.iter().map(|line| format!("│ {} │", padded(line, inner))));
    let width = inner + 4;
    let edge: String = (1..width - 1).map(|column| if column == middle(width) { foot } else { '─' }).collect();
    boxed.push(format!("{bottom_left}{edge}{bottom_right}"));
    Block::new(boxed)
}

fn columns(text: &str) -> usize {
    text.chars().count()
}

fn padded(text: &str, width: usize) -> String {
    format!("{text:width$}")
}
