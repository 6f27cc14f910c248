//! The same cases on etcd and on `weft store`: what agents rely on, said in numbers. Random sequences are in
//! `store_differential`.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_integration::{BOUND, Requirement, StoreClients, StoreKind, StoreNode, unmet};
use weft_store::KeyRange;
use weft_store::client::{Access, Condition, Operation, Store, StoreError, User, WatchEnd};
use weft_store::proto::etcdserverpb::request_op::Request;
use weft_store::proto::etcdserverpb::watch_request::RequestUnion;
use weft_store::proto::etcdserverpb::*;
use weft_store::proto::mvccpb::Event;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: bytes(key), value: bytes(value), ..PutRequest::default() }
}

fn all() -> RangeRequest {
    RangeRequest { key: bytes("\0"), range_end: bytes("\0"), ..RangeRequest::default() }
}

fn operations(requests: impl IntoIterator<Item = Request>) -> Vec<RequestOp> {
    requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect()
}

/// Writes, and says at which revision.
async fn write(clients: &mut StoreClients, key: &str, value: &str) -> i64 {
    clients.kv.put(put(key, value)).await.unwrap().into_inner().header.unwrap().revision
}

fn refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, words: &str) {
    let status = answer.unwrap_err();
    assert_eq!((status.code(), status.message()), (code, words));
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, what).await.expect("it comes in time")
}

/// A stream with one watcher.
struct Watcher {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watcher {
    async fn create(clients: &mut StoreClients, request: WatchCreateRequest) -> (Self, WatchResponse) {
        let (requests, stream) = mpsc::channel(16);
        let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
        requests.send(create).await.unwrap();
        let answers = clients.watch.watch(ReceiverStream::new(stream)).await.unwrap().into_inner();
        let mut watcher = Self { requests, answers };
        let created = watcher.next().await;
        assert!(created.created, "{created:?}");
        (watcher, created)
    }

    async fn ask(&mut self, request: RequestUnion) {
        self.requests.send(WatchRequest { request_union: Some(request) }).await.unwrap();
    }

    async fn next(&mut self) -> WatchResponse {
        soon(self.answers.message()).await.unwrap().unwrap()
    }

    async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.extend(self.next().await.events);
        }
        events
    }
}

fn watch(key: &str, end: &str, start_revision: i64) -> WatchCreateRequest {
    WatchCreateRequest { key: bytes(key), range_end: bytes(end), start_revision, ..WatchCreateRequest::default() }
}

async fn revisions_count_writes_and_changes_in_them(_: &StoreNode, mut clients: StoreClients) {
    assert_eq!(clients.kv.range(all()).await.unwrap().into_inner().header.unwrap().revision, 1);
    assert_eq!(write(&mut clients, "a", "1").await, 2);
    let nothing = DeleteRangeRequest { key: bytes("none"), ..DeleteRangeRequest::default() };
    assert_eq!(clients.kv.delete_range(nothing).await.unwrap().into_inner().header.unwrap().revision, 2);
    let (mut watcher, _) = Watcher::create(&mut clients, watch("\0", "\0", 3)).await;
    let success = operations([
        Request::RequestPut(put("b", "2")),
        Request::RequestRange(all()),
        Request::RequestPut(put("c", "3")),
        Request::RequestDeleteRange(DeleteRangeRequest { key: bytes("a"), ..DeleteRangeRequest::default() }),
    ]);
    let done = clients.kv.txn(TxnRequest { success, ..TxnRequest::default() }).await.unwrap().into_inner();
    assert_eq!((done.header.unwrap().revision, done.succeeded), (3, true));
    let events = watcher.events(3).await;
    let told: Vec<_> = events.iter().map(|event| event.kv.as_ref().unwrap()).collect();
    assert_eq!(told.iter().map(|kv| kv.key.as_ref()).collect::<Vec<_>>(), [b"b", b"c", b"a"]);
    assert!(told.iter().all(|kv| kv.mod_revision == 3), "{told:?}");
}

