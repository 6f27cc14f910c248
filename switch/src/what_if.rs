//! What would become of a frame: the very code that forwards, over what it knows now, with nothing at its ends.
//!
//! A [`WhatIf`] is a whole worker in memory that has the tables in force and a copy of the learned table. What it learns, it
//! learns for itself; what it sends stays with it. So nothing that it is asked changes what the node does, and nothing that
//! the node does is told otherwise than it would be done. Budgets (floods, answers) are full: it knows no storm.

use std::io;
use std::net::IpAddr;

use weft_bridge::{Fdb, Learn, PortId, Seconds, Tables};
use weft_encap::{Encapsulation, Offload};

use crate::memory::{MemoryFrame, MemoryPort, MemorySwitch};
use crate::port::TapOffloads;
use crate::trace::{Depth, Filter, RING_RECORDS, Record};

/// Everything that a node knows, to be asked once.
pub struct WhatIf {
    switch: MemorySwitch,
    ports: Vec<(PortId, MemoryPort)>,
    now: Seconds,
}

/// What would happen.
#[derive(Debug)]
pub struct Outcome {
    /// What would become of the frames, and of each copy, with its bytes.
    pub records: Vec<Record>,
    /// What ports would be given: copies, and what the switch says itself.
    pub to_ports: Vec<(PortId, MemoryFrame)>,
    /// Frames, or copies of them, that were not told, for want of room.
    pub lost: u64,
}

impl WhatIf {
    /// The tables in force, and what was learned until now. No port has a device yet.
    #[must_use]
    pub fn new(tables: Tables, fdb: &Fdb, now: Seconds) -> Self {
        let switch = MemorySwitch::new(tables, fdb.capacity());
        for row in fdb.rows(now) {
            let learn = Learn { domain: row.domain, mac: row.mac, attachment: row.attachment, limit: u32::MAX };
            switch.fdb().learn(&learn, Seconds(now.0.wrapping_sub(row.age)));
        }
        Self { switch, ports: Vec::new(), now }
    }

    /// Gives a port its device; what may be left to the pod's stack.
    pub fn attach(&mut self, id: PortId, offloads: TapOffloads) {
        let port = self.switch.attach(id);
        port.take_only(offloads);
        self.ports.push((id, port));
    }

    /// What becomes of a frame from a pod.
    ///
    /// # Errors
    /// The kernel's, where there are too many descriptors.
    pub fn pod_sends(self, id: PortId, frame: Vec<u8>, offload: Offload) -> io::Result<Outcome> {
        if let Some((_, port)) = self.ports.iter().find(|(port, _)| *port == id) {
            port.pod_sends(frame, Ok(offload));
        }
        self.run()
    }

    /// What becomes of tunnel packets from another node.
    ///
    /// # Errors
    /// The kernel's, where there are too many descriptors.
    pub fn arrive(
        self,
        source: IpAddr,
        encapsulation: Encapsulation,
        tos: u8,
        packets: Vec<Vec<u8>>,
    ) -> io::Result<Outcome> {
        for packet in packets {
            self.switch.underlay().arrives(source, encapsulation, packet.len(), tos, packet);
        }
        self.run()
    }

    fn run(mut self) -> io::Result<Outcome> {
        let trace = self.switch.trace(&Filter::default(), Depth::Bytes)?;
        self.switch.run(self.now);
        let records = trace.take(RING_RECORDS).into_iter().map(|(_, record)| record).collect();
        let given = |(id, port): &(PortId, MemoryPort)| {
            let id = *id;
            port.pod_received().into_iter().map(move |frame| (id, frame))
        };
        Ok(Outcome { records, to_ports: self.ports.iter().flat_map(given).collect(), lost: trace.lost() })
    }
}
