//! The links of a lab that exists: how they are set, and what they counted.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Impairments;
use super::relay::{self, RelayCounters};
use super::splice::{apply, overruns};
use crate::journal::{Claim, Journal, LinkEntry};
use crate::{Lab, LabError, LabName, Progress};

/// How a link is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LinkSettings {
    /// What happens to its frames.
    pub impairments: Impairments,
    /// Unplugged: the node's interface has no carrier.
    pub down: bool,
    /// Cut off behind the node's back: its interface has carrier, and nothing passes.
    pub partitioned: bool,
}

/// How a link is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LinkStatus {
    /// Its name: that of the node at its end.
    pub link: String,
    /// How it is set.
    #[serde(flatten)]
    pub settings: LinkSettings,
    /// What was counted since its impairment began; none while nothing is impaired.
    pub counters: Option<RelayCounters>,
    /// What keeps an impaired link from carrying anything.
    pub broken: Option<String>,
}

impl Lab {
    /// Changes how a link is set while the lab runs. Frames on their way may be lost where the change begins or
    /// ends an impairment; addresses and carrier at the node's end stay.
    ///
    /// `weft` is the relay's executable, started as `weft testbed relay FILE`.
    ///
    /// # Errors
    /// [`LabError`]: no such lab or link, settings that do not go together, or a relay that does not start.
    pub fn change_link(
        name: &LabName,
        link: &str,
        weft: &Path,
        change: impl FnOnce(&mut LinkSettings),
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), LabError> {
        let _claim = Claim::wait(name)?;
        let mut lab = Self::open(name)?;
        let mut settings = lab.settings_of(link)?;
        change(&mut settings);
        lab.set_link(link, settings, weft, progress)
    }

    /// The same, by whoever has the lab's directory.
    pub(crate) fn set_link(
        &mut self,
        link: &str,
        settings: LinkSettings,
        weft: &Path,
        progress: &mut dyn FnMut(Progress<'_>),
    ) -> Result<(), LabError> {
        settings.impairments.check()?;
        if self.spec().links().all(|known| known != link) {
            return Err(self.no_such_link(link));
        }
        apply(self, link, settings, weft, progress)
    }

    /// The links with how they are.
    #[must_use]
    pub fn links(&self) -> Vec<LinkStatus> {
        self.spec().links().map(|link| self.status_of(&link)).collect()
    }

    /// How a link is.
    ///
    /// # Errors
    /// [`LabError::NoSuchLink`].
    pub fn link(&self, link: &str) -> Result<LinkStatus, LabError> {
        self.settings_of(link).map(|_| self.status_of(link))
    }

    fn settings_of(&self, link: &str) -> Result<LinkSettings, LabError> {
        if self.spec().links().all(|known| known != link) {
            return Err(self.no_such_link(link));
        }
        Ok(self.journal.link(link).map(|entry| entry.settings.clone()).unwrap_or_default())
    }

    fn status_of(&self, link: &str) -> LinkStatus {
        let entry = self.journal.link(link);
        let settings = entry.map(|entry| entry.settings.clone()).unwrap_or_default();
        let counted = (!settings.impairments.is_none()).then(|| self.counters_of(link));
        let (counters, broken) = match counted {
            None => (None, None),
            Some(Ok(counters)) => (Some(counters), None),
            Some(Err(error)) => (None, Some(error.to_string())),
        };
        LinkStatus { link: link.to_owned(), settings, counters, broken }
    }

    fn counters_of(&self, link: &str) -> Result<RelayCounters, LabError> {
        let mut counters = relay::counters(&self.relay_socket_of(link))?;
        [counters.to.overrun, counters.from.overrun] = overruns(self, link)?;
        Ok(counters)
    }

    fn no_such_link(&self, name: &str) -> LabError {
        let known = self.spec().links().collect();
        LabError::NoSuchLink { lab: self.name().clone(), name: name.to_owned(), known }
    }
}

impl Journal {
    /// What is noted of a link; none while it is as it was made.
    pub(crate) fn link(&self, link: &str) -> Option<&LinkEntry> {
        self.links.iter().find(|entry| entry.link == link)
    }

    /// Notes how a link is.
    pub(crate) fn note_link(&mut self, noted: LinkEntry) {
        self.links.retain(|entry| entry.link != noted.link);
        if noted.settings != LinkSettings::default() || noted.relay.is_some() {
            self.links.push(noted);
        }
    }
}