async fn too_much_is_refused(_: &StoreNode, mut clients: StoreClients) {
    let many = |count| operations((0..count).map(|number| Request::RequestPut(put(&format!("k{number}"), ""))));
    let fits = TxnRequest { success: many(128), ..TxnRequest::default() };
    clients.kv.txn(fits.clone()).await.unwrap();
    let words = "etcdserver: too many operations in txn request";
    let answer = clients.kv.txn(TxnRequest { failure: many(129), ..TxnRequest::default() }).await;
    refused(answer, Code::InvalidArgument, words);
    // What is nested counts, too.
    let nested = TxnRequest { success: operations([Request::RequestTxn(fits)]), ..TxnRequest::default() };
    refused(clients.kv.txn(nested).await, Code::InvalidArgument, words);
    let long = |bytes: usize| PutRequest { key: "long".into(), value: vec![1; bytes].into(), ..PutRequest::default() };
    clients.kv.put(long((3 << 19) - 100)).await.unwrap();
    refused(clients.kv.put(long((3 << 19) + 1)).await, Code::InvalidArgument, "etcdserver: request is too large");
    let grant = LeaseGrantRequest { ttl: 9_000_000_001, id: 0 };
    refused(clients.lease.lease_grant(grant).await, Code::OutOfRange, "etcdserver: too large lease TTL");
}

async fn a_lease_ends_with_all_its_keys_at_once(_: &StoreNode, mut clients: StoreClients) {
    let granted = clients.lease.lease_grant(LeaseGrantRequest { ttl: 1, id: 0 }).await.unwrap().into_inner();
    assert_eq!(granted.ttl, 2, "the shortest there is");
    assert!(granted.id > 0);
    for key in ["x2", "x1", "y"] {
        clients.kv.put(PutRequest { lease: granted.id, ..put(key, "") }).await.unwrap();
    }
    // It no longer goes with the lease.
    let last = write(&mut clients, "y", "").await;
    let (mut watcher, _) = Watcher::create(&mut clients, watch("x", "z", last + 1)).await;
    let began = Instant::now();
    let answer = watcher.next().await;
    // A second less, for what passed since it was granted; etcd looks every half second.
    assert!(began.elapsed() > Duration::from_secs(1), "{:?}", began.elapsed());
    let told: Vec<_> = answer.events.iter().map(|event| (event.r#type, event.kv.as_ref().unwrap())).collect();
    let told: Vec<_> = told.iter().map(|(kind, kv)| (*kind, kv.key.as_ref(), kv.mod_revision)).collect();
    assert_eq!(told, [(1, b"x1".as_slice(), last + 1), (1, b"x2", last + 1)]);
    let gone = LeaseTimeToLiveRequest { id: granted.id, keys: true };
    assert_eq!(clients.lease.lease_time_to_live(gone).await.unwrap().into_inner().ttl, -1);
    let words = "etcdserver: requested lease not found";
    refused(clients.lease.lease_revoke(LeaseRevokeRequest { id: granted.id }).await, Code::NotFound, words);
}

async fn a_watcher_of_the_past_is_told_all_of_it(_: &StoreNode, mut clients: StoreClients) {
    const WRITES: usize = 2500;
    let first = write(&mut clients, "k", "0").await;
    for number in 1..WRITES {
        write(&mut clients, if number % 5 == 0 { "other" } else { "k" }, &number.to_string()).await;
    }
    let request = WatchCreateRequest { prev_kv: true, ..watch("k", "", first) };
    let (mut watcher, created) = Watcher::create(&mut clients, request).await;
    assert_eq!(created.header.unwrap().revision, first + WRITES as i64 - 1);
    let events = watcher.events(WRITES / 5 * 4 + 1).await;
    for pair in events.windows(2) {
        assert_eq!(pair[1].prev_kv, pair[0].kv);
    }
    assert_eq!(events[0].prev_kv, None);
    let now = write(&mut clients, "k", "now").await;
    assert_eq!(watcher.events(1).await[0].kv.as_ref().unwrap().mod_revision, now);
}

async fn what_is_compacted_is_gone_and_the_rest_is_not(_: &StoreNode, mut clients: StoreClients) {
    let first = write(&mut clients, "a", "1").await;
    write(&mut clients, "b", "1").await;
    let last = write(&mut clients, "a", "2").await;
    let compact = |revision| CompactionRequest { revision, physical: true };
    clients.kv.compact(compact(last)).await.unwrap();
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    refused(clients.kv.compact(compact(last)).await, Code::OutOfRange, compacted);
    let future = "etcdserver: mvcc: required revision is a future revision";
    refused(clients.kv.compact(compact(last + 1)).await, Code::OutOfRange, future);
    refused(clients.kv.range(RangeRequest { revision: first, ..all() }).await, Code::OutOfRange, compacted);
    let rows = clients.kv.range(RangeRequest { revision: last, ..all() }).await.unwrap().into_inner().kvs;
    assert_eq!(rows.iter().map(|row| row.value.as_ref()).collect::<Vec<_>>(), [b"2", b"1"]);
    let (mut watcher, _) = Watcher::create(&mut clients, watch("a", "", first)).await;
    let end = watcher.next().await;
    assert_eq!((end.canceled, end.compact_revision, end.events.len()), (true, last, 0));
}

async fn watchers_share_a_stream_and_leave_it(_: &StoreNode, mut clients: StoreClients) {
    let (mut stream, first) = Watcher::create(&mut clients, watch("a", "", 0)).await;
    let named = WatchCreateRequest { watch_id: 7, ..watch("a", "c", 0) };
    stream.ask(RequestUnion::CreateRequest(named.clone())).await;
    let second = stream.next().await;
    assert_eq!((first.watch_id, second.watch_id), (0, 7));
    stream.ask(RequestUnion::CreateRequest(named)).await;
    let twice = stream.next().await;
    assert_eq!((twice.watch_id, twice.created, twice.canceled), (-1, true, true));
    assert_eq!(twice.cancel_reason, "mvcc: duplicate watch ID provided on the WatchStream");
    stream.ask(RequestUnion::CreateRequest(watch("c", "a", 0))).await;
    assert_eq!(stream.next().await.cancel_reason, "mvcc: watcher range is empty");
    write(&mut clients, "a", "").await;
    let told = BTreeSet::from([stream.next().await.watch_id, stream.next().await.watch_id]);
    assert_eq!(told, BTreeSet::from([0, 7]));
    stream.ask(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: 0 })).await;
    let gone = stream.next().await;
    assert_eq!((gone.watch_id, gone.canceled), (0, true));
    let revision = write(&mut clients, "a", "").await;
    assert_eq!(stream.next().await.watch_id, 7);
    stream.ask(RequestUnion::ProgressRequest(WatchProgressRequest {})).await;
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.header.unwrap().revision), (-1, revision));
}

