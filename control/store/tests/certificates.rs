//! Who gets in, and who is told what.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

mod served;

use std::time::{Duration, SystemTime};

use served::{Directory, Served, runtime, settings};
use weft_store::client::{Access, ClientTls, Store, StoreError};
use weft_store::pki::{Authority, Holder, Issued, PkiError};
use weft_store::{KeyRange, Server, ServerTls, Settings};

const DAY: Duration = Duration::from_secs(86_400);

#[expect(clippy::disallowed_methods, reason = "certificates are valid from one day to another")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn node(authority: &Authority) -> Issued {
    authority.issue(&Holder::Node("n1".to_owned()), now(), 1).unwrap()
}

fn store_at(authority: &Authority, name: &str) -> Issued {
    authority.issue(&Holder::Store(vec![name.to_owned()]), now(), 1).unwrap()
}

fn served_with(authority: &Authority, own: &Issued) -> ServerTls {
    ServerTls {
        cert: own.certificate.clone().into_bytes(),
        key: own.key.clone().into_bytes(),
        client_ca: Some(authority.issued().certificate.into_bytes()),
    }
}

fn secured(directory: &Directory, tls: ServerTls) -> Served {
    Served::start(Settings { tls: Some(tls), ..settings(&directory.0, ([127, 0, 0, 1], 0).into()) })
}

fn trusting(authority: &Authority, own: Option<&Issued>) -> ClientTls {
    let pem = |text: &str| text.as_bytes().to_vec();
    ClientTls {
        ca: authority.issued().certificate.into_bytes(),
        identity: own.map(|own| (pem(&own.certificate), pem(&own.key))),
        server_name: None,
    }
}

/// What a client hears that asks with these.
fn ask(served: &Served, tls: Option<ClientTls>) -> Result<(), StoreError> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoints = vec![format!("{scheme}://{}", served.address)];
    runtime().block_on(async {
        let store = Store::new(Access { endpoints, tls, user: None }).unwrap();
        store.get(&KeyRange::prefix(""), None).await.map(drop)
    })
}

#[track_caller]
fn assert_untrusted(answer: &Result<(), StoreError>, words: &str) {
    let Err(StoreError::Untrusted { reason, .. }) = answer else { panic!("{answer:?}") };
    assert!(reason.contains(words), "{reason}");
}

#[test]
fn the_wrong_certificate_gets_in_nowhere_and_is_told_why() {
    let [ours, theirs] = [(); 2].map(|()| Authority::new(now(), 1).unwrap());
    let directory = Directory::new("clients");
    let served = secured(&directory, served_with(&ours, &store_at(&ours, "127.0.0.1")));
    ask(&served, Some(trusting(&ours, Some(&node(&ours))))).unwrap();
    assert_untrusted(&ask(&served, Some(trusting(&ours, None))), "give this node one in `cert_file`");
    let stranger = node(&theirs);
    assert_untrusted(&ask(&served, Some(trusting(&ours, Some(&stranger)))), "did not sign this node's certificate");
    let old = ours.issue(&Holder::Node("n1".to_owned()), now() - 10 * DAY, 1).unwrap();
    assert_untrusted(&ask(&served, Some(trusting(&ours, Some(&old)))), "this node's certificate is out of date");
    // Its key is not that of its certificate.
    let mixed = Issued { certificate: node(&ours).certificate, key: node(&ours).key };
    let endpoints = vec![format!("https://{}", served.address)];
    let tls = Some(trusting(&ours, Some(&mixed)));
    let refused = runtime().block_on(async { Store::new(Access { endpoints, tls, user: None }).err() });
    assert!(refused.unwrap().to_string().contains("https://"));
    assert!(matches!(ask(&served, None), Err(StoreError::Unavailable { .. })));
}

