use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// The ports of pods whose payload is no protocol: dissectors that guess by what it looks like would guess wrong
/// sooner or later. As a value of `net.ipv4.ip_local_port_range`.
pub const PAYLOAD_PORTS: &str = "32768 49151";
const AS_PAYLOAD: [&str; 2] = ["udp.port==32768-49151,data", "tcp.port==32768-49151,data"];

/// What tshark read out of one packet: every value of every field asked for, outermost first.
#[derive(Clone, Debug)]
pub struct Packet {
    values: BTreeMap<String, Vec<String>>,
}

impl Packet {
    /// All values of a field.
    ///
    /// # Panics
    /// If it was not asked for.
    #[must_use]
    pub fn all(&self, field: &str) -> Vec<&str> {
        let values = self.values.get(field).unwrap_or_else(|| panic!("{field} was not asked for"));
        values.iter().map(String::as_str).collect()
    }

    /// The outermost value of a field; empty if there is none.
    ///
    /// # Panics
    /// If it was not asked for.
    #[must_use]
    pub fn outer(&self, field: &str) -> &str {
        self.all(field).first().copied().unwrap_or_default()
    }

    /// The innermost value of a field; empty if there is none.
    ///
    /// # Panics
    /// If it was not asked for.
    #[must_use]
    pub fn inner(&self, field: &str) -> &str {
        self.all(field).last().copied().unwrap_or_default()
    }
}

/// Has tshark dissect a capture file, all checksums verified, and what is at [`PAYLOAD_PORTS`] taken for mere payload.
///
/// # Panics
/// If tshark fails.
#[must_use]
#[track_caller]
pub fn dissect(file: &Path, fields: &[&str]) -> Vec<Packet> {
    dissect_by(file, fields, &AS_PAYLOAD)
}

/// Has tshark dissect a capture file that stays the same, all checksums verified. Whatever is in it looks like what it
/// is, and the source ports of others' tunnel packets may be any.
///
/// # Panics
/// If tshark fails.
#[must_use]
#[track_caller]
pub fn dissect_vectors(file: &Path, fields: &[&str]) -> Vec<Packet> {
    dissect_by(file, fields, &[])
}

#[track_caller]
fn dissect_by(file: &Path, fields: &[&str], rules: &[&str]) -> Vec<Packet> {
    let mut command = Command::new("tshark");
    command.arg("-n").arg("-r").arg(file).args(["-T", "fields", "-E", "separator=/t", "-E", "aggregator=;"]);
    rules.iter().for_each(|rule| {
        command.args(["-d", rule]);
    });
    // Each packet by itself: no field of one may be taken from another.
    for preference in ["ip.defragment:FALSE", "tcp.desegment_tcp_streams:FALSE", "tcp.analyze_sequence_numbers:FALSE"] {
        command.args(["-o", preference]);
    }
    for preference in ["ip.check_checksum:TRUE", "udp.check_checksum:TRUE", "tcp.check_checksum:TRUE"] {
        command.args(["-o", preference]);
    }
    fields.iter().for_each(|field| {
        command.args(["-e", field]);
    });
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let packet = |line: &str| {
        let values = line.split('\t').map(|values| values.split(';').filter(|value| !value.is_empty()));
        let values =
            fields.iter().zip(values).map(|(field, values)| ((*field).to_owned(), values.map(str::to_owned).collect()));
        Packet { values: values.collect() }
    };
    String::from_utf8_lossy(&output.stdout).lines().map(packet).collect()
}