async fn a_long_answer_is_cut_for_those_who_agreed(_: &StoreNode, mut clients: StoreClients) {
    let first = write(&mut clients, "first", "").await;
    let value = "v".repeat(1 << 20);
    for key in ["a", "b", "c", "d"] {
        write(&mut clients, key, &value).await;
    }
    let request = WatchCreateRequest { fragment: true, ..watch("a", "e", first) };
    clients.watch = clients.watch.max_decoding_message_size(64 << 20);
    let (mut watcher, _) = Watcher::create(&mut clients, request).await;
    let mut shape = Vec::new();
    while shape.last().is_none_or(|(_, fragment)| *fragment) {
        let answer = watcher.next().await;
        shape.push((answer.events.len(), answer.fragment));
    }
    assert_eq!(shape, [(1, true), (1, true), (1, true), (1, false)]);
}

async fn what_was_acknowledged_survives_kill_9(node: &mut StoreNode, clients: StoreClients) {
    let granted = clients.clone().lease.lease_grant(LeaseGrantRequest { ttl: 60, id: 5 }).await.unwrap().into_inner();
    let mut clients = clients;
    for round in 0..5 {
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let mut kv = clients.kv.clone();
            writers.spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let key = format!("{round}/{writer}/{number}");
                    let lease = if writer == 0 { granted.id } else { 0 };
                    let Ok(answer) = kv.put(PutRequest { lease, ..put(&key, "") }).await else { break };
                    acknowledged.push((key, answer.into_inner().header.unwrap().revision));
                }
                acknowledged
            });
        }
        // In the middle of it.
        let (mut watcher, _) = Watcher::create(&mut clients, watch("0", "9", 0)).await;
        watcher.events(100).await;
        node.kill();
        let mut acknowledged: Vec<_> = writers.join_all().await.concat();
        acknowledged.sort_by_key(|(_, revision)| *revision);
        clients = node.run().await;
        let kept = clients.kv.range(all()).await.unwrap().into_inner();
        let rows: std::collections::HashMap<_, _> =
            kept.kvs.iter().map(|row| (&row.key[..], row.mod_revision)).collect();
        for (key, revision) in &acknowledged {
            assert_eq!(rows.get(key.as_bytes()), Some(revision), "{key}");
        }
        assert!(acknowledged.len() >= 50, "{}", acknowledged.len());
        // One write, one revision: none is missing and none is there twice.
        let mut revisions: Vec<_> = rows.into_values().collect();
        revisions.sort_unstable();
        assert_eq!(revisions, (2..=kept.header.unwrap().revision).collect::<Vec<_>>());
        let left = LeaseTimeToLiveRequest { id: granted.id, keys: true };
        let left = clients.lease.lease_time_to_live(left).await.unwrap().into_inner();
        let leased = kept.kvs.iter().filter(|row| row.lease == granted.id).count();
        assert_eq!((left.granted_ttl, left.keys.len()), (60, leased));
        assert!(left.ttl >= 55, "a lease begins anew: {}", left.ttl);
    }
}

