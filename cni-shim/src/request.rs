//! The environment of a call.

use std::net::IpAddr;

use weft_api::PodInterface;

use crate::error::{CniError, Code};

pub(crate) const COMMAND: &str = "CNI_COMMAND";
pub(crate) const CONTAINER_ID: &str = "CNI_CONTAINERID";
pub(crate) const NETNS: &str = "CNI_NETNS";
pub(crate) const IFNAME: &str = "CNI_IFNAME";
pub(crate) const PATH: &str = "CNI_PATH";
const ARGS: &str = "CNI_ARGS";

/// What a runtime can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

/// A call's environment, in order. What a verb does not need may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) container: String,
    pub(crate) netns: String,
    pub(crate) interface: String,
    /// Where plugins are, parted by colons.
    pub(crate) path: String,
    pub(crate) args: Args,
}

/// What `CNI_ARGS` asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    pub(crate) address: Option<IpAddr>,
    pub(crate) mac: Option<String>,
    /// The pod as Kubernetes calls it.
    pub(crate) label: Option<String>,
}

impl Verb {
    pub(crate) const ALL: [Self; 6] = [Self::Add, Self::Del, Self::Check, Self::Gc, Self::Status, Self::Version];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &[CONTAINER_ID, NETNS, IFNAME],
            Self::Del => &[CONTAINER_ID, IFNAME],
            Self::Gc => &[PATH],
            Self::Status | Self::Version => &[],
        }
    }

    /// The oldest version of the specification that has it.
    pub(crate) fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Del | Self::Version => "0.3.1",
            Self::Check => "0.4.0",
            Self::Gc | Self::Status => "1.1.0",
        }
    }
}

/// The verb and what goes with it, if all that it needs is set.
pub(crate) fn read(environment: impl Fn(&str) -> Option<String>) -> Result<(Verb, Call), CniError> {
    let names = Verb::ALL.map(Verb::name).join(", ");
    let invalid = |msg: String, details: String| CniError::new(Code::InvalidEnvironment, msg, details);
    let Some(command) = environment(COMMAND) else {
        return Err(invalid(format!("{COMMAND} is not set"), format!("one of {names}")));
    };
    let Some(verb) = Verb::ALL.into_iter().find(|verb| verb.name() == command) else {
        return Err(invalid(format!("{COMMAND} is `{command}`"), format!("one of {names}")));
    };
    let absent = |name: &&&str| environment(name).is_none_or(|value| value.is_empty());
    let missing: Vec<&str> = verb.needs().iter().filter(absent).copied().collect();
    if !missing.is_empty() {
        let details = format!("{command} needs {}", verb.needs().join(", "));
        return Err(invalid(format!("not set: {}", missing.join(", ")), details));
    }
    let value = |name: &str| environment(name).unwrap_or_default();
    let container = value(CONTAINER_ID);
    let needs_container = verb.needs().contains(&CONTAINER_ID);
    if needs_container && !is_container_id(&container) {
        let details = "allowed are letters, digits, `_`, `.` and `-`, with a letter or digit first";
        return Err(invalid(format!("{CONTAINER_ID} is `{container}`"), details.to_owned()));
    }
    // What comes to an interface matters where one is made; whatever ends has to end.
    let args = if verb == Verb::Add { args(&value(ARGS))? } else { Args::default() };
    Ok((verb, Call { container, netns: value(NETNS), interface: value(IFNAME), path: value(PATH), args }))
}

impl Call {
    /// The interface that the call is about.
    pub(crate) fn pod(&self, network: String) -> PodInterface {
        PodInterface { network, container: self.container.clone(), interface: self.interface.clone() }
    }
}

fn is_container_id(id: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    id.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric()) && id.bytes().all(inner)
}

/// `NAME=VALUE` pairs, parted by semicolons. What is not known is refused, unless `IgnoreUnknown` is set.
fn args(text: &str) -> Result<Args, CniError> {
    let invalid = |msg: String, details: &str| Err(CniError::new(Code::InvalidEnvironment, msg, details));
    let (mut args, mut unknown, mut ignore) = (Args::default(), None, false);
    let (mut namespace, mut name) = (None, None);
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return invalid(format!("{ARGS} has `{pair}`"), "allowed are NAME=VALUE pairs, parted by semicolons");
        };
        match key {
            "IgnoreUnknown" => ignore = ["1", "true", "TRUE", "True", "t", "T"].contains(&value),
            "IP" => match parse_address(value) {
                Some(address) => args.address = Some(address),
                None => return invalid(format!("{ARGS} has IP={value}"), "allowed is an address, as in IP=10.244.3.7"),
            },
            "MAC" => args.mac = Some(value.to_owned()),
            "K8S_POD_NAMESPACE" => namespace = Some(value),
            "K8S_POD_NAME" => name = Some(value),
            key if key.starts_with("K8S_POD_") => {}
            key => unknown = Some(key),
        }
    }
    if let Some(unknown) = unknown.filter(|_| !ignore) {
        return invalid(
            format!("{ARGS} has `{unknown}`"),
            "known are IP, MAC and K8S_POD_*; IgnoreUnknown=1 passes others by",
        );
    }
    args.label = namespace.zip(name).map(|(namespace, name)| format!("{namespace}/{name}"));
    Ok(args)
}

/// An address, with or without a prefix length.
pub(crate) fn parse_address(text: &str) -> Option<IpAddr> {
    text.split('/').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(command: &str, more: &[(&str, &str)]) -> Result<(Verb, Call), CniError> {
        let set = [(COMMAND, command), (CONTAINER_ID, "c1"), (NETNS, "/run/netns/a"), (IFNAME, "eth0")];
        let value =
            |name: &str| more.iter().chain(&set).find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        read(value)
    }

    #[test]
    fn args_are_read_and_unknown_ones_refused_unless_they_are_to_be_ignored() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-1;K8S_POD_UID=x;IP=10.0.0.7;MAC=02:00:00:00:00:07;X=y";
        let (verb, call_) = call("ADD", &[(ARGS, text)]).unwrap();
        assert_eq!(verb, Verb::Add);
        let mac = Some("02:00:00:00:00:07".to_owned());
        let label = Some("default/web-1".to_owned());
        assert_eq!(call_.args, Args { address: "10.0.0.7".parse().ok(), mac, label });
        for wrong in ["X=y", "IP=ten", "IP", "IP=10.0.0.7;X=y;IgnoreUnknown=0"] {
            let error = call("ADD", &[(ARGS, wrong)]).unwrap_err();
            assert!(error.is(Code::InvalidEnvironment), "{wrong}: {error:?}");
            assert!(call("DEL", &[(ARGS, wrong)]).is_ok(), "what is to end ends: {wrong}");
        }
    }

    #[test]
    fn what_a_verb_needs_is_asked_for() {
        for (verb, missing) in [("ADD", NETNS), ("ADD", IFNAME), ("DEL", CONTAINER_ID), ("CHECK", NETNS), ("GC", PATH)]
        {
            let error = call(verb, &[(missing, "")]).unwrap_err();
            assert!(error.is(Code::InvalidEnvironment) && error.msg.contains(missing), "{verb}: {error:?}");
        }
        assert!(call("DEL", &[(NETNS, "")]).is_ok(), "DEL comes without a namespace too");
        for wrong in ["-x", "a/b", "a b", "ü"] {
            assert!(call("ADD", &[(CONTAINER_ID, wrong)]).is_err(), "{wrong}");
        }
        assert!(call("PLAY", &[]).is_err());
    }
}
