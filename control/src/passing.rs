//! Messages that carry descriptors: JSON over a Unix socket that keeps messages apart (SOCK_SEQPACKET), with SCM_RIGHTS.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout, socket_peercred};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    recvmsg, sendmsg, socket_with,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes of one message at most.
const MESSAGE_BYTES: usize = 64 * 1024;
/// Descriptors in one message at most: a queue for each of 64 workers. The kernel passes 253 (SCM_MAX_FD,
/// include/net/scm.h).
pub(crate) const MESSAGE_DESCRIPTORS: usize = 64;
/// Clients that wait to be welcomed at most.
const BACKLOG: i32 = 8;

/// A socket for this user alone, in place of what lies there.
pub(crate) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody gets in before others are kept out.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A conversation with whoever listens there; each message may take as long as `patience`.
pub(crate) fn connect_to(path: &Path, patience: Duration) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    be_patient(&socket, patience)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The next client, if it is of this process's user or root; each message may take as long as `patience`.
///
/// # Errors
/// The kernel's, and EPERM for a client of another user.
pub(crate) fn accept(listener: impl AsFd, patience: Duration) -> io::Result<OwnedFd> {
    let client = accept_with(listener, SocketFlags::CLOEXEC)?;
    check_user(&client)?;
    be_patient(&client, patience)?;
    Ok(client)
}

/// Refuses a client that is neither of this process's user nor root.
///
/// # Errors
/// EPERM then.
pub(crate) fn check_user(client: impl AsFd) -> io::Result<()> {
    let user = socket_peercred(client)?.uid;
    if user == rustix::process::geteuid() || user.is_root() { Ok(()) } else { Err(Errno::PERM.into()) }
}

/// How long one message may take from now on.
fn be_patient(socket: impl AsFd, patience: Duration) -> io::Result<()> {
    set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(patience))?;
    Ok(set_socket_timeout(socket.as_fd(), Timeout::Send, Some(patience))?)
}

/// Sends one message.
///
/// # Errors
/// The kernel's; EMSGSIZE for more than [`MESSAGE_BYTES`] or [`MESSAGE_DESCRIPTORS`].
pub(crate) fn send(socket: impl AsFd, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = serde_json::to_vec(message)?;
    if bytes.len() > MESSAGE_BYTES || descriptors.len() > MESSAGE_DESCRIPTORS {
        return Err(Errno::MSGSIZE.into());
    }
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MESSAGE_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    loop {
        match sendmsg(socket.as_fd(), &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message; none when the other end is closed.
///
/// # Errors
/// The kernel's; EAGAIN when nothing came in time, `InvalidData` for what is no such message.
pub(crate) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut bytes = vec![0; MESSAGE_BYTES];
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MESSAGE_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        match recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let rights = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(rights) => Some(rights),
        _ => None,
    });
    let descriptors: Vec<OwnedFd> = rights.flatten().collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too long"));
    }
    let message = serde_json::from_slice(&bytes[..received.bytes]);
    let message = message.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(Some((message, descriptors)))
}
