//! The server: etcd's services over the engine. What is not served answers UNIMPLEMENTED.

mod kv;
mod lease;
mod maintenance;
mod tls;
mod watch;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prost::Message;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tonic::transport::Server as Transport;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status};

use crate::disk::{DiskError, Durability, Identity};
use crate::engine::{Engine, Handle};
use crate::proto::etcdserverpb::ResponseHeader;
use crate::proto::etcdserverpb::kv_server::KvServer;
use crate::proto::etcdserverpb::lease_server::LeaseServer;
use crate::proto::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::proto::etcdserverpb::watch_server::WatchServer;
use crate::refusal::Refusal;

pub use tls::TlsError;

/// The longest request that is looked at. etcd's default.
pub const MAX_REQUEST: usize = 3 << 19; // bytes
/// What gRPC lets in beyond it, so that the refusal has the right words. etcd's.
const MAX_OVERHEAD: usize = 512 << 10; // bytes
/// Streams and requests at once on one connection.
const MAX_STREAMS: u32 = 16_384;
/// How often a silent connection is asked for a sign of life, and how long that may take.
const KEEPALIVE: Duration = Duration::from_secs(20);
/// Revisions of history that are kept, if nobody says otherwise.
pub const KEEP_REVISIONS: i64 = 100_000;
/// How often a quiet watcher is told how far it is, if nobody says otherwise. etcd's.
pub const PROGRESS: Duration = Duration::from_secs(600);

/// Certificates, all PEM.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The server's certificates, its own first.
    pub cert: Vec<u8>,
    /// The private key of the first.
    pub key: Vec<u8>,
    /// Who signs clients: then they have to have a certificate.
    pub client_ca: Option<Vec<u8>>,
}

/// What a server is to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the data is.
    pub data: PathBuf,
    /// Where to listen; port 0 for any.
    pub listen: SocketAddr,
    /// Without: plain text.
    pub tls: Option<ServerTls>,
    /// What acknowledged writes survive.
    pub durability: Durability,
    /// Revisions of history that are kept; at least 1.
    pub keep: i64,
    /// How often a quiet watcher is told how far it is.
    pub progress: Duration,
}

/// Why a server does not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says itself what it is")]
pub enum ServeError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error("{address}: {source}: choose an address of this machine and a free port")]
    Listen { address: SocketAddr, source: io::Error },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("serving: {0}")]
    Transport(tonic::transport::Error),
    #[error("the store's thread ended without a word: start it again; what was acknowledged is on disk")]
    Ended,
}

/// A server that listens, and has its state.
pub struct Server {
    engine: Engine,
    listener: TcpListener,
    transport: Transport,
    tls: Option<TlsAcceptor>,
    address: SocketAddr,
    progress: Duration,
}

impl Server {
    /// Opens the data and the port. Has to be called inside a runtime.
    ///
    /// # Errors
    /// If one of them cannot be had, or the certificates are none.
    pub async fn open(settings: Settings) -> Result<Self, ServeError> {
        let tls = settings.tls.as_ref().map(tls::acceptor).transpose()?;
        let transport = Transport::builder()
            .max_concurrent_streams(Some(MAX_STREAMS))
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE));
        let listen = |source| ServeError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let engine = Engine::start(&settings.data, settings.durability, settings.keep)?;
        Ok(Self { engine, listener, transport, tls, address, progress: settings.progress })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped; every answer given by then is on disk.
    ///
    /// # Errors
    /// If the disk fails: then nothing that was not acknowledged may be seen, and the store has to start again.
    pub async fn serve(mut self) -> Result<(), ServeError> {
        let served = Service {
            engine: self.engine.handle(),
            identity: self.engine.identity,
            file: Arc::new(self.engine.file.clone()),
            streams: Arc::new(AtomicU64::new(0)),
            progress: self.progress,
        };
        let largest = MAX_REQUEST + MAX_OVERHEAD;
        let router = self
            .transport
            .add_service(KvServer::new(served.clone()).max_decoding_message_size(largest))
            .add_service(WatchServer::new(served.clone()))
            .add_service(LeaseServer::new(served.clone()))
            .add_service(MaintenanceServer::new(served));
        let serve = async {
            match self.tls {
                None => router.serve_with_incoming(TcpIncoming::from(self.listener).with_nodelay(Some(true))).await,
                Some(acceptor) => router.serve_with_incoming(tls::incoming(self.listener, acceptor)).await,
            }
        };
        tokio::select! {
            served = serve => served.map_err(ServeError::Transport),
            failure = &mut self.engine.failed => Err(failure.map_or(ServeError::Ended, ServeError::Disk)),
        }
    }
}

/// One for all services; a copy costs nothing.
#[derive(Clone)]
struct Service {
    engine: Handle,
    identity: Identity,
    file: Arc<PathBuf>,
    streams: Arc<AtomicU64>,
    progress: Duration,
}

impl Identity {
    /// Says who answers.
    fn sign(self, header: &mut Option<ResponseHeader>) {
        let header = header.get_or_insert_default();
        header.cluster_id = self.cluster;
        header.member_id = self.member;
        header.raft_term = self.term;
    }
}

fn short_enough(request: &impl Message) -> Result<(), Refusal> {
    if request.encoded_len() > MAX_REQUEST { Err(Refusal::RequestTooLarge) } else { Ok(()) }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal {
            Refusal::EmptyKey
            | Refusal::KeyNotFound
            | Refusal::ValueProvided
            | Refusal::LeaseProvided
            | Refusal::TooManyOps
            | Refusal::DuplicateKey
            | Refusal::RequestTooLarge => Code::InvalidArgument,
            Refusal::Compacted | Refusal::FutureRevision | Refusal::LeaseTtlTooLarge => Code::OutOfRange,
            Refusal::NoSpace | Refusal::TooManyRequests => Code::ResourceExhausted,
            Refusal::LeaseNotFound => Code::NotFound,
            Refusal::LeaseExists => Code::FailedPrecondition,
            Refusal::Stopped => Code::Unavailable,
        };
        Self::new(code, refusal.to_string())
    }
}
