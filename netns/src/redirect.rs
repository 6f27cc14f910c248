//! Redirects: packets that the kernel hands to another interface when they arrive (tc, `act_mirred`, `cls_u32`).
//!
//! They hang in the `clsact` of an interface beside everybody else's filters, behind those by priority, and each
//! carries a cookie that says whose it is and whether the `clsact` was made for it. What has no such cookie is
//! neither changed nor removed. A redirect outlives its target and then swallows what it matches: such a one is
//! *stale*.

use std::net::{IpAddr, SocketAddr};

use futures_util::StreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::tc::{
    TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption, TcActionType,
    TcAttribute, TcFilterU32, TcFilterU32Option, TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Key,
    TcU32Selector, TcU32SelectorFlags,
};
use rustix::io::Errno;

use crate::links::Step;
use crate::{LinkError, Links};

/// Priority of redirects of IPv4, 1 to 65,535, the lowest first; IPv6 has the next one. Far behind what is usual, so
/// that others decide first.
pub const REDIRECT_PRIORITY: u16 = 0x5746;

/// What the cookie of each redirect begins with; one byte follows.
const COOKIE: &[u8; 4] = b"weft";
/// That byte where the `clsact` was made for the redirect.
const OWN_CLSACT: u8 = 1;
/// The part of a u32 handle that is zero for what is no filter but a table of them (`TC_U32_NODE`).
const U32_NODE: u16 = 0xfff;
const CLSACT: &str = "clsact";
const ETH_P_ALL: u16 = 0x0003;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

/// A redirect as the kernel holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Index of the interface at whose ingress it is.
    pub from: u32,
    /// Index of the interface that gets the packets; none if that is gone.
    pub to: Option<u32>,
    handle: TcHandle,
    info: u32,
    own_clsact: bool,
}

impl Redirect {
    /// Its priority: [`REDIRECT_PRIORITY`] or the next one.
    #[must_use]
    pub fn priority(&self) -> u16 {
        TcHandle::from(self.info).major
    }
}

impl Links {
    /// Redirects UDP packets that arrive on `from` for one of these addresses and ports: those in one piece, without
    /// IP options, extension headers and VLAN tags. All others go on as before.
    ///
    /// # Errors
    /// [`LinkError`]; what was done until then stays, for [`Self::remove_redirects`].
    pub fn redirect_udp(&mut self, from: &str, wanted: &[SocketAddr], to: &str) -> Result<(), LinkError> {
        let filters: Vec<_> = wanted.iter().map(|at| (protocol_of(at), udp_to(at))).collect();
        self.redirect(from, &filters, to)
    }

    /// Redirects every packet that arrives on `from`.
    ///
    /// # Errors
    /// As [`Self::redirect_udp`].
    pub fn redirect_all(&mut self, from: &str, to: &str) -> Result<(), LinkError> {
        self.redirect(from, &[(ETH_P_ALL, vec![key(0, 0, 0)])], to)
    }

