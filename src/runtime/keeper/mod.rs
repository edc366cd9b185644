//! The keeper: one process per group that lives as long as a container of it runs. It forks workers,
//! is the parent of the containers, writes down how they end, starts them again by their policy, and
//! holds what must outlive the supervisor (ends of FIFOs, terminals, listeners). One thread, one poll
//! loop; it parses nothing that a container can write.

mod adopt;
mod anchor;
mod clients;
mod ends;
mod pipes;
mod strays;
mod supervision;
mod workers;

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io::Write,
    net::Ipv4Addr,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::{UnixListener, UnixStream},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FlockOperation, Mode, OFlags, flock},
    process::{Pid, WaitOptions},
};

use self::{anchor::WayOut, clients::listen, supervision::Untold};
use super::{
    RestartConfig, Result, Roots,
    anchor::Anchor,
    cgroup,
    failpoint::{Point, reached},
    memory, process,
    protocol::Wire,
    restart::{Backoff, Next},
    signal,
    state::{Ended, Group, Identity, Place, State, failed, file_error, make_dir, remove_file, write_json},
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
    /// Notes for logs from when there was none.
    unheard: Vec<Untold>,
    /// When the supervisor was last started: one that dies at once is not started in a circle.
    respawned: VecDeque<Instant>,
    containers: HashMap<String, Held>,
    workers: Vec<Worker>,
    /// Who waits for the end of these workers.
    settling: Vec<(UnixStream, Vec<i32>)>,
    /// Who waits for the end of a container.
    awaiting: Vec<(UnixStream, String)>,
    /// Ends of processes whose worker has not told yet what they are.
    unclaimed: HashMap<i32, Option<i32>>,
    /// Copies of states for after the machine was down, and until when they are written: many a container is
    /// removed, or changes once more, before that.
    unwritten: HashMap<String, (Place, State)>,
    write_by: Option<Instant>,
    /// Something has happened since pages were given back.
    stirred: bool,
    /// Control groups to remove as soon as their last process is collected.
    remains: Vec<String>,
    /// Until when somebody may ask first.
    expecting: Option<Instant>,
    /// Held as long as we live, once a container was on a network.
    anchor: Option<Anchor>,
    way_out: WayOut,
    /// Commands that are about to ask: as long as they live, so do we.
    patrons: Vec<UnixStream>,
}

struct Supervisor {
    pid: i32,
    socket: OwnedFd,
    /// There was no room for it in the socket yet.
    untold: VecDeque<Untold>,
    full_since: Option<Instant>,
}

/// What is held for a container from its start until its end is told.
struct Held {
    place: Place,
    policy: RestartConfig,
    backoff: Backoff,
    state: State,
    /// Our ends of its standard streams.
    pipes: Vec<OwnedFd>,
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
    /// It has ended: what it has not told by now it never will.
    gone: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Start,
    Restart,
    TakeOver,
    /// Of a further program.
    Exec,
}

