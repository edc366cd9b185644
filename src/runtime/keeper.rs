//! The keeper: one process per group that lives as long as a container of it runs. It forks workers,
//! is the parent of the containers, writes down how they end, starts them again by their policy, and
//! holds what must outlive the supervisor (ends of FIFOs, terminals, listeners). One thread, one poll
//! loop; it parses nothing that a container can write.

use std::{
    collections::{HashMap, VecDeque},
    fs::{self, File},
    io::{Read, Write},
    net::Ipv4Addr,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    time::{Duration, Instant, SystemTime},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, Mode, OFlags, flock},
    process::{Pid, Signal, WaitOptions, wait},
};

use super::{
    ContainerConfig, Error, NetworkNamespace, RestartConfig, Result, Roots,
    anchor::{self, Anchor},
    cgroup, network, process,
    protocol::{self, Drained, Notice, Reply, Report, Request, Started, Wire},
    restart::{Backoff, Next},
    rootfs, signal,
    state::{
        Ended, Group, Identity, Place, Stage, State, failed, file_error, make_dir, read_json, remove_file,
        write_file, write_json,
    },
    supervisor, worker,
};

/// Name of the entry, and of its arguments: the two roots and the group.
pub const ENTRY: &str = "__keeper";
/// How long the supervisor may take to put the last of a container's output into its log.
const DRAIN: Duration = Duration::from_secs(3);
/// A client that says nothing holds nobody up for longer.
const PATIENCE: Duration = Duration::from_secs(5);

struct Keeper {
    group: Group,
    listener: UnixListener,
    signals: OwnedFd,
    supervisor: Option<Supervisor>,
    /// When the supervisor was last started: one that dies at once is not started in a circle.
    respawned: VecDeque<Instant>,
    containers: HashMap<String, Held>,
    workers: Vec<Worker>,
    /// Who waits for the end of these workers.
    settling: Vec<(UnixStream, Vec<i32>)>,
    /// Ends of processes whose worker has not told yet what they are.
    unclaimed: HashMap<i32, Option<i32>>,
    /// Control groups to remove as soon as their last process is collected.
    remains: Vec<String>,
    /// Until when somebody may ask first.
    expecting: Option<Instant>,
    /// Held as long as we live, once a container was on a network.
    anchor: Option<Anchor>,
    /// Networks that have one were given a way out.
    way_out: bool,
    /// Why they could not be.
    no_way_out: Option<Error>,
}

struct Supervisor {
    pid: i32,
    socket: OwnedFd,
}

/// What is held for a container from its start until its end is told.
struct Held {
    place: Place,
    policy: RestartConfig,
    backoff: Backoff,
    state: State,
    /// Our ends of its standard streams.
    _pipes: Vec<OwnedFd>,
    ports: Vec<OwnedFd>,
    /// Sockets of its name server.
    dns: Vec<OwnedFd>,
    terminal: Option<OwnedFd>,
    address: Option<Ipv4Addr>,
    /// Set where the process is not our child.
    pidfd: Option<OwnedFd>,
    running_since: Instant,
    restart_at: Option<Instant>,
    /// It ended, and the log is not complete yet.
    ending: Option<Ending>,
    stopped: bool,
}

struct Ending {
    ended: Ended,
    next: Next,
    deadline: Instant,
}

struct Worker {
    pid: i32,
    socket: OwnedFd,
    id: String,
    purpose: Purpose,
    /// Who waits for it.
    clients: Vec<UnixStream>,
    /// Our ends of the container's FIFOs, open before it can write and end.
    pipes: Vec<OwnedFd>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Start,
    Restart,
    TakeOver,
}

/// The hidden entry: goes into the background, says on standard output that it is ready.
pub fn entry(arguments: &[String]) -> i32 {
    let [run, data, group] = arguments else { return 2 };
    let roots = Roots { run: run.into(), data: data.into() };
    close_all_but(&mut []);
    // SAFETY: no thread exists yet.
    match unsafe { libc::fork() } {
        0 => {}
        -1 => return 1,
        _ => return 0,
    }
    let started = Group::new(&roots, group).and_then(Keeper::new);
    let mut stdout = std::io::stdout();
    match started {
        Ok(Some(mut keeper)) => {
            let _ = stdout.write_all(b"ready");
            if silence().is_err() {
                return 1;
            }
            keeper.run();
            0
        }
        // Another one lives.
        Ok(None) => 0,
        Err(error) => {
            let text = serde_json::to_string(&Wire::from(&error)).unwrap_or_default();
            let _ = stdout.write_all(text.as_bytes());
            1
        }
    }
}

