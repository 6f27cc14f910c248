use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;
use weft_encap::Encapsulation;

use super::unspanned;

/// `[control]`: the store by which nodes find each other.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Its endpoints, `http://ADDRESS:PORT`, or `https:` with `ca_file`; the next is asked when one does not answer.
    pub stores: Spanned<Vec<String>>,
    /// What all keys begin with: another one for each cluster that shares the store. Default: `/weft`.
    #[serde(default = "default_prefix")]
    pub prefix: Spanned<String>,
    /// How other nodes are to send to this one, as long as it receives that: `vxlan` or `geneve`. Default: `vxlan`.
    #[serde(default)]
    pub encapsulation: Encapsulation,
    /// Who signed the store's certificate (PEM), an absolute path. Default: none, for `http:`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<Spanned<PathBuf>>,
    /// The name in that certificate. Default: the host in `stores`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_name: Option<Spanned<String>>,
    /// This node's own certificate (PEM), an absolute path. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<Spanned<PathBuf>>,
    /// The key of `cert_file` (PEM), an absolute path. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<Spanned<PathBuf>>,
    /// User of an etcd that has users. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Spanned<String>>,
    /// File with the user's password in its first line, an absolute path. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<Spanned<PathBuf>>,
}

impl Control {
    /// These endpoints, and every default.
    #[must_use]
    pub fn new(stores: Vec<String>) -> Self {
        Self {
            stores: unspanned(stores),
            prefix: default_prefix(),
            encapsulation: Encapsulation::default(),
            ca_file: None,
            server_name: None,
            cert_file: None,
            key_file: None,
            user: None,
            password_file: None,
        }
    }
}

fn default_prefix() -> Spanned<String> {
    unspanned("/weft".to_owned())
}
