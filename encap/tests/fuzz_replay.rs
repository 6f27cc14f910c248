//! The fuzz targets, run on their seeds and on some variations of each: bounded, and without a fuzzer.
//!
//! `WEFT_WRITE_SEEDS=1 cargo test -p weft-encap --test fuzz_replay` writes the seeds anew, from the captures in
//! `tests/vectors`, some of which are of what Weft, the kernel and Open vSwitch sent, and those in `tests/taps`, of what
//! the kernel gave to an uplink's device. What a fuzzer finds becomes a test beside the code that it found wrong.
#![expect(clippy::unwrap_used, clippy::cast_possible_truncation, reason = "a test says so by failing")]

#[path = "../../fuzz/src/lib.rs"]
#[expect(clippy::missing_panics_doc, reason = "by that they tell what they have found")]
pub mod fuzz;

use std::path::{Path, PathBuf};

use fuzz::{Knobs, TARGETS};
use weft_encap::probe::Probe;
use weft_encap::{Checksum, Gso, GsoKind, Inner, Network, Offload, Outer, Splitter, probe, split};

const LENGTHS: u8 = 1;
const HEADER: u8 = 2;
const RIGHT: u8 = 4;
const PARTIAL: u8 = 8;
const FITTING_KIND: u8 = 3;
const VARIATIONS: usize = 3000;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn captured(name: &str) -> Vec<Vec<u8>> {
    records(&format!("tests/vectors/{name}.pcap"))
}

/// What is in a capture file.
fn records(file: &str) -> Vec<Vec<u8>> {
    let pcap = std::fs::read(root().join(file)).unwrap();
    let mut rest = &pcap[24..];
    let mut out = Vec::new();
    while !rest.is_empty() {
        let len = u32::from_le_bytes(rest[8..12].try_into().unwrap()) as usize;
        out.push(rest[16..16 + len].to_vec());
        rest = &rest[16 + len..];
    }
    out
}

/// Each different inner frame of the captures.
fn inner_frames() -> Vec<Vec<u8>> {
    let mut out: Vec<Vec<u8>> = Vec::new();
    for packet in captured("vxlan-ipv4") {
        let payload = Outer::read(&packet).unwrap().payload;
        if let Some(frame) = payload.get(8..).filter(|frame| !frame.is_empty() && !out.iter().any(|seen| seen == frame))
        {
            out.push(frame.to_vec());
        }
    }
    out
}

fn with_payload(mut frame: Vec<u8>, len: usize) -> Vec<u8> {
    frame.extend((0..len).map(|at| (at * 7) as u8));
    frame
}

fn tagged(frame: &[u8]) -> Vec<u8> {
    [&frame[..12], &[0x88, 0xa8, 0, 5, 0x81, 0, 0x20, 6], &frame[12..]].concat()
}

/// A TCP frame as a SYN with options.
fn syn(frame: &[u8]) -> Vec<u8> {
    let mut out = frame[..54].to_vec();
    out[46] = 0x80;
    out[47] = 2;
    out.extend([1, 2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2, 0]);
    out
}

/// The segments of a TCP frame, as the list that the target `merge` reads.
fn listed(frame: &[u8]) -> Vec<u8> {
    let checksum = Checksum::Needed { start: 0, offset: 0 };
    let gso = Some(Gso { kind: GsoKind::Tcp4, size: 60, header_len: 0, ecn: false });
    let mut frame = frame.to_vec();
    let total = (frame.len() - 14) as u16;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    let mut splitter = Splitter::new(&frame, &Offload { checksum, gso }).unwrap();
    let mut headers = [0; split::MAX_HEADER_LEN];
    let mut out = Vec::new();
    while let Some(payload) = splitter.next_segment(&mut headers) {
        out.extend([0, 0, (splitter.header_len() + payload.len()) as u8]);
        out.extend(&headers[..splitter.header_len()]);
        out.extend(&frame[payload]);
    }
    out
}

