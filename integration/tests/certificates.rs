//! Stores that let nobody in without a certificate: `weft store` and etcd, with what `weft pki` makes.
#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use weft_control::config::file::{Control, unspanned};
use weft_integration::{
    AgentConfig, CommandLab, Family, Requirement, StoreKind, StoreNode, eventually, site, test_name, unmet,
};
use weft_store::KeyRange;
use weft_store::client::{Access, ClientTls, Store, StoreError};
use weft_store::pki::{Authority, Holder};

const KINDS: [StoreKind; 2] = [StoreKind::Weft, StoreKind::Etcd];
const DAY: Duration = Duration::from_secs(86_400);

/// A directory of its own; it goes away with the value.
struct Pki(PathBuf);

impl Pki {
    /// With an authority, a store on loopback, and nodes `probe` and `n1`.
    fn new(name: &str) -> Self {
        let pki = Self(std::env::temp_dir().join(format!("weft-it-pki.{name}.{}", std::process::id())));
        let dir = pki.0.to_str().unwrap();
        let words = ["pki", "init", dir, "--store", "127.0.0.1", "--node", "probe", "--node", "n1"];
        let made = CommandLab::try_run(&words);
        assert!(made.status.success(), "{made:?}");
        pki
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    fn read(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap()
    }

    fn identity(&self, node: &str) -> Option<(Vec<u8>, Vec<u8>)> {
        Some((self.read(&format!("{node}.pem")), self.read(&format!("{node}.key"))))
    }

    /// `etcdctl` as this node.
    fn etcdctl(&self, store: &StoreNode, node: &str, words: &[&str]) -> std::process::Output {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--dial-timeout", "5s", "--command-timeout", "5s"]);
        command.args(["--endpoints", &format!("https://{}", store.address())]);
        command.arg("--cacert").arg(self.path("ca.pem"));
        command.arg("--cert").arg(self.path(&format!("{node}.pem")));
        command.arg("--key").arg(self.path(&format!("{node}.key")));
        command.args(words).output().unwrap()
    }
}

impl Drop for Pki {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn ask(store: &StoreNode, ca: Vec<u8>, identity: Option<(Vec<u8>, Vec<u8>)>) -> Result<(), StoreError> {
    let tls = Some(ClientTls { ca, identity, server_name: None });
    let endpoints = vec![format!("https://{}", store.address())];
    let client = Store::new(Access { endpoints, tls, user: None }).unwrap();
    client.get(&KeyRange::prefix(""), None).await.map(drop)
}

#[tokio::test]
async fn both_stores_let_in_nodes_of_their_own_authority_and_nobody_else() {
    if unmet(test_name!(), &[Requirement::Tool("etcd"), Requirement::Tool("etcdctl")]) {
        return;
    }
    let (ours, theirs) = (Pki::new("ours"), Pki::new("theirs"));
    let key = String::from_utf8(ours.read("ca.key")).unwrap();
    let authority = Authority::open(String::from_utf8(ours.read("ca.pem")).unwrap(), &key).unwrap();
    #[expect(clippy::disallowed_methods, reason = "certificates are valid from one day to another")]
    let old = authority.issue(&Holder::Node("n1".to_owned()), SystemTime::now() - 10 * DAY, 1).unwrap();
    for kind in KINDS {
        let store = StoreNode::start_secured(kind, test_name!(), &ours.0).await;
        let ca = || ours.read("ca.pem");
        ask(&store, ca(), ours.identity("n1")).await.unwrap();
        let old = Some((old.certificate.clone().into_bytes(), old.key.clone().into_bytes()));
        for (wrong, identity) in [("none", None), ("of another CA", theirs.identity("n1")), ("out of date", old)] {
            let refused = ask(&store, ca(), identity).await;
            let Err(refused) = refused else { panic!("{kind:?} {wrong}: let in") };
            // etcd may close before its alert is read.
            let expected = kind.is_etcd() || matches!(refused, StoreError::Untrusted { .. });
            assert!(expected && refused.to_string().contains("this node"), "{kind:?} {wrong}: {refused}");
        }
        let refused = ask(&store, theirs.read("ca.pem"), ours.identity("n1")).await;
        let Err(StoreError::Untrusted { reason, .. }) = &refused else { panic!("{kind:?}: {refused:?}") };
        assert!(reason.contains("`ca_file` did not sign"), "{kind:?}: {reason}");
        // Nothing is told without TLS.
        let plain = Store::new(Access::plain(format!("http://{}", store.address()))).unwrap();
        assert!(plain.get(&KeyRange::prefix(""), None).await.is_err());
        let put = ours.etcdctl(&store, "n1", &["put", "a", "1"]);
        assert!(put.status.success(), "{kind:?}: {put:?}");
        let refused = theirs.etcdctl(&store, "n1", &["get", "a"]);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{kind:?}: {refused:?}");
        // The store's side says it as well.
        eventually("the store tells whom it refused", || {
            let log = store.log();
            let words = if kind.is_etcd() { "rejected connection" } else { "client refused" };
            if log.contains(words) { Ok(()) } else { Err(log) }
        });
    }
}

#[tokio::test]
async fn an_agent_says_what_is_wrong_with_its_certificate_and_goes_on_when_it_is_right() {
    let site = site!();
    let [node, _] = site.pair();
    let (ours, theirs) = (Pki::new("agent"), Pki::new("stranger"));
    let address = node.address(Family::Ipv4).to_string();
    let there = ours.path("there");
    let (from, to) = (ours.0.to_str().unwrap(), there.to_str().unwrap());
    let made = CommandLab::try_run(&["pki", "issue", from, "--out", to, "--store", &address]);
    assert!(made.status.success(), "{made:?}");
    let weft = weft_integration::weft();
    let file = |path: PathBuf| path.to_str().unwrap().to_owned();
    let (listen, data) = (format!("{address}:2379"), file(site.directory().join("store")));
    let [cert, key, ca] = [there.join("store.pem"), there.join("store.key"), ours.path("ca.pem")].map(file);
    let words = ["store", "--relaxed", "--listen", &listen, "--data", &data, "--tls-cert", &cert, "--tls-key", &key];
    let command = node.command(&[&[weft.to_str().unwrap()], &words[..], &["--client-ca", &ca]].concat());
    let _store = weft_integration::Child::spawn(command);
    let config = |pki: &Pki| {
        let mut config = AgentConfig::new(&site, &node, &[Family::Ipv4]).vni(7);
        let mut control = Control::new(vec![format!("https://{listen}")]);
        control.ca_file = Some(unspanned(ours.path("ca.pem")));
        control.cert_file = Some(unspanned(pki.path("n1.pem")));
        control.key_file = Some(unspanned(pki.path("n1.key")));
        config.file.control = Some(control);
        config
    };
    let stranger = config(&theirs).start();
    eventually("the agent says why it is not let in", || {
        let control = stranger.status().control.unwrap();
        let why = control.reason.clone().unwrap_or_default();
        let told = control.state == "stale" && control.denied && why.contains("did not sign this node's certificate");
        if told { Ok(()) } else { Err(format!("{control:?}")) }
    });
    stranger.finish();
    let known = config(&ours).start();
    eventually("the agent is published", || {
        let control = known.status().control.unwrap();
        if control.state == "connected" { Ok(()) } else { Err(format!("{control:?}")) }
    });
    known.finish();
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn keys_are_for_their_owner_alone_and_nothing_is_overwritten() {
    let pki = Pki::new("files");
    for (file, wanted) in [("ca.pem", 0o644), ("ca.key", 0o600), ("store.key", 0o600), ("n1.pem", 0o644)] {
        assert_eq!(mode(&pki.path(file)), wanted, "{file}");
    }
    assert_eq!(mode(&pki.0), 0o700);
    let dir = pki.0.to_str().unwrap();
    let key = pki.read("n1.key");
    let refused = |words: &[&str], said: &str| {
        let output = CommandLab::try_run(&[&["pki"], words].concat());
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(said), "{words:?}: {told}");
    };
    refused(&["init", dir], "ca.pem is there, and is not overwritten");
    refused(&["issue", dir, "--node", "n2", "--node", "n1"], "n1.pem is there, and is not overwritten");
    assert!(!pki.path("n2.pem").exists());
    refused(&["issue", dir], "nothing to sign");
    refused(&["issue", dir, "--node", "ca"], "give the node another");
    refused(&["issue", dir, "--node", "../n3"], "allowed are");
    refused(&["issue", dir, "--store", "a b"], "cannot stand in a certificate");
    refused(&["issue", dir, "--node", "n3", "--days", "0"], "1..=36500");
    refused(&["issue", &format!("{dir}/nowhere"), "--node", "n3"], "`weft pki init` makes it");
    assert_eq!(pki.read("n1.key"), key);
    let made = CommandLab::try_run(&["pki", "issue", dir, "--node", "n3", "--days", "30"]);
    let told = String::from_utf8(made.stdout).unwrap();
    assert!(made.status.success() && told.contains("n3.pem") && told.contains("30 days"), "{told}");
}
