//! What passes a link or a pod's interface, as a capture file.

use std::io::{self, Write};
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use weft_switch::{PacketTap, SeenFrame};

use crate::error::io_error;
use crate::pcapng::{self, LinkType, Packet};
use crate::spec::{POD_INTERFACE, UNDERLAY};
use crate::{Lab, LabError};

/// What such a file says that it was written by.
const PROGRAM: &str = "weft testbed capture";
/// Longest frame that is kept whole: a superframe of 64 KiB and its headers.
const FRAME_MAX: usize = 1 << 17;
/// Bytes that are written at once, about.
const AT_ONCE_MAX: usize = 1 << 20;
/// How often an interface that is switched off is looked at: the kernel does not tell when it is removed after that.
const LOOK: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// A capture that listens already.
#[derive(Debug)]
pub struct Capture {
    tap: PacketTap,
    interface: String,
}

impl Lab {
    /// Listens at a link, where its node is cabled to the underlay, or at a pod's interface.
    ///
    /// # Errors
    /// [`LabError`]: neither link nor pod, or what the kernel refused.
    pub fn capture(&self, place: &str) -> Result<Capture, LabError> {
        let is_link = self.spec().links().any(|link| link == place);
        let (member, interface) = match (is_link, self.spec().pod(place)) {
            (true, _) => (UNDERLAY, place),
            (false, Some(pod)) => (pod.name.as_str(), POD_INTERFACE),
            (false, None) => return Err(self.no_such_link_or_pod(place)),
        };
        let netns = self.netns(member)?;
        let number = netns.links(|links| Ok(links.get(interface)?.map(|link| link.index)))?;
        let name = format!("{}.{place}", self.name());
        let number = number.ok_or_else(|| io_error("listen at", &name)(io::Error::from(io::ErrorKind::NotFound)))?;
        let tap = netns.run(|| PacketTap::open(number))?.map_err(io_error("listen at", &name))?;
        Ok(Capture { tap, interface: name })
    }

    fn no_such_link_or_pod(&self, name: &str) -> LabError {
        let pods = self.spec().pods().map(|(_, pod)| pod.name.clone());
        let known = self.spec().links().chain(pods).collect();
        LabError::NoSuchLink { lab: self.name().clone(), name: name.to_owned(), known }
    }
}

impl Capture {
    /// Where it listens: the lab, and the link or pod.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// Writes a pcapng file, whole blocks at a time, until `count` frames came; `seen` is told how many did so far.
    ///
    /// # Errors
    /// Those of the file, and of the interface once it is gone.
    pub fn write(&self, file: &mut impl Write, count: Option<u64>, mut seen: impl FnMut(u64)) -> io::Result<u64> {
        let head = [pcapng::section(PROGRAM), pcapng::interface(&self.interface, LinkType::Ethernet)];
        file.write_all(&head.concat())?;
        file.flush()?;
        let mut frames = 0;
        let mut buffer = vec![0; FRAME_MAX];
        let mut is_down = false;
        while count.is_none_or(|count| frames < count) {
            let mut fds = [PollFd::from_borrowed_fd(self.tap.as_fd(), PollFlags::IN)];
            match poll(&mut fds, is_down.then_some(&LOOK)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if is_down && self.tap.is_gone()? {
                return Err(io::Error::new(io::ErrorKind::NotFound, "the interface was removed; the file is complete"));
            }
            let mut blocks = Vec::new();
            while count.is_none_or(|count| frames < count) && blocks.len() < AT_ONCE_MAX {
                match self.tap.receive(&mut buffer) {
                    Ok(Some(frame)) => {
                        let SeenFrame { bytes, outgoing, time, .. } = &frame;
                        let (interface, comment) = (0, None);
                        let packet = Packet { interface, time: *time, bytes, outgoing: *outgoing, comment };
                        blocks.extend(pcapng::packet(&packet));
                        frames += 1;
                        is_down = false;
                    }
                    Ok(None) => break,
                    // It may be switched on again.
                    Err(error) if error.kind() == io::ErrorKind::NetworkDown => is_down = true,
                    Err(error) => return Err(error),
                }
            }
            // In one piece: who is interrupted leaves whole blocks behind.
            file.write_all(&blocks)?;
            file.flush()?;
            seen(frames);
        }
        Ok(frames)
    }
}