/// The hidden entry: goes into the background, says on standard output that it is ready.
pub fn entry(arguments: &[String]) -> i32 {
    let [run, data, group] = arguments else { return 2 };
    let roots = Roots { run: run.into(), data: data.into() };
    process::close_all_but(&mut []);
    // SAFETY: no thread exists yet.
    match unsafe { libc::fork() } {
        0 => {}
        -1 => return 1,
        _ => return 0,
    }
    // What starts from here has no keys of the caller's, whoever's those are.
    let _ = process::leave_keyring();
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
        cgroup::settle(&group)?;
        let mut keeper = Self {
            listener: listen(&group)?,
            signals,
            supervisor: None,
            unheard: Vec::new(),
            respawned: VecDeque::new(),
            containers: HashMap::new(),
            workers: Vec::new(),
            settling: Vec::new(),
            awaiting: Vec::new(),
            unclaimed: HashMap::new(),
            unwritten: HashMap::new(),
            write_by: None,
            stirred: true,
            group,
            remains: Vec::new(),
            expecting: Some(Instant::now() + PATIENCE),
            anchor: None,
            way_out: WayOut::Closed(None),
            patrons: Vec::new(),
        };
        reached(Point::KeeperListens);
        keeper.adopt()?;
        let me = Identity::of(rustix::process::getpid().as_raw_nonzero().get());
        write_json(&keeper.group.run().join("keeper.json"), &me)?;
        reached(Point::KeeperReady);
        Ok(Some(keeper))
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
            if !ready.nothing {
                self.stirred = true;
            } else if self.stirred {
                memory::shed();
                self.stirred = false;
            }
            if ready.signals {
                signal::drain(self.signals.as_fd());
            }
            // Reports before ends: an end is claimed by the report that names its process.
            self.hear_workers(&ready.workers);
            self.reap();
            self.hear_the_dead();
            self.check_adopted(&ready.adopted);
            if ready.supervisor {
                self.hear_supervisor();
            }
            self.tell_on();
            if ready.anchor {
                self.hear_anchor();
            }
            self.patrons.retain(|patron| !ready.patrons.contains(&patron.as_raw_fd()));
            if ready.listener {
                self.accept();
            }
            self.check_times();
            self.tell_ends();
        }
    }

    fn is_idle(&self) -> bool {
        let expecting = self.expecting.is_some_and(|until| Instant::now() < until);
        self.containers.is_empty() && self.workers.is_empty() && self.patrons.is_empty() && !expecting
    }

    /// Ends the supervisor and takes the socket away; false when somebody asks at this moment.
    fn leave(&mut self) -> bool {
        let _ = remove_file(&self.group.socket());
        let _ = self.listener.set_nonblocking(true);
        reached(Point::KeeperDeaf);
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
        // It ends when our end of its socket is closed, beside what is left to do here.
        let supervisor = self.supervisor.take().map(|supervisor| {
            if !supervisor.untold.is_empty() {
                // It knows of containers that are no more, and would look for an heir of ours.
                supervisor.kill();
            }
            supervisor.pid
        });
        self.write_last();
        for cgroup in self.remains.drain(..) {
            let _ = cgroup::remove(&cgroup);
        }
        cgroup::leave(&self.group);
        if let Some(supervisor) = supervisor {
            let _ = rustix::process::waitpid(Pid::from_raw(supervisor), WaitOptions::empty());
        }
        reached(Point::KeeperLeaves);
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
            let room = if supervisor.untold.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.push(PollFd::new(&supervisor.socket, PollFlags::IN | room));
        }
        if let Some(anchor) = &self.anchor {
            fds.push(PollFd::from_borrowed_fd(anchor.connection(), PollFlags::IN));
        }
        // Hanging up is told without being asked for.
        fds.extend(self.patrons.iter().map(|patron| PollFd::new(patron, PollFlags::empty())));
        let timeout = self.next_time().map(timespec);
        let nothing = poll(&mut fds, timeout.as_ref()) == Ok(0);
        let mut hit = fds.iter().map(|fd| !fd.revents().is_empty());
        let mut next = || hit.next().unwrap_or(false);
        Ready {
            nothing,
            signals: next(),
            listener: next(),
            workers: self.workers.iter().filter(|_| next()).map(|worker| worker.pid).collect(),
            adopted: adopted.iter().filter(|_| next()).map(|(id, _)| (*id).clone()).collect(),
            supervisor: self.supervisor.is_some() && next(),
            anchor: self.anchor.is_some() && next(),
            patrons: self.patrons.iter().filter(|_| next()).map(AsRawFd::as_raw_fd).collect(),
        }
    }

    /// Writes the state of a container down: for everybody now, for after a reboot soon.
    fn record(&mut self, id: &str) {
        let Some(held) = self.containers.get(id) else { return };
        let _ = held.place.write_state(&held.state);
        self.unwritten.insert(id.to_owned(), (held.place.clone(), held.state.clone()));
        self.write_by.get_or_insert_with(|| Instant::now() + memory::QUIET);
    }

    fn write_last(&mut self) {
        self.write_by = None;
        for (place, state) in self.unwritten.drain().map(|(_, last)| last) {
            let _ = place.write_last(&state);
        }
    }

    /// How long until something is due.
    fn next_time(&self) -> Option<Duration> {
        let due = |held: &Held| {
            held.ending.as_ref().map(|ending| ending.deadline).into_iter().chain(held.restart_at).min()
        };
        // A supervisor that could not be started is tried again.
        let again = self.supervisor.is_none().then(|| Instant::now() + Duration::from_secs(1));
        let quiet = self.stirred.then(|| Instant::now() + memory::QUIET);
        let full = self.supervisor.as_ref().and_then(|supervisor| supervisor.full_since);
        let full = full.map(|since| since + PATIENCE);
        let others = [self.expecting, self.write_by, again, quiet, full].into_iter().flatten();
        let times = self.containers.values().filter_map(due).chain(others);
        let first = times.min()?;
        Some(first.saturating_duration_since(Instant::now()))
    }
}

struct Ready {
    nothing: bool,
    signals: bool,
    listener: bool,
    /// By their process.
    workers: Vec<i32>,
    adopted: Vec<String>,
    supervisor: bool,
    anchor: bool,
    /// They are gone.
    patrons: Vec<RawFd>,
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        // Rounded up: a poll that ends just before the time would spin.
        tv_nsec: i64::from(duration.subsec_nanos().saturating_add(999_999) / 1_000_000 * 1_000_000)
            .min(999_999_999),
    }
}
