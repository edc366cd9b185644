//! Workers: forked for one start each, heard once; what they hand over is held from then on.

use std::{
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    time::{Duration, Instant, SystemTime},
};

use rustix::event::{PollFd, PollFlags, poll};

use super::{
    super::{
        Error, ExecConfig, Result, Seccomp, cgroup,
        exec::Exec,
        failpoint::{Point, reached},
        network, process,
        protocol::{self, Report, Started, Wire},
        restart::Backoff,
        signal,
        state::{Stage, State, failed, make_dir, remove_file},
        worker,
    },
    Held, Keeper, Purpose, Worker,
    clients::answer,
    pipes::{make_pipes, null_streams, open_pipes, streams},
    supervision::said,
    timespec,
};

impl Keeper {
    pub(super) fn fork_worker(
        &mut self,
        id: &str,
        purpose: Purpose,
        clients: Vec<UnixStream>,
    ) -> Result<(), (Error, Vec<UnixStream>)> {
        match self.try_fork(id, purpose) {
            Ok((pid, socket, pipes)) => {
                let id = id.to_owned();
                self.workers.push(Worker { pid, socket, id, purpose, clients, pipes, gone: false });
                Ok(())
            }
            Err(error) => Err((error, clients)),
        }
    }

    /// With as many files open as we may have nothing could be stopped any more: the last are kept for that.
    fn leave_room(&self) -> Result<()> {
        const ROOM: usize = 24;
        let spare: std::result::Result<Vec<OwnedFd>, _> =
            (0..ROOM).map(|_| rustix::io::dup(&self.signals)).collect();
        spare.map(drop).map_err(failed("cannot hold one more container"))
    }

    /// The worker does the parsing: an error in the specification cannot hurt the keeper.
    pub(super) fn try_fork(&mut self, id: &str, purpose: Purpose) -> Result<(i32, OwnedFd, Vec<OwnedFd>)> {
        if purpose == Purpose::Start {
            self.leave_room()?;
        }
        let place = self.group.place(id)?;
        make_dir(&place.run)?;
        make_pipes(&place)?;
        let pipes = open_pipes(&place)?;
        let spec = place.spec()?;
        self.ensure_anchor(&spec.config)?;
        let held = self.containers.get(id);
        let bound = held
            .filter(|held| purpose == Purpose::Restart && held.ports.len() == spec.config.ports.len())
            .map(|held| held.state.ports.clone());
        let had = held.map(|held| held.state.clone());
        if purpose != Purpose::TakeOver {
            self.group.place_cgroup(id, spec.config.cgroup_parent.as_deref())?;
        }
        let (group, cgroup) = (self.group.clone(), self.group.cgroup(id));
        if spec.config.seccomp == Seccomp::Default {
            // Inherited: the same for most containers, and it takes its time.
            let _ = worker::filter(&spec.config);
        }
        let (ours, theirs) = protocol::pair()?;
        let mut kept = vec![theirs.as_raw_fd()];
        if let Some(anchor) = &self.anchor {
            kept.extend([anchor.netns().as_raw_fd(), anchor.connection().as_raw_fd()]);
        }
        let way_out = self.pending_way_out()?;
        kept.extend(way_out.as_ref().map(AsRawFd::as_raw_fd));
        let anchor = &mut self.anchor;
        let pid = worker::fork(&theirs, move || {
            reached(Point::WorkerBegins);
            // What the keeper holds is not the worker's: its lock and sockets must die with it.
            process::close_all_but(&mut kept);
            if let (Purpose::TakeOver, Some(State { process: Some(process), ports, .. })) = (purpose, had) {
                return worker::take_over(&group.roots, &spec, &process, &ports, anchor.as_ref());
            }
            let stdio = streams(&place, &spec.config)?;
            let (roots, anchor) = (group.roots, anchor.take());
            worker::start(worker::Job { roots, place, spec, cgroup, stdio, bound, anchor, way_out })
        });
        reached(Point::WorkerForked);
        Ok((pid?, ours, pipes))
    }