async fn the_client_gets_what_it_asks_for(node: &StoreNode, _: StoreClients) {
    let store = Store::new(Access::plain(format!("http://{}", node.address()))).unwrap();
    let lease = store.lease(10).await.unwrap();
    let key = bytes("node/1");
    let then = [Operation::Put(key.clone(), bytes("v"), Some(lease.id())), Operation::Get(KeyRange::prefix("node/"))];
    let done = store.commit(&[Condition::Absent(key.clone())], &then, &[]).await.unwrap();
    assert!(done.succeeded && done.rows[0][0].lease == lease.id(), "{done:?}");
    let mut watch = store.watch(KeyRange::prefix("node/"), done.revision);
    assert_eq!(soon(watch.next()).await.unwrap().revision, done.revision);
    let gone = store.put(key, bytes("v"), Some(1)).await;
    assert_eq!(gone, Err(StoreError::Refused(weft_store::Refusal::LeaseNotFound)));
    lease.revoke().await.unwrap();
    let deleted = soon(watch.next()).await.unwrap();
    assert_eq!((deleted.revision, deleted.events[0].r#type), (done.revision + 1, 1));
    assert_eq!(store.get(&KeyRange::prefix("node/"), Some(done.revision)).await.unwrap().rows.len(), 1);
    assert_eq!(store.get(&KeyRange::prefix("node/"), None).await.unwrap().rows, []);
}

/// A way to a store that can be broken.
struct Relay {
    address: std::net::SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Relay {
    async fn to(store: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, store) = (listener.local_addr().unwrap(), store.to_owned());
        let connections = Arc::<Mutex<Vec<AbortHandle>>>::default();
        let made = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = TcpStream::connect(&store).await.unwrap();
                let passing = tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
                made.lock().unwrap().push(passing.abort_handle());
            }
        });
        Self { address, connections }
    }

    /// Ends all connections; new ones are passed on.
    fn cut(&self) {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        assert!(!connections.is_empty());
        connections.into_iter().for_each(|connection| connection.abort());
    }
}

