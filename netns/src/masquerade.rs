//! Masquerading what leaves a network through the node, by nftables.
//!
//! All rules lie in tables of one name, which are replaced as a whole by one transaction: there is no moment without
//! them, nothing of an older configuration stays, and nobody else's tables are touched.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, Immediate, InetHookNumber, Meta,
    MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
    Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterMessageInner, NetfilterProtoFamily};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

use crate::{Netns, NetnsError};

/// The subsystem of a batch, from `linux/netfilter/nfnetlink.h`.
const NFNL_SUBSYS_NFTABLES: u16 = 10;
/// Where sources are translated (NF_IP_PRI_NAT_SRC).
const SOURCE_NAT: u32 = 100;
/// The network header (NFT_PAYLOAD_NETWORK_HEADER).
const NETWORK_HEADER: u32 = 1;
/// Bytes of an interface's name in a register (IFNAMSIZ).
const INTERFACE_BYTES: usize = 16;
/// How long the kernel may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of one answer at most.
const ANSWER_BYTES: usize = 64 * 1024;

const CHAIN: &str = "postrouting";

/// What is masqueraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Masquerade {
    /// Name of its tables: nobody else's.
    pub table: String,
    /// Where what is masqueraded comes from.
    pub sources: Vec<IpNet>,
    /// Where it may go with the address that it has: the sources too.
    pub exceptions: Vec<IpNet>,
    /// The device behind which the sources are: what leaves there keeps its address.
    pub device: String,
}

impl Netns {
    /// Masquerades by this, and by nothing that was said under its table's name before. Without sources it masquerades
    /// nothing, and removes the tables.
    ///
    /// # Errors
    /// [`NetnsError::Kernel`], for want of nftables or of its expressions for one.
    pub fn masquerade(&self, wanted: &Masquerade) -> Result<(), NetnsError> {
        let outcome = self.run(|| transact(wanted))?;
        outcome.map_err(|source| NetnsError::Kernel {
            operation: "set the nftables rules of",
            name: self.label().to_owned(),
            source,
        })
    }
}