/// No stream of the command that started us is kept.
fn silence() -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("cannot open /dev/null"))?;
    rustix::stdio::dup2_stdin(&null)
        .and_then(|()| rustix::stdio::dup2_stdout(&null))
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(failed("cannot leave the streams of the command"))
}

impl Keeper {
    /// `None` when the group has a keeper.
    fn new(group: Group) -> Result<Option<Self>> {
        let _ = rustix::process::setsid();
        process::set_name("ficelle-keeper");
        rustix::process::umask(Mode::from_raw_mode(0o077));
        let _ = std::env::set_current_dir("/");
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(failed("cannot become the parent of orphans"))?;
        make_dir(&group.run().join("c"))?;
        let path = group.run().join("keeper.lock");
        let lock = File::create(&path).map_err(|e| file_error("cannot open", &path, e))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(None);
        }
        // Held until we end; workers drop their copy.
        std::mem::forget(lock);
        let signals = signal::descriptor(&[libc::SIGCHLD])?;
        let mut keeper = Self {
            listener: listen(&group)?,
            signals,
            supervisor: None,
            respawned: VecDeque::new(),
            containers: HashMap::new(),
            workers: Vec::new(),
            settling: Vec::new(),
            unclaimed: HashMap::new(),
            group,
            remains: Vec::new(),
            expecting: Some(Instant::now() + PATIENCE),
            anchor: None,
            way_out: false,
            no_way_out: None,
        };
        keeper.adopt()?;
        let me = Identity::of(rustix::process::getpid().as_raw_nonzero().get());
        write_json(&keeper.group.run().join("keeper.json"), &me)?;
        Ok(Some(keeper))
    }

    /// Takes over what a dead keeper of the group left running.
    fn adopt(&mut self) -> Result<()> {
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

    fn adopt_one(&mut self, id: String, place: Place, state: State) {
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
        let mut held = Held {
            policy,
            backoff: Backoff::with_count(state.restarts),
            _pipes: open_pipes(&place).unwrap_or_default(),
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
            let ended = ended.unwrap_or(Ended { exit: None, finished: SystemTime::now() });
            held.end(ended);
        }
        self.containers.insert(id, held);
        self.expecting = None;
    }

    fn run(&mut self) {
        loop {
            self.ensure_supervisor();
            while self.is_idle() {
                if self.leave() {
                    return;
                }
            }
            let ready = self.wait();
            if ready.signals {
                signal::drain(self.signals.as_fd());
            }
            // Reports before ends: an end is claimed by the report that names its process.
            self.hear_workers(&ready.workers);
            self.reap();
            self.check_adopted(&ready.adopted);
            if ready.supervisor {
                self.hear_supervisor();
            }
            if ready.anchor {
                self.revive_anchor();
            }
            if ready.listener {
                self.accept();
            }
            self.check_times();
        }
    }

    fn is_idle(&self) -> bool {
        let expecting = self.expecting.is_some_and(|until| Instant::now() < until);
        self.containers.is_empty() && self.workers.is_empty() && !expecting
    }

    /// Ends the supervisor and takes the socket away; false when somebody asks at this moment.
    fn leave(&mut self) -> bool {
        let _ = remove_file(&self.group.socket());
        let _ = self.listener.set_nonblocking(true);
        let listener = &self.listener;
        // All of them: who is left in the queue of a listener that is given up must ask again.
        let clients: Vec<UnixStream> =
            std::iter::from_fn(|| listener.accept().ok()).map(|(client, _)| client).collect();
        if !clients.is_empty() {
            if let Ok(listener) = listen(&self.group) {
                self.listener = listener;
            }
            clients.into_iter().for_each(|client| self.serve(client));
            return false;
        }
        for cgroup in self.remains.drain(..) {
            let _ = cgroup::remove(&cgroup);
        }
        if let Some(supervisor) = self.supervisor.take() {
            // It ends when our end of its socket is closed.
            drop(supervisor.socket);
            let _ = rustix::process::waitpid(Pid::from_raw(supervisor.pid), WaitOptions::empty());
        }
        for file in ["keeper.json", "supervisor.json"] {
            let _ = remove_file(&self.group.run().join(file));
        }
        true
    }

    fn wait(&self) -> Ready {
        let mut fds =
            vec![PollFd::new(&self.signals, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
        fds.extend(self.workers.iter().map(|worker| PollFd::new(&worker.socket, PollFlags::IN)));
        let adopted: Vec<(&String, &OwnedFd)> = self
            .containers
            .iter()
            .filter(|(_, held)| held.ending.is_none())
            .filter_map(|(id, held)| Some((id, held.pidfd.as_ref()?)))
            .collect();
        fds.extend(adopted.iter().map(|(_, pidfd)| PollFd::new(*pidfd, PollFlags::IN)));
        if let Some(supervisor) = &self.supervisor {
            fds.push(PollFd::new(&supervisor.socket, PollFlags::IN));
        }
        if let Some(anchor) = &self.anchor {
            fds.push(PollFd::from_borrowed_fd(anchor.connection(), PollFlags::HUP));
        }
        let timeout = self.next_time().map(timespec);
        let _ = poll(&mut fds, timeout.as_ref());
        let mut hit = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || hit.next().unwrap_or(false);
        Ready {
            signals: next(),
            listener: next(),
            workers: self.workers.iter().filter(|_| next()).map(|worker| worker.pid).collect(),
            adopted: adopted.iter().filter(|_| next()).map(|(id, _)| (*id).clone()).collect(),
            supervisor: self.supervisor.is_some() && next(),
            anchor: self.anchor.is_some() && next(),
        }
    }

    /// How long until something is due.
    fn next_time(&self) -> Option<Duration> {
        let due = |held: &Held| {
            held.ending.as_ref().map(|ending| ending.deadline).into_iter().chain(held.restart_at).min()
        };
        // A supervisor that could not be started is tried again.
        let again = self.supervisor.is_none().then(|| Instant::now() + Duration::from_secs(1));
        let first = self.containers.values().filter_map(due).chain(self.expecting).chain(again).min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }

    fn accept(&mut self) {
        if let Ok((client, _)) = self.listener.accept() {
            self.serve(client);
        }
    }

    fn serve(&mut self, mut client: UnixStream) {
        self.expecting = None;
        let _ = client.set_read_timeout(Some(PATIENCE));
        let _ = client.set_write_timeout(Some(PATIENCE));
        let mut text = Vec::new();
        if (&client).take(4096).read_to_end(&mut text).is_err() {
            return;
        }
        let result = match serde_json::from_slice(&text) {
            Ok(Request::Hello) => Ok(()),
            Ok(Request::Settle) if !self.workers.is_empty() => {
                self.settling.push((client, self.workers.iter().map(|worker| worker.pid).collect()));
                return;
            }
            Ok(Request::Settle) => Ok(()),
            Ok(Request::Start { id }) => return self.start(&id, client),
            Ok(Request::Stop { id }) => return self.stop(&id, client),
            Ok(Request::Forget { id }) => {
                self.containers.remove(&id);
                Ok(())
            }
            Err(e) => Err(Error::Helper(format!("the keeper does not understand: {e}"))),
        };
        answer(&mut client, &result);
    }

    fn start(&mut self, id: &str, mut client: UnixStream) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.id == id) {
            worker.clients.push(client);
            return;
        }
        if let Some(held) = self.containers.get_mut(id) {
            if held.state.phase == Stage::Running && held.ending.is_none() {
                answer(&mut client, &Ok(()));
                return;
            }
            held.restart_at = None;
        }
        let unstop = self.group.place(id).and_then(|place| remove_file(&place.run.join("stopped")));
        if let Some(held) = self.containers.get_mut(id) {
            held.stopped = false;
        }
        if let Err(error) = unstop {
            answer(&mut client, &Err(error));
            return;
        }
        if let Err((error, clients)) = self.fork_worker(id, Purpose::Start, vec![client]) {
            for mut client in clients {
                answer(&mut client, &Err(Error::from(Wire::from(&error))));
            }
        }
    }

    fn stop(&mut self, id: &str, mut client: UnixStream) {
        let result = self.group.place(id).and_then(|place| {
            make_dir(&place.run)?;
            write_file(&place.run.join("stopped"), b"", 0o600)
        });
        if let Some(held) = self.containers.get_mut(id) {
            held.stopped = true;
            if held.restart_at.take().is_some() {
                self.settle(id);
            } else if let Some(ending) = &mut held.ending {
                ending.next = Next::Stay;
            }
        }
        match self.workers.iter_mut().find(|worker| worker.id == id) {
            Some(worker) => worker.clients.push(client),
            None => answer(&mut client, &result),
        }
    }

    fn fork_worker(
        &mut self,
        id: &str,
        purpose: Purpose,
        clients: Vec<UnixStream>,
    ) -> Result<(), (Error, Vec<UnixStream>)> {
        match self.try_fork(id, purpose) {
            Ok((pid, socket, pipes)) => {
                self.workers.push(Worker { pid, socket, id: id.to_owned(), purpose, clients, pipes });
                Ok(())
            }
            Err(error) => Err((error, clients)),
        }
    }

    /// The worker does the parsing: an error in the specification cannot hurt the keeper.
    fn try_fork(&mut self, id: &str, purpose: Purpose) -> Result<(i32, OwnedFd, Vec<OwnedFd>)> {
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
        let (ours, theirs) = protocol::pair()?;
        let mut kept = vec![theirs.as_raw_fd()];
        if let Some(anchor) = &self.anchor {
            kept.extend([anchor.netns().as_raw_fd(), anchor.connection().as_raw_fd()]);
        }
        let anchor = &mut self.anchor;
        let pid = worker::fork(&theirs, move || {
            // What the keeper holds is not the worker's: its lock and sockets must die with it.
            close_all_but(&mut kept);
            if let (Purpose::TakeOver, Some(State { process: Some(process), ports, .. })) = (purpose, had) {
                return worker::take_over(&group.roots, &spec, &process, &ports, anchor.as_ref());
            }
            let stdio = streams(&place, &spec.config)?;
            let (roots, anchor) = (group.roots, anchor.take());
            worker::start(worker::Job { roots, place, spec, cgroup, stdio, bound, anchor })
        });
        Ok((pid?, ours, pipes))
    }

    /// Networks need the namespace of their bridges, which lives as long as we hold it.
    fn ensure_anchor(&mut self, config: &ContainerConfig) -> Result<()> {
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
    fn leads_out(&self, id: &str) -> bool {
        let leases = network::leases(&self.group.roots).unwrap_or_default();
        leases.iter().any(|lease| lease.container == id && !lease.internal)
    }

    fn revive_anchor(&mut self) {
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

    /// To the log of a container.
    fn note(&self, id: &str, what: &str, error: &Error) {
        let mut text = format!("{what}: {error}");
        if let Some(source) = std::error::Error::source(error) {
            text.push_str(&format!(": {source}"));
        }
        self.tell(&Notice::Note { id: id.to_owned(), text }, &[]);
    }

    fn tell_anchor(&self) {
        if let Some(anchor) = &self.anchor {
            self.tell(&Notice::Anchor, &[anchor.netns(), anchor.connection()]);
        }
    }

    fn hear_workers(&mut self, ready: &[i32]) {
        for pid in ready {
            let Some(at) = self.workers.iter().position(|worker| worker.pid == *pid) else { continue };
            let mut worker = self.workers.swap_remove(at);
            let heard = protocol::receive::<Report>(worker.socket.as_fd());
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

    fn conclude(&mut self, worker: &mut Worker, heard: std::io::Result<Option<(Report, Vec<OwnedFd>)>>) {
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
                    let _ = held.place.write_state(&held.state);
                }
                self.tell_running(&worker.id);
                Ok(())
            }
            Ok(Some((Report::Failed(wire), _))) => Err(Error::from(wire)),
            Ok(None) => Err(Error::Helper("the worker that starts the container was killed".into())),
            Err(source) => Err(Error::System { what: "cannot hear the worker".into(), source }),
        };
        match &result {
            Err(error) if worker.purpose == Purpose::TakeOver => {
                let what = "its ports and names could not be taken over, restart it to have them back";
                self.note(&worker.id, what, error);
            }
            Err(error) => self.not_started(worker, error),
            Ok(()) => {}
        }
        for client in &mut worker.clients {
            answer(client, &result.as_ref().map(|_| ()).map_err(|e| Error::from(Wire::from(e))));
        }
    }

    fn started(&mut self, worker: &mut Worker, started: Started, mut descriptors: Vec<OwnedFd>) {
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
            },
            backoff,
            _pipes: std::mem::take(&mut worker.pipes),
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
        let _ = held.place.write_state(&held.state);
        self.containers.insert(worker.id.clone(), held);
        self.tell_running(&worker.id);
        if let Some(error) = self.no_way_out.as_ref().filter(|_| self.leads_out(&worker.id)) {
            self.note(&worker.id, "nothing outside the container's networks can be reached", error);
        }
        // It may be over already.
        if let Some(exit) = self.unclaimed.remove(&process.pid) {
            self.ended(&worker.id, exit);
        }
    }

    /// A failed start leaves a container that never ran as it was; a failed restart is an end.
    fn not_started(&mut self, worker: &Worker, error: &Error) {
        // A worker that was killed may have left a process that waits to be started.
        let cgroup = self.group.cgroup(&worker.id);
        cgroup::kill(&cgroup);
        self.await_removal(cgroup);
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
    fn await_removal(&mut self, cgroup: String) {
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

    /// Collects every child that has ended.
    fn reap(&mut self) {
        self.collect();
        self.remains.retain(|cgroup| cgroup::remove(cgroup).is_err());
    }

    fn collect(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            let exit =
                status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
            if self.supervisor.as_ref().is_some_and(|supervisor| supervisor.pid == pid) {
                self.supervisor = None;
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
    fn check_adopted(&mut self, ready: &[String]) {
        for id in ready {
            let exit = self.containers.get(id).and_then(|held| signal::exit_of(held.pidfd.as_ref()?));
            self.ended(id, exit);
        }
    }

    fn ended(&mut self, id: &str, exit: Option<i32>) {
        let Some(held) = self.containers.get_mut(id) else { return };
        held.end(Ended { exit, finished: SystemTime::now() });
        if held.address.is_some() {
            let _ = network::set_up(&self.group.roots, id, false);
        }
        // Others may share its network namespace; the name server was for it alone.
        held.dns.clear();
        let cgroup = self.group.cgroup(id);
        if cgroup::remove(&cgroup).is_err() {
            // In a pid namespace that is not its own, the end of the first process is not that of all.
            cgroup::kill(&cgroup);
            self.remains.push(cgroup);
        }
        self.tell_ended(id);
    }

    /// Its output is in the log: now its end may be seen.
    fn settle(&mut self, id: &str) {
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
            let _ = held.place.write_state(&held.state);
            return;
        }
        held.state.phase = Stage::Exited { exit };
        held.state.ports.clear();
        let _ = held.place.write_state(&held.state);
        let _ = remove_file(&held.place.run.join("exit"));
        self.containers.remove(id);
    }

    fn check_times(&mut self) {
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
    }

    fn restart(&mut self, id: &str) {
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

    fn ensure_supervisor(&mut self) {
        if self.supervisor.is_some() || (self.containers.is_empty() && self.workers.is_empty()) {
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

    fn tell_running(&mut self, id: &str) {
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

    fn tell_ended(&mut self, id: &str) {
        let Some(ending) = self.containers.get(id).and_then(|held| held.ending.as_ref()) else { return };
        let restarting = ending.next != Next::Stay;
        self.tell(&Notice::Ended { id: id.to_owned(), exit: ending.ended.exit, restarting }, &[]);
    }

    /// A supervisor that takes nothing more is no good: its end brings a new one.
    fn tell(&self, notice: &Notice, descriptors: &[BorrowedFd<'_>]) {
        if let Some(supervisor) = &self.supervisor
            && protocol::send(supervisor.socket.as_fd(), notice, descriptors).is_err()
            && let Some(pid) = Pid::from_raw(supervisor.pid)
        {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
        }
    }

    fn hear_supervisor(&mut self) {
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

struct Ready {
    signals: bool,
    listener: bool,
    /// By their process.
    workers: Vec<i32>,
    adopted: Vec<String>,
    supervisor: bool,
    /// It was killed.
    anchor: bool,
}

impl Held {
    /// The first thing after an end: it is written down.
    fn end(&mut self, ended: Ended) {
        let _ = write_json(&self.place.run.join("exit"), &ended);
        let next = if self.stopped || self.place.is_stopped() {
            Next::Stay
        } else {
            self.backoff.next(self.policy, ended.exit, self.running_since.elapsed())
        };
        self.state.process = None;
        self.state.finished = Some(ended.finished);
        self.pidfd = None;
        self.ending = Some(Ending { ended, next, deadline: Instant::now() + DRAIN });
    }
}

fn listen(group: &Group) -> Result<UnixListener> {
    let path = group.socket();
    remove_file(&path)?;
    let dir = rootfs::open_path(&group.run())?;
    // Through the descriptor: paths of sockets are short.
    let name = format!("/proc/self/fd/{}/keeper.sock", dir.as_raw_fd());
    let listener = UnixListener::bind(name).map_err(|e| file_error("cannot listen at", &path, e))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
        .map_err(|e| file_error("cannot close to others", &path, e))?;
    Ok(listener)
}

fn answer(client: &mut UnixStream, result: &Result<()>) {
    let reply = match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Failed(Wire::from(error)),
    };
    let _ = client.write_all(&serde_json::to_vec(&reply).unwrap_or_default());
}

const PIPES: [&str; 3] = ["in", "out", "err"];

fn make_pipes(place: &Place) -> Result<()> {
    for name in PIPES {
        let path = place.run.join(name);
        let mode = Mode::from_raw_mode(0o600);
        match rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0) {
            Err(rustix::io::Errno::EXIST) | Ok(()) => {}
            Err(e) => return Err(file_error("cannot make pipe", &path, e.into())),
        }
    }
    Ok(())
}

/// Our ends, so that nothing written is lost when everybody else is gone.
fn open_pipes(place: &Place) -> Result<Vec<OwnedFd>> {
    PIPES.iter().map(|name| open_pipe(place, name, OFlags::NONBLOCK)).collect()
}

fn open_pipe(place: &Place, name: &str, flags: OFlags) -> Result<OwnedFd> {
    let path = place.run.join(name);
    rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW | flags, Mode::empty())
        .map_err(|e| file_error("cannot open", &path, e.into()))
}

/// The container's ends: readable and writable, so that no death of a reader is a SIGPIPE for it.
fn streams(place: &Place, config: &ContainerConfig) -> Result<Option<[OwnedFd; 3]>> {
    if config.tty {
        return Ok(None);
    }
    let stdin = if config.stdin_open {
        open_pipe(place, "in", OFlags::empty())?
    } else {
        rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("cannot open /dev/null"))?
    };
    Ok(Some([stdin, open_pipe(place, "out", OFlags::empty())?, open_pipe(place, "err", OFlags::empty())?]))
}

/// Closes every descriptor above the streams but these: what a shell left open is not ours, and
/// what the keeper holds is not a worker's.
pub fn close_all_but(kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.iter().map(|fd| fd.cast_unsigned()).chain([u32::MAX]) {
        if first < fd {
            // SAFETY: nobody in this process goes on to use these descriptors.
            unsafe { libc::close_range(first, fd - 1, 0) };
        }
        first = fd.saturating_add(1);
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Rounded up: a poll that ends just before the time would spin.
        tv_nsec: i64::from(duration.subsec_nanos().saturating_add(999_999) / 1_000_000 * 1_000_000)
            .min(999_999_999),
    }
}
