//! The configuration, read again while the agent runs: what has changed, and what that takes.

use weft_api::Reloaded;
use weft_bridge::Tables;

use crate::agent::Agent;
use crate::cluster::{Keys, View};
use crate::config::{Config, ConfigError, PortConfig};
use crate::desired::port_mtu;
use crate::following::{forward_by, local};

/// What differs between the configuration in force and another, and what it takes to put that in force. Pure.
fn differences(old: &Config, new: &Config, underlay_mtu: u16) -> Reloaded {
    let changed = |fields: &[(&str, bool)]| -> Vec<String> {
        fields.iter().filter(|(_, changed)| *changed).map(|(name, _)| (*name).to_owned()).collect()
    };
    // The node's own port is in no file.
    let written =
        |config: &Config| config.ports.iter().filter(|port| !port.routes).cloned().collect::<Vec<PortConfig>>();
    let applied = changed(&[
        ("keeper", old.keeper != new.keeper),
        ("underlay.ttl", old.ttl != new.ttl),
        ("underlay.dscp", old.dscp != new.dscp),
        ("fdb.ageing_seconds", old.fdb_ageing_seconds != new.fdb_ageing_seconds),
        ("[[vtep]]", old.vteps != new.vteps),
    ]);
    let mut takeover = changed(&[
        ("log", old.log != new.log),
        ("log_format", old.log_format != new.log_format),
        ("confinement", old.confinement != new.confinement),
        ("[metrics]", old.metrics != new.metrics),
        ("underlay.mtu", old.underlay_mtu != new.underlay_mtu),
        ("underlay.path_probes", old.path_probes != new.path_probes),
        ("[offloads]", old.switched_off != new.switched_off && old.underlay_kind == new.underlay_kind),
        ("fdb.capacity", old.fdb_capacity != new.fdb_capacity),
        ("workers.cpus", old.cpus != new.cpus),
        ("workers.polling", old.polling != new.polling),
        ("[control]", old.control != new.control),
        ("[network]", old.network != new.network),
        ("[[vni]]", old.vnis != new.vnis),
        ("[[port]]", written(old) != written(new)),
    ]);
    for port in written(new).iter().filter(|port| old.ports.contains(port)) {
        if port_mtu(old, port, underlay_mtu) != port_mtu(new, port, underlay_mtu) {
            takeover.push(format!("the MTU of port `{}`, which follows from [[vtep]]", port.name));
        }
    }
    let restart = changed(&[
        ("node", old.node != new.node),
        ("run_dir", old.run_dir != new.run_dir),
        ("underlay.addresses, vxlan_ports or geneve_ports", old.listen != new.listen),
        ("underlay.zero_checksums_over_ipv6", old.socket != new.socket),
        ("underlay.kind", old.underlay_kind != new.underlay_kind),
        ("workers.count", old.workers != new.workers),
    ]);
    Reloaded { applied, takeover, restart }
}

impl Agent {
    /// Reads the configuration's file again, and puts in force what needs no other process.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing changes then.
    pub(crate) fn reload(&mut self) -> Result<Reloaded, ConfigError> {
        let new = Config::load(&self.config.path)?;
        let reloaded = differences(&self.config, &new, self.underlay_mtu);
        let Config { keeper, ttl, dscp, fdb_ageing_seconds, vteps, .. } = new;
        self.config = Config { keeper, ttl, dscp, fdb_ageing_seconds, vteps, ..self.config.clone() };
        let mut tables = Tables::clone(&self.switch.tables());
        tables.set_outer_ttl(ttl);
        tables.set_outer_dscp(dscp);
        self.switch.publish(tables);
        let local = local(&self.config, self.underlay_mtu);
        match &mut self.following {
            Some(following) => {
                following.be(local);
                following.publish(&self.switch, self.paths.as_mut());
            }
            None => drop(forward_by(&View::new(Keys::new("")), &local, &self.switch, self.paths.as_mut())),
        }
        if let Some(uplink) = &self.uplink {
            uplink.follow(&self.switch.tables());
        }
        self.keep_devices();
        let Reloaded { applied, takeover, restart } = &reloaded;
        tracing::info!(?applied, needs_takeover = ?takeover, needs_restart = ?restart, "the configuration was read again");
        Ok(reloaded)
    }
}
