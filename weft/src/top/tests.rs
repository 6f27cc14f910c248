use std::path::Path;
use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use serde_json::json;
use weft_api::{BatchRow, ControlStatus, DropRow, Status, UnderlayStatus, WorkerRow};

use super::*;

fn port(name: &str, rx: u64, drops: u64) -> serde_json::Value {
    json!({
        "name": name, "vni": 100, "interface": "eth0", "netns": name, "mac": "02:00:00:00:00:01", "addresses": [],
        "mtu": 1450, "mode": "bound", "state": if name == "db" { "lost: the device was removed" } else { "forwarding" },
        "udp_superframes": true, "offloads": [], "learned": 0, "rx_frames": rx, "rx_bytes": 1000 * rx,
        "tx_frames": rx / 2, "tx_bytes": 100 * rx, "drops": drops, "kernel_tx_dropped": 0,
    })
}

fn vtep(address: &str, path: &str, tx: u64) -> serde_json::Value {
    json!({
        "address": address, "port": 4789, "encapsulation": "vxlan", "kind": "managed", "pod_mtu": 1450, "path": path,
        "path_mtu": if path == "up" { Some(1500) } else { None }, "path_rtt_us": if path == "up" { Some(240) } else { None },
        "vnis": [100], "learned": 0, "rx_frames": 0, "rx_bytes": 0, "tx_frames": tx, "tx_bytes": 1500 * tx, "drops": 0,
    })
}

/// A look, so many seconds after the first.
fn look(seconds: u64) -> Sample {
    let of = |rows: serde_json::Value| serde_json::from_value(rows).unwrap();
    Sample {
        at: Duration::from_secs(seconds),
        status: Status {
            node: "n1".to_owned(),
            uptime_seconds: 60 + seconds,
            fdb_entries: 7,
            underlay: UnderlayStatus { level: "uplink".to_owned(), mtu: 1500, ..UnderlayStatus::default() },
            control: Some(ControlStatus { state: "connected".to_owned(), ..ControlStatus::default() }),
            ..Status::default()
        },
        ports: serde_json::from_value(json!([
            port("db", 0, 0),
            port("web", 24_000 * seconds, 3 * seconds),
            port("api", 10 * seconds, 0)
        ]))
        .unwrap(),
        vteps: vec![of(vtep("192.0.2.2", "up", 1000 * seconds)), of(vtep("192.0.2.3", "down", 0))]
            .into_iter()
            .collect(),
        drops: vec![DropRow {
            reason: "unknown_vni".to_owned(),
            stage: "verdict".to_owned(),
            count: 3 * seconds,
            recent: 0,
            meaning: String::new(),
            hint: "check the sender's peers".to_owned(),
        }],
        workers: vec![WorkerRow {
            name: "worker-0".to_owned(),
            frames: 24_000 * seconds,
            batches: vec![BatchRow { frames_at_most: None, turns: 1000 * seconds }],
            run_us: Some(730_000 * seconds),
            waited_us: Some(20_000 * seconds),
            looks: 150 * seconds,
            ..WorkerRow::default()
        }],
    }
}

/// What stands on a screen of this size.
fn drawn(view: &View, width: u16, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| screen::draw(frame, view)).unwrap();
    let buffer = terminal.backend().buffer().clone();
    let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect::<Vec<_>>().join("\n")
}

fn view() -> View {
    let mut view = View::new(look(0), 1);
    view.take(Ok(look(2)));
    view
}

