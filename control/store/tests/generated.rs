//! The generated code that is checked in is what the descriptions say.
#![expect(clippy::unwrap_used, reason = "a test says so by failing")]

use std::path::{Path, PathBuf};
use std::{env, fs};

/// Set to anything, it writes the code anew instead of comparing it.
const REGENERATE: &str = "WEFT_REGENERATE";

fn generate(out: &Path) {
    let proto = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    let descriptions = protox::compile([proto.join("rpc.proto")], [&proto]).unwrap();
    // References between packages resolve inside `crate::proto`.
    tonic_prost_build::configure().bytes(".").out_dir(out).compile_fds(descriptions).unwrap();
}

#[test]
fn generated_code_is_current() {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/generated");
    if env::var_os(REGENERATE).is_some() {
        generate(&kept);
        return;
    }
    let made: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join("generated");
    fs::create_dir_all(&made).unwrap();
    generate(&made);
    for name in ["etcdserverpb.rs", "mvccpb.rs"] {
        let [kept, made] = [&kept, &made].map(|directory| fs::read_to_string(directory.join(name)).unwrap());
        assert!(kept == made, "{name} is not what proto/ says: run this test with {REGENERATE}=1");
    }
}