/// Others share the store, and what they write is compacted: that ends no watch that has all up to there.
async fn a_quiet_watch_goes_on_when_what_others_wrote_is_compacted(node: &StoreNode, mut clients: StoreClients) {
    let relay = Relay::to(node.address()).await;
    let store = Store::new(Access::plain(format!("http://{}", relay.address))).unwrap();
    let rows = KeyRange::prefix("weft/");
    for key in ["weft/kept", "weft/deleted"] {
        write(&mut clients, key, "1").await;
    }
    // One that listed long after the last write, and one that was told of a deletion.
    for value in 0..10 {
        write(&mut clients, "other", &value.to_string()).await;
    }
    let listing = store.get(&rows, None).await.unwrap();
    let mut listed = store.watch(rows.clone(), listing.revision + 1).after(&listing.rows);
    let mut told = store.watch(KeyRange::prefix("weft/deleted"), listing.revision + 1);
    let delete = DeleteRangeRequest { key: bytes("weft/deleted"), ..DeleteRangeRequest::default() };
    let deletion = clients.kv.delete_range(delete).await.unwrap().into_inner().header.unwrap().revision;
    for watch in [&mut listed, &mut told] {
        assert_eq!(soon(watch.next()).await.unwrap().revision, deletion);
    }
    let again = store.get(&rows, None).await.unwrap();
    let mut listed_again = store.watch(rows, again.revision + 1).after(&again.rows);
    let compact = |revision| CompactionRequest { revision, physical: true };
    clients.kv.compact(compact(deletion)).await.unwrap();
    relay.cut();
    let written = write(&mut clients, "weft/deleted", "2").await;
    for watch in [&mut listed, &mut told, &mut listed_again] {
        let batch = soon(watch.next()).await.unwrap_or_else(|end| panic!("{end}: {watch:?}"));
        assert_eq!((batch.revision, batch.events.len()), (written, 1));
    }
    // What has to be told is gone: then there is no way on.
    let next = write(&mut clients, "weft/deleted", "3").await;
    for watch in [&mut listed, &mut told, &mut listed_again] {
        assert_eq!(soon(watch.next()).await.unwrap().revision, next);
    }
    relay.cut();
    write(&mut clients, "weft/deleted", "never told").await;
    let last = write(&mut clients, "weft/deleted", "4").await;
    clients.kv.compact(compact(last)).await.unwrap();
    for watch in [&mut listed, &mut told, &mut listed_again] {
        let end = soon(watch.next()).await;
        assert!(matches!(end, Err(WatchEnd::Compacted { .. })), "{end:?}");
    }
}

/// Runs etcdctl's commands one after another; each has to print what is expected of it.
async fn etcdctl_works(node: &StoreNode, _: StoreClients) {
    let etcdctl = |arguments: &str, input: &str| {
        use std::io::Write;
        let mut command = std::process::Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", node.address()]).args(arguments.split_whitespace());
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
        let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = weft_integration::Output::from(child.wait_with_output().unwrap());
        (output.status.success(), output.stdout + &output.stderr)
    };
    let says = |arguments: &str, expected: &str| {
        let (success, said) = etcdctl(arguments, "");
        assert!(success && said.contains(expected), "etcdctl {arguments}: {said}");
    };
    says("put a 1", "OK");
    says("put a 2 --prev-kv", "OK\na\n1");
    says("get a --rev 2 --print-value-only", "1");
    says("get --prefix a -w fields", "\"ModRevision\" : 3");
    let (success, said) = etcdctl("txn", "value(\"a\") = \"2\"\n\nput b 3\nget b\n\nput c 4\n\n");
    assert!(success && said.contains("SUCCESS\n\nOK\n\nb\n3"), "{said}");
    says("del b --prev-kv", "1\nb\n3");
    says("lease grant 100", "granted with TTL(100s)");
    let (_, leases) = etcdctl("lease list", "");
    let lease = leases.lines().last().unwrap().to_owned();
    says(&format!("put leased x --lease={lease}"), "OK");
    says(&format!("lease keep-alive --once {lease}"), "keepalived with TTL(100)");
    says(&format!("lease timetolive {lease} --keys"), "attached keys([leased])");
    says(&format!("lease revoke {lease}"), "revoked");
    says("get leased -w fields", "\"Count\" : 0");
    says("endpoint health", "is healthy");
    says("endpoint status -w fields", "\"Revision\" : 7");
    says("compaction 4 --physical", "compacted revision 4");
    let (success, said) = etcdctl("get a --rev 2", "");
    assert!(!success && said.contains("required revision has been compacted"), "{said}");
    // It goes on for ever: what it says of the past is enough.
    let (mut printed, print) = std::io::pipe().unwrap();
    let mut command = std::process::Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", node.address(), "watch", "--rev", "5", "", "--prefix"]);
    command.stdout(print).stderr(std::process::Stdio::null());
    let watching = weft_integration::Child::spawn(command);
    let expected = "DELETE\nb\n\nPUT\nleased\nx\nDELETE\nleased\n\n";
    let mut said = vec![0; expected.len()];
    let read = tokio::task::spawn_blocking(move || {
        std::io::Read::read_exact(&mut printed, &mut said).unwrap();
        String::from_utf8(said).unwrap()
    });
    assert_eq!(soon(read).await.unwrap(), expected);
    drop(watching);
}

