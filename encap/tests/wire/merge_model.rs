//! The merger's rules over packets as structures, one after the other.

use std::collections::HashSet;

use weft_encap::{Checksum, Gso, GsoKind, Offload};

use crate::packet::{ACK, Ip, L4, PSH, Packet, Sum};

/// One frame offered to the merger.
#[derive(Clone, Debug)]
pub(crate) struct Offered {
    pub(crate) packet: Packet,
    pub(crate) sum: Sum,
    pub(crate) offload: Offload,
    pub(crate) egress: u32,
    /// Bytes of Ethernet padding.
    pub(crate) padding: usize,
    /// Whether the IPv4 header checksum is spoilt.
    pub(crate) spoilt: bool,
}

/// What is expected to come out: the frame's bytes, its Offload, and which frames went into it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Merged {
    pub(crate) bytes: Vec<u8>,
    pub(crate) offload: Offload,
    pub(crate) egress: u32,
    pub(crate) members: Vec<usize>,
    /// A frame by itself whose checksum was looked at and is wrong.
    pub(crate) damaged: bool,
}

impl Offered {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.packet.bytes(self.sum);
        if self.spoilt && !self.packet.is_v6() {
            let at = self.packet.l3_offset() + 10;
            bytes[at] ^= 0x10;
        }
        bytes.extend(vec![0; self.padding]);
        bytes
    }

    fn is_fragment(&self) -> bool {
        matches!(self.packet.ip, Ip::V4 { fragment, .. } if fragment != 0)
    }

    fn addresses(&self) -> (u32, Vec<u8>) {
        let addresses = match &self.packet.ip {
            Ip::V4 { src, dst, .. } => [&src[..], &dst[..]].concat(),
            Ip::V6 { src, dst, .. } => [&src[..], &dst[..]].concat(),
        };
        (self.egress, addresses)
    }

    fn hosts(&self) -> ((u32, Vec<u8>), u8) {
        (self.addresses(), self.packet.protocol())
    }

    fn flow(&self) -> ((u32, Vec<u8>), u8, (u16, u16)) {
        (self.addresses(), self.packet.protocol(), self.packet.ports())
    }

    fn may_merge(&self) -> bool {
        let plain_ip = match &self.packet.ip {
            Ip::V4 { fragment, options, .. } => *fragment == 0 && options.is_empty(),
            Ip::V6 { destination_options, .. } => !destination_options,
        };
        let plain_l4 = match &self.packet.l4 {
            L4::Tcp { flags, .. } => *flags == ACK || *flags == ACK | PSH,
            L4::Udp { .. } => self.sum != Sum::Zero,
        };
        let plain_offload = self.offload.gso.is_none() && !matches!(self.offload.checksum, Checksum::Needed { .. });
        plain_ip && plain_l4 && plain_offload && !self.packet.payload.is_empty()
    }

    fn is_right(&self) -> bool {
        let vouched = self.offload.checksum == Checksum::Valid;
        (vouched || self.sum == Sum::Right) && (!self.spoilt || self.packet.is_v6())
    }

    fn pushes(&self) -> bool {
        matches!(self.packet.l4, L4::Tcp { flags, .. } if flags & PSH != 0)
    }

    /// The packet with everything that may differ within a group set to nothing.
    fn template(&self) -> Packet {
        let mut packet = self.packet.headers();
        if let Ip::V4 { id, .. } = &mut packet.ip {
            *id = 0;
        }
        if let L4::Tcp { seq, flags, .. } = &mut packet.l4 {
            *seq = 0;
            *flags &= !PSH;
        }
        packet
    }
}

