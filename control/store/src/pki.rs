//! Certificates of a cluster: an authority of its own, and what it signs for stores and nodes. No I/O and no clock.
//!
//! A store's certificate names where it is reached, and serves; a node's does not, so that who takes a node's key can not
//! pose as the store. The keys are of ECDSA on P-256, which etcd and every TLS library take.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;

/// How long an authority lasts, if nobody says otherwise, in days.
pub const AUTHORITY_DAYS: u32 = 3650;
/// How long what it signs lasts, if nobody says otherwise, in days.
pub const CERTIFICATE_DAYS: u32 = 365;
/// The longest that either may last, in days.
pub const MAX_DAYS: u32 = 36_500;
/// So long ago a certificate begins to be valid: clocks of other machines may be behind.
const CLOCK_SKEW: Duration = Duration::from_secs(300);
const DAY: Duration = Duration::from_secs(86_400);
/// Bytes of the authority's key that are in its name, so that two authorities never have the same.
const NAMED_BYTES: usize = 6;

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    /// A store, by the addresses and host names in its endpoints.
    Store(Vec<String>),
    /// The agent of the node of this name.
    Node(String),
}

/// A certificate and its key, both PEM.
#[derive(Clone)]
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// Its private key: for its holder's eyes alone.
    pub key: String,
}

/// Who signs.
#[derive(Debug)]
pub struct Authority {
    certificate: String,
    key: KeyPair,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum PkiError {
    #[error("`{name}` cannot stand in a certificate: allowed are an IP address and a host name such as store.example")]
    Name { name: String },
    #[error("a store's certificate names where it is reached: give one address or host name at least")]
    Nameless,
    #[error("it is no authority's certificate or key in PEM ({0}): take those that `weft pki init` made")]
    Unreadable(String),
    #[error("the authority's key is not that of its certificate: take both files of one `weft pki init`")]
    OtherKey,
    #[error("signing: {0}")]
    Signing(#[from] rcgen::Error),
}

impl Authority {
    /// A new one, valid for so many days from `now` on.
    ///
    /// # Errors
    /// [`PkiError::Signing`], where the machine has no random numbers.
    pub fn new(now: SystemTime, days: u32) -> Result<Self, PkiError> {
        let key = KeyPair::generate()?;
        let mut parameters = authority(&key);
        last(&mut parameters, now, days);
        let certificate = parameters.self_signed(&key)?.pem();
        Ok(Self { certificate, key })
    }

    /// One that was made before, by its certificate and key.
    ///
    /// # Errors
    /// [`PkiError::Unreadable`]. Whether they belong together shows when something is signed.
    pub fn open(certificate: String, key: &str) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(key).map_err(|error| PkiError::Unreadable(error.to_string()))?;
        roots(&certificate)?;
        Ok(Self { certificate, key })
    }

    /// What it is known by, PEM, and the key that signs.
    #[must_use]
    pub fn issued(&self) -> Issued {
        Issued { certificate: self.certificate.clone(), key: self.key.serialize_pem() }
    }

    /// A certificate with a key of its own, valid for so many days from `now` on.
    ///
    /// # Errors
    /// [`PkiError`].
    pub fn issue(&self, holder: &Holder, now: SystemTime, days: u32) -> Result<Issued, PkiError> {
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        let (name, names, usages) = match holder {
            // etcd uses its own certificate as a client, too.
            Holder::Store(names) => (
                names.first().ok_or(PkiError::Nameless)?,
                &names[..],
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            ),
            Holder::Node(name) => (name, std::slice::from_ref(name), vec![ExtendedKeyUsagePurpose::ClientAuth]),
        };
        parameters.subject_alt_names = names.iter().map(|name| subject(name)).collect::<Result<_, _>>()?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, name.as_str());
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = usages;
        parameters.use_authority_key_identifier_extension = true;
        last(&mut parameters, now, days);
        let issuer = Issuer::new(authority(&self.key), &self.key);
        let certificate = parameters.signed_by(&key, &issuer)?;
        self.check(certificate.der(), now)?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }

    /// Whether who trusts this authority would take what it signed.
    fn check(&self, certificate: &CertificateDer<'_>, now: SystemTime) -> Result<(), PkiError> {
        let roots = Arc::new(roots(&self.certificate)?);
        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::new(ring::default_provider()));
        let verifier = verifier.build().map_err(|error| PkiError::Unreadable(error.to_string()))?;
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        verifier.verify_client_cert(certificate, &[], now).map(drop).map_err(|_| PkiError::OtherKey)
    }
}

fn roots(certificate: &str) -> Result<RootCertStore, PkiError> {
    let unreadable = |error: &dyn ToString| PkiError::Unreadable(error.to_string());
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| unreadable(&error))?;
    let mut roots = RootCertStore::empty();
    roots.add(certificate).map_err(|error| unreadable(&error))?;
    Ok(roots)
}

/// What the authority with this key is called and may do: the same whenever it signs.
fn authority(key: &KeyPair) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    let named: String = key.der_bytes().iter().rev().take(NAMED_BYTES).map(|byte| format!("{byte:02x}")).collect();
    parameters.distinguished_name = rcgen::DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, format!("weft CA {named}"));
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn last(parameters: &mut CertificateParams, now: SystemTime, days: u32) {
    parameters.not_before = (now - CLOCK_SKEW).into();
    parameters.not_after = (now + DAY * days).into();
}

fn subject(name: &str) -> Result<SanType, PkiError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let wrong = || PkiError::Name { name: name.to_owned() };
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
    if name.is_empty() || name.len() > 253 || !name.bytes().all(allowed) {
        return Err(wrong());
    }
    Ok(SanType::DnsName(name.to_owned().try_into().map_err(|_| wrong())?))
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
