use weft_store::proto::mvccpb::KeyValue;

use super::*;
use crate::cluster::{Key, Listing, record};

fn keys() -> Keys {
    Keys::new("/weft")
}

/// A node's row, as it was written at a revision.
fn row(number: u8, address: u8, revision: i64) -> KeyValue {
    let name = format!("n{number}");
    let node = Node {
        version: RECORD_VERSION,
        name: name.clone(),
        instance: name.clone(),
        incarnation: 0,
        epoch: revision,
        standing: NodeStanding::Joined,
        addresses: vec![IpAddr::from([192, 0, 2, address])],
        receives: vec![Receives { encapsulation: Encapsulation::Vxlan, udp_port: 4789 }],
        underlay_mtu: 1500,
        vnis: Vec::new(),
        pod_ranges: Vec::new(),
        overlay_addresses: Vec::new(),
        capabilities: Vec::new(),
    };
    KeyValue {
        key: keys().write(&Key::Node(name)),
        value: record::write(&node).into(),
        create_revision: revision,
        mod_revision: revision,
        lease: revision,
        version: 1,
    }
}

#[test]
fn conflicts_that_come_without_a_new_revision_are_counted() {
    let run_dir = std::env::temp_dir().join(format!("weft-following-{}", std::process::id()));
    std::fs::create_dir_all(&run_dir).unwrap();
    let text = format!(
        "node = \"n9\"\nrun_dir = \"{}\"\n[underlay]\naddresses = [\"192.0.2.9\"]\n[[vni]]\nid = 7\n[control]\nstores = \
         [\"http://127.0.0.1:1\"]\n",
        run_dir.display()
    );
    let config = Config::parse(&text, std::path::Path::new("test.toml")).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let mut following = Following::start(&config, &[], 1500, None).unwrap().unwrap();
    std::fs::remove_dir_all(&run_dir).unwrap();
    let mut take = |news| {
        assert!(following.take(news).is_ok());
        following.look_for_conflicts();
        following.contested_total
    };
    let mut listed = |rows: &[KeyValue], replaced| {
        let mut listing = Listing::new(keys());
        rows.iter().for_each(|row| listing.add(row));
        take(News::Listed { revision: 20, listing, replaced })
    };
    assert_eq!(listed(&[row(1, 1, 10), row(2, 2, 11)], false), 0);
    // By a backup, the first had the address that the second has; that is not believed at once.
    assert_eq!(listed(&[row(1, 2, 5), row(2, 2, 11)], true), 0);
    assert_eq!(take(News::Trust), 1);
    assert_eq!(take(News::Written { revision: 21, events: Vec::new() }), 1, "and once");
}