    /// The redirects that were made here, by anybody: of all interfaces.
    ///
    /// # Errors
    /// [`LinkError::Kernel`].
    pub fn redirects(&mut self) -> Result<Vec<Redirect>, LinkError> {
        let step = Step { operation: "list the redirects of", interface: "*" };
        let mut found = Vec::new();
        for qdisc in self.dump(step, RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))? {
            if kind(&qdisc) == Some(CLSACT) {
                let filters = self.filters(step, qdisc.header.index, TcHandle::MIN_INGRESS)?;
                found.extend(filters.iter().filter_map(redirect));
            }
        }
        Ok(found)
    }

    /// Removes redirects, and the `clsact` that was made for them if nobody else uses it. What is gone already is
    /// fine.
    ///
    /// # Errors
    /// [`LinkError::Kernel`].
    pub fn remove_redirects(&mut self, redirects: &[Redirect]) -> Result<(), LinkError> {
        for redirect in redirects {
            let name = format!("#{}", redirect.from);
            let step = Step { operation: "remove a redirect from", interface: &name };
            self.remove_filters(step, redirect, redirect.handle)?;
            // The kernel keeps an emptied list of u32 filters as long as there are others.
            let left = self.filters(step, redirect.from as i32, TcHandle::MIN_INGRESS)?;
            let mut list = left.iter().filter(|filter| filter.header.info == redirect.info);
            if list.all(|filter| filter.header.handle.minor & U32_NODE == 0) {
                self.remove_filters(step, redirect, TcHandle::UNSPEC)?;
            }
            let is_last = redirect.own_clsact && {
                let index = redirect.from as i32;
                self.filters(step, index, TcHandle::MIN_INGRESS)?.is_empty()
                    && self.filters(step, index, TcHandle::MIN_EGRESS)?.is_empty()
            };
            if is_last {
                fine_if_gone(self.command(step, RouteNetlinkMessage::DelQueueDiscipline(clsact(redirect.from)), 0))?;
            }
        }
        Ok(())
    }

    /// The one with this handle, or with none the whole list of a priority.
    fn remove_filters(&mut self, step: Step<'_>, redirect: &Redirect, handle: TcHandle) -> Result<(), LinkError> {
        let mut message = ingress(redirect.from);
        message.header.handle = handle;
        message.header.info = redirect.info;
        message.attributes.push(TcAttribute::Kind(TcFilterU32::KIND.to_owned()));
        fine_if_gone(self.command(step, RouteNetlinkMessage::DelTrafficFilter(message), 0))
    }

    fn redirect(&mut self, from: &str, filters: &[(u16, Vec<TcU32Key>)], to: &str) -> Result<(), LinkError> {
        let step = Step { operation: "redirect what arrives on", interface: from };
        let (index, to) = (self.index(step)?, self.index(Step { operation: "redirect to", interface: to })?);
        let made = match self.command(step, new_clsact(index), NLM_F_CREATE | NLM_F_EXCL) {
            Ok(()) => true,
            Err(error) if errno(&error) == Some(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        // A later start adds to what an earlier one made.
        let earlier = self.filters(step, index as i32, TcHandle::MIN_INGRESS)?;
        let own_clsact = made || earlier.iter().filter_map(redirect).any(|redirect| redirect.own_clsact);
        for (protocol, keys) in filters {
            let message = filter(index, *protocol, keys.clone(), to, own_clsact);
            self.command(step, RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE | NLM_F_EXCL)?;
        }
        Ok(())
    }

    fn filters(&mut self, step: Step<'_>, index: i32, hook: u16) -> Result<Vec<TcMessage>, LinkError> {
        let mut message = TcMessage::with_index(index);
        message.header.parent = TcHandle { major: u16::MAX, minor: hook };
        let dumped = self.dump(step, RouteNetlinkMessage::GetTrafficFilter(message));
        // Without a clsact there are none.
        match dumped {
            Err(error) if errno(&error) == Some(Errno::INVAL) || errno(&error) == Some(Errno::NODEV) => Ok(Vec::new()),
            other => other,
        }
    }

    fn dump(&mut self, step: Step<'_>, question: RouteNetlinkMessage) -> Result<Vec<TcMessage>, LinkError> {
        let payloads = self.ask(step, question, NLM_F_DUMP)?;
        let messages = payloads.into_iter().filter_map(|payload| match payload {
            NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewTrafficFilter(message) | RouteNetlinkMessage::NewQueueDiscipline(message),
            ) => Some(message),
            _ => None,
        });
        Ok(messages.collect())
    }

    pub(crate) fn command(
        &mut self,
        step: Step<'_>,
        command: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), LinkError> {
        self.ask(step, command, NLM_F_ACK | flags).map(|_| ())
    }

    /// Sends one message and collects the answers. For what the netlink library has no words for.
    pub(crate) fn ask(
        &mut self,
        step: Step<'_>,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Vec<NetlinkPayload<RouteNetlinkMessage>>, LinkError> {
        let mut request = NetlinkMessage::from(message);
        request.header.flags = NLM_F_REQUEST | flags;
        let mut handle = self.handle.clone();
        self.wait(step, async move {
            let mut answers = handle.request(request)?;
            let mut payloads = Vec::new();
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(rtnetlink::Error::NetlinkError(error));
                    }
                    payload => payloads.push(payload),
                }
            }
            Ok(payloads)
        })
    }
}

fn protocol_of(at: &SocketAddr) -> u16 {
    if at.is_ipv4() { ETH_P_IP } else { ETH_P_IPV6 }
}

