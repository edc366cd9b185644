//! The hold on the anchor, and the way out of the networks.

use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, pipe_with};

use super::{
    super::{ContainerConfig, Error, NetworkNamespace, Result, anchor, network, state::failed},
    Keeper,
    supervision::said,
};

/// Whether what is outside the networks can be reached from them.
pub(super) enum WayOut {
    /// Nobody needed it, or it could not be opened.
    Closed(Option<Error>),
    /// The anchor is opening it, beside the containers that are being made.
    Opening(Pending),
    Open,
}

/// Workers hold the reading end: it hangs up when the anchor has answered, or we are no more.
pub(super) struct Pending {
    reading: OwnedFd,
    _writing: OwnedFd,
}

impl Pending {
    fn new() -> Result<Self> {
        let (reading, _writing) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("cannot make a pipe"))?;
        Ok(Self { reading, _writing })
    }
}

impl Keeper {
    /// Networks need the namespace of their bridges, which lives as long as we hold it.
    pub(super) fn ensure_anchor(&mut self, config: &ContainerConfig) -> Result<()> {
        if !matches!(&config.network, NetworkNamespace::Own(joined) if !joined.is_empty()) {
            return Ok(());
        }
        self.hold_anchor()?;
        // Containers that cannot get out still run, find each other and are reached; it is told in
        // their logs.
        if matches!(self.way_out, WayOut::Closed(_)) && self.leads_out(&config.id) {
            self.ask_way_out();
        }
        Ok(())
    }

    pub(super) fn hold_anchor(&mut self) -> Result<()> {
        if self.anchor.is_none() {
            self.anchor = Some(anchor::connect(&self.group.roots)?);
            self.tell_anchor();
        }
        Ok(())
    }

    fn ask_way_out(&mut self) {
        let Some(anchor) = &self.anchor else { return };
        let asked = Pending::new().and_then(|pending| anchor.ask_way_out().map(|()| pending));
        self.way_out = asked.map_or_else(|error| WayOut::Closed(Some(error)), WayOut::Opening);
    }

    /// What a worker waits for before it lets a program run that may look outside at once.
    pub(super) fn pending_way_out(&self) -> Result<Option<OwnedFd>> {
        match &self.way_out {
            WayOut::Opening(pending) => rustix::io::fcntl_dupfd_cloexec(&pending.reading, 3)
                .map(Some)
                .map_err(failed("cannot copy a pipe")),
            WayOut::Closed(_) | WayOut::Open => Ok(None),
        }
    }

    /// Tells a container whose networks lead out why it gets no further than these.
    pub(super) fn note_no_way_out(&mut self, id: &str) {
        if let WayOut::Closed(Some(error)) = &self.way_out
            && self.leads_out(id)
        {
            let text = said("nothing outside the container's networks can be reached", error);
            self.note(id, text);
        }
    }

    /// Whether one of a container's networks is not internal.
    fn leads_out(&self, id: &str) -> bool {
        let leases = network::leases(&self.group.roots).unwrap_or_default();
        leases.iter().any(|lease| lease.container == id && !lease.internal)
    }

    /// It answers, or was killed.
    pub(super) fn hear_anchor(&mut self) {
        let heard = match (&self.way_out, &self.anchor) {
            (WayOut::Opening(_), Some(anchor)) => anchor.hear_way_out(),
            _ => Ok(None),
        };
        match heard {
            Ok(Some(())) => self.way_out = WayOut::Open,
            Ok(None) => self.revive_anchor(),
            Err(error) => self.lose_way_out(error),
        }
    }

    fn revive_anchor(&mut self) {
        let wanted = !matches!(self.way_out, WayOut::Closed(_));
        let revived = self.anchor.take().map(|anchor| anchor.revive(&self.group.roots));
        match revived {
            Some(Ok(anchor)) => {
                self.anchor = Some(anchor);
                if wanted {
                    self.ask_way_out();
                }
            }
            Some(Err(error)) => self.lose_way_out(error),
            None => {}
        }
        self.tell_anchor();
    }

    /// Told to those that run; those that are being made hear it when they do.
    fn lose_way_out(&mut self, error: Error) {
        self.way_out = WayOut::Closed(Some(error));
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        ids.iter().for_each(|id| self.note_no_way_out(id));
    }
}
