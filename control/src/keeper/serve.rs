//! The keeper's process.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify;
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, setsid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::{Answer, DESCRIPTORS, DEVICES, Request, SOCKET, VERSION};
use crate::passing;

/// Conversations at one time at most: an agent, its successor, and somebody who wants an end.
const CONVERSATIONS: usize = 4;
/// How long a client may take to send or to fetch a message.
const PATIENCE: Duration = Duration::from_secs(2);
/// Descriptors of its own.
const OWN_DESCRIPTORS: u64 = 64;

/// What is held, by the ports' names.
#[derive(Debug, Default)]
struct Held {
    devices: BTreeMap<String, Vec<OwnedFd>>,
    descriptors: usize,
}

/// What comes of a request.
enum Outcome<'a> {
    Answer(Answer, &'a [OwnedFd]),
    End,
}

/// Holds what agents deposit, until it is told to end, or its socket in the run directory is gone. `listener` is that
/// socket.
///
/// The process gives up its session, its privileges and its working directory first.
///
/// # Errors
/// The kernel's, before anything is held.
pub fn serve(run_dir: &Path, listener: impl AsFd) -> io::Result<()> {
    // Who leads a session already has one of its own.
    let _ = setsid();
    std::env::set_current_dir("/")?;
    raise_descriptor_limit()?;
    let none = CapabilitySet::empty();
    set_no_new_privs(true)?;
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    let place = run_dir.join(SOCKET);
    let inode = std::fs::symlink_metadata(&place)?.ino();
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
    use inotify::WatchFlags as Watch;
    inotify::add_watch(&watch, run_dir, Watch::DELETE | Watch::MOVED_FROM | Watch::DELETE_SELF | Watch::MOVE_SELF)?;
    let mut held = Held::default();
    let mut clients: Vec<OwnedFd> = Vec::new();
    loop {
        // It may have gone before it was watched.
        if !std::fs::symlink_metadata(&place).is_ok_and(|now| now.ino() == inode) {
            return Ok(());
        }
        let welcome = if clients.len() < CONVERSATIONS { PollFlags::IN } else { PollFlags::empty() };
        let mut waiting = vec![PollFd::new(&watch, PollFlags::IN), PollFd::new(&listener, welcome)];
        waiting.extend(clients.iter().map(|client| PollFd::new(client, PollFlags::IN)));
        match poll(&mut waiting, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = waiting.iter().map(|one| !one.revents().is_empty()).collect();
        if ready[0] {
            // What happened is found out by looking.
            let _ = rustix::io::read(&watch, &mut [0; 4096]);
        }
        let mut still = Vec::new();
        for (client, ready) in clients.into_iter().zip(&ready[2..]) {
            match if *ready { converse(&client, &mut held) } else { Ok(Some(())) } {
                Ok(Some(())) => still.push(client),
                Ok(None) => return std::fs::remove_file(&place),
                // The client hung up, or speaks in tongues.
                Err(_) => {}
            }
        }
        clients = still;
        if ready[1]
            && let Ok(client) = passing::accept(&listener, PATIENCE)
        {
            clients.push(client);
        }
    }
}

/// Answers one request; none when it is to end.
fn converse(client: &OwnedFd, held: &mut Held) -> io::Result<Option<()>> {
    let Some((request, descriptors)) = passing::receive(client)? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    match held.answer(request, descriptors) {
        Outcome::Answer(answer, descriptors) => {
            let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            passing::send(client, &answer, &descriptors).map(Some)
        }
        Outcome::End => {
            // Nothing is held any more when this is heard.
            *held = Held::default();
            passing::send(client, &Answer::Done, &[])?;
            Ok(None)
        }
    }
}

impl Held {
    fn answer(&mut self, request: Request, descriptors: Vec<OwnedFd>) -> Outcome<'_> {
        let refused = |why: String| Outcome::Answer(Answer::Refused { why }, &[]);
        match request {
            Request::Version => Outcome::Answer(Answer::Version(VERSION), &[]),
            Request::Hold { port } => {
                self.release(&port);
                if self.devices.len() >= DEVICES {
                    return refused(format!("it holds {DEVICES} devices, and no more"));
                }
                if self.descriptors + descriptors.len() > DESCRIPTORS {
                    return refused(format!("it holds {DESCRIPTORS} descriptors, and no more"));
                }
                self.descriptors += descriptors.len();
                self.devices.insert(port, descriptors);
                Outcome::Answer(Answer::Done, &[])
            }
            Request::Release { port } => {
                self.release(&port);
                Outcome::Answer(Answer::Done, &[])
            }
            Request::Next { after } => {
                let start = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                match self.devices.range::<str, _>((start, Bound::Unbounded)).next() {
                    Some((port, descriptors)) => Outcome::Answer(Answer::Held { port: port.clone() }, descriptors),
                    None => Outcome::Answer(Answer::NoMore, &[]),
                }
            }
            Request::End => Outcome::End,
        }
    }

    fn release(&mut self, port: &str) {
        self.descriptors -= self.devices.remove(port).map_or(0, |descriptors| descriptors.len());
    }
}

fn raise_descriptor_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = DESCRIPTORS as u64 + OWN_DESCRIPTORS;
    let wanted = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    // No limit at all is none to raise.
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect()
    }

    fn ask(held: &mut Held, request: Request, count: usize) -> (Answer, usize) {
        match held.answer(request, some(count)) {
            Outcome::Answer(answer, descriptors) => (answer, descriptors.len()),
            Outcome::End => panic!("it ends"),
        }
    }

    #[test]
    fn what_is_held_is_found_one_after_another_until_it_is_released() {
        let mut held = Held::default();
        for (port, count) in [("b", 1), ("a", 2), ("b", 3)] {
            assert_eq!(ask(&mut held, Request::Hold { port: port.to_owned() }, count), (Answer::Done, 0));
        }
        assert_eq!(held.descriptors, 5);
        let next =
            |held: &mut Held, after: Option<&str>| ask(held, Request::Next { after: after.map(str::to_owned) }, 0);
        assert_eq!(next(&mut held, None), (Answer::Held { port: "a".to_owned() }, 2));
        assert_eq!(next(&mut held, Some("a")), (Answer::Held { port: "b".to_owned() }, 3));
        assert_eq!(next(&mut held, Some("b")), (Answer::NoMore, 0));
        assert_eq!(ask(&mut held, Request::Release { port: "a".to_owned() }, 0), (Answer::Done, 0));
        assert_eq!(next(&mut held, None), (Answer::Held { port: "b".to_owned() }, 3));
        assert_eq!(held.descriptors, 3);
    }

    #[test]
    fn it_holds_so_many_devices_and_no_more() {
        let mut held = Held::default();
        for port in 0..DEVICES {
            assert_eq!(ask(&mut held, Request::Hold { port: port.to_string() }, 0).0, Answer::Done);
        }
        let (answer, _) = ask(&mut held, Request::Hold { port: "one more".to_owned() }, 1);
        assert_eq!(answer, Answer::Refused { why: format!("it holds {DEVICES} devices, and no more") });
        assert_eq!((held.devices.len(), held.descriptors), (DEVICES, 0));
        assert_eq!(ask(&mut held, Request::Hold { port: "0".to_owned() }, 1).0, Answer::Done);
    }
}
