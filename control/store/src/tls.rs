//! What went wrong between two ends that show each other certificates, in words that say what to do.

use std::error::Error;
use std::io;

use tokio_rustls::rustls::{AlertDescription, CertificateError, Error as TlsError};

/// What begins an alert of the other end, where h2 has made text of it.
const ALERT: &str = "received fatal alert: ";

/// What TLS says among the causes of an error, if that is its reason.
pub(crate) fn cause(error: &(dyn Error + 'static)) -> Option<TlsError> {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<io::Error>();
        // The cause of an I/O error is that of what it wraps.
        let wrapped = io.and_then(io::Error::get_ref).and_then(|wrapped| wrapped.downcast_ref::<TlsError>());
        if let Some(found) = error.downcast_ref::<TlsError>().or(wrapped) {
            return Some(found.clone());
        }
        if let Some((_, alert)) = io.map(ToString::to_string).as_deref().and_then(|text| text.split_once(ALERT)) {
            return Some(TlsError::AlertReceived(named(alert)));
        }
        next = error.source();
    }
    None
}

fn named(alert: &str) -> AlertDescription {
    use AlertDescription::{BadCertificate, CertificateExpired, CertificateRequired, DecryptError, UnknownCA};
    let told = [CertificateRequired, CertificateExpired, UnknownCA, DecryptError];
    told.into_iter().find(|told| format!("{told:?}") == alert).unwrap_or(BadCertificate)
}

/// What a connection over TLS ends with where the other end refuses it, and its alert was overtaken by the end.
pub(crate) fn may_be_refusal(reason: &str) -> bool {
    ["connection closed", "connection reset", "Connection reset", "broken pipe", "Broken pipe"]
        .iter()
        .any(|words| reason.contains(words))
}

/// What a client does about it.
pub(crate) fn advice_to_client(error: &TlsError) -> &'static str {
    match error {
        TlsError::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "the store's certificate is out of date: issue a new one to the store, or set the clocks right",
        TlsError::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => "the store's certificate is for other names: ask for it by one of them, or say `server_name`",
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "`ca_file` did not sign the store's certificate: take the CA of that store"
        }
        TlsError::InvalidCertificate(_) => "the store's certificate is no store's: issue one that is",
        TlsError::AlertReceived(AlertDescription::CertificateRequired) => {
            "the store asks for a certificate: give this node one in `cert_file` and `key_file`"
        }
        TlsError::AlertReceived(AlertDescription::CertificateExpired) => {
            "this node's certificate is out of date: issue a new one, or set the clocks right"
        }
        TlsError::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "the CA that the store trusts did not sign this node's certificate: issue one by that CA"
        }
        TlsError::AlertReceived(_) => {
            "the store refuses this node's certificate: look at its CA, its dates, and the store's log"
        }
        TlsError::InvalidMessage(_) => "it does not speak TLS: write http: and leave out `ca_file`, or serve with TLS",
        _ => "look at the certificates of both ends",
    }
}

/// What is to be done about a client that a server refuses.
pub(crate) fn advice_to_server(error: &TlsError) -> &'static str {
    match error {
        TlsError::NoCertificatesPresented => {
            "it shows no certificate: give it one of the client CA, in `cert_file` and `key_file` for an agent"
        }
        TlsError::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => "its certificate is out of date: issue a new one, or set the clocks right",
        TlsError::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the client CA did not sign its certificate: issue one by that CA"
        }
        TlsError::InvalidCertificate(_) => "its certificate is no client's: issue one that is",
        TlsError::AlertReceived(_) => {
            "it does not trust this store's certificate: look at its CA and server name, and at the dates and names here"
        }
        TlsError::InvalidMessage(_) => "it does not speak TLS: let it ask by https:",
        _ => "look at the certificates of both ends",
    }
}
