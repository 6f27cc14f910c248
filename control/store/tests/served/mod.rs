//! A server inside the test: on a thread and a runtime of its own, so that it can end as a process does.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use weft_store::{Durability, KEEP_REVISIONS, Server, Settings};

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

/// A directory of its own; it goes away with the value.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(test: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("weft-store-{test}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn settings(data: &Path, listen: SocketAddr) -> Settings {
    let (durability, progress) = (Durability::Relaxed, Duration::from_secs(600));
    Settings { data: data.to_owned(), listen, tls: None, durability, keep: KEEP_REVISIONS, progress }
}

/// A running server; it ends with the value, and all its connections.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Served {
    pub(crate) fn start(settings: Settings) -> Self {
        let (end, ended) = tokio::sync::oneshot::channel();
        let (opened, opening) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            runtime().block_on(async {
                let server = Server::open(settings).await.unwrap();
                opened.send(server.address()).unwrap();
                tokio::select! {
                    served = server.serve() => served.unwrap(),
                    _ = ended => {}
                }
            });
        });
        let address = opening.recv().expect("it opens");
        Self { address, end: Some(end), thread: Some(thread) }
    }

    pub(crate) fn plain(data: &Path) -> Self {
        Self::start(settings(data, SocketAddr::from(([127, 0, 0, 1], 0))))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        drop(self.end.take());
        let _ = self.thread.take().unwrap().join();
    }
}
