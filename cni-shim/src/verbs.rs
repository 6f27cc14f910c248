//! What each verb does.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use weft_api::{
    AddressSource, Attach, Attached, Check, Client, ClientError, PodAddress, PodInterface, Query, Reply, Retain, spool,
};

use crate::config::NetworkConfig;
use crate::error::{CniError, Code};
use crate::ipam::Ipam;
use crate::request::{Call, Verb};
use crate::result::{CniResult, Ip};

/// Errors of which the words are told at most, where there are several.
const TOLD_ERRORS: usize = 5;

/// Attaches the pod. What an IPAM plugin gave goes back if that fails.
pub(crate) fn add(call: &Call, config: &NetworkConfig, raw: &[u8]) -> Result<CniResult, CniError> {
    let namespace = File::open(&call.netns).map_err(|error| {
        let msg = format!("the pod's namespace {}: {error}", call.netns);
        CniError::new(Code::ContainerUnknown, msg, "CNI_NETNS has to be a network namespace that is there")
    })?;
    let ipam = ipam(call, config, raw)?;
    let prev_result = config.prev_result()?.unwrap_or_default();
    let dns = config.dns()?;
    // All is read before an IPAM plugin gives anything.
    let mut attach = Attach {
        pod: call.pod(config.name()?),
        netns: call.netns.clone(),
        label: call.args.label.clone(),
        vni: config.vni()?,
        mac: config.wished_mac(call)?,
        mtu: config.mtu()?,
        addresses: AddressSource::Node { requested: config.wished_addresses(call)? },
        default_route: config.is_default_gateway()?,
        routes: config.routes()?,
        wait: config.wait_for()?,
        wait_timeout_ms: config.wait_timeout_ms()?,
    };
    let given = ipam.as_ref().map(Ipam::add).transpose()?;
    if let Some(given) = &given {
        let address = |ip: &Ip| PodAddress { address: ip.address.clone(), gateway: ip.gateway };
        attach.addresses = AddressSource::Given(given.ips.iter().map(address).collect());
        attach.routes.extend(given.pod_routes());
    }
    let attached = ask_to_attach(config, attach, &namespace).inspect_err(|_| {
        if let Some(ipam) = &ipam {
            // The first error is the one to tell; DEL will try once more.
            let _ = ipam.del();
        }
    })?;
    let mut result = prev_result.with(&attached, &call.interface, &call.netns);
    result.dns = result.dns.or_else(|| given.and_then(|given| given.dns)).or(dns);
    Ok(result)
}

fn ask_to_attach(config: &NetworkConfig, attach: Attach, namespace: &File) -> Result<Attached, CniError> {
    let mut client = Client::connect(&config.run_dir()?)?;
    match client.ask_with(Query::Attach(Box::new(attach)), Some(namespace.as_fd()))? {
        Reply::Attached(attached) => Ok(*attached),
        other => Err(nonsense(&other)),
    }
}

/// Detaches the pod; without an agent, notes that the next one is to.
pub(crate) fn del(call: &Call, config: &NetworkConfig, raw: &[u8]) -> Result<(), CniError> {
    let pod = call.pod(config.name()?);
    let run_dir = config.run_dir()?;
    match ask(&run_dir, Query::Detach(pod.clone())) {
        Ok(_) => {}
        Err(error @ (ClientError::NotRunning { .. } | ClientError::Io { .. })) => {
            spool::put(&run_dir, &pod).map_err(|spool| {
                let msg = format!("{error}; and noting it in {}: {spool}", run_dir.join(spool::SPOOL_DIR).display());
                CniError::new(Code::TryAgainLater, msg, "start the agent, or give the directory room")
            })?;
        }
        Err(error) => return Err(error.into()),
    }
    match ipam(call, config, raw)? {
        Some(ipam) => ipam.del(),
        None => Ok(()),
    }
}

/// Compares the pod with what ADD said of it.
pub(crate) fn check(call: &Call, config: &NetworkConfig, raw: &[u8]) -> Result<(), CniError> {
    let pod = call.pod(config.name()?);
    let Some(result) = config.prev_result()? else {
        let details = "CHECK compares with what ADD said, which the runtime has to give";
        return Err(CniError::new(Code::InvalidConfig, "the network configuration has no `prevResult`", details));
    };
    if let Some(ipam) = ipam(call, config, raw)? {
        ipam.check()?;
    }
    let (mac, addresses) = result.of_interface(&call.interface, &call.netns);
    if mac.is_none() {
        let msg = format!("`prevResult` has no interface `{}` in {}", call.interface, call.netns);
        return Err(CniError::new(Code::InvalidConfig, msg, "it has to be what ADD said"));
    }
    let routes = result.pod_routes().collect();
    done(config, Query::Check(Check { pod, mac, addresses, routes }))
}

