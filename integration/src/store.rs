use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weft_store::proto::etcdserverpb::StatusRequest;
use weft_store::proto::etcdserverpb::kv_client::KvClient;
use weft_store::proto::etcdserverpb::lease_client::LeaseClient;
use weft_store::proto::etcdserverpb::maintenance_client::MaintenanceClient;
use weft_store::proto::etcdserverpb::watch_client::WatchClient;

use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{BOUND, Child, weft};

/// How often a port may turn out to be taken by another.
const STARTS: usize = 5;
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(10);

/// Which program.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum StoreKind {
    /// The real one, without `fsync`.
    Etcd,
    /// The real one.
    EtcdSynced,
    /// `weft store`, without `fsync`.
    Weft,
    /// `weft store`.
    WeftSynced,
}

impl StoreKind {
    /// Whether it is the real one.
    #[must_use]
    pub fn is_etcd(self) -> bool {
        matches!(self, Self::Etcd | Self::EtcdSynced)
    }

    /// Whether its answers wait for the disk.
    #[must_use]
    pub fn is_synced(self) -> bool {
        matches!(self, Self::EtcdSynced | Self::WeftSynced)
    }
}

/// A store of a test's own, on loopback; it goes away with the value.
#[derive(Debug)]
pub struct StoreNode {
    kind: StoreKind,
    directory: PathBuf,
    address: String,
    /// Where its certificates are, if it asks for some.
    pki: Option<PathBuf>,
    /// Whether its tokens are JSON Web Tokens.
    web_tokens: bool,
    process: Option<Child>,
}

/// Clients of every service, over one connection.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each is named after its service")]
pub struct StoreClients {
    pub kv: KvClient<Channel>,
    pub watch: WatchClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
}

impl StoreNode {
    /// Starts an empty one and waits until it answers.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start(kind: StoreKind, test: &str) -> (Self, StoreClients) {
        Self::start_with(kind, test, None, false).await
    }

    /// The same of an etcd whose tokens say themselves whose they are, and at which revision of its users they were given
    /// (JSON Web Tokens, RFC 7519).
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn start_etcd_with_web_tokens(test: &str) -> (Self, StoreClients) {
        Self::start_with(StoreKind::Etcd, test, None, true).await
    }

    /// The same with the certificates of a directory that `weft pki` made, which asks for those of its clients. It is
    /// looked at with those of node `probe`.
    ///
    /// # Panics
    /// If it does not answer.
    pub async fn start_secured(kind: StoreKind, test: &str, pki: &Path) -> Self {
        Self::start_with(kind, test, Some(pki.to_owned()), false).await.0
    }

    async fn start_with(kind: StoreKind, test: &str, pki: Option<PathBuf>, web_tokens: bool) -> (Self, StoreClients) {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("weft-it.store.{test}.{}.{number}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut node = Self { kind, directory, address: String::new(), pki, web_tokens, process: None };
        let clients = node.run().await;
        (node, clients)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its data is.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What it has logged.
    ///
    /// # Panics
    /// If the log cannot be read.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap()
    }

    /// Its process id.
    ///
    /// # Panics
    /// If it was killed.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().pid()
    }

    /// Ends it as `kill -9` does.
    ///
    /// # Panics
    /// If it was killed before.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal(Signal::KILL);
        process.wait();
    }

    /// Starts it on its data, after [`kill`](Self::kill) or at first.
    ///
    /// # Panics
    /// If it does not answer in time.
    pub async fn run(&mut self) -> StoreClients {
        for _ in 0..STARTS {
            let [client, peer] = free_ports();
            self.address = format!("127.0.0.1:{client}");
            let mut process = Child::spawn(self.command(client, peer));
            if let Some(clients) = connect(&self.address, self.pki.as_deref(), &mut process).await {
                self.process = Some(process);
                return clients;
            }
        }
        panic!("{:?} did not start: its log is in {}", self.kind, self.directory.display());
    }

    fn command(&self, client: u16, peer: u16) -> Command {
        let data = self.directory.join("data");
        let mut command = if self.kind.is_etcd() {
            let mut command = Command::new("etcd");
            let scheme = if self.pki.is_some() { "https" } else { "http" };
            let (client, peer) = (format!("{scheme}://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
            // Whom it refuses it tells as a warning.
            let level = if self.pki.is_some() { "warn" } else { "error" };
            command.args(["--logger=zap", "--log-level", level, "--data-dir"]).arg(data);
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args(["--initial-cluster", &format!("default={peer}")]);
            command
        } else {
            let mut command = Command::new(weft());
            command.args(["store", "--listen", &self.address, "--data"]).arg(data);
            command
        };
        if let Some(pki) = &self.pki {
            let own: [&str; 3] = if self.kind.is_etcd() {
                command.arg("--client-cert-auth");
                ["--cert-file", "--key-file", "--trusted-ca-file"]
            } else {
                ["--tls-cert", "--tls-key", "--client-ca"]
            };
            for (option, file) in own.into_iter().zip(["store.pem", "store.key", "ca.pem"]) {
                command.arg(option).arg(pki.join(file));
            }
        }
        if self.web_tokens {
            let key = self.directory.join("tokens.key");
            std::fs::write(&key, "who knows this makes tokens").unwrap();
            command.arg(format!("--auth-token=jwt,sign-method=HS256,priv-key={}", key.display()));
        }
        match self.kind {
            StoreKind::Etcd => _ = command.arg("--unsafe-no-fsync"),
            StoreKind::Weft => _ = command.arg("--relaxed"),
            StoreKind::EtcdSynced | StoreKind::WeftSynced => {}
        }
        let log = std::fs::File::options().create(true).append(true).open(self.directory.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        command
    }
}

impl Drop for StoreNode {
    fn drop(&mut self) {
        drop(self.process.take());
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
            eprintln!("--- log of {:?}\n{log}", self.kind);
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Clients of what listens there, once it answers; none if the process ends before.
async fn connect(address: &str, pki: Option<&Path>, process: &mut Child) -> Option<StoreClients> {
    let deadline = Instant::now() + BOUND;
    while process.is_running() && Instant::now() < deadline {
        if let Ok(clients) = StoreClients::connect_with(address, pki).await
            && clients
                .clone()
                .maintenance
                .status(StatusRequest {})
                .await
                .is_ok_and(|status| status.get_ref().leader != 0)
        {
            return Some(clients);
        }
        tokio::time::sleep(PAUSE).await;
    }
    None
}

impl StoreClients {
    /// Connects to what listens there.
    ///
    /// # Errors
    /// If nothing does.
    ///
    /// # Panics
    /// If that is no address.
    pub async fn connect(address: &str) -> Result<Self, tonic::transport::Error> {
        Self::connect_with(address, None).await
    }

    async fn connect_with(address: &str, pki: Option<&Path>) -> Result<Self, tonic::transport::Error> {
        let endpoint = match pki {
            None => Endpoint::from_shared(format!("http://{address}")).unwrap(),
            Some(pki) => {
                let [ca, cert, key] =
                    ["ca.pem", "probe.pem", "probe.key"].map(|file| std::fs::read(pki.join(file)).unwrap());
                let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca));
                let tls = tls.identity(Identity::from_pem(cert, key));
                Endpoint::from_shared(format!("https://{address}")).unwrap().tls_config(tls)?
            }
        };
        let channel = endpoint.connect().await?;
        Ok(Self {
            kv: KvClient::new(channel.clone()),
            watch: WatchClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel),
        })
    }
}

/// Ports that were free a moment ago.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.each_ref().map(|listener| listener.local_addr().unwrap().port())
}
