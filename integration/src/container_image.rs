//! A container image without any registry: busybox, and a file to serve.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

/// The image's name.
pub const BOX_IMAGE: &str = "example.org/weft/box:1";
/// What is fetched from one container by another.
pub const BOX_FILE: &str = "carried from one node to another, through the runtime's plugins\n";
/// Serves the file at port 80.
pub const BOX_SERVER: [&str; 6] = ["httpd", "-f", "-p", "80", "-h", "/www"];
/// Where it lies on this machine.
const BUSYBOX: [&str; 2] = ["/usr/bin/busybox", "/bin/busybox"];

/// Puts busybox into a directory, with links for these of its programs.
///
/// # Panics
/// If there is none.
pub fn put_busybox(directory: &Path, programs: &[&str]) {
    let busybox = BUSYBOX.into_iter().find(|path| Path::new(path).exists()).unwrap();
    fs::create_dir_all(directory).unwrap();
    fs::copy(busybox, directory.join("busybox")).unwrap();
    programs.iter().for_each(|program| symlink("busybox", directory.join(program)).unwrap());
}

/// Packs the image into an archive of Docker's format, in this directory. On its own it waits, as a pod's first container.
///
/// # Panics
/// If that cannot be done.
#[must_use]
pub fn pack_box_image(directory: &Path) -> PathBuf {
    let root = directory.join("rootfs");
    for folder in ["www", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    put_busybox(&root.join("bin"), &["sh", "httpd", "nc", "sleep"]);
    fs::write(root.join("www/file"), BOX_FILE).unwrap();
    let packed = directory.join("image");
    fs::create_dir(&packed).unwrap();
    tar(&packed.join("layer.tar"), &root, &["."]);
    let sum = Command::new("sha256sum").arg(packed.join("layer.tar")).output().unwrap();
    let digest = String::from_utf8(sum.stdout).unwrap().split(' ').next().unwrap().to_owned();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({ "architecture": architecture, "os": "linux",
        "config": { "Env": ["PATH=/bin"], "Cmd": ["sleep", "1000000"] },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] } });
    fs::write(packed.join("config.json"), config.to_string()).unwrap();
    let manifest = json!([{ "Config": "config.json", "RepoTags": [BOX_IMAGE], "Layers": ["layer.tar"] }]);
    fs::write(packed.join("manifest.json"), manifest.to_string()).unwrap();
    let archive = directory.join("box.tar");
    tar(&archive, &packed, &["manifest.json", "config.json", "layer.tar"]);
    archive
}

/// The words by which a container of the image fetches the file by HTTP. busybox' own wget does not run everywhere: it
/// looks names up with what its static libraries lack.
#[must_use]
pub fn fetch_box_file(address: &str) -> [String; 3] {
    ["sh".to_owned(), "-c".to_owned(), format!("printf 'GET /file HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {address} 80")]
}

fn tar(archive: &Path, directory: &Path, what: &[&str]) {
    let status = Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(directory).args(what).status().unwrap();
    assert!(status.success());
}