    /// A worker that runs a further program and ends: what it ran becomes our child.
    pub(super) fn exec(&mut self, id: &str, exec: ExecConfig, mut client: UnixStream) {
        match self.fork_exec(id, exec) {
            Ok((pid, socket)) => {
                let (id, clients) = (id.to_owned(), vec![client]);
                self.workers.push(Worker {
                    pid,
                    socket,
                    id,
                    purpose: Purpose::Exec,
                    clients,
                    pipes: Vec::new(),
                    gone: false,
                });
            }
            Err(error) => answer(&mut client, &Err(error)),
        }
    }

    fn fork_exec(&self, id: &str, exec: ExecConfig) -> Result<(i32, OwnedFd)> {
        let place = self.group.place(id)?;
        let process = self.containers.get(id).and_then(|held| held.state.process.clone());
        let process = process.ok_or_else(|| Error::Condition("the container is not running".to_owned()))?;
        let (ours, theirs) = protocol::pair()?;
        let mut kept = vec![theirs.as_raw_fd()];
        let pid = worker::fork(&theirs, move || {
            process::close_all_but(&mut kept);
            let program = Exec::new(&place.spec()?.config, &process, &exec)?;
            program.spawn(&process, &null_streams()?)?;
            Ok((Report::Executed, Vec::new()))
        })?;
        Ok((pid, ours))
    }

    pub(super) fn hear_workers(&mut self, ready: &[i32]) {
        for pid in ready {
            let Some(at) = self.workers.iter().position(|worker| worker.pid == *pid) else { continue };
            let mut worker = self.workers.swap_remove(at);
            let heard = match rustix::io::ioctl_fionbio(&worker.socket, worker.gone) {
                Ok(()) => protocol::receive::<Report>(worker.socket.as_fd()),
                Err(error) => Err(error.into()),
            };
            self.conclude(&mut worker, heard);
        }
        if self.workers.is_empty() {
            self.unclaimed.retain(|_, _| false);
        }
        let left: Vec<i32> = self.workers.iter().map(|worker| worker.pid).collect();
        self.settling.retain_mut(|(client, awaited)| {
            let goes_on = awaited.iter().any(|pid| left.contains(pid));
            if !goes_on {
                answer(client, &Ok(()));
            }
            goes_on
        });
    }

    /// Workers that were killed: a process that they left may hold their socket open for ever.
    pub(super) fn hear_the_dead(&mut self) {
        loop {
            let gone: Vec<i32> =
                self.workers.iter().filter(|worker| worker.gone).map(|worker| worker.pid).collect();
            if gone.is_empty() {
                return;
            }
            self.hear_workers(&gone);
        }
    }

    pub(super) fn conclude(
        &mut self,
        worker: &mut Worker,
        heard: std::io::Result<Option<(Report, Vec<OwnedFd>)>>,
    ) {
        // One that was killed has said nothing; what it was to take over waits still.
        let silent = match &heard {
            Ok(heard) => heard.is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
        };
        if silent
            && worker.purpose == Purpose::TakeOver
            && self.fork_worker(&worker.id, Purpose::TakeOver, Vec::new()).is_ok()
        {
            return;
        }
        reached(Point::WorkerHeard);
        let result = match heard {
            Ok(Some((Report::Started(started), descriptors))) => {
                self.started(worker, started, descriptors);
                Ok(())
            }
            Ok(Some((Report::TakenOver { ports, address, dns }, mut descriptors))) => {
                if let Some(held) = self.containers.get_mut(&worker.id) {
                    held.dns = if dns { descriptors.split_off(ports.len()) } else { Vec::new() };
                    held.ports = descriptors;
                    held.address = address;
                    held.state.ports = ports;
                }
                self.record(&worker.id);
                self.tell_running(&worker.id);
                Ok(())
            }
            Ok(Some((Report::Executed, _))) => Ok(()),
            Ok(Some((Report::Failed(wire), _))) => Err(Error::from(wire)),
            Ok(None) => Err(Error::Helper("the worker that starts the program was killed".into())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(Error::Helper("the worker that starts the program was killed".into()))
            }
            Err(source) => Err(Error::System { what: "cannot hear the worker".into(), source }),
        };
        match &result {
            Err(error) if worker.purpose == Purpose::TakeOver => {
                let what = "its ports and names could not be taken over, restart it to have them back";
                self.note(&worker.id, said(what, error));
            }
            Err(_) if worker.purpose == Purpose::Exec => {}
            Err(error) => self.not_started(worker, error),
            Ok(()) => {}
        }
        for client in &mut worker.clients {
            answer(client, &result.as_ref().map(|_| ()).map_err(|e| Error::from(Wire::from(e))));
        }
    }

