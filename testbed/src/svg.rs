//! A lab as an SVG drawing: a row of nodes above each segment, and the routers that join segments below.

use std::fmt::Write;

use crate::Live;
use crate::spec::{Family, LabSpec, NodeKind, NodeSpec, PodSpec, PortMode};

/// Nodes side by side at most.
const NODES_ABREAST: usize = 6;
/// Pixels of a character of the font, in width, and of a line, in height.
const CHARACTER: usize = 7;
const LINE: usize = 16;
/// Pixels between boxes, and between a box and what stands in it.
const GAP: usize = 16;
const PADDING: usize = 8;
/// Pixels of the cable below a node.
const CABLE: usize = 30;

/// Draws a lab as an SVG document of its own.
#[must_use]
pub fn draw_svg(spec: &LabSpec, live: &Live, title: &str) -> String {
    let mut canvas = Canvas::default();
    let left = GAP + GAP * (spec.routers.len() + 1);
    canvas.text(GAP, GAP + LINE, "bold", title);
    let mut y = 2 * GAP + LINE;
    let mut buses = Vec::new();
    for segment in 0..spec.segments.len() {
        let top = y;
        y = nodes_of(&mut canvas, spec, live, segment, left, y);
        buses.push((top, y));
        let facts = &spec.segments[segment];
        let label = format!("{}: {}, {}, MTU {}", facts.name, facts.ipv4, facts.ipv6, facts.mtu);
        canvas.text(left, y + LINE, "", &label);
        y += LINE + 2 * GAP;
    }
    for (index, router) in spec.routers.iter().enumerate() {
        let x = GAP * (index + 1);
        let height = box_height(0);
        canvas.rectangle(x, y, width_of(&[&router.name]), height, "router");
        canvas.text(x + PADDING, y + PADDING + LINE - 4, "bold", &router.name);
        for (_, bus) in router.segments.iter().map(|segment| buses[*segment]) {
            canvas.line(x + PADDING, bus, left - PADDING, bus);
            canvas.line(x + PADDING, bus, x + PADDING, y);
        }
        y += height + GAP;
    }
    canvas.document(y + GAP)
}

/// Draws the nodes of a segment, in as many rows as they need; returns where its switch is.
fn nodes_of(canvas: &mut Canvas, spec: &LabSpec, live: &Live, segment: usize, left: usize, mut y: usize) -> usize {
    let nodes: Vec<usize> = (0..spec.nodes.len()).filter(|index| spec.nodes[*index].segment == segment).collect();
    let mut last = y + CABLE;
    for (number, row) in nodes.chunks(NODES_ABREAST).enumerate() {
        let height = row.iter().map(|index| node_height(&spec.nodes[*index], live)).max().unwrap_or(0);
        let bus = y + height + CABLE;
        let mut x = left;
        for index in row {
            let width = node(canvas, spec, live, *index, (x, y), height);
            canvas.line(x + width / 2, y + height, x + width / 2, bus);
            let link = &spec.nodes[*index].link;
            if !link.is_none() {
                let told = if link.to == link.from { link.to.to_string() } else { "impaired".to_owned() };
                canvas.text(x + width / 2 + 4, bus - PADDING, "small", &told);
            }
            x += width + GAP;
        }
        canvas.bus(left - PADDING, x - GAP, bus);
        if number > 0 {
            canvas.line(left - PADDING, last, left - PADDING, bus);
        }
        last = bus;
        y = bus + GAP;
    }
    last
}

