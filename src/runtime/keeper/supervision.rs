//! The supervisor: kept alive, told what it must know, heard when a log is whole.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};

use super::{
    super::{
        Error, Result,
        protocol::{self, Drained, Notice},
        restart::Next,
        state::{Identity, write_json},
        supervisor,
    },
    Keeper, PATIENCE, Supervisor,
};

/// Waits to be told. What goes with it is looked up when there is room for it.
pub(super) enum Untold {
    Anchor,
    /// A container, by its id.
    Running(String),
    Plain(Notice),
}

impl Supervisor {
    pub(super) fn new(pid: i32, socket: OwnedFd) -> Self {
        Self { pid, socket, untold: VecDeque::new(), full_since: None }
    }

    /// As much of what waits to be told as there is room for. A supervisor that takes nothing more is no good:
    /// its end brings a new one, which is told of all there is.
    fn tell_on(&mut self, send: &dyn Fn(&OwnedFd, &Untold) -> Result<()>) {
        while let Some(next) = self.untold.front() {
            match send(&self.socket, next) {
                Ok(()) => {
                    self.untold.pop_front();
                    self.full_since = None;
                }
                Err(Error::System { source, .. })
                    if source.kind() == std::io::ErrorKind::WouldBlock
                        && self.full_since.get_or_insert_with(Instant::now).elapsed() < PATIENCE =>
                {
                    return;
                }
                Err(_) => {
                    self.kill();
                    self.untold.clear();
                    self.full_since = None;
                }
            }
        }
    }

    pub(super) fn kill(&self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }
}

/// What went wrong with a container, with why.
pub(super) fn said(what: &str, error: &Error) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{what}: {error}: {source}"),
        None => format!("{what}: {error}"),
    }
}

impl Keeper {
    pub(super) fn ensure_supervisor(&mut self) {
        // Its start would only slow that of the first container, whose output and connections wait for it.
        if self.supervisor.is_some() || self.containers.is_empty() {
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
        self.supervisor = Some(Supervisor::new(pid, socket));
        self.tell_anchor();
        let ids: Vec<String> = self.containers.keys().cloned().collect();
        for id in ids {
            self.tell_running(&id);
            self.tell_ended(&id);
        }
        for note in std::mem::take(&mut self.unheard) {
            self.tell(note);
        }
    }

    pub(super) fn tell_running(&mut self, id: &str) {
        self.tell(Untold::Running(id.to_owned()));
    }

    pub(super) fn tell_anchor(&mut self) {
        self.tell(Untold::Anchor);
    }

    pub(super) fn tell_ended(&mut self, id: &str) {
        let Some(ending) = self.containers.get(id).and_then(|held| held.ending.as_ref()) else { return };
        let (exit, restarting) = (ending.ended.exit, ending.next != Next::Stay);
        self.tell(Untold::Plain(Notice::Ended { id: id.to_owned(), exit, restarting }));
    }

    /// To the log of a container.
    pub(super) fn note(&mut self, id: &str, text: String) {
        self.tell(Untold::Plain(Notice::Note { id: id.to_owned(), text }));
    }

    fn tell(&mut self, what: Untold) {
        match &mut self.supervisor {
            Some(supervisor) => {
                supervisor.untold.push_back(what);
                self.tell_on();
            }
            // All else the next one is told from what there is.
            None if matches!(what, Untold::Plain(Notice::Note { .. })) => self.unheard.push(what),
            None => {}
        }
    }

    pub(super) fn tell_on(&mut self) {
        let Some(mut supervisor) = self.supervisor.take() else { return };
        supervisor.tell_on(&|socket, what| self.send(socket, what));
        self.supervisor = Some(supervisor);
    }

    fn send(&self, socket: &OwnedFd, what: &Untold) -> Result<()> {
        let running;
        let (notice, descriptors): (&Notice, Vec<BorrowedFd<'_>>) = match what {
            Untold::Plain(notice @ Notice::Ended { id, .. }) => {
                let terminal = self.containers.get(id).and_then(|held| held.terminal.as_ref());
                (notice, terminal.map(AsFd::as_fd).into_iter().collect())
            }
            Untold::Plain(notice) => (notice, Vec::new()),
            Untold::Anchor => match &self.anchor {
                Some(anchor) => (&Notice::Anchor, vec![anchor.netns(), anchor.connection()]),
                None => return Ok(()),
            },
            Untold::Running(id) => {
                // It may be over meanwhile; then that is told next.
                let Some(held) = self.containers.get(id) else { return Ok(()) };
                let Some(process) = held.state.process.clone() else { return Ok(()) };
                running = Notice::Running {
                    id: id.clone(),
                    process,
                    ports: if held.ports.is_empty() { Vec::new() } else { held.state.ports.clone() },
                    address: held.address,
                    dns: !held.dns.is_empty(),
                    terminal: held.terminal.is_some(),
                };
                let all = held.ports.iter().chain(&held.dns).chain(&held.terminal);
                (&running, all.map(AsFd::as_fd).collect())
            }
        };
        protocol::send(socket.as_fd(), notice, &descriptors)
    }

    pub(super) fn hear_supervisor(&mut self) {
        let Some(supervisor) = &self.supervisor else { return };
        match protocol::receive::<Drained>(supervisor.socket.as_fd()) {
            Ok(Some((Drained { id }, _))) => self.settle(&id),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(None) | Err(_) => {
                // Its end was not reaped yet: make sure of it.
                supervisor.kill();
                self.supervisor = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_socket_holds_waits_and_is_told_in_order() {
        const ALL: i32 = 3000;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (ours, theirs) = protocol::pair().unwrap();
        rustix::io::ioctl_fionbio(&ours, true).unwrap();
        let mut supervisor = Supervisor::new(i32::try_from(child.id()).unwrap(), ours);
        for exit in 0..ALL {
            let ended = Notice::Ended { id: "a".repeat(64), exit: Some(exit), restarting: false };
            supervisor.untold.push_back(Untold::Plain(ended));
        }
        let send = |socket: &OwnedFd, what: &Untold| match what {
            Untold::Plain(notice) => protocol::send(socket.as_fd(), notice, &[]),
            Untold::Anchor | Untold::Running(_) => Ok(()),
        };
        supervisor.tell_on(&send);
        assert!(supervisor.full_since.is_some(), "the test is for what does not fit");
        for expected in 0..ALL {
            let (notice, _) = protocol::receive::<Notice>(theirs.as_fd()).unwrap().unwrap();
            assert!(matches!(notice, Notice::Ended { exit, .. } if exit == Some(expected)), "{notice:?}");
            supervisor.tell_on(&send);
        }
        assert!(supervisor.untold.is_empty() && supervisor.full_since.is_none());
        assert_eq!(child.try_wait().unwrap(), None, "it was killed for being slow");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn one_that_takes_nothing_for_long_is_replaced() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (ours, _theirs) = protocol::pair().unwrap();
        let mut supervisor = Supervisor::new(i32::try_from(child.id()).unwrap(), ours);
        supervisor.untold.push_back(Untold::Anchor);
        let full = |_: &OwnedFd, _: &Untold| {
            Err(Error::System { what: String::new(), source: std::io::ErrorKind::WouldBlock.into() })
        };
        supervisor.tell_on(&full);
        assert_eq!((supervisor.untold.len(), child.try_wait().unwrap()), (1, None));
        supervisor.full_since = Instant::now().checked_sub(PATIENCE);
        supervisor.tell_on(&full);
        assert!(supervisor.untold.is_empty());
        assert_eq!(
            std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()),
            Some(libc::SIGKILL)
        );
    }
}
