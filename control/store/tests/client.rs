//! The client, with servers that stay, go, come back and are not what they were.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod served;

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;
use served::{Directory, Served, runtime, settings};
use weft_store::client::{Access, AccessError, Condition, Operation, Store, StoreError, WatchEnd};
use weft_store::{KeyRange, Refusal, Server};

impl Served {
    /// A client; inside a runtime.
    fn store(&self) -> Store {
        Store::new(Access::plain(format!("http://{}", self.address))).unwrap()
    }
}

/// Nothing here takes as long, on however slow a machine.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// Writes, as soon as the store is there: nothing here is harmed by a second attempt.
async fn put(store: &Store, key: &str, value: &str) -> i64 {
    loop {
        match soon(store.put(bytes(key), bytes(value), None)).await {
            Err(StoreError::Unavailable { .. }) => {}
            written => return written.unwrap(),
        }
    }
}

#[test]
fn a_long_listing_is_of_one_revision() {
    let directory = Directory::new("listing");
    let served = Served::plain(&directory.0);
    runtime().block_on(async {
        let store = served.store();
        // More than two parts.
        for hundred in 0..110 {
            let row = |number| bytes(&format!("row/{hundred:03}{number:02}"));
            let rows: Vec<_> = (0..100).map(|number| Operation::Put(row(number), bytes("old"), None)).collect();
            assert!(store.commit(&[], &rows, &[]).await.unwrap().succeeded);
        }
        let first = store.get(&KeyRange::prefix("row/"), None).await.unwrap();
        put(&store, "row/00000", "new").await;
        put(&store, "rox", "not in it").await;
        let again = store.get(&KeyRange::prefix("row/"), Some(first.revision)).await.unwrap();
        assert_eq!(again, first);
        assert_eq!(first.rows.len(), 11_000);
        assert!(first.rows.is_sorted_by(|a, b| a.key < b.key));
        let now = store.get(&KeyRange::prefix("row/"), None).await.unwrap();
        assert_eq!((now.revision, now.rows[0].value.as_ref()), (first.revision + 2, b"new".as_slice()));
    });
}

#[test]
fn one_of_two_who_claim_a_row_gets_it() {
    let directory = Directory::new("claim");
    let served = Served::plain(&directory.0);
    runtime().block_on(async {
        let store = served.store();
        let key = bytes("claimed");
        let claim = async |who: &str| {
            let then = [Operation::Put(key.clone(), bytes(who), None)];
            let otherwise = [Operation::Get(KeyRange::One(key.clone()))];
            store.commit(&[Condition::Absent(key.clone())], &then, &otherwise).await.unwrap()
        };
        let (first, second) = (claim("first").await, claim("second").await);
        assert!(first.succeeded && !second.succeeded);
        assert_eq!(second.rows[0][0].value, "first");
        let seen = second.rows[0][0].mod_revision;
        let delete = [Operation::Delete(KeyRange::One(key.clone()))];
        assert!(!store.commit(&[Condition::Unchanged(key.clone(), seen + 1)], &delete, &[]).await.unwrap().succeeded);
        assert!(store.commit(&[Condition::Unchanged(key.clone(), seen)], &delete, &[]).await.unwrap().succeeded);
        assert!(!store.commit(&[Condition::Present(key.clone())], &[], &[]).await.unwrap().succeeded);
        let unleased = store.put(key.clone(), bytes("x"), Some(77)).await;
        assert_eq!(unleased, Err(StoreError::Refused(Refusal::LeaseNotFound)));
    });
}

#[test]
fn a_watch_goes_on_when_the_store_comes_back() {
    let directory = Directory::new("resume");
    let served = Served::plain(&directory.0);
    let address = served.address;
    runtime().block_on(async {
        let store = served.store();
        let revision = put(&store, "a", "1").await;
        let mut watch = store.watch(KeyRange::prefix("a"), revision);
        assert_eq!(soon(watch.next()).await.unwrap().events.len(), 1);
        drop(served);
        let away = store.put(bytes("a"), bytes("lost"), None).await;
        assert!(matches!(away, Err(StoreError::Unavailable { .. })), "{away:?}");
        let served = Served::start(settings(&directory.0, address));
        let mut written = Vec::new();
        for value in ["2", "3"] {
            written.push(put(&store, "a", value).await);
        }
        let mut told = Vec::new();
        while told.len() < 2 {
            let batch = soon(watch.next()).await.unwrap();
            told.extend(batch.events.into_iter().map(|event| event.kv.unwrap().mod_revision));
        }
        assert_eq!(told, written);
        drop(served);
    });
}

