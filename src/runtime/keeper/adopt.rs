//! Taking over what a dead keeper of the group left running.

use std::time::{Duration, Instant, SystemTime};

use rustix::{
    event::{PollFd, PollFlags, poll},
    process::Signal,
};

use super::{
    super::{
        RestartConfig, Result, cgroup,
        failpoint::{Point, reached},
        restart::Backoff,
        signal,
        state::{Ended, Identity, Place, Stage, State, read_json},
    },
    Held, Keeper, PATIENCE, Purpose,
    pipes::open_pipes,
    timespec,
};

/// How long a supervisor that has lost its keeper may take to write down what ended before its eyes.
const WITNESS: Duration = Duration::from_secs(5);

impl Keeper {
    /// Takes over what a dead keeper of the group left running.
    pub(super) fn adopt(&mut self) -> Result<()> {
        let old: Option<Identity> = read_json(&self.group.run().join("supervisor.json")).ok().flatten();
        for id in self.group.ids()? {
            let place = self.group.place(&id)?;
            let state = read_json::<State>(&place.run.join("state.json"));
            if let Ok(Some(state)) = state
                && !matches!(state.phase, Stage::Exited { .. })
            {
                self.adopt_one(id.clone(), place, state, old.as_ref());
            }
            self.kill_untold(&id);
        }
        // One that left by itself has taken that file away.
        if self.group.run().join("keeper.json").exists() {
            self.kill_strays();
        }
        if !self.containers.is_empty() {
            reached(Point::KeeperAdopted);
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

    fn adopt_one(&mut self, id: String, place: Place, state: State, witness: Option<&Identity>) {
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
        // Before anybody is waited for.
        let last_word = state.process.as_ref().filter(|_| lost).and_then(signal::last_word);
        let ended = lost.then(|| {
            learn_end(&place, witness).unwrap_or_else(|| {
                let cgroup = self.group.cgroup(&id);
                let out_of_memory = cgroup.is_some_and(|path| cgroup::ran_out_of_memory(&path));
                Ended { exit: last_word, finished: SystemTime::now(), out_of_memory }
            })
        });
        let mut pipes = open_pipes(&place).unwrap_or_default();
        if spec.as_ref().is_some_and(|spec| spec.config.once.as_ref().is_some_and(|once| once.close_stdin)) {
            // Whoever types has it open, or is gone: then it has ended.
            pipes.remove(0);
        }
        let host_restarted = ended.is_some_and(|end| end.exit.is_none()) && state.is_of_another_boot();
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
            state: State { host_restarted, ..state },
        };
        ended.into_iter().for_each(|ended| held.end(ended));
        self.containers.insert(id, held);
        self.expecting = None;
    }
}

/// How a container ended that is gone: the old supervisor saw it and is about to write it down.
fn learn_end(place: &Place, witness: Option<&Identity>) -> Option<Ended> {
    let deadline = Instant::now() + WITNESS;
    loop {
        let ended = place.ended();
        let told = ended.is_some() || !witness.is_some_and(Identity::lives);
        if told || Instant::now() > deadline {
            return ended.or_else(|| place.ended());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