/// Offsets count from the IP header.
fn udp_to(at: &SocketAddr) -> Vec<TcU32Key> {
    let port = u32::from(at.port());
    match at.ip() {
        IpAddr::V4(address) => vec![
            // Version 4 and a header of five words; neither MF nor an offset; UDP.
            key(0, 0xff00_0000, 0x4500_0000),
            key(4, 0x0000_3fff, 0),
            key(8, 0x00ff_0000, 0x0011_0000),
            key(16, u32::MAX, address.to_bits()),
            key(20, 0x0000_ffff, port),
        ],
        IpAddr::V6(address) => {
            // UDP follows at once.
            let mut keys = vec![key(4, 0x0000_ff00, 0x0000_1100)];
            let words = (0..4).map(|word| (address.to_bits() >> (96 - 32 * word)) as u32);
            keys.extend(words.enumerate().map(|(word, value)| key(24 + 4 * word as i32, u32::MAX, value)));
            keys.push(key(40, 0x0000_ffff, port));
            keys
        }
    }
}

fn key(off: i32, mask: u32, val: u32) -> TcU32Key {
    let mut key = TcU32Key::default();
    (key.off, key.mask, key.val) = (off, mask, val);
    key
}

fn filter(from: u32, protocol: u16, keys: Vec<TcU32Key>, to: u32, own_clsact: bool) -> TcMessage {
    let mut selector = TcU32Selector::default();
    selector.flags = TcU32SelectorFlags::Terminal;
    selector.nkeys = keys.len() as u8;
    selector.keys = keys;
    let mut target = TcMirror::default();
    target.generic = TcActionGeneric::default();
    target.generic.action = TcActionType::Stolen;
    target.eaction = TcMirrorActionType::EgressRedir;
    target.ifindex = to;
    let mut action = TcAction::default();
    action.attributes = vec![
        TcActionAttribute::Kind(TcActionMirror::KIND.to_owned()),
        TcActionAttribute::Options(vec![TcActionOption::Mirror(TcActionMirrorOption::Parms(target))]),
        TcActionAttribute::Cookie([COOKIE.as_slice(), &[u8::from(own_clsact)]].concat()),
    ];
    let priority = REDIRECT_PRIORITY + u16::from(protocol == ETH_P_IPV6);
    let mut message = ingress(from);
    message.header.info = u32::from(TcHandle { major: priority, minor: protocol.to_be() });
    message.attributes = vec![
        TcAttribute::Kind(TcFilterU32::KIND.to_owned()),
        TcAttribute::Options(vec![
            TcOption::U32(TcFilterU32Option::Selector(selector)),
            TcOption::U32(TcFilterU32Option::Action(vec![action])),
        ]),
    ];
    message
}

fn ingress(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle { major: u16::MAX, minor: TcHandle::MIN_INGRESS };
    message
}

fn clsact(index: u32) -> TcMessage {
    let mut message = TcMessage::with_index(index as i32);
    message.header.parent = TcHandle::CLSACT;
    message.header.handle = TcHandle { major: u16::MAX, minor: 0 };
    message
}

fn new_clsact(index: u32) -> RouteNetlinkMessage {
    let mut message = clsact(index);
    message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
    RouteNetlinkMessage::NewQueueDiscipline(message)
}

fn kind(message: &TcMessage) -> Option<&str> {
    message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Kind(kind) => Some(kind.as_str()),
        _ => None,
    })
}

/// What a filter is, if it is one of ours.
fn redirect(message: &TcMessage) -> Option<Redirect> {
    let options = message.attributes.iter().filter_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    });
    let actions = options.flatten().filter_map(|option| match option {
        TcOption::U32(TcFilterU32Option::Action(actions)) => Some(actions),
        _ => None,
    });
    let action = actions.flatten().next()?;
    let own_clsact = action.attributes.iter().find_map(|attribute| match attribute {
        TcActionAttribute::Cookie(cookie) => {
            cookie.strip_prefix(COOKIE.as_slice())?.first().map(|made| *made == OWN_CLSACT)
        }
        _ => None,
    })?;
    let target = action.attributes.iter().find_map(|attribute| match attribute {
        TcActionAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcActionOption::Mirror(TcActionMirrorOption::Parms(target)) => Some(target.ifindex),
            _ => None,
        }),
        _ => None,
    })?;
    let (handle, info) = (message.header.handle, message.header.info);
    Some(Redirect { from: message.header.index as u32, to: (target != 0).then_some(target), handle, info, own_clsact })
}

fn errno(error: &LinkError) -> Option<Errno> {
    match error {
        LinkError::Kernel { source, .. } => Errno::from_io_error(source),
        _ => None,
    }
}

fn fine_if_gone(outcome: Result<(), LinkError>) -> Result<(), LinkError> {
    match outcome {
        Err(error) if matches!(errno(&error), Some(Errno::NOENT | Errno::NODEV | Errno::INVAL)) => Ok(()),
        other => other,
    }
}
