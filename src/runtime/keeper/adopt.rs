//! Taking over what a dead keeper of the group left running.

use std::time::{Instant, SystemTime};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::Signal,
};

use super::{
    super::{
        RestartConfig, Result,
        restart::Backoff,
        signal,
        state::{Ended, Identity, Place, Stage, State, read_json},
    },
    Held, Keeper, PATIENCE, Purpose,
    pipes::open_pipes,
    timespec,
};

impl Keeper {
    /// Takes over what a dead keeper of the group left running.
    pub(super) fn adopt(&mut self) -> Result<()> {
        let old: Option<Identity> = read_json(&self.group.run().join("supervisor.json")).ok().flatten();
        for id in self.group.ids()? {
            let place = self.group.place(&id)?;
            let Ok(Some(state)) = read_json::<State>(&place.run.join("state.json")) else { continue };
            if matches!(state.phase, Stage::Exited { .. }) {
                continue;
            }
            self.adopt_one(id, place, state);
        }
        // Only now that we hold the FIFOs may the last other holder go; what it listened at is free
        // when it is gone.
        if let Some(old) = old
            && let Some(pidfd) = signal::pidfd(&old)
        {
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
            let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&timespec(PATIENCE)));
        }
        let running: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, held)| held.pidfd.is_some())
            .map(|(id, _)| id.clone())
            .collect();
        for id in running {
            // Without it the container runs on, but is not reached by its ports and finds no names.
            let _ = self.fork_worker(&id, Purpose::TakeOver, Vec::new());
        }
        Ok(())
    }

    pub(super) fn adopt_one(&mut self, id: String, place: Place, state: State) {
        let spec = place.spec().ok();
        if let Some(spec) = &spec {
            // Before the last other holder of the networks goes. Failing, it is tried once more.
            let _ = self.ensure_anchor(&spec.config);
        }
        let policy = spec.as_ref().map_or(RestartConfig::No, |spec| spec.config.restart);
        let pidfd = state.process.as_ref().and_then(signal::pidfd);
        let restarting = matches!(state.phase, Stage::Restarting { .. });
        let lost = pidfd.is_none() && !restarting;
        let stopped = place.is_stopped();
        let ended = read_json::<Ended>(&place.run.join("exit")).ok().flatten();
        let mut pipes = open_pipes(&place).unwrap_or_default();
        if spec.as_ref().is_some_and(|spec| spec.config.once.as_ref().is_some_and(|once| once.close_stdin)) {
            // Whoever types has it open, or is gone: then it has ended.
            pipes.remove(0);
        }
        let mut held = Held {
            policy,
            backoff: Backoff::with_count(state.restarts),
            pipes,
            ports: Vec::new(),
            dns: Vec::new(),
            terminal: None,
            address: None,
            pidfd,
            running_since: Instant::now(),
            restart_at: restarting.then(Instant::now),
            ending: None,
            stopped,
            place,
            state,
        };
        if lost {
            let ended =
                ended.unwrap_or(Ended { exit: None, finished: SystemTime::now(), out_of_memory: false });
            held.end(ended);
        }
        self.containers.insert(id, held);
        self.expecting = None;
    }
}