/// Detaches what the runtime does not know, and has the IPAM plugin take back what it gave. What fails costs nothing else,
/// and is told at the end.
pub(crate) fn gc(call: &Call, config: &NetworkConfig, raw: &[u8]) -> Result<(), CniError> {
    let network = config.name()?;
    let Some(valid) = config.valid_attachments()? else {
        let details = "without it nothing can be told from what is in use";
        return Err(CniError::new(Code::InvalidConfig, "there is no `cni.dev/valid-attachments`", details));
    };
    // Before anything is taken away that it would have to take back.
    let ipam = ipam(call, config, raw)?;
    let used = valid.into_iter().map(|one| (one.container, one.interface)).collect();
    let run_dir = config.run_dir()?;
    let mut failed = Vec::new();
    match ask(&run_dir, Query::Retain(Retain { network: network.clone(), used })) {
        Err(error @ ClientError::Refused { .. }) => failed.push(error.into()),
        retained => drop(retained?),
    }
    let Some(ipam) = ipam else { return together(failed) };
    let unreleased = match ask(&run_dir, Query::Unreleased(network))? {
        Reply::Detached(unreleased) => unreleased,
        other => return Err(nonsense(&other)),
    };
    let mut released: Vec<PodInterface> = Vec::new();
    for pod in unreleased {
        match ipam.del_unused(&pod) {
            Ok(()) => released.push(pod),
            Err(error) => {
                let msg = format!("`{}` of container {}: {}", pod.interface, pod.container, error.msg);
                failed.push(CniError { msg, ..error });
            }
        }
    }
    if !released.is_empty() {
        failed.extend(done(config, Query::Released(released)).err());
    }
    failed.extend(ipam.newer(Verb::Gc).err());
    together(failed)
}

/// One error of several: the first, with what the next ones say.
fn together(failed: Vec<CniError>) -> Result<(), CniError> {
    let more = failed.len().saturating_sub(TOLD_ERRORS);
    let mut told = failed.into_iter().take(TOLD_ERRORS);
    let Some(first) = told.next() else { return Ok(()) };
    let mut all = told.fold(first, |all, next| CniError { msg: format!("{}; {}", all.msg, next.msg), ..all });
    if more > 0 {
        all.msg.push_str(&format!("; and {more} more"));
    }
    Err(all)
}

/// Whether ADD would work; without an agent, those that are attached suffer too.
pub(crate) fn status(call: &Call, config: &NetworkConfig, raw: &[u8]) -> Result<(), CniError> {
    let coded = |code: Code, error: CniError| CniError { code: code as u32, ..error };
    match ask(&config.run_dir()?, Query::Ready { addresses: config.ipam()?.is_none() }) {
        Ok(Reply::Done) => {}
        Ok(other) => return Err(coded(Code::NotAvailable, nonsense(&other))),
        Err(error @ (ClientError::NotRunning { .. } | ClientError::Io { .. })) => {
            return Err(coded(Code::LimitedConnectivity, error.into()));
        }
        Err(error) => return Err(coded(Code::NotAvailable, error.into())),
    }
    match ipam(call, config, raw).map_err(|error| coded(Code::NotAvailable, error))? {
        Some(ipam) => ipam.newer(Verb::Status),
        None => Ok(()),
    }
}

fn ipam<'a>(call: &Call, config: &NetworkConfig, raw: &'a [u8]) -> Result<Option<Ipam<'a>>, CniError> {
    config.ipam()?.map(|name| Ipam::find(&name, &call.path, raw)).transpose()
}

fn done(config: &NetworkConfig, query: Query) -> Result<(), CniError> {
    match ask(&config.run_dir()?, query)? {
        Reply::Done => Ok(()),
        other => Err(nonsense(&other)),
    }
}

/// Each question is a conversation of its own: the agent ends one that pauses.
fn ask(run_dir: &Path, query: Query) -> Result<Reply, ClientError> {
    Client::connect(run_dir)?.ask(query)
}

fn nonsense(reply: &Reply) -> CniError {
    CniError::new(
        Code::OtherAgent,
        format!("the agent answers {reply:?}"),
        "install the plugin that came with the agent",
    )
}