fn node(
    canvas: &mut Canvas,
    spec: &LabSpec,
    live: &Live,
    index: usize,
    (x, y): (usize, usize),
    height: usize,
) -> usize {
    let node = &spec.nodes[index];
    let kind = match node.kind {
        NodeKind::Weft => "",
        NodeKind::KernelVxlan => " (kernel VXLAN)",
        NodeKind::Host => " (host)",
    };
    let name = format!("{}{kind}", node.name);
    let address = spec.node_address(index, Family::Ipv4).map(|net| net.addr().to_string()).unwrap_or_default();
    let pods: Vec<Vec<String>> = node.pods.iter().map(|pod| pod_lines(pod, live)).collect();
    let told = live.node(&node.name).unwrap_or_default();
    let texts: Vec<&str> = pods.iter().flatten().map(String::as_str).chain([name.as_str(), &address, told]).collect();
    let width = width_of(&texts) + 2 * PADDING;
    canvas.rectangle(x, y, width, height, "node");
    canvas.text(x + PADDING, y + PADDING + LINE - 4, "bold", &name);
    canvas.text(x + PADDING, y + PADDING + 2 * LINE - 4, "small", &address);
    if !told.is_empty() {
        canvas.text(x + PADDING, y + PADDING + 3 * LINE - 4, "small", told);
    }
    let mut below = y + heading_height(node, live);
    for lines in &pods {
        canvas.rectangle(x + PADDING, below, width - 2 * PADDING, box_height(lines.len() - 1), "pod");
        for (number, line) in lines.iter().enumerate() {
            let class = if number == 0 { "bold" } else { "small" };
            canvas.text(x + 2 * PADDING, below + PADDING + LINE * (number + 1) - 4, class, line);
        }
        below += box_height(lines.len() - 1) + PADDING;
    }
    width
}

fn pod_lines(pod: &PodSpec, live: &Live) -> Vec<String> {
    let learning = if pod.mode == PortMode::Learning { ", learning" } else { "" };
    let first = [format!("{}, VNI {}{learning}", pod.name, pod.vni)];
    let counted = live.pod(&pod.name).map(str::to_owned);
    first.into_iter().chain(pod.addresses.iter().map(ToString::to_string)).chain(counted).collect()
}

fn node_height(node: &NodeSpec, live: &Live) -> usize {
    let pods = node.pods.iter().map(|pod| box_height(pod_lines(pod, live).len() - 1) + PADDING);
    heading_height(node, live) + pods.sum::<usize>()
}

/// Of a node's name, address, and what is told of it.
fn heading_height(node: &NodeSpec, live: &Live) -> usize {
    let lines = if live.node(&node.name).is_some() { 3 } else { 2 };
    2 * PADDING + lines * LINE
}

const fn box_height(further_lines: usize) -> usize {
    2 * PADDING + LINE * (further_lines + 1)
}

fn width_of(texts: &[&str]) -> usize {
    texts.iter().map(|text| text.chars().count()).max().unwrap_or(0) * CHARACTER + 2 * PADDING
}

#[derive(Default)]
struct Canvas {
    elements: String,
    width: usize,
}

impl Canvas {
    fn add(&mut self, right: usize, element: std::fmt::Arguments<'_>) {
        self.width = self.width.max(right + GAP);
        // Writing to a text cannot fail.
        let _ = writeln!(self.elements, "{element}");
    }

    fn rectangle(&mut self, x: usize, y: usize, width: usize, height: usize, class: &str) {
        let shape = format_args!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"4\" class=\"{class}\"/>"
        );
        self.add(x + width, shape);
    }

    fn text(&mut self, x: usize, y: usize, class: &str, text: &str) {
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let right = x + text.chars().count() * CHARACTER;
        self.add(right, format_args!("<text x=\"{x}\" y=\"{y}\" class=\"{class}\">{escaped}</text>"));
    }

    fn line(&mut self, x1: usize, y1: usize, x2: usize, y2: usize) {
        self.add(x1.max(x2), format_args!("<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\"/>"));
    }

    fn bus(&mut self, x1: usize, x2: usize, y: usize) {
        self.add(x2, format_args!("<line x1=\"{x1}\" y1=\"{y}\" x2=\"{x2}\" y2=\"{y}\" class=\"bus\"/>"));
    }

    fn document(self, height: usize) -> String {
        let Self { elements, width } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             viewBox=\"0 0 {width} {height}\">\n\
             <style>text {{ font: 12px monospace; }} .bold {{ font-weight: bold; }} .small {{ font-size: 11px; }}\n\
             rect {{ stroke: #333; fill: #fff; }} .node {{ fill: #eef3f8; }} .router {{ fill: #f8f0e3; }}\n\
             line {{ stroke: #333; }} .bus {{ stroke-width: 3; }}</style>\n\
             <rect width=\"{width}\" height=\"{height}\" style=\"stroke: none\"/>\n\
             {elements}</svg>\n"
        )
    }
}
