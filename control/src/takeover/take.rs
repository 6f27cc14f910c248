//! The new process's end of a takeover.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use weft_switch::levels::Levels;
use weft_switch::underlay::{HandedSockets, Uplink as SwitchUplink, UplinkState};

use super::{Ask, Ground, Hurry, NAMES_SUCCESSOR, OLDEST_STATE, SOCKET, STATE_VERSION, Say, State, TakeoverError};
use crate::agent::{Agent, AgentError, interfaces, may_attach};
use crate::config::Config;
use crate::keeper::Keeper;
use crate::lock::RunDirLock;
use crate::passing;
use crate::privileges::Confinement;
use crate::prove::prove;
use crate::supervisor;
use crate::uplink::{self, UplinkError};

/// How long the running agent may take for an answer: as long as it may be about something else.
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that the running agent forwards with.
struct Heritage {
    queues: BTreeMap<String, Vec<OwnedFd>>,
    sockets: HandedSockets,
    uplink: Option<OwnedFd>,
    lock: RunDirLock,
    listener: UnixListener,
    successors: OwnedFd,
    metrics: Option<OwnedFd>,
    state: State,
}

/// What an agent takes over from another.
pub(crate) struct Inherited {
    pub(crate) levels: Arc<Levels>,
    pub(crate) sockets: HandedSockets,
    pub(crate) uplink: Option<SwitchUplink>,
    pub(crate) state: State,
    pub(crate) listener: UnixListener,
    pub(crate) successors: OwnedFd,
    /// Where its metrics were served.
    pub(crate) metrics: Option<OwnedFd>,
}

/// The conversation, while the running agent forwards.
struct Conversation(OwnedFd);

/// The versions to ask for, in this order. An agent that cannot say who takes over would end the service for systemd.
fn versions(supervised: bool) -> impl Iterator<Item = u32> {
    let oldest = if supervised { OLDEST_STATE.max(NAMES_SUCCESSOR) } else { OLDEST_STATE };
    (oldest..=STATE_VERSION).rev()
}

/// Asks the running agent for everything, in the newest version that it speaks.
fn ask(config: &Config) -> Result<(Conversation, Heritage), TakeoverError> {
    let supervised = supervisor::listens();
    let mut first = None;
    for state in versions(supervised) {
        match ask_for(config, state, supervised) {
            Err(TakeoverError::Refused { why }) => {
                tracing::debug!(state, why, "the running agent does not speak this version");
                first.get_or_insert(why);
            }
            other => return other,
        }
    }
    Err(TakeoverError::Refused { why: first.unwrap_or_default() })
}

fn ask_for(config: &Config, state: u32, supervised: bool) -> Result<(Conversation, Heritage), TakeoverError> {
    let path = config.run_dir.join(SOCKET);
    let socket = match passing::connect_to(&path, PATIENCE) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(TakeoverError::Nobody { run_dir: config.run_dir.clone() });
        }
        other => other.map_err(failed("beginning"))?,
    };
    let conversation = Conversation(socket);
    let version = env!("CARGO_PKG_VERSION").to_owned();
    conversation.ask(&Ask::Hello { state, version, supervised })?;
    let heritage = conversation.fetch(config)?;
    Ok((conversation, heritage))
}

impl Agent {
    /// Takes over from the agent that runs in the same run directory: when it returns, that one has ended, and every port
    /// forwards. Nothing is lost, and nothing overtakes.
    ///
    /// # Errors
    /// [`AgentError`]; the other agent goes on then as if nobody had asked.
    pub fn take_over(config: Config) -> Result<Self, AgentError> {
        may_attach(&config)?;
        Confinement::of(&config).prepare();
        let (interfaces, _) = interfaces(&config.addresses)?;
        // What takes long comes first: once it is asked, the other agent does nothing but forward.
        let levels = Arc::new(prove(&config.switched_off, &config.addresses, &interfaces));
        let (conversation, heritage) = ask(&config)?;
        let Heritage { queues, sockets, uplink, lock, listener, successors, metrics, state } = heritage;
        let mut keeper = Keeper::find(&config.run_dir);
        keeper.inherit(queues);
        let device = uplink::inherit(&config, &levels, uplink)?;
        let found = device.as_ref().map(|device| (device.name().to_owned(), device.descriptor()));
        let uplink = match device {
            Some(device) => {
                Some(SwitchUplink { device, state: Arc::new(UplinkState::new().map_err(UplinkError::from)?) })
            }
            None => None,
        };
        let hops = uplink.as_ref().map(|uplink| uplink.state.clone());
        let inherited = Inherited { levels, sockets, uplink, state, listener, successors, metrics };
        let mut agent = Self::set_up(config, lock, keeper, Some(inherited))?;
        agent.inherit_pods();
        let hurry = Hurry::begin();
        conversation.commit()?;
        agent.switch.resume();
        drop(hurry);
        conversation.wait_for_end();
        if let Err(error) = agent.lock.sign() {
            tracing::debug!(%error, "the lock's file names the agent that ended");
        }
        if let Some((state, found)) = hops.zip(found) {
            match uplink::adopt(&agent.config, &state, found, &agent.switch.tables()) {
                Ok(uplink) => agent.uplink = Some(uplink),
                Err(error) => state.give_up(error.to_string()),
            }
        }
        agent.open_outside();
        tracing::info!("taken over");
        Ok(agent)
    }
}

