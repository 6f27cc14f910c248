//! A client of Kubernetes' Container Runtime Interface, version 1.

use std::path::Path;

use prost::Message;
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tonic_prost::ProstCodec;

use crate::wait::BOUND;

/// Of a sandbox that runs.
const READY: i32 = 0;

/// A client of one runtime.
#[derive(Debug)]
pub struct Cri {
    // Dropped before what drives it.
    channel: Channel,
    runtime: Runtime,
}

/// A pod as Kubernetes names it.
#[derive(Clone, Copy, Debug)]
pub struct Sandbox<'a> {
    /// Of Kubernetes.
    pub namespace: &'a str,
    /// Within the namespace.
    pub name: &'a str,
}

impl Cri {
    /// A client at this socket.
    pub(crate) fn new(socket: &Path) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap().timeout(BOUND);
        let channel = runtime.block_on(async { endpoint.connect_lazy() });
        Self { channel, runtime }
    }

    /// Makes a pod's sandbox, which has an id.
    ///
    /// # Errors
    /// The runtime's.
    pub fn run_sandbox(&self, sandbox: Sandbox<'_>) -> Result<String, Status> {
        let answer: SandboxId = self.call("RunPodSandbox", SandboxRequest { config: Some(sandbox.config()) })?;
        Ok(answer.id)
    }

    /// The addresses of a sandbox that runs.
    ///
    /// # Errors
    /// The runtime's.
    ///
    /// # Panics
    /// If it does not run.
    pub fn addresses(&self, id: &str) -> Result<Vec<String>, Status> {
        let answer: StatusAnswer = self.call("PodSandboxStatus", SandboxId { id: id.to_owned() })?;
        let status = answer.status.unwrap_or_default();
        assert_eq!(status.state, READY, "{status:?}");
        let network = status.network.unwrap_or_default();
        Ok([network.ip].into_iter().chain(network.additional.into_iter().map(|one| one.ip)).collect())
    }

    /// Starts a container in a sandbox, which has an id.
    ///
    /// # Errors
    /// The runtime's.
    pub fn start_container(
        &self,
        id: &str,
        sandbox: Sandbox<'_>,
        image: &str,
        command: &[&str],
    ) -> Result<String, Status> {
        let config = ContainerConfig {
            metadata: Some(ContainerMetadata { name: "main".to_owned() }),
            image: Some(Image { image: image.to_owned() }),
            command: command.iter().map(|&word| word.to_owned()).collect(),
        };
        let create =
            CreateContainer { sandbox: id.to_owned(), config: Some(config), sandbox_config: Some(sandbox.config()) };
        let container: ContainerId = self.call("CreateContainer", create)?;
        let Empty {} = self.call("StartContainer", container.clone())?;
        Ok(container.id)
    }

    /// Runs a program in a container, and returns what it printed; none if it failed.
    ///
    /// # Errors
    /// The runtime's.
    pub fn exec(&self, container: &str, words: &[String]) -> Result<Option<String>, Status> {
        let request = Exec { container: container.to_owned(), words: words.to_vec() };
        let answer: ExecAnswer = self.call("ExecSync", request)?;
        Ok((answer.exit_code == 0).then(|| String::from_utf8_lossy(&answer.stdout).into_owned()))
    }

    /// Ends what runs in a sandbox, and takes it off the network.
    ///
    /// # Errors
    /// The runtime's.
    pub fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        self.call("StopPodSandbox", SandboxId { id: id.to_owned() }).map(|Empty {}| ())
    }

    /// Removes a sandbox.
    ///
    /// # Errors
    /// The runtime's.
    pub fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        self.call("RemovePodSandbox", SandboxId { id: id.to_owned() }).map(|Empty {}| ())
    }

    /// The ids of all sandboxes.
    ///
    /// # Errors
    /// The runtime's.
    pub fn sandboxes(&self) -> Result<Vec<String>, Status> {
        let answer: Sandboxes = self.call("ListPodSandbox", Empty {})?;
        Ok(answer.items.into_iter().map(|sandbox| sandbox.id).collect())
    }

    fn call<Q, A>(&self, method: &str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path: PathAndQuery = format!("/runtime.v1.RuntimeService/{method}").parse().unwrap();
        let mut client = Grpc::new(self.channel.clone());
        self.runtime.block_on(async {
            client.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            Ok(client.unary(Request::new(request), path, ProstCodec::<Q, A>::default()).await?.into_inner())
        })
    }
}

impl Sandbox<'_> {
    fn config(self) -> SandboxConfig {
        let [name, namespace] = [self.name, self.namespace].map(str::to_owned);
        let uid = format!("uid-of-{namespace}-{name}");
        SandboxConfig { metadata: Some(SandboxMetadata { name, uid, namespace }) }
    }
}

// Of each message the fields that are needed here, numbered as in Kubernetes' cri-api, pkg/apis/runtime/v1/api.proto.

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct SandboxMetadata {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    uid: String,
    #[prost(string, tag = "3")]
    namespace: String,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<SandboxMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxRequest {
    #[prost(message, optional, tag = "1")]
    config: Option<SandboxConfig>,
}

/// What sandboxes are made, asked about, stopped, removed and listed by.
#[derive(Clone, PartialEq, Message)]
struct SandboxId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Sandboxes {
    #[prost(message, repeated, tag = "1")]
    items: Vec<SandboxId>,
}

#[derive(Clone, PartialEq, Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    status: Option<SandboxStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxStatus {
    #[prost(int32, tag = "3")]
    state: i32,
    #[prost(message, optional, tag = "5")]
    network: Option<SandboxNetwork>,
}

#[derive(Clone, PartialEq, Message)]
struct SandboxNetwork {
    #[prost(string, tag = "1")]
    ip: String,
    #[prost(message, repeated, tag = "2")]
    additional: Vec<PodIp>,
}

#[derive(Clone, PartialEq, Message)]
struct PodIp {
    #[prost(string, tag = "1")]
    ip: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerMetadata {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    image: String,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerConfig {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ContainerMetadata>,
    #[prost(message, optional, tag = "2")]
    image: Option<Image>,
    #[prost(string, repeated, tag = "3")]
    command: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct CreateContainer {
    #[prost(string, tag = "1")]
    sandbox: String,
    #[prost(message, optional, tag = "2")]
    config: Option<ContainerConfig>,
    #[prost(message, optional, tag = "3")]
    sandbox_config: Option<SandboxConfig>,
}

/// What containers are made and started by.
#[derive(Clone, PartialEq, Message)]
struct ContainerId {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct Exec {
    #[prost(string, tag = "1")]
    container: String,
    #[prost(string, repeated, tag = "2")]
    words: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
struct ExecAnswer {
    #[prost(bytes = "vec", tag = "1")]
    stdout: Vec<u8>,
    #[prost(int32, tag = "3")]
    exit_code: i32,
}
