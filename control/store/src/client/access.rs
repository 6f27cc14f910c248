use std::time::Duration;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);
/// How often a silent connection is asked for a sign of life, and how long that may take.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// How to reach a store, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// `http://ADDRESS:PORT`, or `https:` with TLS; the next one is asked when one does not answer.
    pub endpoints: Vec<String>,
    /// Without: plain text.
    pub tls: Option<ClientTls>,
    /// For an etcd with users; `weft store` has none.
    pub user: Option<User>,
}

/// Certificates, all PEM.
#[derive(Clone, Debug)]
pub struct ClientTls {
    /// Who signs the store's.
    pub ca: Vec<u8>,
    /// Our own certificates and the key of the first, for a store that wants them.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name that the store's certificate has; without: the one in the endpoint.
    pub server_name: Option<String>,
}

/// A user of etcd.
#[derive(Clone)]
pub struct User {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Why a store cannot be used as it was described.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum AccessError {
    #[error("no endpoint: name at least one, such as http://127.0.0.1:2379")]
    NoEndpoint,
    #[error("endpoint `{endpoint}`: {reason}: it looks like http://10.0.0.1:2379, or https: with certificates")]
    Endpoint { endpoint: String, reason: String },
}

impl Access {
    /// Plain access to one endpoint.
    #[must_use]
    pub fn plain(endpoint: impl Into<String>) -> Self {
        Self { endpoints: vec![endpoint.into()], ..Self::default() }
    }

    pub(super) fn channels(&self) -> Result<Vec<(String, Channel)>, AccessError> {
        if self.endpoints.is_empty() {
            return Err(AccessError::NoEndpoint);
        }
        let channel = |endpoint: &String| {
            let wrong = |reason: &dyn ToString| {
                let reason = reason.to_string();
                AccessError::Endpoint { endpoint: endpoint.clone(), reason }
            };
            let secured = endpoint.starts_with("https://");
            if !secured && !endpoint.starts_with("http://") {
                return Err(wrong(&"it does not say http: or https:"));
            } else if secured != self.tls.is_some() {
                return Err(wrong(&"https: and certificates go together"));
            }
            let mut described = Endpoint::from_shared(endpoint.clone())
                .map_err(|error| wrong(&error))?
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE);
            if let Some(ClientTls { ca, identity, server_name }) = &self.tls {
                let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
                if let Some((certificate, key)) = identity {
                    tls = tls.identity(Identity::from_pem(certificate, key));
                }
                if let Some(name) = server_name {
                    tls = tls.domain_name(name);
                }
                described = described.tls_config(tls).map_err(|error| wrong(&error))?;
            }
            Ok((endpoint.clone(), described.connect_lazy()))
        };
        self.endpoints.iter().map(channel).collect()
    }
}