/// Seeds of one target, each with a name.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut out = Vec::new();
    let mut add = |knobs: [u8; fuzz::KNOBS_LEN], frame: &[u8]| out.push([&knobs[..], frame].concat());
    let frames = inner_frames();
    let ip = || frames.iter().filter(|frame| !matches!(Inner::parse(frame).unwrap().network, Network::Arp(_)));
    match target {
        "inner" => {
            for frame in &frames {
                add(Knobs::bytes(0, 3, 0, 0, 7), frame);
                add(Knobs::bytes(0, 3, 0, 0, 7), &tagged(frame));
            }
            for packet in captured("kernel-vxlan-ipv4") {
                add(Knobs::bytes(0, 3, 0, 0, 7), &Outer::read(&packet).unwrap().payload[8..]);
            }
        }
        "vxlan" | "geneve" => {
            let peer = if target == "vxlan" { "kernel" } else { "ovs" };
            let names = [format!("{target}-ipv4"), format!("{target}-ipv6"), format!("{peer}-{target}-ipv4")];
            let packets = names.map(|name| captured(&name)).concat();
            out = packets.iter().map(|packet| Outer::read(packet).unwrap().payload.to_vec()).collect();
            out.sort();
            out.dedup();
        }
        "outer" => {
            for name in ["vxlan-ipv4", "vxlan-ipv6", "geneve-ipv4", "geneve-ipv6"] {
                captured(name).iter().take(3).for_each(|packet| add([0; 8], packet));
                captured(&format!("weft-{name}")).iter().take(6).for_each(|packet| add([0; 8], packet));
            }
        }
        "tunnel_offload" => {
            for name in ["vxlan-ipv4", "vxlan-ipv6", "geneve-ipv4", "geneve-ipv6"] {
                out.extend(records(&format!("tests/taps/{name}.pcap")));
            }
        }
        "split" | "merge" => {
            for frame in ip() {
                let knobs = Knobs::bytes(LENGTHS | HEADER | PARTIAL, FITTING_KIND, 100, 0, 0);
                add(knobs, &with_payload(frame.clone(), 700));
                add(knobs, &tagged(&with_payload(frame.clone(), 300)));
            }
            if target == "merge" {
                add(Knobs::bytes(0, 0x80, 0, 0, 0), &listed(&with_payload(frames[0].clone(), 400)));
            }
        }
        "recover" => {
            for frame in ip() {
                let knobs = |mtu| Knobs::bytes(LENGTHS | HEADER | PARTIAL, 0, 0, mtu, 0);
                add(knobs(1500), &with_payload(frame.clone(), 700));
                add(knobs(300), &with_payload(frame.clone(), 700));
            }
        }
        "too_big" => {
            for frame in ip() {
                for kind in 0..3 {
                    add(Knobs::bytes(LENGTHS | HEADER, kind, 0, 1280, 0x0a01), &with_payload(frame.clone(), 1300));
                }
            }
        }
        "mss" => {
            for kind in 0..2 {
                let knobs = Knobs::bytes(LENGTHS | HEADER | RIGHT, kind, 0, 1410, 0);
                add(knobs, &syn(&frames[0]));
                add(knobs, &tagged(&syn(&frames[0])));
            }
        }
        "fragment" => {
            let mut frame = with_payload(frames[0].clone(), 700);
            frame[20..22].copy_from_slice(&[0, 0]);
            add(Knobs::bytes(LENGTHS | HEADER, 0, 0, 300, 0), &frame);
            add(Knobs::bytes(LENGTHS | HEADER, 0, 0, 300, 0), &tagged(&frame));
            frame[20..22].copy_from_slice(&[0x20, 5]);
            let options = [&frame[..34], &[0x94, 4, 0, 0, 7, 3, 4, 0], &frame[34..]].concat();
            let mut with_options = options;
            with_options[14] = 0x47;
            add(Knobs::bytes(LENGTHS | HEADER, 0, 0, 200, 0), &with_options);
        }
        "probe" => {
            let request = Probe { kind: probe::Kind::Request, nonce: 0x0123_4567_89ab_cdef, size: 300 };
            let asked = Probe::revision_request(0x0123_4567_89ab_cdef, 50);
            for probe in [request, request.echo().unwrap(), asked, asked.answer(1 << 40).unwrap()] {
                let mut bytes = vec![0; 300];
                let len = probe.write(50, &mut bytes).unwrap();
                out.push(bytes[..len].to_vec());
            }
        }
        other => panic!("no seeds for {other}"),
    }
    out.into_iter().enumerate().map(|(index, bytes)| (format!("{index:02}"), bytes)).collect()
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn seeds_are_those_of_the_captures() {
    let mut total = 0;
    for (target, _) in TARGETS {
        let dir = root().join("../fuzz/seeds").join(target);
        let wanted = seeds(target);
        if std::env::var_os("WEFT_WRITE_SEEDS").is_some() {
            std::fs::create_dir_all(&dir).unwrap();
            wanted.iter().for_each(|(name, bytes)| std::fs::write(dir.join(name), bytes).unwrap());
        }
        for (name, bytes) in &wanted {
            assert_eq!(&std::fs::read(dir.join(name)).unwrap(), bytes, "{target}/{name}");
        }
        total += files(&dir).iter().map(|(_, bytes)| bytes.len()).sum::<usize>();
    }
    assert!(total < 300 << 10, "{total} bytes of seeds");
}

/// Some bytes changed, and now and then the end cut off or a piece repeated.
fn variation(seed: &[u8], random: &mut impl FnMut() -> usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..random() % 4 {
        let at = random() % bytes.len().max(1);
        if let Some(byte) = bytes.get_mut(at) {
            *byte = [0, 0xff, 1, 0x80, random() as u8][random() % 5];
        }
    }
    match random() % 8 {
        0 => bytes.truncate(random() % (bytes.len() + 1)),
        1 => bytes.extend_from_slice(&seed[..random() % (seed.len() + 1)]),
        _ => {}
    }
    bytes
}

#[test]
fn seeds_and_variations_of_them() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize
    };
    for (target, body) in TARGETS {
        for (path, seed) in files(&root().join("../fuzz/seeds").join(target)) {
            body(&seed);
            for _ in 0..VARIATIONS {
                let bytes = variation(&seed, &mut random);
                if let Err(panic) = std::panic::catch_unwind(|| body(&bytes)) {
                    eprintln!("{target}, a variation of {}: {bytes:02x?}", path.display());
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
}
