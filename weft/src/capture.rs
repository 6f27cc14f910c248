use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use weft_api::{CapturedRow, TraceRow};
use weft_testbed::LabName;
use weft_testbed::pcapng::{self, LinkType, Packet};

use crate::out::{complain, remark};
use crate::target::Target;
use crate::trace::Matching;
use crate::trace::live::{Event, Live, listen};
use crate::trace::nodes::Nodes;

/// What the file says that it was written by.
const PROGRAM: &str = "weft capture";
/// Interfaces of each node: frames inside the tunnel, and packets outside.
const INTERFACES: u32 = 2;

#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    weft capture --lab demo --pod a -w a.pcapng\n  \
    weft capture --drops -n 100 -w drops.pcapng\n  \
    weft capture --lab demo --vni 100 -w - | tshark -r -")]
pub(crate) struct Args {
    #[command(flatten)]
    matching: Matching,
    /// End after so many frames and copies
    #[arg(short = 'n', long, value_name = "FRAMES")]
    count: Option<u64>,
    /// The file that is written (pcapng); `-` is standard output
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    #[command(flatten)]
    target: Target,
    /// A lab: all its nodes, in one file
    #[arg(long, value_name = "LAB", conflicts_with_all = ["node", "run_dir"])]
    lab: Option<LabName>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { matching, count, write, target, lab } = args;
    let mut nodes = Nodes::of(target, lab.as_ref())?;
    let standard = write.as_os_str() == "-";
    let file: Box<dyn Write> = if standard {
        Box::new(std::io::stdout().lock())
    } else {
        Box::new(File::create(write).with_context(|| format!("making {}", write.display()))?)
    };
    let live = listen(&mut nodes, matching, true)?;
    let mut capture = Capture::begin(file, &live.names).with_context(|| format!("writing {}", write.display()))?;
    remark(format_args!("capturing on {}; Ctrl-C ends it", live.names.join(", ")));
    let ended = capture.follow(&live, count.unwrap_or(u64::MAX));
    let written = ended.and_then(|ended| capture.finish().map(|()| ended));
    let ended = written.with_context(|| format!("writing {}", write.display()))?;
    let lost: u64 = capture.lost.iter().sum();
    let lost = if lost > 0 { format!(", and {lost} lost: a filter lets fewer through") } else { String::new() };
    remark(format_args!("{} frames and copies{lost}", capture.frames.iter().sum::<u64>()));
    if ended > 0 {
        bail!("{ended} of {} nodes ended; the file is complete until then", live.names.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// A file in the making.
struct Capture {
    file: Box<dyn Write>,
    /// Frames and copies written, of each node.
    frames: Vec<u64>,
    /// Packets outside of the tunnel that were written, of each node.
    outer: Vec<u64>,
    lost: Vec<u64>,
    /// Of each node's workers the frame whose arrival was written last: its copies share it.
    arrived: HashMap<(usize, usize), u64>,
}

impl Capture {
    fn begin(mut file: Box<dyn Write>, nodes: &[String]) -> std::io::Result<Self> {
        let mut head = pcapng::section(PROGRAM);
        for node in nodes {
            head.extend(pcapng::interface(&format!("{node} inner"), LinkType::Ethernet));
            head.extend(pcapng::interface(&format!("{node} outer"), LinkType::Ip));
        }
        file.write_all(&head)?;
        file.flush()?;
        let none = || vec![0; nodes.len()];
        Ok(Self { file, frames: none(), outer: none(), lost: none(), arrived: HashMap::new() })
    }

    /// Writes until there are so many, or the user has enough. Returns how many nodes ended before.
    fn follow(&mut self, live: &Live, count: u64) -> std::io::Result<usize> {
        let mut ended = 0;
        while self.frames.iter().sum::<u64>() < count && ended < live.names.len() {
            match live.events.recv() {
                Ok(Event::Told(node, batch)) => {
                    self.lost[node] = batch.lost;
                    let mut blocks = Vec::new();
                    for row in &batch.rows {
                        if self.frames.iter().sum::<u64>() < count {
                            self.write_row(node, row, &mut blocks);
                        }
                    }
                    self.file.write_all(&blocks)?;
                    self.file.flush()?;
                }
                Ok(Event::Ended(node, error)) => {
                    complain!("{} tells no more: {error}", live.names[node]);
                    ended += 1;
                }
                Ok(Event::Interrupted) | Err(_) => break,
            }
        }
        Ok(ended)
    }

    /// A frame with the packets around it: the one that it came in, itself, and those that it left as.
    fn write_row(&mut self, node: usize, row: &TraceRow, blocks: &mut Vec<u8>) {
        let Some(CapturedRow { inner, offload, outer_in, outer_out }) = &row.captured else { return };
        let first = u32::try_from(node).unwrap_or_default() * INTERFACES;
        let (entered, settled) = (Duration::from_nanos(row.entered_ns), Duration::from_nanos(row.settled_ns));
        let told = comment(row, offload.as_deref());
        let comment = Some(told.as_str());
        let is_first = self.arrived.insert((node, row.worker), row.frame) != Some(row.frame);
        if let Some(bytes) = outer_in.as_ref().filter(|_| is_first) {
            let packet = Packet { interface: first + 1, time: entered, bytes: &bytes.0, outgoing: false, comment };
            blocks.extend(pcapng::packet(&packet));
            self.outer[node] += 1;
        }
        // To the switch a frame comes in, wherever from; the copy of one that came by a tunnel goes out to a pod.
        let outgoing = row.from_kind != "port";
        blocks.extend(pcapng::packet(&Packet { interface: first, time: entered, bytes: &inner.0, outgoing, comment }));
        self.frames[node] += 1;
        for bytes in outer_out {
            let packet = Packet { interface: first + 1, time: settled, bytes: &bytes.0, outgoing: true, comment };
            blocks.extend(pcapng::packet(&packet));
            self.outer[node] += 1;
        }
    }

    /// Says at the end what was counted.
    fn finish(&mut self) -> std::io::Result<()> {
        #[expect(clippy::disallowed_methods, reason = "pcapng wants the time of day")]
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        for node in 0..self.frames.len() {
            let first = u32::try_from(node).unwrap_or_default() * INTERFACES;
            let (frames, outer, lost) = (self.frames[node], self.outer[node], self.lost[node]);
            self.file.write_all(&pcapng::statistics(first, now, frames + lost, lost))?;
            // What was lost outside is not known: a frame is lost with all its packets.
            self.file.write_all(&pcapng::statistics(first + 1, now, outer, 0))?;
        }
        self.file.flush()
    }
}

/// Which frame this is, and what became of it.
fn comment(row: &TraceRow, offload: Option<&str>) -> String {
    let TraceRow { node, worker, frame, from_kind, from, verdict, why, to_kind, to, packets_out, .. } = row;
    let why = why.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
    let end = match (&row.dropped, to_kind, to) {
        (Some(dropped), _, to) => {
            let to = to.as_ref().map_or_else(String::new, |to| format!("to {to}: "));
            format!(", {to}dropped: {}. {} What to do: {}", dropped.reason, dropped.meaning, dropped.hint)
        }
        (None, Some(kind), Some(to)) => format!(", to {kind} {to}, packets: {packets_out}"),
        _ => String::new(),
    };
    let offload = offload.map_or_else(String::new, |offload| format!("; {offload}"));
    format!("frame {node}/{worker}/{frame} from {from_kind} {from}: {verdict}{why}{end}{offload}")
}
