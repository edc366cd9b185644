//! How containers end: collected, written down, told when the log is whole, and brought back.

use std::{
    fs::File,
    time::{Instant, SystemTime},
};

use rustix::{
    fs::{FlockOperation, flock},
    process::{WaitOptions, wait},
};

use super::{
    super::{
        Core, cgroup,
        failpoint::{Point, reached},
        network, process,
        restart::Next,
        signal,
        state::{Ended, Stage, failed, remove_file},
        worker,
    },
    DRAIN, Ending, Held, Keeper, Purpose,
    clients::answer,
};

impl Keeper {
    /// Collects every child that has ended.
    pub(super) fn reap(&mut self) {
        self.collect();
        self.remains.retain(|cgroup| cgroup::remove(cgroup).is_err());
    }

    pub(super) fn collect(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let exit =
                status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
            if self.supervisor.as_ref().is_some_and(|supervisor| supervisor.pid == pid) {
                self.supervisor = None;
                continue;
            }
            if let Some(worker) = self.workers.iter_mut().find(|worker| worker.pid == pid) {
                worker.gone = true;
                continue;
            }
            let of = |held: &Held| held.state.process.as_ref().is_some_and(|process| process.pid == pid);
            let id = self.containers.iter().find(|(_, held)| of(held)).map(|(id, _)| id.clone());
            match id {
                Some(id) => self.ended(&id, exit),
                None if !self.workers.is_empty() => {
                    self.unclaimed.insert(pid, exit);
                }
                None => {}
            }
        }
    }

    /// Ends of containers that were another keeper's children.
    pub(super) fn check_adopted(&mut self, ready: &[String]) {
        for id in ready {
            let exit = self.containers.get(id).and_then(|held| signal::exit_of(held.pidfd.as_ref()?));
            self.ended(id, exit);
        }
    }

    pub(super) fn ended(&mut self, id: &str, exit: Option<i32>) {
        let Some(held) = self.containers.get_mut(id) else { return };
        reached(Point::Collected);
        let out_of_memory = self.group.cgroup(id).is_some_and(|path| cgroup::ran_out_of_memory(&path));
        held.end(Ended { exit, finished: SystemTime::now(), out_of_memory });
        reached(Point::EndWritten);
        // Others may share its network namespace; the name server was for it alone.
        held.dns.clear();
        let on_networks = held.address.is_some();
        let _ = remove_file(&held.place.run.join("paused"));
        // The supervisor completes the log meanwhile.
        self.tell_ended(id);
        reached(Point::EndTold);
        if on_networks {
            let _ = network::set_up(&self.group.roots, id, false);
        }
        if let Some(cgroup) = self.group.cgroup(id).filter(|cgroup| cgroup::remove(cgroup).is_err()) {
            // In a pid namespace that is not its own, the end of the first process is not that of all.
            cgroup::kill(&cgroup);
            self.remains.push(cgroup);
        }
    }

    /// Its output is in the log: now its end may be seen.
    pub(super) fn settle(&mut self, id: &str) {
        let Some(held) = self.containers.get_mut(id) else { return };
        let (exit, next) = match held.ending.take() {
            Some(ending) => (ending.ended.exit, ending.next),
            None => match held.state.phase {
                Stage::Restarting { exit } => (exit, Next::Stay),
                _ => return,
            },
        };
        if let Next::StartAfter(delay) = next {
            held.state.phase = Stage::Restarting { exit };
            held.state.restarts = held.backoff.count;
            held.restart_at = Some(Instant::now() + delay);
            self.record(id);
            return;
        }
        reached(Point::Drained);
        held.state.phase = Stage::Exited { exit };
        held.state.ports.clear();
        self.record(id);
        reached(Point::Settled);
        let Some(held) = self.containers.remove(id) else { return };
        let _ = remove_file(&held.place.run.join("exit"));
        let once = held.place.spec().ok().and_then(|spec| spec.config.once);
        if once.is_some_and(|once| once.remove) {
            self.remove(id);
        }
    }

    /// To those who wait for ends that are written down by now.
    pub(super) fn tell_ends(&mut self) {
        let held = &self.containers;
        self.awaiting.retain_mut(|(client, id)| {
            let runs = held.contains_key(id);
            if !runs {
                answer(client, &Ok(()));
            }
            runs
        });
    }

    /// In a process of its own: it waits for who attends the container, for the commands that have the
    /// group's lock, and for us.
    fn remove(&self, id: &str) {
        let (group, id) = (self.group.clone(), id.to_owned());
        let _ = worker::fork_apart(move || {
            process::close_all_but(&mut []);
            if let Ok(attended) = File::open(group.place(&id)?.attended()) {
                flock(&attended, FlockOperation::LockExclusive)
                    .map_err(failed("cannot wait for a command"))?;
            }
            let core = Core::new(group.roots.clone());
            let _lock = core.lock(&group.name, "the end of a one-off container", &mut |_| {})?;
            core.remove(&group.name, &id, true)
        });
    }

    pub(super) fn check_times(&mut self) {
        let now = Instant::now();
        let due = |time: Option<Instant>| time.is_some_and(|time| time <= now);
        let late: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, held)| due(held.ending.as_ref().map(|ending| ending.deadline)))
            .map(|(id, _)| id.clone())
            .collect();
        for id in late {
            self.settle(&id);
        }
        let restarts: Vec<String> = self
            .containers
            .iter()
            .filter(|(_, held)| due(held.restart_at))
            .map(|(id, _)| id.clone())
            .collect();
        for id in restarts {
            self.restart(&id);
        }
        if due(self.write_by) {
            self.write_last();
        }
    }

    pub(super) fn restart(&mut self, id: &str) {
        let Some(held) = self.containers.get_mut(id) else { return };
        held.restart_at = None;
        if held.stopped || held.place.is_stopped() {
            self.settle(id);
            return;
        }
        if self.fork_worker(id, Purpose::Restart, Vec::new()).is_err() {
            self.ended(id, None);
        }
    }
}

impl Held {
    /// The first thing after an end: it is written down.
    pub(super) fn end(&mut self, ended: Ended) {
        let _ = self.place.write_ended(&ended);
        let next = if self.stopped || self.place.is_stopped() {
            Next::Stay
        } else {
            self.backoff.next(self.policy, ended.exit, self.running_since.elapsed())
        };
        self.state.process = None;
        self.state.finished = Some(ended.finished);
        self.state.out_of_memory = ended.out_of_memory;
        self.pidfd = None;
        self.ending = Some(Ending { ended, next, deadline: Instant::now() + DRAIN });
    }
}
