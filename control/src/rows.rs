//! The rows that an operator writes: foreign VTEPs, and that one of them or a node is gone.

use std::net::IpAddr;

use weft_store::KeyRange;
use weft_store::client::{AccessError, Store, StoreError};

use crate::cluster::record::{self, ForeignVtep, RecordError};
use crate::cluster::{Key, Keys, foreign_removal, removal};
use crate::config::{Config, FileError};

/// For how long the store keeps it that something was removed, in seconds: agents hear of it at once, or list the rows anew.
const REMOVAL_SECONDS: u32 = 60;

/// Why rows were not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RowsError {
    /// The configuration names no store.
    #[error("the configuration has no `[control]`: name the store there, or write the peer as a `[[vtep]]`")]
    NoStore,
    /// How the store is reached.
    #[error("`[control]`: {0}")]
    Access(#[from] AccessError),
    /// A file that reaching it needs.
    #[error(transparent)]
    File(#[from] FileError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The row.
    #[error("no agent would take it: {0}")]
    Record(#[from] RecordError),
}

/// A cluster's rows, for an operator.
#[derive(Debug)]
pub struct ClusterRows {
    store: Store,
    keys: Keys,
}

impl ClusterRows {
    /// Those of the cluster that a configuration names. Has to be called inside a runtime.
    ///
    /// # Errors
    /// [`RowsError`], without asking the store.
    pub fn of(config: &Config) -> Result<Self, RowsError> {
        let control = config.control.as_ref().ok_or(RowsError::NoStore)?;
        Ok(Self { store: Store::new(control.access()?)?, keys: Keys::new(&control.prefix) })
    }

    /// Removes a node, and all that is behind it, from the tables of all others at once, and gives its ranges back. An
    /// agent that runs claims its name again. Says whether it could be done: not if the agent wrote at the same time.
    ///
    /// # Errors
    /// [`RowsError`].
    pub async fn remove_node(&self, name: &str) -> Result<bool, RowsError> {
        let key = KeyRange::One(self.keys.write(&Key::Node(name.to_owned())));
        let listing = self.store.get(&key, None).await?;
        let ranges = self.store.get(&self.keys.ranges(), None).await?;
        let lease = self.store.lease(REMOVAL_SECONDS).await?;
        let (conditions, operations) = removal(&self.keys, name, listing.rows.first(), &ranges.rows, lease.id());
        Ok(self.store.commit(&conditions, &operations, &[]).await?.succeeded)
    }

    /// Writes a foreign VTEP, in place of any with this address.
    ///
    /// # Errors
    /// [`RowsError`].
    pub async fn add_foreign(&self, peer: &ForeignVtep) -> Result<(), RowsError> {
        peer.check()?;
        let key = self.keys.write(&Key::Foreign(peer.address));
        self.store.put(key, record::write(peer).into(), None).await?;
        Ok(())
    }

    /// Removes a foreign VTEP, also where it is held since a store went back that has it no more; says whether the store
    /// had it.
    ///
    /// # Errors
    /// [`RowsError`].
    pub async fn remove_foreign(&self, address: IpAddr) -> Result<bool, RowsError> {
        let was_there = self.foreign().await?.iter().any(|peer| peer.address == address);
        let lease = self.store.lease(REMOVAL_SECONDS).await?;
        self.store.commit(&[], &[foreign_removal(&self.keys, address, lease.id())], &[]).await?;
        Ok(was_there)
    }

    /// All foreign VTEPs, but for those that were removed and rows that agents refuse.
    ///
    /// # Errors
    /// [`RowsError`].
    pub async fn foreign(&self) -> Result<Vec<ForeignVtep>, RowsError> {
        let listing = self.store.get(&self.keys.foreign(), None).await?;
        let read = |value: &[u8]| record::read::<ForeignVtep>(value).ok().filter(|peer| peer.check().is_ok());
        let is_there = |peer: &ForeignVtep| !peer.vnis.is_empty();
        Ok(listing.rows.iter().filter_map(|row| read(&row.value)).filter(is_there).collect())
    }
}