#[test]
fn a_watch_of_what_was_compacted_says_so() {
    let directory = Directory::new("compacted");
    let mut settings = settings(&directory.0, ([127, 0, 0, 1], 0).into());
    settings.keep = 10;
    let served = Served::start(settings);
    runtime().block_on(async {
        let store = served.store();
        let first = put(&store, "a", "0").await;
        for number in 0..100 {
            put(&store, "a", &number.to_string()).await;
        }
        let mut watch = store.watch(KeyRange::prefix("a"), first);
        let Err(WatchEnd::Compacted { at }) = soon(watch.next()).await else { panic!("it was compacted") };
        let listing = store.get(&KeyRange::prefix("a"), None).await.unwrap();
        assert!(at > first && at <= listing.revision - 10, "{at} of {}", listing.revision);
        let gone = store.get(&KeyRange::prefix("a"), Some(first)).await;
        assert_eq!(gone, Err(StoreError::Refused(Refusal::Compacted)));
        let mut watch = store.watch(KeyRange::prefix("a"), listing.revision + 1);
        let written = put(&store, "a", "new").await;
        assert_eq!(soon(watch.next()).await.unwrap().revision, written);
    });
}

#[test]
fn a_store_from_a_backup_is_noticed() {
    let (directory, backup) = (Directory::new("live"), Directory::new("backup"));
    let file = |directory: &Directory| directory.0.join("store.redb");
    let served = Served::plain(&directory.0);
    let address = served.address;
    runtime().block_on(async {
        let store = served.store();
        put(&store, "a", "kept").await;
        drop(served);
        std::fs::copy(file(&directory), file(&backup)).unwrap();
        let served = Served::start(settings(&directory.0, address));
        let mut last = 0;
        for number in 0..20 {
            last = put(&store, "a", &number.to_string()).await;
        }
        let mut watch = store.watch(KeyRange::prefix("a"), last);
        assert_eq!(soon(watch.next()).await.unwrap().revision, last);
        drop(served);
        let served = Served::start(settings(&backup.0, address));
        assert_eq!(soon(watch.next()).await, Err(WatchEnd::Replaced));
        // Told once; now the old state is what counts.
        let listing = soon(store.get(&KeyRange::prefix("a"), None)).await.unwrap();
        assert_eq!(listing.rows[0].value, "kept");
        assert_eq!(soon(watch.next()).await, Err(WatchEnd::Replaced), "the same watch never goes on");
        let written = put(&store, "a", "again").await;
        let mut watch = store.watch(KeyRange::prefix("a"), listing.revision + 1);
        assert_eq!(soon(watch.next()).await.unwrap().revision, written);
        drop(served);
        // And one that is another altogether.
        let other = Directory::new("other");
        let served = Served::start(settings(&other.0, address));
        let replaced = loop {
            match soon(store.get(&KeyRange::prefix("a"), None)).await {
                Err(StoreError::Unavailable { .. }) => {}
                answer => break answer,
            }
        };
        let Err(StoreError::Replaced { was, now }) = replaced else { panic!("{replaced:?}") };
        assert!(was.cluster != now.cluster && was.revision > now.revision, "{was} {now}");
        drop(served);
    });
}