impl Conversation {
    /// From its return on nobody but this process forwards.
    fn commit(&self) -> Result<(), TakeoverError> {
        for (ask, wanted) in [(Ask::Quiesce, Say::Quiesced), (Ask::Commit, Say::Committed)] {
            self.ask(&ask)?;
            let (said, _) = self.hear()?;
            if said != wanted {
                return Err(failed("committing")(io::ErrorKind::InvalidData.into()));
            }
        }
        Ok(())
    }

    /// The other process hangs up when it ends, after its last word to systemd: nobody but the service is heard there.
    fn wait_for_end(self) {
        if let Ok((said, _)) = self.hear() {
            tracing::debug!(?said, "the agent that was taken over from goes on talking");
        }
    }

    fn fetch(&self, config: &Config) -> Result<Heritage, TakeoverError> {
        let (mut queues, mut sockets, mut uplink) = (BTreeMap::new(), HandedSockets::default(), None);
        let (mut run, mut metrics, mut state) = (None, None, None);
        loop {
            let (said, mut descriptors) = self.hear()?;
            match said {
                Say::Refused { why } => return Err(TakeoverError::Refused { why }),
                Say::Ground(theirs) => {
                    if let Some(difference) = theirs.difference(&Ground::of(config)) {
                        return Err(difference);
                    }
                }
                Say::Port { name } => _ = queues.insert(name, descriptors),
                Say::Receivers => sockets.receivers.push(descriptors),
                Say::Senders => sockets.senders = descriptors,
                Say::Uplink => uplink = descriptors.pop(),
                Say::Metrics => metrics = descriptors.pop(),
                Say::Run => run = <[OwnedFd; 3]>::try_from(descriptors).ok(),
                Say::State => state = descriptors.pop().map(read).transpose().map_err(failed("reading the state"))?,
                Say::All => break,
                Say::Quiesced | Say::Committed => return Err(failed("beginning")(io::ErrorKind::InvalidData.into())),
            }
        }
        let ([lock, listener, successors], state) =
            run.zip(state).ok_or_else(|| failed("beginning")(io::ErrorKind::InvalidData.into()))?;
        let (lock, listener) = (RunDirLock::inherit(lock), UnixListener::from(listener));
        Ok(Heritage { queues, sockets, uplink, lock, listener, successors, metrics, state })
    }

    fn ask(&self, ask: &Ask) -> Result<(), TakeoverError> {
        passing::send(&self.0, ask, &[]).map_err(failed("talking"))
    }

    fn hear(&self) -> Result<(Say, Vec<OwnedFd>), TakeoverError> {
        let heard = passing::receive(&self.0).map_err(failed("talking"))?;
        heard.ok_or_else(|| failed("talking")(io::Error::new(io::ErrorKind::UnexpectedEof, "it has hung up")))
    }
}

/// What is written in a file that another process made.
fn read<T: DeserializeOwned>(file: OwnedFd) -> io::Result<T> {
    Ok(serde_json::from_reader(io::BufReader::new(std::fs::File::from(file)))?)
}

fn failed(step: &'static str) -> impl Fn(io::Error) -> TakeoverError {
    move |source| TakeoverError::Io { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_own_version_is_asked_for_first_and_none_that_ends_a_service() {
        assert_eq!(versions(false).collect::<Vec<_>>(), [STATE_VERSION, OLDEST_STATE]);
        assert_eq!(versions(true).next(), Some(STATE_VERSION));
        assert!(versions(true).all(|version| version >= NAMES_SUCCESSOR));
    }
}
