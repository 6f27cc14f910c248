//! Finds out which offloads this kernel can be trusted with, before any is used.

use std::error::Error;
use std::net::IpAddr;
use std::thread::ScopedJoinHandle;
use std::time::Instant;

use ipnet::IpNet;
use weft_netns::{Links, Netns, NetnsError};
use weft_switch::levels::{Level, Levels, Off};
use weft_switch::port::{Tap, TapOffloads};
use weft_switch::self_test::{self, DEVICE, MAC, Segmentation};

use crate::privileges::give_up_all;
use crate::uplink::{UplinkError, make, redirect};

/// Levels that are tested on the scratch device.
const OF_PORTS: [Level; 5] = [Level::Checksum, Level::Tcp4, Level::Tcp6, Level::Udp4, Level::Udp6];

/// Why there is no scratch device.
#[derive(Debug, thiserror::Error)]
enum NoScratch {
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error("making a TAP: {0}")]
    Tap(#[from] std::io::Error),
    #[error(transparent)]
    Uplink(#[from] UplinkError),
}

/// Tests every level that is not switched off. `addresses` are this node's own, `interfaces` those which have them.
/// Nothing is left of it.
pub(crate) fn prove(switched_off: &[Level], addresses: &[IpAddr], interfaces: &[String]) -> Levels {
    let begun = Instant::now();
    let levels = Levels::default();
    for level in switched_off {
        levels.turn_off(*level, Off::Configured);
    }
    match Netns::unnamed() {
        Ok(scratch) => std::thread::scope(|scope| {
            // Tests that wait for the kernel, and not for each other.
            let of_ports = scope.spawn(|| ports(&levels, &scratch));
            let of_uplink = scope.spawn(|| uplink(&levels, &scratch));
            self_test::sockets(&levels, addresses);
            match ended(of_ports) {
                Ok(segmentation) => self_test::devices(&levels, segmentation, interfaces),
                Err(error) => without_device(&levels, &OF_PORTS, &error),
            }
            if let Err(error) = ended(of_uplink) {
                without_device(&levels, &[Level::Uplink], &error);
            }
        }),
        Err(error) => {
            self_test::sockets(&levels, addresses);
            without_device(&levels, &OF_PORTS, &error);
            without_device(&levels, &[Level::Uplink], &error);
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

fn without_device(levels: &Levels, of_it: &[Level], error: &dyn Error) {
    for level in of_it {
        levels.turn_off(*level, Off::Failed(format!("there is no device to test it on: {error}")));
    }
}

fn ended<T>(test: ScopedJoinHandle<'_, T>) -> T {
    test.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ports(levels: &Levels, scratch: &Netns) -> Result<Segmentation, NoScratch> {
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
    close(tap);
    Ok(segmentation)
}

/// Joins the uplink's device to another of its kind, as to a NIC, and tests what goes through.
fn uplink(levels: &Levels, scratch: &Netns) -> Result<(), NoScratch> {
    if !levels.uses(Level::Uplink) {
        return Ok(());
    }
    let (mut device, mut nic) = scratch.run(|| make().and_then(|device| Ok((device, make()?))))??;
    let names = [device.name(), nic.name()].map(str::to_owned);
    let join = |links: &mut Links| {
        names.iter().try_for_each(|name| links.set_up(name))?;
        let [device, nic] = &names;
        redirect(links, device, nic, &self_test::tunnel_ends())
    };
    scratch.links(join).map_err(UplinkError::Join)?;
    scratch.run(|| self_test::uplink(levels, &mut device, &mut nic))?;
    close((device, nic));
    Ok(())
}

/// The kernel takes longer to remove a device than the whole test did: nobody waits for it.
fn close(devices: impl Send + 'static) {
    let closing = std::thread::Builder::new().name("scratch".to_owned()).spawn(move || {
        // It may outlive the start, and closing takes no privilege.
        give_up_all();
        drop(devices);
    });
    // Where there is no thread, they were closed by now.
    drop(closing);
}