#[test]
fn a_backup_that_overtook_what_was_seen_is_noticed_by_its_history() {
    let (directory, backup) = (Directory::new("seen"), Directory::new("overtaking"));
    let file = |directory: &Directory| directory.0.join("store.redb");
    let served = Served::plain(&directory.0);
    let address = served.address;
    runtime().block_on(async {
        put(&served.store(), "a", "kept").await;
        drop(served);
        std::fs::copy(file(&directory), file(&backup)).unwrap();
        let served = Served::start(settings(&directory.0, address));
        // One watches from what it listed, one from what it was told, and one was told of a deletion.
        let stores = [(); 3].map(|()| served.store());
        put(&stores[0], "a", "seen").await;
        let listing = stores[0].get(&KeyRange::prefix("a"), None).await.unwrap();
        let listed = stores[0].watch(KeyRange::prefix("a"), listing.revision + 1).after(&listing.rows);
        let mut told = stores[1].watch(KeyRange::prefix("a"), listing.revision);
        assert_eq!(soon(told.next()).await.unwrap().revision, listing.revision);
        let mut deleted = stores[2].watch(KeyRange::prefix("b"), listing.revision);
        let at = put(&stores[2], "b", "gone").await;
        let delete = [Operation::Delete(KeyRange::prefix("b"))];
        stores[2].commit(&[], &delete, &[]).await.unwrap();
        while soon(deleted.next()).await.unwrap().revision <= at {}
        drop(served);
        // What listens elsewhere at first is written to by another, until it is further than any was.
        let elsewhere = Served::plain(&backup.0);
        let other = elsewhere.store();
        for value in 0..20 {
            put(&other, "b", &value.to_string()).await;
        }
        drop((elsewhere, other));
        let _served = Served::start(settings(&backup.0, address));
        for mut watch in [listed, told, deleted] {
            assert_eq!(soon(watch.next()).await, Err(WatchEnd::Replaced));
        }
    });
}

#[test]
fn the_next_endpoint_is_asked_when_one_is_away() {
    let directory = Directory::new("endpoints");
    let served = Served::plain(&directory.0);
    // Bound, and never listened at.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    runtime().block_on(async {
        let endpoints = vec![format!("http://{nobody}"), format!("http://{}", served.address)];
        let store = Store::new(Access { endpoints, ..Access::default() }).unwrap();
        assert_eq!(soon(store.get(&KeyRange::prefix(""), None)).await.unwrap().rows, []);
        put(&store, "a", "1").await;
        for (endpoint, said) in [("10.0.0.1:2379", "http:"), ("https://10.0.0.1", "certificates")] {
            let refused = Store::new(Access::plain(endpoint)).unwrap_err();
            assert!(matches!(refused, AccessError::Endpoint { .. }) && refused.to_string().contains(said), "{refused}");
        }
    });
}

