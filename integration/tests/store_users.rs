//! An etcd that has users: they change while agents work, and tokens end.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::future::Future;

use bytes::Bytes;
use weft_integration::{BOUND, Requirement, StoreNode, test_name, unmet};
use weft_store::KeyRange;
use weft_store::client::{Access, Store, StoreError, User};

/// Of the lease; renewed three times in it.
const LEASE_SECONDS: u32 = 2;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, what).await.expect("it comes in time")
}

fn etcdctl(node: &StoreNode, words: &str) {
    let mut command = std::process::Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--endpoints", node.address()]).args(words.split(' '));
    let output = weft_integration::Output::from(command.output().unwrap());
    assert!(output.status.success(), "{words}: {output:?}");
}

/// What an agent does goes on: it reads, writes, and its lease lives.
async fn goes_on(store: &Store, value: &str) -> Result<(), StoreError> {
    let written = store.put(bytes("/weft/a"), bytes(value), None).await?;
    let listing = store.get(&KeyRange::prefix("/weft/"), None).await?;
    assert_eq!((listing.revision, &listing.rows[0].value[..]), (written, value.as_bytes()));
    let mut watch = store.watch(KeyRange::prefix("/weft/"), written).after(&listing.rows);
    let told = soon(watch.next()).await.map(|batch| batch.revision);
    assert_eq!(told, Ok(written), "after {value}");
    Ok(())
}

#[tokio::test]
async fn a_client_goes_on_when_users_of_etcd_change() {
    if unmet(test_name!(), &["etcd", "etcdctl"].map(Requirement::Tool)) {
        return;
    }
    let (node, _) = StoreNode::start_etcd_with_web_tokens("users").await;
    let as_root = |words: &str| etcdctl(&node, &format!("--user root:secret {words}"));
    for words in ["user add root:secret", "user grant-role root root", "role add agent"] {
        etcdctl(&node, words);
    }
    etcdctl(&node, "role grant-permission --prefix=true agent readwrite /weft/");
    for words in ["user add n1:first", "user grant-role n1 agent", "auth enable"] {
        etcdctl(&node, words);
    }
    let user = Some(User { name: "n1".to_owned(), password: "first".to_owned() });
    let endpoints = vec![format!("http://{}", node.address())];
    let store = Store::new(Access { endpoints, tls: None, user }).unwrap();
    assert_eq!(goes_on(&store, "before").await, Ok(()));
    let lease = store.lease(LEASE_SECONDS).await.unwrap();
    // Each makes all tokens old.
    for words in ["user add n2:other", "role add more", "role grant-permission agent read /more", "role delete more"] {
        as_root(words);
        assert_eq!(goes_on(&store, words).await, Ok(()), "after {words}");
    }
    assert!(tokio::time::timeout(lease.ttl() * 2, lease.lost()).await.is_err(), "it is renewed");
}
