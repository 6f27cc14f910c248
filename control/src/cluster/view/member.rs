//! A node that counts, and what counts of it.

use super::Row;
use super::endpoints::{Endpoints, KnownEndpoint};
use crate::cluster::record::{Node, Standing};

/// Whether a node's row is in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// It went, and nobody said why.
    Suspect,
    /// It is there.
    Present,
}

/// A node that counts.
#[derive(Clone, Debug)]
pub struct Member {
    pub(super) row: Row<Node>,
    pub(super) presence: Presence,
    /// Endpoints that count beside those in the store, until the node has published again.
    pub(super) held: Endpoints,
    doubted: Option<Restored>,
    /// Whether nobody knew it when a store that went back brought it.
    came_back: bool,
}

/// What a store says of a node since it went back, which may be of before.
#[derive(Clone, Debug)]
enum Restored {
    Row(Box<Row<Node>>),
    Nothing,
}

/// How a row was heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// As it was written.
    News,
    /// In a listing: it was written some time.
    Listed,
}

impl Member {
    pub(super) fn new(row: Row<Node>) -> Self {
        Self { row, presence: Presence::Present, held: Endpoints::default(), doubted: None, came_back: false }
    }

    /// One that nobody knew before the store went back.
    pub(super) fn restored(row: Row<Node>, listed: Option<&Endpoints>) -> Self {
        let mut member = Self::new(row.clone());
        member.hold(listed);
        member.doubted = Some(Restored::Row(Box::new(row)));
        member.came_back = true;
        member
    }

    /// The node's row.
    #[must_use]
    pub fn row(&self) -> &Row<Node> {
        &self.row
    }

    /// Whether it is in the store.
    #[must_use]
    pub fn presence(&self) -> Presence {
        self.presence
    }

    /// Whether endpoints count that it has to publish again.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        !self.held.is_empty()
    }

    /// Whether it has published an endpoint since it claimed its name.
    #[must_use]
    pub fn has_published(&self, endpoint: &KnownEndpoint) -> bool {
        endpoint.incarnation == self.row.incarnation()
    }

    /// Whether it counts as it was known before the store went back, whatever the store says of it.
    #[must_use]
    pub fn is_doubted(&self) -> bool {
        self.doubted.is_some()
    }

    /// Whether it counts only because a store that went back says so, which may have been over long before.
    #[must_use]
    pub fn has_come_back(&self) -> bool {
        self.came_back && self.is_doubted()
    }

    /// Whether its row went, and the store has no other.
    pub(super) fn is_gone(&self) -> bool {
        self.presence == Presence::Suspect && self.doubted.is_none()
    }

    /// From now on the store may say what was so before. `listed`: its endpoints in the store until now.
    pub(super) fn doubt(&mut self, listed: Option<&Endpoints>) {
        self.hold(listed);
        self.doubted = Some(Restored::Nothing);
    }

    /// Whether a row is a claim that counts, and not one that came back with the store: that is kept, and nothing else.
    pub(super) fn believes(&mut self, row: &Row<Node>, heard: Heard) -> bool {
        let may_be_of_before = match (&self.doubted, heard) {
            (None, _) => false,
            (Some(Restored::Nothing), Heard::News) => false,
            (Some(Restored::Row(restored)), Heard::News) => restored.lease == row.lease,
            (Some(_), Heard::Listed) => row.record.epoch <= self.row.record.epoch,
        };
        if may_be_of_before {
            self.doubted = Some(Restored::Row(Box::new(row.clone())));
        }
        !may_be_of_before
    }

    /// A row under the node's name that it believes. `listed`: its endpoints in the store until now.
    pub(super) fn update(&mut self, row: Row<Node>, listed: Option<&Endpoints>) {
        if row.record.instance != self.row.record.instance {
            *self = Self::new(row);
            return;
        }
        if row.lease != self.row.lease || self.presence == Presence::Suspect {
            self.hold(listed);
        }
        (self.presence, self.doubted, self.came_back) = (Presence::Present, None, false);
        self.row = row;
        if self.row.record.standing == Standing::Joined {
            self.held = Endpoints::default();
        }
    }

    /// Its row went, and it did not say that it leaves.
    pub(super) fn lapse(&mut self, listed: Option<&Endpoints>) {
        if self.presence == Presence::Present && self.is_doubted() {
            // What went is of before: nothing is known of the claim that counts.
            self.doubted = Some(Restored::Nothing);
            return;
        }
        self.hold(listed);
        (self.presence, self.doubted) = (Presence::Suspect, None);
    }

    /// An endpoint that the store had goes: by the node's own word, if it is of the claim that counts.
    pub(super) fn withdraw(&mut self, endpoint: &KnownEndpoint) {
        let is_believed = self.presence == Presence::Present && !self.is_doubted();
        if is_believed && self.has_published(endpoint) {
            self.held.remove(endpoint.key());
        }
    }

    /// From now on the store is believed. Says whether the node still counts.
    pub(super) fn trust(&mut self) -> bool {
        match self.doubted.take() {
            None => true,
            Some(Restored::Nothing) => {
                self.presence = Presence::Suspect;
                true
            }
            Some(Restored::Row(row)) => {
                (self.presence, self.row) = (Presence::Present, *row);
                if self.row.record.standing == Standing::Joined {
                    self.held = Endpoints::default();
                }
                self.row.record.standing != Standing::Left
            }
        }
    }

    /// Keeps the endpoints that count now, whatever the store says of them from now on.
    pub(super) fn hold(&mut self, listed: Option<&Endpoints>) {
        self.held = self.counting(listed).collect();
    }

    pub(super) fn counting<'a>(
        &'a self,
        listed: Option<&'a Endpoints>,
    ) -> impl Iterator<Item = &'a KnownEndpoint> + Clone {
        let listed = listed.filter(|_| self.presence == Presence::Present && !self.is_doubted());
        let incarnation = self.row.incarnation();
        let valid = move |row: &KnownEndpoint| row.incarnation == incarnation;
        let again = move |held: &KnownEndpoint| listed.and_then(|listed| listed.get(held.key())).is_some_and(valid);
        let held = self.held.iter().filter(move |row| !again(row));
        listed.into_iter().flat_map(Endpoints::iter).filter(move |row| valid(row)).chain(held)
    }
}