pub(crate) fn reference(offered: &[Offered]) -> Vec<Merged> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut damaged = HashSet::new(); // groups
    let mut open: Vec<(usize, usize)> = Vec::new(); // a frame of the flow, its group
    for (index, frame) in offered.iter().enumerate() {
        if frame.is_fragment() {
            open.retain(|(of, _)| offered[*of].hosts() != frame.hosts());
            groups.push(vec![index]);
            continue;
        }
        let found = open.iter().position(|(of, _)| offered[*of].flow() == frame.flow());
        if !frame.may_merge() {
            if let Some(found) = found {
                open.remove(found);
            }
            groups.push(vec![index]);
            continue;
        }
        let group = found.map(|found| open.remove(found).1).filter(|group| fits(offered, &groups[*group], frame));
        let size = group.map(|group| offered[groups[group][0]].packet.payload.len());
        let verified = group.is_some_and(|group| groups[group].len() > 1 || offered[groups[group][0]].is_right());
        if let Some(first) = group.filter(|_| !verified) {
            damaged.insert(first);
        }
        let (group, stays_open) = match group {
            Some(group) if frame.is_right() && verified => {
                groups[group].push(index);
                (group, Some(frame.packet.payload.len()) == size && !frame.pushes())
            }
            Some(_) if verified => {
                groups.push(vec![index]);
                damaged.insert(groups.len() - 1);
                (groups.len() - 1, false)
            }
            _ => {
                groups.push(vec![index]);
                (groups.len() - 1, !frame.pushes())
            }
        };
        if stays_open {
            open.push((index, group));
        }
    }
    let groups = groups.into_iter().enumerate();
    groups.map(|(group, members)| Merged { damaged: damaged.contains(&group), ..build(offered, members) }).collect()
}

fn fits(offered: &[Offered], members: &[usize], next: &Offered) -> bool {
    let first = &offered[members[0]];
    let payload: usize = members.iter().map(|member| offered[*member].packet.payload.len()).sum();
    let l3_len = first.packet.header_len() - first.packet.l3_offset() + payload + next.packet.payload.len();
    if first.packet.is_tcp() && first.packet.payload.len() < 8 {
        return false;
    }
    if members.len() >= 64 || l3_len > 65_535 || next.packet.payload.len() > first.packet.payload.len() {
        return false;
    }
    if first.template() != next.template() {
        return false;
    }
    if let (L4::Tcp { seq: a, .. }, L4::Tcp { seq: b, .. }) = (&first.packet.l4, &next.packet.l4)
        && a.wrapping_add(payload as u32) != *b
    {
        return false;
    }
    if let (Ip::V4 { id: next_id, .. }, Ip::V4 { df, .. }) = (&next.packet.ip, &first.packet.ip) {
        let ids: Vec<u16> = members
            .iter()
            .map(|member| match offered[*member].packet.ip {
                Ip::V4 { id, .. } => id,
                Ip::V6 { .. } => unreachable!(),
            })
            .chain([*next_id])
            .collect();
        let counts_up = ids.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1));
        let stands_still = *df && ids.windows(2).all(|pair| pair[1] == pair[0]);
        return counts_up || stands_still;
    }
    true
}

fn build(offered: &[Offered], members: Vec<usize>) -> Merged {
    let first = &offered[members[0]];
    let egress = first.egress;
    if members.len() == 1 {
        return Merged { bytes: first.bytes(), offload: first.offload, egress, members, damaged: false };
    }
    let size = first.packet.payload.len() as u16;
    let mut packet = first.packet.headers();
    for member in &members {
        packet.payload.extend_from_slice(&offered[*member].packet.payload);
    }
    let last = &offered[members[members.len() - 1]];
    if let L4::Tcp { flags, .. } = &mut packet.l4
        && last.pushes()
    {
        *flags |= PSH;
    }
    let kind = match (packet.is_tcp(), packet.is_v6()) {
        (true, false) => GsoKind::Tcp4,
        (true, true) => GsoKind::Tcp6,
        (false, _) => GsoKind::Udp,
    };
    let checksum = Checksum::Needed { start: packet.l4_offset() as u16, offset: if packet.is_tcp() { 16 } else { 6 } };
    let gso = Some(Gso { kind, size, header_len: packet.header_len() as u16, ecn: false });
    Merged { bytes: packet.bytes(Sum::Partial), offload: Offload { checksum, gso }, egress, members, damaged: false }
}