/// A page that shows a picture shows this one: `UPDATE_DOCS=1 cargo test -p weft top`.
#[test]
fn the_page_has_the_picture() {
    const FENCE: &str = "```text\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/top.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = page.split_once(FENCE).unwrap();
    let (shown, tail) = rest.split_once("\n```").unwrap();
    let seen = drawn(&view(), 80, 20);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{FENCE}{seen}\n```{tail}")).unwrap();
        return;
    }
    assert_eq!(seen, shown, "docs/top.md is behind the code: UPDATE_DOCS=1 cargo test -p weft top\n{seen}");
}

#[test]
fn numbers_are_those_of_the_second() {
    let seen = drawn(&view(), 80, 20);
    let line = |start: &str| seen.lines().find(|line| line.starts_with(start)).unwrap().to_owned();
    // 24,000 frames a second of 1,000 bytes, 24 at once; the worker ran 730 ms of each.
    assert!(line("web").contains("24.0 k  192.0 M  12.0 k   19.2 M     3.0 forwarding"), "{seen}");
    assert!(line("worker-0").contains("73 %     2 %   24.0 k    24.0      150"), "{seen}");
    assert!(line("192.0.2.2").contains("1500"), "{seen}");
    assert!(line("unknown_vni").contains("3.0          6 check"), "{seen}");
}

#[test]
fn lists_take_what_they_need_and_share_what_there_is() {
    let seen = drawn(&view(), 100, 60);
    let at = |heading: &str| seen.lines().position(|line| line.starts_with(heading)).unwrap();
    assert_eq!(at("PEER") - at("PORT"), look(0).ports.len() + 2, "{seen}");
    // Too many for the screen: the peers still have their lines.
    let mut many = look(0);
    many.ports = vec![many.ports[0].clone(); 100];
    let seen = drawn(&View::new(many, 1), 100, 24);
    assert!(seen.contains("192.0.2.2") && seen.contains("192.0.2.3"), "{seen}");
}

#[test]
fn small_screens_are_no_trouble() {
    for (width, height) in [(80, 24), (40, 10), (10, 3), (1, 1)] {
        drawn(&view(), width, height);
    }
    assert!(drawn(&view(), 80, 24).contains("worker-0"));
}

#[test]
fn keys_do_what_the_help_says() {
    let key = |code| KeyEvent::new(code, KeyModifiers::NONE);
    let mut view = view();
    for end in [key(KeyCode::Char('q')), key(KeyCode::Esc), KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)] {
        assert_eq!(obey(&mut view, end), Next::End);
    }
    assert_eq!(obey(&mut view, key(KeyCode::Char('c'))), Next::GoOn);
    let first = |view: &View| drawn(view, 120, 20).lines().nth(7).unwrap_or_default().to_owned();
    assert!(first(&view).starts_with("web"), "{}", first(&view));
    obey(&mut view, key(KeyCode::Char('s')));
    obey(&mut view, key(KeyCode::Char('s')));
    assert!(first(&view).starts_with("api"), "by name: {}", first(&view));
    obey(&mut view, key(KeyCode::Down));
    assert!(first(&view).starts_with("db"), "scrolled: {}", first(&view));
    (0..9).for_each(|_| _ = obey(&mut view, key(KeyCode::Char('j'))));
    assert!(first(&view).starts_with("web"), "no further than the last: {}", first(&view));
    (0..9).for_each(|_| _ = obey(&mut view, key(KeyCode::Char('k'))));
    assert!(first(&view).starts_with("api"), "{}", first(&view));
    obey(&mut view, key(KeyCode::Char(' ')));
    assert!(drawn(&view, 120, 20).contains("held"));
    obey(&mut view, key(KeyCode::Char('-')));
    obey(&mut view, key(KeyCode::Char('+')));
    assert!(drawn(&view, 120, 20).contains("every 2 s by name"));
}

#[test]
fn an_agent_that_goes_away_leaves_the_last_picture_and_its_error() {
    let mut view = view();
    view.take(Err(anyhow::anyhow!("it has ended")));
    let seen = drawn(&view, 120, 20);
    assert!(seen.contains("no answer: it has ended") && seen.contains("web"), "{seen}");
    // It starts again, and counts from zero: that is no rate.
    view.take(Ok(look(0)));
    assert!(!drawn(&view, 120, 20).contains("24.0 k"), "{}", drawn(&view, 120, 20));
}
