//! Packets as plain structures, and their bytes, written as slowly and plainly as possible.

/// A packet as the tests think of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) macs: [u8; 12],
    /// Type and control information of each VLAN tag.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) ip: Ip,
    pub(crate) l4: L4,
    pub(crate) payload: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ip {
    V4 { src: [u8; 4], dst: [u8; 4], tos: u8, ttl: u8, id: u16, df: bool, fragment: u16, options: Vec<u8> },
    V6 { src: [u8; 16], dst: [u8; 16], class: u8, label: u32, hops: u8, destination_options: bool },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum L4 {
    Tcp { ports: (u16, u16), seq: u32, ack: u32, flags: u8, window: u16, urgent: u16, options: Vec<u8> },
    Udp { ports: (u16, u16) },
}

/// What the L4 checksum field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sum {
    Right,
    /// Off by one.
    Wrong,
    /// The folded pseudo-header sum.
    Partial,
    Zero,
}

pub(crate) const FIN: u8 = 1;
pub(crate) const PSH: u8 = 8;
pub(crate) const ACK: u8 = 16;
pub(crate) const ECE: u8 = 64;
pub(crate) const CWR: u8 = 128;

/// One's complement sum, two bytes at a time.
pub(crate) fn ones_sum(bytes: &[u8]) -> u16 {
    let mut total = 0u32;
    for pair in bytes.chunks(2) {
        total += u32::from(pair[0]) * 256 + u32::from(pair.get(1).copied().unwrap_or(0));
        if total > 0xffff {
            total -= 0xffff;
        }
    }
    total as u16
}

impl Packet {
    pub(crate) fn is_tcp(&self) -> bool {
        matches!(self.l4, L4::Tcp { .. })
    }

    pub(crate) fn is_v6(&self) -> bool {
        matches!(self.ip, Ip::V6 { .. })
    }

    pub(crate) fn l3_offset(&self) -> usize {
        14 + 4 * self.tags.len()
    }

    pub(crate) fn l4_offset(&self) -> usize {
        self.l3_offset()
            + match &self.ip {
                Ip::V4 { options, .. } => 20 + options.len(),
                Ip::V6 { destination_options, .. } => 40 + if *destination_options { 8 } else { 0 },
            }
    }

    pub(crate) fn header_len(&self) -> usize {
        self.l4_offset()
            + match &self.l4 {
                L4::Tcp { options, .. } => 20 + options.len(),
                L4::Udp { .. } => 8,
            }
    }

    pub(crate) fn ports(&self) -> (u16, u16) {
        match self.l4 {
            L4::Tcp { ports, .. } | L4::Udp { ports } => ports,
        }
    }

    pub(crate) fn bytes(&self, sum: Sum) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.header_len() + self.payload.len());
        out.extend(self.macs);
        for (kind, control) in &self.tags {
            out.extend(kind.to_be_bytes());
            out.extend(control.to_be_bytes());
        }
        let l4 = self.l4_bytes(sum);
        match &self.ip {
            Ip::V4 { src, dst, tos, ttl, id, df, fragment, options } => {
                let mut header = vec![0x40 | (5 + options.len() / 4) as u8, *tos];
                header.extend(((20 + options.len() + l4.len()) as u16).to_be_bytes());
                header.extend(id.to_be_bytes());
                header.extend((fragment | if *df { 0x4000 } else { 0 }).to_be_bytes());
                header.extend([*ttl, self.protocol(), 0, 0]);
                header.extend(src);
                header.extend(dst);
                header.extend(options);
                let check = !ones_sum(&header);
                header[10..12].copy_from_slice(&check.to_be_bytes());
                out.extend([8, 0]);
                out.extend(header);
            }
            Ip::V6 { src, dst, class, label, hops, destination_options } => {
                let extension: &[u8] = if *destination_options { &[self.protocol(), 0, 1, 4, 0, 0, 0, 0] } else { &[] };
                out.extend([0x86, 0xdd]);
                out.extend((0x6000_0000 | u32::from(*class) << 20 | label).to_be_bytes());
                out.extend(((extension.len() + l4.len()) as u16).to_be_bytes());
                out.extend([if *destination_options { 60 } else { self.protocol() }, *hops]);
                out.extend(src);
                out.extend(dst);
                out.extend(extension);
            }
        }
        out.extend(l4);
        out
    }

    pub(crate) fn protocol(&self) -> u8 {
        if self.is_tcp() { 6 } else { 17 }
    }

    fn l4_bytes(&self, sum: Sum) -> Vec<u8> {
        let (mut out, field) = match &self.l4 {
            L4::Tcp { ports, seq, ack, flags, window, urgent, options } => {
                let mut out = ports.0.to_be_bytes().to_vec();
                out.extend(ports.1.to_be_bytes());
                out.extend(seq.to_be_bytes());
                out.extend(ack.to_be_bytes());
                out.extend([((5 + options.len() / 4) << 4) as u8, *flags]);
                out.extend(window.to_be_bytes());
                out.extend([0, 0]);
                out.extend(urgent.to_be_bytes());
                out.extend(options);
                (out, 16)
            }
            L4::Udp { ports } => {
                let mut out = ports.0.to_be_bytes().to_vec();
                out.extend(ports.1.to_be_bytes());
                out.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                out.extend([0, 0]);
                (out, 6)
            }
        };
        out.reserve_exact(self.payload.len());
        out.extend(&self.payload);
        let mut pseudo = match &self.ip {
            Ip::V4 { src, dst, .. } => [&src[..], &dst[..]].concat(),
            Ip::V6 { src, dst, .. } => [&src[..], &dst[..]].concat(),
        };
        pseudo.extend((out.len() as u32).to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol()]);
        let partial = ones_sum(&pseudo);
        let mut right = !ones_sum(&[partial.to_be_bytes(), ones_sum(&out).to_be_bytes()].concat());
        if right == 0 && !self.is_tcp() {
            right = 0xffff;
        }
        let value = match sum {
            Sum::Right => right,
            Sum::Wrong if right == 1 => 2,
            Sum::Wrong => right ^ 1,
            Sum::Partial => partial,
            Sum::Zero => 0,
        };
        out[field..field + 2].copy_from_slice(&value.to_be_bytes());
        out
    }

    /// The packet without its payload.
    pub(crate) fn headers(&self) -> Self {
        let Self { macs, tags, ip, l4, payload: _ } = self;
        Self { macs: *macs, tags: tags.clone(), ip: ip.clone(), l4: l4.clone(), payload: Vec::new() }
    }

    /// The wire packets that a superframe stands for.
    pub(crate) fn split(&self, size: usize) -> Vec<Self> {
        let chunks: Vec<&[u8]> = if self.payload.is_empty() { vec![&[]] } else { self.payload.chunks(size).collect() };
        let last = chunks.len() - 1;
        let mut sent = 0;
        let mut out = Vec::new();
        for (index, chunk) in chunks.into_iter().enumerate() {
            let mut segment = Self { payload: chunk.to_vec(), ..self.headers() };
            if let Ip::V4 { id, .. } = &mut segment.ip {
                *id = id.wrapping_add(index as u16);
            }
            if let L4::Tcp { seq, flags, .. } = &mut segment.l4 {
                *seq = seq.wrapping_add(sent);
                if index != 0 {
                    *flags &= !CWR;
                }
                if index != last {
                    *flags &= !(FIN | PSH);
                }
            }
            sent += chunk.len() as u32;
            out.push(segment);
        }
        out
    }
}
