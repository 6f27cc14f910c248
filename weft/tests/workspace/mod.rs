//! The workspace, as tests of it see it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// One dependency of a package, of any kind.
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Whether it is a crate of this workspace.
    pub(crate) ours: bool,
    /// Whether only tests and benches use it.
    pub(crate) dev: bool,
}

/// One crate of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    /// Where its manifest is.
    pub(crate) directory: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All crates of the workspace, as cargo understands their manifests.
pub(crate) fn packages() -> Vec<Package> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["metadata", "--format-version", "1", "--no-deps", "--offline"];
    let output = Command::new(cargo).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().iter().map(package).collect()
}

fn package(value: &Value) -> Package {
    let dependency = |value: &Value| Dependency {
        name: text(&value["name"]),
        ours: value["path"].is_string(),
        dev: value["kind"] == "dev",
    };
    let dependencies = value["dependencies"].as_array().unwrap().iter().map(dependency).collect();
    let manifest = PathBuf::from(text(&value["manifest_path"]));
    Package { name: text(&value["name"]), directory: manifest.parent().unwrap().to_owned(), dependencies }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}