    pub(super) fn started(&mut self, worker: &mut Worker, started: Started, mut descriptors: Vec<OwnedFd>) {
        let Ok(place) = self.group.place(&worker.id) else { return };
        let Started { process, ports, address, dns, restart, terminal } = started;
        let old = self.containers.remove(&worker.id);
        let terminal = if terminal { descriptors.pop() } else { None };
        let dns = if dns { descriptors.split_off(descriptors.len().saturating_sub(2)) } else { Vec::new() };
        let (backoff, old_ports) = match old {
            Some(old) if worker.purpose == Purpose::Restart => (old.backoff, old.ports),
            _ => (Backoff::default(), Vec::new()),
        };
        let _ = remove_file(&place.run.join("exit"));
        let held = Held {
            policy: restart,
            state: State {
                phase: Stage::Running,
                process: Some(process.clone()),
                started: Some(SystemTime::now()),
                finished: None,
                restarts: backoff.count,
                ports,
                out_of_memory: false,
                host_restarted: false,
            },
            backoff,
            pipes: std::mem::take(&mut worker.pipes),
            ports: if descriptors.is_empty() { old_ports } else { descriptors },
            dns,
            terminal,
            address,
            pidfd: None,
            running_since: Instant::now(),
            restart_at: None,
            ending: None,
            stopped: place.is_stopped(),
            place,
        };
        self.containers.insert(worker.id.clone(), held);
        self.record(&worker.id);
        reached(Point::Recorded);
        self.tell_running(&worker.id);
        self.note_no_way_out(&worker.id);
        // It may be over already.
        if let Some(exit) = self.unclaimed.remove(&process.pid) {
            self.ended(&worker.id, exit);
        }
    }

    /// A failed start leaves a container that never ran as it was; a failed restart is an end.
    pub(super) fn not_started(&mut self, worker: &Worker, error: &Error) {
        // A worker that was killed may have left a process that waits to be started, or runs untold.
        self.kill_untold(&worker.id);
        if self.workers.is_empty() {
            self.kill_strays();
        }
        if let Some(cgroup) = self.group.cgroup(&worker.id) {
            cgroup::kill(&cgroup);
            self.await_removal(cgroup);
        }
        let _ = network::set_up(&self.group.roots, &worker.id, false);
        if worker.purpose == Purpose::Restart && self.containers.contains_key(&worker.id) {
            let exit = match error {
                Error::Exec { code, .. } => Some(*code),
                _ => None,
            };
            self.ended(&worker.id, exit);
        } else {
            self.containers.remove(&worker.id);
        }
    }

    /// Until the processes of a failed start are collected and their groups gone: who asked for it may
    /// remove the container next.
    pub(super) fn await_removal(&mut self, cgroup: String) {
        let deadline = Instant::now() + Duration::from_secs(1);
        while cgroup::remove(&cgroup).is_err() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.remains.push(cgroup);
                return;
            }
            let mut fds = [PollFd::new(&self.signals, PollFlags::IN)];
            let _ = poll(&mut fds, Some(&timespec(left.min(Duration::from_millis(10)))));
            signal::drain(self.signals.as_fd());
            self.collect();
        }
    }
}
