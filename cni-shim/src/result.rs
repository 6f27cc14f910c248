//! What a call comes to: one form inside, and that of the caller's version outside.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use weft_api::{Attached, PodAddress, PodRoute};

/// A result of ADD (CNI specification 1.1.0, section 5). What is in it of other plugins is passed on as it is.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct CniResult {
    pub(crate) cni_version: String,
    #[serde(deserialize_with = "null_is_none")]
    pub(crate) interfaces: Vec<Interface>,
    #[serde(deserialize_with = "null_is_none")]
    pub(crate) ips: Vec<Ip>,
    #[serde(deserialize_with = "null_is_none")]
    pub(crate) routes: Vec<Route>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dns: Option<Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Interface {
    pub(crate) name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mac: Option<String>,
    /// From 1.1.0 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mtu: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<String>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Ip {
    /// Before 1.0.0: `4` or `6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    pub(crate) address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gateway: Option<IpAddr>,
    /// Which of the interfaces has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) interface: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
pub(crate) struct Route {
    pub(crate) dst: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gw: Option<IpAddr>,
    #[serde(flatten)]
    more: Map<String, Value>,
}

/// Some plugins write `null` for an empty list.
fn null_is_none<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl CniResult {
    /// What came before, and this interface after it.
    pub(crate) fn with(mut self, attached: &Attached, interface: &str, netns: &str) -> Self {
        let index = self.interfaces.len();
        self.interfaces.push(Interface {
            name: interface.to_owned(),
            mac: Some(attached.mac.clone()),
            mtu: Some(attached.mtu.into()),
            sandbox: Some(netns.to_owned()),
            more: Map::new(),
        });
        let ip = |one: &PodAddress| Ip {
            version: None,
            address: one.address.clone(),
            gateway: one.gateway,
            interface: Some(index),
        };
        let route = |one: &PodRoute| Route { dst: one.destination.clone(), gw: one.gateway, more: Map::new() };
        self.ips.extend(attached.addresses.iter().map(ip));
        self.routes.extend(attached.routes.iter().map(route));
        self
    }

    /// In the form of a version of the specification.
    pub(crate) fn of_version(mut self, version: &str) -> Self {
        version.clone_into(&mut self.cni_version);
        let says_family = ["0.3.1", "0.4.0"].contains(&version);
        for ip in &mut self.ips {
            let family = if ip.address.contains(':') { "6" } else { "4" };
            ip.version = says_family.then(|| family.to_owned());
        }
        if version != "1.1.0" {
            self.interfaces.iter_mut().for_each(|interface| interface.mtu = None);
        }
        self
    }

    /// Its routes, as the agent is told of them.
    pub(crate) fn pod_routes(&self) -> impl Iterator<Item = PodRoute> {
        self.routes.iter().map(|route| PodRoute { destination: route.dst.clone(), gateway: route.gw })
    }

    /// The MAC and the addresses that this says an interface of the pod has.
    pub(crate) fn of_interface(&self, name: &str, netns: &str) -> (Option<String>, Vec<String>) {
        let is_it =
            |one: &Interface| one.name == name && one.sandbox.as_deref().is_some_and(|sandbox| sandbox == netns);
        let Some(index) = self.interfaces.iter().position(is_it) else { return (None, Vec::new()) };
        let ips = self.ips.iter().filter(|ip| ip.interface == Some(index)).map(|ip| ip.address.clone());
        (self.interfaces[index].mac.clone(), ips.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attached() -> Attached {
        let gateway = |text: &str| Some(text.parse().unwrap());
        Attached {
            mac: "06:57:0a:f4:03:02".to_owned(),
            mtu: 1450,
            addresses: vec![
                PodAddress { address: "10.244.3.2/16".to_owned(), gateway: gateway("10.244.0.1") },
                PodAddress { address: "fd00:244:0:3::2/48".to_owned(), gateway: gateway("fd00:244::1") },
            ],
            routes: vec![PodRoute { destination: "0.0.0.0/0".to_owned(), gateway: gateway("10.244.0.1") }],
        }
    }

    fn told(version: &str, before: CniResult) -> Value {
        serde_json::to_value(before.with(&attached(), "eth0", "/run/netns/a").of_version(version)).unwrap()
    }

    #[test]
    fn each_version_has_its_form() {
        let newest = serde_json::json!({
            "cniVersion": "1.1.0",
            "interfaces": [{ "name": "eth0", "mac": "06:57:0a:f4:03:02", "mtu": 1450, "sandbox": "/run/netns/a" }],
            "ips": [
                { "address": "10.244.3.2/16", "gateway": "10.244.0.1", "interface": 0 },
                { "address": "fd00:244:0:3::2/48", "gateway": "fd00:244::1", "interface": 0 },
            ],
            "routes": [{ "dst": "0.0.0.0/0", "gw": "10.244.0.1" }],
        });
        assert_eq!(told("1.1.0", CniResult::default()), newest);
        let mut expected = newest;
        expected["interfaces"][0].as_object_mut().unwrap().remove("mtu");
        expected["cniVersion"] = "1.0.0".into();
        assert_eq!(told("1.0.0", CniResult::default()), expected);
        for version in ["0.3.1", "0.4.0"] {
            expected["cniVersion"] = version.into();
            expected["ips"][0]["version"] = "4".into();
            expected["ips"][1]["version"] = "6".into();
            assert_eq!(told(version, CniResult::default()), expected);
        }
    }

    #[test]
    fn what_other_plugins_did_before_stays_as_it_is() {
        let before = serde_json::json!({
            "cniVersion": "1.0.0",
            "interfaces": [{ "name": "br0" }, { "name": "eth9", "sandbox": "/run/netns/a", "pciID": "x" }],
            "ips": [{ "address": "192.0.2.9/24", "interface": 1 }],
            "routes": null,
            "dns": { "nameservers": ["192.0.2.53"] },
        });
        let seen = told("1.0.0", serde_json::from_value(before.clone()).unwrap());
        assert_eq!(seen["interfaces"][1], before["interfaces"][1]);
        assert_eq!(seen["ips"][0], before["ips"][0]);
        assert_eq!(seen["ips"][1]["interface"], 2, "the new interface's place is counted after theirs");
        assert_eq!(seen["dns"], before["dns"]);
        let result: CniResult = serde_json::from_value(seen).unwrap();
        let (mac, ips) = result.of_interface("eth0", "/run/netns/a");
        assert_eq!((mac.as_deref(), ips.len()), (Some("06:57:0a:f4:03:02"), 2));
        assert_eq!(result.of_interface("eth0", "/run/netns/b"), (None, Vec::new()));
    }
}
