use std::path::PathBuf;

/// The `weft` program of this build: `WEFT_BIN`, or beside the test's own executable.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn weft() -> PathBuf {
    if let Some(path) = std::env::var_os("WEFT_BIN") {
        let path = PathBuf::from(path);
        assert!(path.is_file(), "WEFT_BIN names {}, which is no file", path.display());
        return path;
    }
    // Tests lie in target/PROFILE/deps.
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().skip(1).take(2).map(|directory| directory.join("weft")).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("no `weft` beside {}: run `cargo build -p weft`, or set WEFT_BIN", test.display()))
}
