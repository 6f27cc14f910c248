//! `/metrics`, `/healthz` and `/readyz` over HTTP: one request a connection.

use std::convert::Infallible;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Format, Snapshot, encode, readiness};
use crate::config::MetricsListen;
use crate::show::with_devices;

/// Connections at one time at most; further clients wait for one to end.
const CONNECTIONS: usize = 16;
/// How long a connection may last, the request, its answer and all.
const PATIENCE: Duration = Duration::from_secs(10);
/// Until clients are welcomed again after the kernel refused one, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
const TEXT: &str = "text/plain; charset=utf-8";

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("serving metrics at {at}: {source}: choose another `metrics.listen`, or end who has it")]
pub struct MetricsError {
    at: String,
    source: io::Error,
}

/// Somebody who waits for what is measured, or for no more than an answer.
pub(crate) struct Scrape {
    wants_numbers: bool,
    answer: oneshot::Sender<Snapshot>,
}

impl Scrape {
    /// Answers with what `measure` brings, where that is wanted. Ports' devices are looked at on another thread: that
    /// takes about a millisecond for each.
    pub(crate) fn answer(self, measure: impl FnOnce() -> Snapshot) {
        let Self { wants_numbers, answer } = self;
        // Who hung up does not want it.
        if wants_numbers {
            let snapshot = measure();
            tokio::task::spawn_blocking(move || _ = answer.send(with_devices(snapshot)));
        } else {
            _ = answer.send(Snapshot::default());
        }
    }
}

/// Requests for what is measured.
pub(crate) struct Scrapes(mpsc::Receiver<Scrape>);

impl Scrapes {
    /// The next one; nothing ever where nothing is served.
    pub(crate) async fn next(scrapes: Option<&mut Self>) -> Scrape {
        match scrapes {
            Some(Self(receiver)) => match receiver.recv().await {
                Some(scrape) => scrape,
                None => std::future::pending().await,
            },
            None => std::future::pending().await,
        }
    }
}

/// An open listener. Serving begins with [`Self::serve`].
pub(crate) enum Server {
    Tcp(std::net::TcpListener),
    Unix(StdUnixListener),
}

impl Server {
    /// Opens the listener.
    pub(crate) fn listen(at: &MetricsListen) -> Result<Self, MetricsError> {
        let open = || match at {
            MetricsListen::Address(address) => {
                let listener = std::net::TcpListener::bind(address)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Tcp(listener))
            }
            MetricsListen::Socket(path) => {
                remove_stale(path)?;
                let listener = StdUnixListener::bind(path)?;
                listener.set_nonblocking(true)?;
                Ok(Self::Unix(listener))
            }
        };
        open().map_err(|source| MetricsError { at: at.to_string(), source })
    }

    /// Goes on with a listener of another process, if it is the one that is wanted.
    pub(crate) fn go_on(at: &MetricsListen, served: Option<OwnedFd>) -> Result<Self, MetricsError> {
        let served = served.and_then(|listener| match at {
            MetricsListen::Address(address) => {
                let listener = std::net::TcpListener::from(listener);
                listener.local_addr().is_ok_and(|own| own == *address).then_some(Self::Tcp(listener))
            }
            MetricsListen::Socket(path) => {
                let listener = StdUnixListener::from(listener);
                let own = listener.local_addr().ok();
                own.is_some_and(|own| own.as_pathname() == Some(path)).then_some(Self::Unix(listener))
            }
        });
        served.map_or_else(|| Self::listen(at), Ok)
    }

    /// Serves within the runtime that it is called in, as long as that is there.
    pub(crate) fn serve(&self) -> io::Result<Scrapes> {
        let (sender, receiver) = mpsc::channel(CONNECTIONS);
        match self {
            Self::Tcp(listener) => {
                let listener = TcpListener::from_std(listener.try_clone()?)?;
                tokio::spawn(welcome(sender, async move || Ok(listener.accept().await?.0)));
            }
            Self::Unix(listener) => {
                let listener = UnixListener::from_std(listener.try_clone()?)?;
                tokio::spawn(welcome(sender, async move || Ok(listener.accept().await?.0)));
            }
        }
        Ok(Scrapes(receiver))
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener) => listener.as_fd(),
        }
    }
}

/// Removes a socket that nobody answers at, and nothing else.
fn remove_stale(path: &Path) -> io::Result<()> {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let answers = || std::os::unix::net::UnixStream::connect(path).is_ok();
    if is_socket && !answers() { std::fs::remove_file(path) } else { Ok(()) }
}

async fn welcome<S>(scrapes: mpsc::Sender<Scrape>, mut accept: impl AsyncFnMut() -> io::Result<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match accept().await {
            Ok(stream) => {
                let scrapes = scrapes.clone();
                tokio::spawn(async move {
                    let answer = service_fn(move |request| answer(request, scrapes.clone()));
                    let connection =
                        http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(stream), answer);
                    // Who goes away before the answer does not want it.
                    let _ = tokio::time::timeout(PATIENCE, connection).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "metrics are served to nobody for now");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    scrapes: mpsc::Sender<Scrape>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        return Ok(response(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered\n"));
    }
    let (answer, snapshot) = oneshot::channel();
    let known = ["/metrics", "/healthz", "/readyz"].contains(&request.uri().path());
    if !known {
        return Ok(response(StatusCode::NOT_FOUND, TEXT, "there are /metrics, /healthz and /readyz\n"));
    }
    let wants_numbers = request.uri().path() != "/healthz";
    if scrapes.send(Scrape { wants_numbers, answer }).await.is_err() {
        return Ok(response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the agent ends\n"));
    }
    let Ok(snapshot) = snapshot.await else {
        return Ok(response(StatusCode::SERVICE_UNAVAILABLE, TEXT, "the agent ends\n"));
    };
    Ok(match request.uri().path() {
        // That the control loop answered is what there is to say; a worker that ends takes the process with it.
        "/healthz" => response(StatusCode::OK, TEXT, "ok\n"),
        "/readyz" => ready(&snapshot),
        _ => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
            let format = Format::accepted(accept);
            match encode(snapshot, format) {
                Ok(text) => response(StatusCode::OK, format.content_type(), text),
                Err(error) => response(StatusCode::INTERNAL_SERVER_ERROR, TEXT, format!("{error}\n")),
            }
        }
    })
}

fn ready(snapshot: &Snapshot) -> Response<Full<Bytes>> {
    let reasons = readiness(snapshot);
    if reasons.is_empty() {
        return response(StatusCode::OK, TEXT, "ready\n");
    }
    let lines: String = reasons.iter().map(|reason| format!("not ready: {reason}\n")).collect();
    response(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines)
}

fn response(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(content_type));
    response
}
