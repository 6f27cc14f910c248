//! The recipe of a container and the Kubernetes manifest, against the programs that they start.

use std::fs;

use serde_json::Value;
use weft_control::config::Config;

use crate::documents_tests::{refusal, root};

const MANIFEST: &str = "deploy/kubernetes/weft.yaml";
const RECIPE: &str = "deploy/container/Containerfile";

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// The manifest's objects.
fn objects() -> Vec<Value> {
    serde_saphyr::from_multiple(&read(MANIFEST)).unwrap()
}

fn object(kind: &str) -> Value {
    let mut of_kind: Vec<_> = objects().into_iter().filter(|object| object["kind"] == kind).collect();
    assert_eq!(of_kind.len(), 1, "one {kind}");
    of_kind.remove(0)
}

/// What the agent's pod is to be.
fn pod() -> Value {
    object("DaemonSet")["spec"]["template"]["spec"].clone()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(&pod["initContainers"]).iter().chain(list(&pod["containers"]))
}

/// The configuration as the pod's first container writes it for a node.
fn config() -> Config {
    let template = text(&object("ConfigMap")["data"]["agent.toml"]).to_owned();
    let pod = pod();
    let configure = &list(&pod["initContainers"])[0];
    let script = text(&list(&configure["command"])[2]);
    let mut written = template;
    for (name, value) in [("NODE", "n1"), ("ADDRESS", "192.0.2.1")] {
        assert!(script.contains(&format!("-e \"s/@{name}@/${name}/\"")), "{script}");
        assert!(list(&configure["env"]).iter().any(|one| one["name"] == name), "{name} is not given");
        written = written.replace(&format!("@{name}@"), value);
    }
    assert!(!written.contains('@'), "{written}");
    Config::parse(&written, &root().join(MANIFEST)).unwrap_or_else(|error| panic!("{error}"))
}

/// Whether one path is the other, or below it.
fn is_below(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[test]
fn containers_start_what_there_is() {
    let recipe = read(RECIPE);
    let entry = "ENTRYPOINT [\"/usr/local/bin/weft\"]";
    assert!(recipe.contains(entry) && recipe.contains("COPY --from=programs /programs/ /usr/local/bin/"));
    let default = recipe.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    let default: Vec<String> = serde_json::from_str(default).unwrap();
    assert_eq!(refusal(&[&["weft".to_owned()][..], &default].concat(), false), None);
    for stage in recipe.lines().filter_map(|line| line.split_once(" -p ").map(|(_, rest)| rest)) {
        let name = stage.split_ascii_whitespace().next().unwrap();
        assert!(["weft", "weft-cni"].contains(&name), "{name}");
    }
    let mut started = 0;
    for container in containers(&pod()) {
        if container["command"].is_null() {
            let words = list(&container["args"]).iter().map(|word| text(word).to_owned());
            let words: Vec<String> = std::iter::once("weft".to_owned()).chain(words).collect();
            assert_eq!(refusal(&words, false), None, "{}", container["name"]);
            started += 1;
        }
    }
    assert_eq!(started, 2);
}

#[test]
fn what_the_configuration_names_is_mounted() {
    let pod = pod();
    let config = config();
    let volumes: Vec<&str> = list(&pod["volumes"]).iter().map(|volume| text(&volume["name"])).collect();
    for container in containers(&pod) {
        for mount in list(&container["volumeMounts"]) {
            assert!(volumes.contains(&text(&mount["name"])), "{} is no volume", mount["name"]);
        }
        // What is written or read by an option is on a volume.
        let words: Vec<&str> = list(&container["args"]).iter().map(text).collect();
        for path in words.iter().filter(|word| word.starts_with('/')) {
            let mounted =
                list(&container["volumeMounts"]).iter().any(|mount| is_below(path, text(&mount["mountPath"])));
            assert!(mounted, "{path} is not mounted in {}", container["name"]);
        }
    }
    let agent = &list(&pod["containers"])[0];
    let mounts: Vec<&str> = list(&agent["volumeMounts"]).iter().map(|mount| text(&mount["mountPath"])).collect();
    let control = config.control.as_ref().unwrap();
    let (cert, key) = control.identity.clone().unwrap();
    let files = [control.ca_file.clone().unwrap(), cert, key, config.run_dir.clone(), "/run/netns".into()];
    for file in files {
        let file = file.display().to_string();
        assert!(mounts.iter().any(|mount| is_below(&file, mount)), "{file} is not mounted: {mounts:?}");
    }
    // The plugin, on the host, asks at the same path.
    let run = list(&pod["volumes"]).iter().find(|volume| volume["name"] == "run").unwrap();
    assert_eq!(text(&run["hostPath"]["path"]), config.run_dir.display().to_string());
    assert_eq!(weft_netns::RUN_DIR, "/run/netns");
}

#[test]
fn the_agent_may_do_what_its_unit_lets_it_and_no_more() {
    let unit = read("deploy/systemd/weft-agent.service");
    let bounds = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet=")).unwrap();
    let mut bounds: Vec<&str> = bounds.split(' ').map(|one| one.trim_start_matches("CAP_")).collect();
    bounds.sort_unstable();
    let pod = pod();
    for container in containers(&pod) {
        let allowed = &container["securityContext"];
        let mut added: Vec<&str> = list(&allowed["capabilities"]["add"]).iter().map(text).collect();
        added.sort_unstable();
        let is_agent = container["name"] == "agent";
        assert_eq!(added, if is_agent { bounds.clone() } else { Vec::new() }, "{}", container["name"]);
        assert_eq!(allowed["capabilities"]["drop"], serde_json::json!(["ALL"]));
        assert_eq!(allowed["privileged"], Value::Null);
        assert_eq!(allowed["readOnlyRootFilesystem"], true);
        assert_eq!(allowed["allowPrivilegeEscalation"], if is_agent { Value::Null } else { false.into() });
    }
}

#[test]
fn probes_ask_what_is_served() {
    let config = config();
    let Some(weft_control::config::file::MetricsListen::Address(served)) = config.metrics else {
        panic!("metrics are served at an address")
    };
    let pod = pod();
    let agent = &list(&pod["containers"])[0];
    for (probe, path) in [("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")] {
        let get = &agent[probe]["httpGet"];
        assert_eq!((text(&get["host"]), get["port"].as_u64()), ("127.0.0.1", Some(served.port().into())), "{probe}");
        assert_eq!(text(&get["path"]), path);
        assert!(served.ip().is_loopback());
    }
}