macro_rules! cases {
    ($($case:ident $(needs $tool:literal)? ;)*) => {
        cases!(@ etcd, Etcd, ["etcd"]; $($case [$($tool)?])*);
        cases!(@ weft, Weft, []; $($case [$($tool)?])*);
    };
    (@ $module:ident, $kind:ident, $needed:tt; $($case:ident [$($tool:literal)?])*) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $case() {
                    let needed: &[&'static str] = &$needed;
                    let tools = needed.iter().chain(&[$($tool)?] as &[&'static str]);
                    let needed: Vec<_> = tools.map(|tool| Requirement::Tool(tool)).collect();
                    if unmet(concat!(stringify!($module), "::", stringify!($case)), &needed) {
                        return;
                    }
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    runtime.block_on(async {
                        let (mut node, clients) = StoreNode::start(StoreKind::$kind, stringify!($case)).await;
                        super::$case(&mut node, clients).await;
                    });
                }
            )*
        }
    };
}

cases! {
    revisions_count_writes_and_changes_in_them;
    too_much_is_refused;
    a_lease_ends_with_all_its_keys_at_once;
    a_watcher_of_the_past_is_told_all_of_it;
    what_is_compacted_is_gone_and_the_rest_is_not;
    watchers_share_a_stream_and_leave_it;
    a_long_answer_is_cut_for_those_who_agreed;
    what_was_acknowledged_survives_kill_9;
    the_client_gets_what_it_asks_for;
    a_quiet_watch_goes_on_when_what_others_wrote_is_compacted;
    etcdctl_works needs "etcdctl";
}

#[test]
fn a_user_of_etcd_gets_in_with_the_password() {
    let needed = [Requirement::Tool("etcd"), Requirement::Tool("etcdctl")];
    if unmet("a_user_of_etcd_gets_in_with_the_password", &needed) {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (node, _) = StoreNode::start(StoreKind::Etcd, "user").await;
        for arguments in ["user add root:secret", "user grant-role root root", "auth enable"] {
            let mut command = std::process::Command::new("etcdctl");
            command.env("ETCDCTL_API", "3").args(["--endpoints", node.address()]).args(arguments.split(' '));
            let output = weft_integration::Output::from(command.output().unwrap());
            assert!(output.status.success(), "{arguments}: {output:?}");
        }
        let endpoints = vec![format!("http://{}", node.address())];
        let ask = async |password: Option<&str>| {
            let user = password.map(|password| User { name: "root".to_owned(), password: password.to_owned() });
            let store = Store::new(Access { endpoints: endpoints.clone(), tls: None, user }).unwrap();
            let written = store.put(bytes("a"), bytes("1"), None).await?;
            let lease = store.lease(5).await?;
            let mut watch = store.watch(KeyRange::prefix("a"), written);
            assert_eq!(soon(watch.next()).await.unwrap().events.len(), 1);
            lease.revoke().await
        };
        assert_eq!(ask(Some("secret")).await, Ok(()));
        for password in [None, Some("guess")] {
            let denied = ask(password).await;
            assert!(matches!(denied, Err(StoreError::Denied(_))), "{denied:?}");
        }
    });
}
