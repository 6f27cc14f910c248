//! The state on disk: one redb file, each version under its revision. Nothing is read after the start.

mod backend;

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use prost::Message;
use redb::backends::FileBackend;
use redb::{Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::mvcc::{Change, Revision, State};
use crate::proto::mvccpb::KeyValue;
use backend::Unsynced;

const FILE: &str = "store.redb";
/// Of the tables below; another one is refused.
const FORMAT: i64 = 1;
/// redb's own; everything is in memory anyway.
const CACHE: usize = 16 << 20; // bytes

const HISTORY: TableDefinition<(i64, i64), &[u8]> = TableDefinition::new("history");
/// Seconds by lease.
const LEASES: TableDefinition<i64, i64> = TableDefinition::new("leases");
const META: TableDefinition<&str, i64> = TableDefinition::new("meta");

/// When an acknowledged write survives what.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// It survives the machine: an answer waits until the disk has the write.
    #[default]
    Synced,
    /// It survives the process, not the machine: for labs and tests. After a power failure the file may be unreadable.
    Relaxed,
}

/// Why the store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Another process has it.
    #[error("{}: another store is open there: stop it first, or give this one another directory", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
    },
    /// Something newer or something else wrote it.
    #[error("{}: format {found}, this program reads {FORMAT}: use the program that wrote it", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The version of the format that it names.
        found: i64,
    },
    /// The directory or file cannot be made or written.
    #[error("{}: {source}: the store needs a directory that it may write", path.display())]
    Io {
        /// The directory or file.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The file cannot be read or written as a database.
    #[error("{}: {source}: look at the disk's space and health; what was acknowledged is in the file", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// redb's answer.
        source: Box<redb::Error>,
    },
}

/// Who answers, as every header says it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Id of the store, random, chosen when the file was made.
    pub cluster: u64,
    /// Id of its one member, random, chosen when the file was made.
    pub member: u64,
    /// How often it was opened.
    pub term: u64,
}

pub(crate) struct Disk {
    path: PathBuf,
    database: Database,
}

impl Disk {
    /// Opens what is in that directory, or makes it.
    pub(crate) fn open(directory: &Path, durability: Durability) -> Result<(Self, Identity, State), DiskError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| DiskError::Io { path, source }
        };
        std::fs::create_dir_all(directory).map_err(io(directory))?;
        let path = directory.join(FILE);
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(io(&path))?;
        // The file's name is on the disk before anything in it is acknowledged.
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(io(directory))?;
        let opened = FileBackend::new(file).and_then(|file| {
            let mut builder = Builder::new();
            builder.set_cache_size(CACHE);
            match durability {
                Durability::Synced => builder.create_with_backend(file),
                Durability::Relaxed => builder.create_with_backend(Unsynced(file)),
            }
        });
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => DiskError::Taken { path: path.clone() },
            error => DiskError::Database { path: path.clone(), source: Box::new(error.into()) },
        })?;
        let disk = Self { path, database };
        let identity = disk.begin()?;
        let state = disk.load().map_err(|error| disk.failed(error))?;
        Ok((disk, identity, state))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn failed(&self, error: redb::Error) -> DiskError {
        DiskError::Database { path: self.path.clone(), source: Box::new(error) }
    }

    /// Makes the tables of a new file, and counts this start.
    fn begin(&self) -> Result<Identity, DiskError> {
        let begin = || -> Result<(i64, Identity), redb::Error> {
            let write = self.database.begin_write()?;
            let (format, identity) = {
                write.open_table(HISTORY)?;
                write.open_table(LEASES)?;
                let mut meta = write.open_table(META)?;
                let format = number(&mut meta, "format", || FORMAT)?;
                let cluster = number(&mut meta, "cluster", random)?;
                let member = number(&mut meta, "member", random)?;
                let term = number(&mut meta, "starts", || 0)? + 1;
                meta.insert("starts", term)?;
                let [cluster, member, term] = [cluster, member, term].map(i64::cast_unsigned);
                (format, Identity { cluster, member, term })
            };
            if format == FORMAT {
                write.commit()?;
            }
            Ok((format, identity))
        };
        match begin().map_err(|error| self.failed(error))? {
            (FORMAT, identity) => Ok(identity),
            (found, _) => Err(DiskError::Format { path: self.path.clone(), found }),
        }
    }

    fn load(&self) -> Result<State, redb::Error> {
        let read = self.database.begin_read()?;
        let meta = read.open_table(META)?;
        let number = |name, default| meta.get(name).map(|found| found.map_or(default, |found| found.value()));
        let (revision, compacted) = (number("revision", 1)?, number("compacted", -1)?);
        let mut log = Vec::new();
        for entry in read.open_table(HISTORY)?.iter()? {
            let (revision, version) = entry?;
            let ((main, sub), version) = (revision.value(), KeyValue::decode(version.value()));
            let version = version.map_err(|error| redb::Error::Corrupted(format!("revision {main}.{sub}: {error}")))?;
            log.push((Revision { main, sub }, version));
        }
        let leases = read.open_table(LEASES)?;
        let leases = leases.iter()?.map(|entry| entry.map(|(id, ttl)| (id.value(), ttl.value())));
        let leases = leases.collect::<Result<Vec<_>, _>>()?;
        Ok(State::restore(log, leases, revision, compacted, Duration::ZERO))
    }

    /// Writes changes down, all or none; after it returns they are there to stay.
    pub(crate) fn write(&self, changes: &[Change]) -> Result<(), DiskError> {
        self.try_write(changes).map_err(|error| self.failed(error))
    }

    fn try_write(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let write = self.database.begin_write()?;
        {
            let mut history = write.open_table(HISTORY)?;
            let mut leases = write.open_table(LEASES)?;
            let mut meta = write.open_table(META)?;
            for change in changes {
                match change {
                    Change::Version(at, version) => {
                        history.insert((at.main, at.sub), version.encode_to_vec().as_slice())?;
                    }
                    Change::Granted(id, ttl) => {
                        leases.insert(id, ttl)?;
                    }
                    Change::Ended(id) => {
                        leases.remove(id)?;
                    }
                    Change::Compacted { at, revision, removed } => {
                        meta.insert("compacted", at)?;
                        meta.insert("revision", revision)?;
                        for revision in removed {
                            history.remove((revision.main, revision.sub))?;
                        }
                    }
                }
            }
        }
        write.commit()?;
        Ok(())
    }
}

type Meta<'a> = redb::Table<'a, &'static str, i64>;

/// The number of that name, which is made if it is not there.
fn number(meta: &mut Meta<'_>, name: &'static str, make: impl FnOnce() -> i64) -> Result<i64, redb::Error> {
    if let Some(found) = meta.get(name)? {
        return Ok(found.value());
    }
    let made = make();
    meta.insert(name, made)?;
    Ok(made)
}

/// Positive, as ids of etcd's are to some of its tools.
pub(crate) fn random() -> i64 {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    debug_assert_eq!(filled, Ok(bytes.len()), "eight bytes are never refused nor cut");
    (i64::from_ne_bytes(bytes) & i64::MAX).max(1)
}