fn transact(wanted: &Masquerade) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
    let messages = messages(wanted);
    let last = messages.len() as u32 - 2;
    let mut bytes = Vec::new();
    for (number, (flags, family, inner)) in messages.into_iter().enumerate() {
        let is_control = matches!(inner, NetfilterMessageInner::None(_));
        let resource = if is_control { NFNL_SUBSYS_NFTABLES } else { 0 };
        let header = NetfilterHeader::new(family, 0, resource);
        let mut message = NetlinkMessage::from(NetfilterMessage::new(header, inner));
        message.header.sequence_number = number as u32;
        // The kernel confirms the last one when it has done them all.
        message.header.flags = NLM_F_REQUEST | flags | if number as u32 == last { NLM_F_ACK } else { 0 };
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len(), 0);
        message.serialize(&mut bytes[start..]);
    }
    send(&socket, &bytes, SendFlags::empty())?;
    let mut answer = vec![0; ANSWER_BYTES];
    loop {
        let (length, _) = recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
        let mut rest = &answer[..length];
        while !rest.is_empty() {
            let one = NetlinkBuffer::new_checked(rest).map_err(io::Error::other)?;
            let bytes = one.length() as usize;
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest).map_err(io::Error::other)?;
            if let NetlinkPayload::Error(error) = message.payload {
                match error.code {
                    Some(_) => return Err(error.to_io()),
                    None if message.header.sequence_number == last => return Ok(()),
                    None => {}
                }
            }
            // Messages begin at multiples of four.
            rest = rest.get(bytes.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

type Request = (u16, NetfilterProtoFamily, NetfilterMessageInner);

fn messages(wanted: &Masquerade) -> Vec<Request> {
    let control = |message: ControlMessage| (0, NetfilterProtoFamily::Unspec, message.into());
    let mut messages: Vec<Request> = vec![control(ControlMessage::BatchBegin)];
    for (ipv6, family) in [(false, NetfilterProtoFamily::IPv4), (true, NetfilterProtoFamily::IPv6)] {
        let table = || TableMessage { attributes: vec![TableAttribute::Name(wanted.table.clone())] };
        // One that is made can be removed, whether it was there or not.
        messages.push((NLM_F_CREATE, family, NfTablesMessage::NewTable(table()).into()));
        messages.push((0, family, NfTablesMessage::DeleteTable(table()).into()));
        let of_family = |net: &&IpNet| net.addr().is_ipv6() == ipv6;
        let sources: Vec<&IpNet> = wanted.sources.iter().filter(of_family).collect();
        if sources.is_empty() {
            continue;
        }
        messages.push((NLM_F_CREATE, family, NfTablesMessage::NewTable(table()).into()));
        let chain = ChainMessage {
            attributes: vec![
                ChainAttribute::Table(wanted.table.clone()),
                ChainAttribute::Name(CHAIN.to_owned()),
                ChainAttribute::Type("nat".to_owned()),
                ChainAttribute::Hook(vec![
                    Hook::Number(InetHookNumber::PostRouting.into()),
                    Hook::Priority(SOURCE_NAT),
                ]),
            ],
        };
        messages.push((NLM_F_CREATE, family, NfTablesMessage::NewChain(chain).into()));
        let exceptions = wanted.exceptions.iter().filter(of_family).chain(sources.iter().copied());
        let exceptions: Vec<&IpNet> = exceptions.collect();
        for source in sources {
            for exception in &exceptions {
                let stays = [is_in(source, false), is_in(exception, true), vec![verdict(Verdict::Return)]];
                messages.push(rule(wanted, family, stays.concat()));
            }
            let masquerade = Expressions::Other { expression_type: "masq".to_owned(), attributes: Vec::new() };
            let goes = [is_in(source, false), leaves_elsewhere(&wanted.device), vec![masquerade]];
            messages.push(rule(wanted, family, goes.concat()));
        }
    }
    messages.push(control(ControlMessage::BatchEnd));
    messages
}

fn rule(wanted: &Masquerade, family: NetfilterProtoFamily, expressions: Vec<Expressions>) -> Request {
    let attributes = vec![
        RuleAttribute::Table(wanted.table.clone()),
        RuleAttribute::Chain(CHAIN.to_owned()),
        RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
    ];
    // Behind those that are there.
    let flags = NLM_F_CREATE | rtnetlink::packet_core::NLM_F_APPEND;
    (flags, family, NfTablesMessage::NewRule(RuleMessage { attributes }).into())
}

/// Goes on where source or destination are of a network.
fn is_in(network: &IpNet, destination: bool) -> Vec<Expressions> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (address, mask) = (bytes(network.network()), bytes(network.netmask()));
    let length = address.len() as u32;
    // Source addresses begin at byte 12 of an IPv4 header (RFC 791) and at byte 8 of IPv6 (RFC 8200); destinations follow.
    let source = if network.addr().is_ipv6() { 8 } else { 12 };
    let offset = if destination { source + length } else { source };
    vec![
        Expressions::Payload(vec![
            Payload::DestinationRegister(Register::Reg1),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(offset),
            Payload::Len(length),
        ]),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(Register::Reg1),
            Bitwise::DestinationRegister(Register::Reg1),
            Bitwise::Length(length),
            Bitwise::Mask(DataAttribute::Value(mask)),
            Bitwise::Xor(DataAttribute::Value(vec![0; address.len()])),
        ]),
        compare(Operator::Equal, address),
    ]
}

/// Goes on where the packet leaves by any device but this one.
fn leaves_elsewhere(device: &str) -> Vec<Expressions> {
    let mut name = device.as_bytes().to_vec();
    name.resize(INTERFACE_BYTES, 0);
    let look = Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(MetaKey::Oifname)]);
    vec![look, compare(Operator::NotEqual, name)]
}

fn compare(operator: Operator, value: Vec<u8>) -> Expressions {
    Expressions::Cmp(vec![
        Cmp::SourceRegister(Register::Reg1),
        Cmp::Op(operator),
        Cmp::Data(DataAttribute::Value(value)),
    ])
}

fn verdict(verdict: Verdict) -> Expressions {
    Expressions::Immediate(vec![
        Immediate::DestinationRegister(Register::Verdict),
        Immediate::Data(DataAttribute::Verdict(vec![VerdictAttribute::Code(verdict)])),
    ])
}