#[test]
fn a_lease_lives_as_long_as_its_holder_and_says_when_it_is_lost() {
    let directory = Directory::new("lease");
    let served = Served::plain(&directory.0);
    runtime().block_on(async {
        let store = served.store();
        let lease = store.lease(2).await.unwrap();
        let began = Instant::now();
        let written = store.put(bytes("mine"), bytes("1"), Some(lease.id())).await.unwrap();
        let mut watch = store.watch(KeyRange::prefix("mine"), written + 1);
        // Longer than it would last.
        let early = tokio::time::timeout(lease.ttl() * 2, watch.next()).await;
        assert!(early.is_err(), "{early:?} after {:?}", began.elapsed());
        let second = store.lease(2).await.unwrap();
        let id = lease.id();
        lease.revoke().await.unwrap();
        let batch = soon(watch.next()).await.unwrap();
        assert_eq!(batch.events[0].r#type, 1, "{batch:?}");
        assert_eq!(
            store.put(bytes("mine"), bytes("2"), Some(id)).await,
            Err(StoreError::Refused(Refusal::LeaseNotFound))
        );
        // A store that forgot it.
        let address = served.address;
        drop(served);
        let other = Directory::new("lease-other");
        let served = Served::start(settings(&other.0, address));
        soon(second.lost()).await;
        drop(served);
    });
}

#[test]
fn a_lease_that_cannot_be_renewed_counts_as_lost() {
    let directory = Directory::new("unreachable");
    let served = Served::plain(&directory.0);
    runtime().block_on(async {
        let store = served.store();
        let lease = store.lease(2).await.unwrap();
        drop(served);
        let began = Instant::now();
        soon(lease.lost()).await;
        assert!(began.elapsed() < lease.ttl() + Duration::from_secs(2), "{:?}", began.elapsed());
    });
}

#[test]
fn a_thousand_watchers_are_told_everything() {
    const WATCHERS: usize = 1000;
    const WRITES: usize = 10;
    let directory = Directory::new("watchers");
    let served = Served::plain(&directory.0);
    runtime().block_on(async {
        let store = served.store();
        let first = put(&store, "a/0", "0").await;
        let watchers = (0..WATCHERS).map(|number| {
            // Some of them over a connection of their own.
            let store = if number % 10 == 0 { served.store() } else { store.clone() };
            tokio::spawn(async move {
                let mut watch = store.watch(KeyRange::prefix("a/"), first);
                let mut told = Vec::new();
                while told.len() <= WRITES {
                    let batch = watch.next().await.unwrap();
                    told.extend(batch.events.into_iter().map(|event| event.kv.unwrap().mod_revision));
                }
                told
            })
        });
        let watchers: Vec<_> = watchers.collect();
        let mut written = vec![first];
        for number in 0..WRITES {
            written.push(put(&store, &format!("a/{number}"), "x").await);
        }
        for watcher in watchers {
            assert_eq!(soon(watcher).await.unwrap(), written);
        }
    });
}

#[test]
fn a_watcher_that_does_not_read_misses_nothing() {
    const WRITES: usize = 4000;
    let directory = Directory::new("slow");
    let served = Served::plain(&directory.0);
    runtime().block_on(async {
        let store = served.store();
        let first = put(&store, "a", "first").await;
        // A connection of its own: what is not read there stops nobody else.
        let mut watch = served.store().watch(KeyRange::prefix("a"), first);
        assert_eq!(soon(watch.next()).await.unwrap().revision, first);
        let value = "v".repeat(1 << 10);
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..40 {
            let (store, value) = (store.clone(), value.clone());
            writers.spawn(async move {
                for number in 0..WRITES / 40 {
                    put(&store, &format!("a/{writer}/{number}"), &value).await;
                }
            });
        }
        soon(writers.join_all()).await;
        let mut told = Vec::new();
        while told.len() < WRITES {
            let batch = soon(watch.next()).await.unwrap();
            told.extend(batch.events.into_iter().map(|event| event.kv.unwrap().mod_revision));
        }
        assert_eq!(told, (first + 1..=first + WRITES as i64).collect::<Vec<_>>());
        let last = put(&store, "a", "last").await;
        assert_eq!(soon(watch.next()).await.unwrap().revision, last);
    });
}

#[test]
fn a_quiet_watcher_is_told_how_far_the_store_is() {
    let directory = Directory::new("quiet");
    let mut settings = settings(&directory.0, ([127, 0, 0, 1], 0).into());
    settings.progress = Duration::from_millis(100);
    let served = Served::start(settings);
    runtime().block_on(async {
        let store = served.store();
        let first = put(&store, "a", "1").await;
        let mut watch = store.watch(KeyRange::prefix("a"), first);
        assert_eq!(soon(watch.next()).await.unwrap().events.len(), 1);
        let elsewhere = put(&store, "b", "1").await;
        let batch = soon(watch.next()).await.unwrap();
        assert_eq!((batch.revision, batch.events), (elsewhere, Vec::new()));
    });
}

#[test]
fn a_second_store_on_the_same_data_is_refused() {
    let directory = Directory::new("taken");
    let served = Served::plain(&directory.0);
    runtime().block_on(async {
        let second = Server::open(settings(&directory.0, ([127, 0, 0, 1], 0).into())).await;
        let refused = second.err().unwrap().to_string();
        assert!(refused.contains("another store is open there"), "{refused}");
        let port = Server::open(settings(&Directory::new("port").0, served.address)).await;
        let refused = port.err().unwrap().to_string();
        assert!(refused.contains("choose an address"), "{refused}");
    });
    drop(served);
    let file = directory.0.join("store.redb");
    std::fs::write(&file, "no database").unwrap();
    runtime().block_on(async {
        let broken = Server::open(settings(&directory.0, ([127, 0, 0, 1], 0).into())).await;
        let refused = broken.err().unwrap().to_string();
        assert!(refused.contains(file.to_str().unwrap()), "{refused}");
    });
}
