//! The supervisor: kept alive, told what it must know, heard when a log is whole.

use std::{
    os::fd::{AsFd, BorrowedFd},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use super::{
    super::{
        Error,
        protocol::{self, Drained, Notice},
        restart::Next,
        state::{Identity, write_json},
        supervisor,
    },
    Keeper, Supervisor,
};

impl Keeper {
    pub(super) fn ensure_supervisor(&mut self) {
        // Not for a command that only may start something: its first container need not wait for this.
        let needed = !(self.containers.is_empty() && self.workers.is_empty());
        if self.supervisor.is_some() || !needed {
            return;
        }
        let now = Instant::now();
        self.respawned.retain(|then| now.duration_since(*then) < Duration::from_secs(10));
        if self.respawned.len() > 100 {
            return;
        }
        self.respawned.push_back(now);
        let Ok((pid, socket)) = supervisor::spawn(&self.group) else { return };
        let _ = write_json(&self.group.run().join("supervisor.json"), &Identity::of(pid));
        self.supervisor = Some(Supervisor { pid, socket });
        self.tell_anchor();
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        for id in ids {
            self.tell_running(&id);
            self.tell_ended(&id);
        }
    }

    pub(super) fn tell_running(&mut self, id: &str) {
        let Some(held) = self.containers.get(id) else { return };
        let Some(process) = held.state.process.clone() else { return };
        let notice = Notice::Running {
            id: id.to_owned(),
            process,
            ports: if held.ports.is_empty() { Vec::new() } else { held.state.ports.clone() },
            address: held.address,
            dns: !held.dns.is_empty(),
            terminal: held.terminal.is_some(),
        };
        let descriptors: Vec<BorrowedFd<'_>> =
            held.ports.iter().chain(&held.dns).chain(&held.terminal).map(AsFd::as_fd).collect();
        self.tell(&notice, &descriptors);
    }

    pub(super) fn tell_ended(&mut self, id: &str) {
        let Some(ending) = self.containers.get(id).and_then(|held| held.ending.as_ref()) else { return };
        let restarting = ending.next != Next::Stay;
        self.tell(&Notice::Ended { id: id.to_owned(), exit: ending.ended.exit, restarting }, &[]);
    }

    /// A supervisor that takes nothing more is no good: its end brings a new one.
    pub(super) fn tell(&self, notice: &Notice, descriptors: &[BorrowedFd<'_>]) {
        if let Some(supervisor) = &self.supervisor
            && protocol::send(supervisor.socket.as_fd(), notice, descriptors).is_err()
            && let Some(pid) = Pid::from_raw(supervisor.pid)
        {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    /// To the log of a container.
    pub(super) fn note(&self, id: &str, what: &str, error: &Error) {
        let mut text = format!("{what}: {error}");
        if let Some(source) = std::error::Error::source(error) {
            text.push_str(&format!(": {source}"));
        }
        self.tell(&Notice::Note { id: id.to_owned(), text }, &[]);
    }

    pub(super) fn hear_supervisor(&mut self) {
        let Some(supervisor) = &self.supervisor else { return };
        match protocol::receive::<Drained>(supervisor.socket.as_fd()) {
            Ok(Some((Drained { id }, _))) => self.settle(&id),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => {
                // Its end was not reaped yet: make sure of it.
                if let (Some(pid), Some(supervisor)) = (Pid::from_raw(supervisor.pid), self.supervisor.take())
                {
                    let _ = rustix::process::kill_process(pid, Signal::KILL);
                    drop(supervisor);
                }
            }
        }
    }
}
