//! Connections with certificates. Each shakes hands in a task of its own, so that a slow one keeps nobody waiting.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;

use super::ServerTls;
use crate::tls::{advice_to_server, cause};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at once; who comes then waits in the kernel's queue.
const HANDSHAKES: usize = 1024;
/// Connections that wait to be served.
const WAITING: usize = 64;
/// How long a client that is refused may take to read why, and go.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often a refusal is logged at most; those between are counted.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// Until the next attempt when the kernel gives no connection: it has too many open files, say.
const RETRY: Duration = Duration::from_millis(100);

/// Why certificates cannot be served with.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum TlsError {
    #[error("the certificate cannot be read ({0}): it has to be a PEM file")]
    Certificate(pem::Error),
    #[error("the key cannot be read ({0}): it has to be a PEM file, without a password")]
    Key(pem::Error),
    #[error("the client CA cannot be read ({0}): it has to be a PEM file with one certificate at least")]
    ClientCa(String),
    #[error("certificate and key do not go together ({0}): take both files of one certificate")]
    Pair(rustls::Error),
}

/// What shakes hands.
pub(super) fn acceptor(tls: &ServerTls) -> Result<TlsAcceptor, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(TlsError::Pair)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(client_ca) => {
            let unreadable = |error: &dyn ToString| TlsError::ClientCa(error.to_string());
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(client_ca) {
                let certificate = certificate.map_err(|error| unreadable(&error))?;
                roots.add(certificate).map_err(|error| unreadable(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| unreadable(&error))?)
        }
    };
    let chain = CertificateDer::pem_slice_iter(&tls.cert).collect::<Result<Vec<_>, _>>();
    let chain = chain.and_then(|chain| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) });
    let chain = chain.map_err(TlsError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(TlsError::Key)?;
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The connections of clients that may come in, until it is dropped.
pub(super) fn incoming(
    listener: TcpListener,
    acceptor: TlsAcceptor,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let (refused, mut refusals) = mpsc::channel(WAITING);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
        let mut log = RefusalLog::default();
        loop {
            let next = async {
                let permit = handshakes.clone().acquire_owned().await;
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                () = sender.closed() => return,
                Some((peer, error)) = refusals.recv() => {
                    log.tell(peer, &error);
                    continue;
                }
                next = next => next,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            let (acceptor, sender, refused) = (acceptor.clone(), sender.clone(), refused.clone());
            tokio::spawn(async move {
                let _permit = permit;
                match welcome(&acceptor, stream).await {
                    Ok(stream) => _ = sender.send(Ok(stream)).await,
                    // Where too many are refused to be told of, one more says nothing new.
                    Err(error) => _ = refused.try_send((peer, error)),
                }
            });
        }
    });
    ReceiverStream::new(receiver)
}

async fn welcome(acceptor: &TlsAcceptor, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let handshake = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream).into_fallible()).await;
    let Ok(shaken) = handshake else { return Err(io::ErrorKind::TimedOut.into()) };
    match shaken {
        Ok(stream) => Ok(stream),
        Err((error, mut stream)) => {
            // What the client has sent already would turn the alert that says why into a reset, if nobody read it.
            let farewell = async {
                stream.shutdown().await?;
                let mut rest = [0; 1024];
                while stream.read(&mut rest).await? > 0 {}
                Ok::<_, io::Error>(())
            };
            let _ = tokio::time::timeout(FAREWELL, farewell).await;
            Err(error)
        }
    }
}

/// Tells of refused clients, but not of each where they are many.
#[derive(Default)]
struct RefusalLog {
    told: Option<Instant>,
    untold: u64,
}

impl RefusalLog {
    fn tell(&mut self, peer: SocketAddr, error: &io::Error) {
        if self.told.is_some_and(|told| told.elapsed() < LOG_EVERY) {
            self.untold += 1;
            return;
        }
        self.told = Some(Instant::now());
        let others = std::mem::take(&mut self.untold);
        match cause(error) {
            Some(words) => tracing::warn!(%peer, others, "client refused: {words}: {}", advice_to_server(&words)),
            None => tracing::info!(%peer, others, "a client went before it showed who it is: {error}"),
        }
    }
}
