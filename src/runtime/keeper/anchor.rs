//! The hold on the anchor, and the way out of the networks.

use super::{
    super::{ContainerConfig, NetworkNamespace, Result, anchor, network, protocol::Notice},
    Keeper,
};

impl Keeper {
    /// Networks need the namespace of their bridges, which lives as long as we hold it.
    pub(super) fn ensure_anchor(&mut self, config: &ContainerConfig) -> Result<()> {
        let networks = matches!(&config.network, NetworkNamespace::Own(joined) if !joined.is_empty());
        if networks && self.anchor.is_none() {
            self.anchor = Some(anchor::connect(&self.group.roots)?);
            self.tell_anchor();
        }
        if networks
            && !self.way_out
            && let Some(anchor) = &self.anchor
        {
            // Containers that cannot get out still run, find each other and are reached; it is told
            // in their logs.
            let opened = self.leads_out(&config.id).then(|| anchor.open_way_out());
            self.way_out = matches!(opened, Some(Ok(())));
            self.no_way_out = opened.and_then(Result::err);
        }
        Ok(())
    }

    /// Whether one of a container's networks is not internal.
    pub(super) fn leads_out(&self, id: &str) -> bool {
        let leases = network::leases(&self.group.roots).unwrap_or_default();
        leases.iter().any(|lease| lease.container == id && !lease.internal)
    }

    pub(super) fn revive_anchor(&mut self) {
        let revived = self.anchor.take().map(|anchor| anchor.revive(&self.group.roots));
        let failed = match revived {
            Some(Ok(anchor)) => {
                let opened = if self.way_out { anchor.open_way_out() } else { Ok(()) };
                self.way_out &= opened.is_ok();
                self.anchor = Some(anchor);
                opened.err()
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        self.tell_anchor();
        if let Some(error) = failed {
            let on_networks = self.containers.iter().filter(|(_, held)| held.address.is_some());
            let ids: Vec<String> = on_networks.map(|(id, _)| id.clone()).collect();
            for id in ids {
                self.note(&id, "the networks lost their way out", &error);
            }
        }
    }

    pub(super) fn tell_anchor(&self) {
        if let Some(anchor) = &self.anchor {
            self.tell(&Notice::Anchor, &[anchor.netns(), anchor.connection()]);
        }
    }
}
