//! Foreign VTEPs in the store: the rows that an operator writes.

use std::net::IpAddr;

use weft_store::KeyRange;
use weft_store::client::{AccessError, Condition, Operation, Store, StoreError};

use crate::cluster::record::{self, ForeignVtep, RecordError};
use crate::cluster::{Key, Keys};
use crate::config::{Config, FileError};

/// Why the foreign VTEPs were not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
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

/// The foreign VTEPs of a cluster.
#[derive(Debug)]
pub struct Peers {
    store: Store,
    keys: Keys,
}

impl Peers {
    /// Those of the cluster that a configuration names. Has to be called inside a runtime.
    ///
    /// # Errors
    /// [`PeersError`], without asking the store.
    pub fn of(config: &Config) -> Result<Self, PeersError> {
        let control = config.control.as_ref().ok_or(PeersError::NoStore)?;
        Ok(Self { store: Store::new(control.access()?)?, keys: Keys::new(&control.prefix) })
    }

    /// Writes one, in place of any with this address.
    ///
    /// # Errors
    /// [`PeersError`].
    pub async fn add(&self, peer: &ForeignVtep) -> Result<(), PeersError> {
        peer.check()?;
        let key = self.keys.write(&Key::Foreign(peer.address));
        self.store.put(key, record::write(peer).into(), None).await?;
        Ok(())
    }

    /// Removes one; says whether there was one.
    ///
    /// # Errors
    /// [`PeersError`].
    pub async fn remove(&self, address: IpAddr) -> Result<bool, PeersError> {
        let key = self.keys.write(&Key::Foreign(address));
        let delete = [Operation::Delete(KeyRange::One(key.clone()))];
        Ok(self.store.commit(&[Condition::Present(key)], &delete, &[]).await?.succeeded)
    }

    /// All of them, but for rows that agents refuse.
    ///
    /// # Errors
    /// [`PeersError`].
    pub async fn list(&self) -> Result<Vec<ForeignVtep>, PeersError> {
        let listing = self.store.get(&self.keys.foreign(), None).await?;
        let read = |value: &[u8]| record::read::<ForeignVtep>(value).ok().filter(|peer| peer.check().is_ok());
        Ok(listing.rows.iter().filter_map(|row| read(&row.value)).collect())
    }
}
