//! The conversation of a takeover, by hand: what one end says, or who stands between both.

use std::fs::{self, File};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::fs::{MemfdFlags, SeekFrom, memfd_create, seek};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen, recvmsg, sendmsg,
    socket_with,
};
use serde_json::Value;

/// Of an agent, in its run directory.
const SOCKET: &str = "takeover.sock";
/// What an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// What a process may take from its start until it asks.
const START: Duration = Duration::from_secs(20);
/// Descriptors of a message, and its bytes.
const DESCRIPTORS: usize = 64;
const BYTES: usize = 1 << 16;

/// A message with its descriptors.
#[derive(Debug)]
pub struct Message {
    /// What it says.
    pub said: Value,
    /// What comes with it.
    pub descriptors: Vec<OwnedFd>,
}

impl Message {
    /// Something that is said without descriptors.
    #[must_use]
    pub fn of(said: Value) -> Self {
        Self { said, descriptors: Vec::new() }
    }

    /// What it is about: its only word, or the name of what is in it.
    ///
    /// # Panics
    /// If it is neither.
    #[must_use]
    pub fn about(&self) -> &str {
        let only = |said: &'_ Value| said.as_object().is_some_and(|object| object.len() == 1);
        match &self.said {
            Value::String(word) => word,
            said if only(said) => said.as_object().unwrap().keys().next().unwrap(),
            other => panic!("{other} is no message of a takeover"),
        }
    }

    /// What is written in the file that comes with it.
    ///
    /// # Panics
    /// If that is no JSON.
    #[must_use]
    pub fn file(&self) -> Value {
        let mut file = File::from(self.descriptors[0].try_clone().unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        // Whoever reads it next reads by the same place.
        seek(&file, SeekFrom::Start(0)).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    /// The same with a file in which something else is written.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn with_file(self, value: &Value) -> Self {
        let mut file = File::from(memfd_create("weft-state", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(value.to_string().as_bytes()).unwrap();
        seek(&file, SeekFrom::Start(0)).unwrap();
        Self { descriptors: vec![file.into()], ..self }
    }

    /// Whether the other end has to say something now.
    fn is_last(&self) -> bool {
        ["all", "refused", "quiesced", "committed"].contains(&self.about())
    }
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Conversation(OwnedFd);

impl Conversation {
    /// With the agent of this run directory, as a process has it that takes over.
    ///
    /// # Panics
    /// If nobody listens.
    #[must_use]
    pub fn with_agent(run_dir: &Path) -> Self {
        Self::at(&run_dir.join(SOCKET))
    }

    fn at(path: &Path) -> Self {
        let socket = socket();
        connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        Self::patient(socket)
    }

    fn patient(socket: OwnedFd) -> Self {
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE)).unwrap();
        Self(socket)
    }

    /// Says something.
    ///
    /// # Panics
    /// If the other end has hung up.
    pub fn say(&self, message: &Message) {
        let descriptors: Vec<_> = message.descriptors.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        let text = message.said.to_string();
        sendmsg(&self.0, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next message; none where the other end has hung up.
    ///
    /// # Panics
    /// If nothing comes, or what is no JSON.
    #[must_use]
    #[track_caller]
    pub fn hear(&self) -> Option<Message> {
        let mut bytes = vec![0; BYTES];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let length = recvmsg(&self.0, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).unwrap().bytes;
        let rights = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(rights) => Some(rights),
            _ => None,
        });
        let descriptors = rights.flatten().collect();
        (length > 0).then(|| Message { said: serde_json::from_slice(&bytes[..length]).unwrap(), descriptors })
    }

    /// What is said until the other end waits for an answer, or hangs up.
    #[track_caller]
    pub fn hear_all(&self) -> Vec<Message> {
        let mut heard = Vec::new();
        while heard.last().is_none_or(|last: &Message| !last.is_last()) {
            let Some(message) = self.hear() else { break };
            heard.push(message);
        }
        heard
    }
}

/// Whoever stands between an agent and what takes over from it, until this is dropped.
#[derive(Debug)]
pub struct Between {
    listener: OwnedFd,
    path: PathBuf,
    behind: PathBuf,
}

impl Between {
    /// Takes the agent's place in its run directory.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn new(run_dir: &Path) -> Self {
        let (path, behind) = (run_dir.join(SOCKET), run_dir.join("takeover.behind"));
        fs::rename(&path, &behind).unwrap();
        let listener = socket();
        bind(&listener, &SocketAddrUnix::new(&path).unwrap()).unwrap();
        listen(&listener, 1).unwrap();
        set_socket_timeout(&listener, Timeout::Recv, Some(START)).unwrap();
        Self { listener, path, behind }
    }

    /// The next that wants to take over.
    ///
    /// # Panics
    /// If none comes.
    #[must_use]
    pub fn welcome(&self) -> Conversation {
        Conversation::patient(accept_with(&self.listener, SocketFlags::CLOEXEC).unwrap())
    }

    /// A conversation with the agent.
    #[must_use]
    pub fn agent(&self) -> Conversation {
        Conversation::at(&self.behind)
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        // The agent's name, if it is still there, takes the place of this one's.
        let _ = fs::rename(&self.behind, &self.path);
    }
}

fn socket() -> OwnedFd {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}
