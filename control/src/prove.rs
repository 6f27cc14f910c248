//! Finds out which offloads this kernel can be trusted with, before any is used.

use std::net::IpAddr;
use std::time::Instant;

use ipnet::IpNet;
use weft_netns::{Netns, NetnsError};
use weft_switch::levels::{Level, Levels, Off};
use weft_switch::port::{Tap, TapOffloads};
use weft_switch::self_test::{self, DEVICE, MAC, Segmentation};

/// Levels that are tested on the scratch device.
const OF_PORTS: [Level; 5] = [Level::Checksum, Level::Tcp4, Level::Tcp6, Level::Udp4, Level::Udp6];

/// Why there is no scratch device.
#[derive(Debug, thiserror::Error)]
enum NoScratch {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("making a TAP: {0}")]
    Tap(#[from] std::io::Error),
}

/// Tests every level that is not switched off. `addresses` are this node's own, `interfaces` those which have them.
/// Nothing is left of it.
pub(crate) fn prove(switched_off: &[Level], addresses: &[IpAddr], interfaces: &[String]) -> Levels {
    let begun = Instant::now();
    let levels = Levels::default();
    for level in switched_off {
        levels.turn_off(*level, Off::Configured);
    }
    let tested = std::thread::scope(|scope| {
        // Two tests that wait for the kernel, and not for each other.
        let ports = scope.spawn(|| ports(&levels));
        self_test::sockets(&levels, addresses);
        ports.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    match tested {
        Ok(segmentation) => self_test::devices(&levels, segmentation, interfaces),
        Err(error) => {
            for level in OF_PORTS {
                levels.turn_off(level, Off::Failed(format!("there is no device to test it on: {error}")));
            }
        }
    }
    for level in Level::ALL {
        if let Some(off @ Off::Failed(_)) = levels.off(level) {
            tracing::warn!(%level, "not used: {off}");
        }
    }
    tracing::info!(milliseconds = begun.elapsed().as_millis() as u64, "offloads tested");
    levels
}

fn ports(levels: &Levels) -> Result<Segmentation, NoScratch> {
    let scratch = Netns::unnamed()?;
    let mut tap = scratch.run(|| Tap::open(DEVICE, TapOffloads::NONE))??;
    scratch.links(|links| {
        links.set_mac(DEVICE, MAC)?;
        links.set_arp(DEVICE, false)?;
        links.set_up(DEVICE)?;
        for (address, prefix) in self_test::addresses() {
            links.add_address(DEVICE, IpNet::new_assert(address, prefix))?;
        }
        Ok(())
    })?;
    let segmentation = scratch.run(|| self_test::ports(levels, &mut tap))?;
    // The kernel takes longer to remove a device than the whole test did: nobody waits for it.
    let closing = std::thread::Builder::new().name("scratch".to_owned()).spawn(move || drop(tap));
    // Where there is no thread, it was closed by now.
    drop(closing);
    Ok(segmentation)
}
