//! Containers of containerd and podman, whose pods come by the plugin.

#![expect(clippy::unwrap_used, reason = "a test whose set-up fails has failed")]

use std::fs;

use weft_integration::{
    AgentNode, BOX_FILE, BOX_IMAGE, BOX_SERVER, Cluster, CniDirectories, Containerd, Podman, eventually,
    fetch_box_file, pack_box_image, site,
};

/// The addresses of the one pod of an agent.
fn pod_of(agent: &AgentNode) -> Vec<String> {
    eventually("the agent has a pod", || {
        let pod = agent.ports().into_iter().find(|port| port.name != "host");
        let host = |address: &String| address.split('/').next().unwrap().to_owned();
        pod.map(|pod| pod.addresses.iter().map(host).collect()).ok_or_else(|| agent.log())
    })
}

fn wait_for_no_pod(agent: &AgentNode) {
    eventually("the agent has no pod any longer", || {
        let ports = agent.ports();
        if ports.len() == 1 { Ok(()) } else { Err(format!("{ports:?}\n{}", agent.log())) }
    });
}

#[test]
fn a_container_of_containerd_fetches_a_file_from_one_of_another_node() {
    let cluster = Cluster::<2>::new(site!(
        "ip",
        "containerd",
        "ctr",
        "runc",
        "unshare",
        "busybox",
        "tar",
        "/usr/lib/cni/loopback"
    ));
    let agents = cluster.start();
    let archive = pack_box_image(cluster.site().directory());
    let runtimes = [0, 1].map(|own| {
        let directory = cluster.site().directory().join(format!("c{own}"));
        fs::create_dir(&directory).unwrap();
        let plugins = CniDirectories::install(&directory, &cluster.run_dir(own));
        Containerd::start(&cluster.nodes[own], &directory, plugins, &archive)
    });
    let run = ["run", "--snapshotter", "native", "--cni"];
    runtimes[0].run(&[&run[..], &["-d", BOX_IMAGE, "server"], &BOX_SERVER].concat());
    for address in pod_of(&agents[0]) {
        let fetched = eventually("the server listens", || {
            let words = fetch_box_file(&address);
            let fetch = words.each_ref().map(String::as_str);
            let output = runtimes[1].ctr(&[&run[..], &["--rm", BOX_IMAGE, "client"], &fetch].concat());
            if output.status.success() { Ok(output.stdout) } else { Err(output.stderr) }
        });
        assert!(fetched.ends_with(BOX_FILE), "{fetched}");
        // It came with ADD and went with DEL, which says no namespace.
        assert_eq!(agents[1].ports().len(), 1, "{}", agents[1].log());
    }
    // `ctr` detaches nothing that runs on its own: the agent sees by itself that it is gone.
    runtimes[0].run(&["task", "kill", "-s", "KILL", "server"]);
    wait_for_no_pod(&agents[0]);
    for agent in &agents {
        agent.wait_for_endpoints(2);
    }
}

#[test]
fn containers_of_podman_get_the_address_and_the_mac_that_they_ask_for() {
    let cluster = Cluster::<1>::new(site!("ip", "podman", "runc", "busybox", "tar", "/usr/lib/cni/loopback"));
    let [agent] = cluster.start();
    let directory = cluster.site().directory();
    let archive = pack_box_image(directory);
    let CniDirectories { bin, conf } = CniDirectories::install(directory, &cluster.run_dir(0));
    let network =
        format!("[network]\nnetwork_backend = \"cni\"\ncni_plugin_dirs = [{bin:?}]\nnetwork_config_dir = {conf:?}\n");
    let podman = Podman::new(&cluster.nodes[0], directory, &network);
    podman.load(&archive);
    let range = agent.status().control.unwrap().ranges[0].clone();
    let own = range.replace(".0/24", ".99");
    let run = ["run", "--network", "weft", "--ip", &own, "--mac-address", "02:00:00:00:00:99"];
    podman.run(&[&run[..], &["-d", "--name", "server", BOX_IMAGE], &BOX_SERVER].concat());
    assert_eq!(pod_of(&agent)[0], own);
    assert_eq!(agent.ports().iter().find(|port| port.name != "host").unwrap().mac, "02:00:00:00:00:99");
    let words = fetch_box_file(&own);
    let fetch = [&["run", "--rm", "--network", "weft", BOX_IMAGE][..], &words.each_ref().map(String::as_str)].concat();
    let fetched = eventually("the server listens", || {
        let output = podman.try_run(&fetch);
        if output.status.success() { Ok(output.stdout) } else { Err(output.stderr) }
    });
    assert!(fetched.ends_with(BOX_FILE), "{fetched}");
    podman.run(&["rm", "-f", "-t", "0", "server"]);
    wait_for_no_pod(&agent);
}
