//! In which order things are done, so that after any of them everything may end: an address is written down before a
//! device has it, and is free only after no device has it any longer.

use weft_api::{PodInterface, Refusal};

use super::ledger::{Change, Identity, Ledger, Pod, Refused};

/// Whether a pod's namespace is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is.
    There,
    /// It is not, and never will be again.
    Gone,
    /// Nobody can say.
    Unknown,
}

/// What is around the ledger.
pub(crate) trait World {
    /// Keeps a change of the ledger as it is now, where the next agent finds it.
    fn keep(&mut self, change: &Change, ledger: &Ledger) -> Result<(), Refused>;

    /// Gives the pod its device, and forwards for it. What is there already is fine.
    fn connect(&mut self, pod: &Pod) -> Result<(), Refused>;

    /// Takes both away. What is not there is fine.
    fn disconnect(&mut self, pod: &Pod) -> Result<(), Refused>;

    /// Whether its namespace is there.
    fn presence(&mut self, namespace: &Identity) -> Presence;
}

/// Attaches what is planned for a namespace that is there. Says what the pod has, and whether this attached it; done again,
/// the pod has the same.
pub(crate) fn attach(
    ledger: &mut Ledger,
    world: &mut impl World,
    id: &PodInterface,
    namespace: &Identity,
    plan: impl FnOnce(&Ledger) -> Result<Pod, Refused>,
) -> Result<(Pod, bool), Refused> {
    if let Some(known) = ledger.get(id).cloned() {
        if !known.ended && known.namespace.is(namespace) {
            world.connect(&known)?;
            return Ok((known, false));
        }
        if !known.ended && world.presence(&known.namespace) == Presence::There {
            let message = format!(
                "container {} has `{}` of network {} in another namespace, {}: detach that first (DEL)",
                id.container, id.interface, id.network, known.namespace.path
            );
            return Err(Refused::new(Refusal::Taken, message));
        }
        detach(ledger, world, id)?;
    }
    let pod = plan(ledger)?;
    change(ledger, world, Change::Attached(pod.clone()))?;
    if let Err(refused) = world.connect(&pod) {
        // What cannot be undone now stays written down, and goes with the pod's DEL or its namespace.
        let _ = detach(ledger, world, id);
        return Err(refused);
    }
    Ok((pod, true))
}

/// Detaches a pod, or forgets one that has ended; says which it was, if it was known.
pub(crate) fn detach(ledger: &mut Ledger, world: &mut impl World, id: &PodInterface) -> Result<Option<Pod>, Refused> {
    let Some(pod) = ledger.get(id).cloned() else { return Ok(None) };
    if !pod.ended {
        world.disconnect(&pod)?;
    }
    change(ledger, world, Change::Detached(id.clone()))?;
    Ok(Some(pod))
}

/// Takes away all of a pod but what an IPAM plugin has to take back: only the runtime can have it called, so the pod stays
/// known until it has.
fn end(ledger: &mut Ledger, world: &mut impl World, id: &PodInterface) -> Result<(), Refused> {
    match ledger.get(id).cloned() {
        Some(pod) if pod.ended => Ok(()),
        Some(pod) if pod.delegated => {
            world.disconnect(&pod)?;
            change(ledger, world, Change::Attached(Pod { ended: true, ..pod }))
        }
        _ => detach(ledger, world, id).map(drop),
    }
}

/// Forgets those of these that have ended. Says what fails.
pub(crate) fn release(
    ledger: &mut Ledger,
    world: &mut impl World,
    ids: &[PodInterface],
) -> Vec<(PodInterface, Refused)> {
    let mut failed = Vec::new();
    for id in ids {
        if ledger.get(id).is_some_and(|pod| pod.ended)
            && let Err(refused) = detach(ledger, world, id)
        {
            failed.push((id.clone(), refused));
        }
    }
    failed
}

fn change(ledger: &mut Ledger, world: &mut impl World, change: Change) -> Result<(), Refused> {
    world.keep(&change, ledger)?;
    ledger.apply(change);
    Ok(())
}

/// Connects all of a ledger that was kept, and lets go of those whose namespace is gone. What fails is returned.
pub(crate) fn restore(ledger: &mut Ledger, world: &mut impl World) -> Vec<(PodInterface, Refused)> {
    let mut failed = collect(ledger, world).1;
    for pod in ledger.living() {
        if let Err(refused) = world.connect(pod) {
            failed.push((pod.id.clone(), refused));
        }
    }
    failed
}

/// Ends all whose namespace is gone. Says which, and what fails.
pub(crate) fn collect(
    ledger: &mut Ledger,
    world: &mut impl World,
) -> (Vec<PodInterface>, Vec<(PodInterface, Refused)>) {
    let gone = ledger.living().filter(|pod| world.presence(&pod.namespace) == Presence::Gone);
    let gone: Vec<PodInterface> = gone.map(|pod| pod.id.clone()).collect();
    end_all(ledger, world, gone)
}

/// Ends these; says which, and what fails.
pub(crate) fn end_all(
    ledger: &mut Ledger,
    world: &mut impl World,
    ids: Vec<PodInterface>,
) -> (Vec<PodInterface>, Vec<(PodInterface, Refused)>) {
    let (mut ended, mut failed) = (Vec::new(), Vec::new());
    for id in ids {
        match end(ledger, world, &id) {
            Ok(()) => ended.push(id),
            Err(refused) => failed.push((id, refused)),
        }
    }
    (ended, failed)
}
