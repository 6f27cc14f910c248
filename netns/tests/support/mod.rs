//! What tests of real namespaces share.

#[path = "../../../integration/src/skip.rs"]
pub(crate) mod skip;

use weft_netns::Netns;

/// Whether the test may go on; says so by name if not.
pub(crate) fn root_or_skip(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    skip::skip(test, "needs root");
    false
}

/// A namespace that goes away with the test, passed or failed.
pub(crate) struct Temporary {
    name: String,
    pub(crate) netns: Netns,
}

impl Temporary {
    pub(crate) fn new(purpose: &str) -> Self {
        let name = format!("weft-test-{}-{purpose}", std::process::id());
        let netns = Netns::create(&name).unwrap();
        Self { name, netns }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        Netns::delete(&self.name).unwrap();
    }
}