#[test]
fn an_impostor_of_the_store_is_told_nothing() {
    let [ours, theirs] = [(); 2].map(|()| Authority::new(now(), 1).unwrap());
    let asked = |own: &Issued, authority: &Authority, server_name: Option<&str>| {
        let directory = Directory::new("impostor");
        let served = secured(&directory, served_with(authority, own));
        let server_name = server_name.map(str::to_owned);
        ask(&served, Some(ClientTls { server_name, ..trusting(&ours, Some(&node(&ours))) }))
    };
    assert_untrusted(&asked(&store_at(&theirs, "127.0.0.1"), &theirs, None), "`ca_file` did not sign");
    assert_untrusted(&asked(&store_at(&ours, "10.0.0.9"), &ours, None), "is for other names");
    assert_untrusted(&asked(&store_at(&ours, "store.example"), &ours, Some("other.example")), "is for other names");
    asked(&store_at(&ours, "store.example"), &ours, Some("store.example")).unwrap();
    let old = ours.issue(&Holder::Store(vec!["127.0.0.1".to_owned()]), now() - 10 * DAY, 1).unwrap();
    assert_untrusted(&asked(&old, &ours, None), "the store's certificate is out of date");
    // Who has a node's key is no store.
    let thief = ours.issue(&Holder::Node("127.0.0.1".to_owned()), now(), 1).unwrap();
    assert_untrusted(&asked(&thief, &ours, None), "is no store's");
    // It serves plain text.
    let directory = Directory::new("plain");
    let plain = Served::plain(&directory.0);
    assert_untrusted(&ask(&plain, Some(trusting(&ours, None))), "does not speak TLS");
}

#[test]
fn certificates_that_cannot_be_served_with_are_refused_at_the_start() {
    let ours = Authority::new(now(), 1).unwrap();
    let (one, other) = (store_at(&ours, "a"), store_at(&ours, "a"));
    let good = served_with(&ours, &one);
    let none = b"none".to_vec();
    let cases = [
        (ServerTls { cert: none.clone(), ..good.clone() }, "the certificate cannot be read"),
        (ServerTls { key: none.clone(), ..good.clone() }, "the key cannot be read"),
        (ServerTls { client_ca: Some(none), ..good.clone() }, "the client CA cannot be read"),
        (ServerTls { key: other.key.into_bytes(), ..good }, "do not go together"),
    ];
    for (tls, words) in cases {
        let directory = Directory::new("unusable");
        let settings = Settings { tls: Some(tls), ..settings(&directory.0, ([127, 0, 0, 1], 0).into()) };
        let refused = runtime().block_on(async { Server::open(settings).await.err().unwrap().to_string() });
        assert!(refused.contains(words), "{refused}");
    }
}

#[test]
fn a_client_that_says_nothing_keeps_nobody_out() {
    let ours = Authority::new(now(), 1).unwrap();
    let directory = Directory::new("silent");
    let served = secured(&directory, served_with(&ours, &store_at(&ours, "127.0.0.1")));
    let silent: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(served.address).unwrap()).collect();
    ask(&served, Some(trusting(&ours, Some(&node(&ours))))).unwrap();
    drop(silent);
}

#[test]
fn an_authority_signs_again_with_its_files_and_not_with_others() {
    let [ours, theirs] = [(); 2].map(|()| Authority::new(now(), 1).unwrap());
    let (mine, other) = (ours.issued(), theirs.issued());
    let again = Authority::open(mine.certificate.clone(), &mine.key).unwrap();
    let directory = Directory::new("again");
    let served = secured(&directory, served_with(&ours, &store_at(&ours, "127.0.0.1")));
    ask(&served, Some(trusting(&ours, Some(&node(&again))))).unwrap();
    let mixed = Authority::open(mine.certificate.clone(), &other.key).unwrap();
    let refused = mixed.issue(&Holder::Node("n1".to_owned()), now(), 1);
    assert!(matches!(refused, Err(PkiError::OtherKey)), "{refused:?}");
    assert!(matches!(Authority::open(mine.certificate, "none"), Err(PkiError::Unreadable(_))));
    for names in [vec![], vec!["a b".to_owned()], vec![String::new()]] {
        let refused = ours.issue(&Holder::Store(names), now(), 1);
        assert!(matches!(refused, Err(PkiError::Name { .. } | PkiError::Nameless)), "{refused:?}");
    }
}
