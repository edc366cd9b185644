//! The supervisor: one process per group, on one thread of tokio. Puts what containers write into
//! their logs, runs health probes, answers DNS and serves published ports. It may die at any time:
//! the keeper holds what must not be lost and starts another.

use std::{
    cell::RefCell,
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    process::Stdio,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    task::{JoinHandle, LocalSet},
};

use super::{
    BoundPort, Error, Result, Roots, anchor, cgroup, client, dns, exe,
    failpoint::{Point, reached},
    health, logs, memory,
    ports::Proxy,
    process,
    protocol::{self, Drained, Notice},
    signal,
    state::{Ended, Group, Identity, Place, Spec, failed, file_error},
};

/// Name of the entry, and of its arguments: the two roots and the group. Standard input is the socket
/// of the keeper.
pub const ENTRY: &str = "__supervisor";

/// Notes of the ports that wait to be written.
const NOTES: usize = 16;

/// Starts one from the keeper, which has a single thread; its number, and the keeper's end.
pub fn spawn(group: &Group) -> Result<(i32, OwnedFd)> {
    let (ours, theirs) = protocol::pair()?;
    rustix::io::ioctl_fionbio(&ours, true).map_err(failed("cannot prepare a socket"))?;
    let (mut command, _program) = exe::entry(ENTRY)?;
    let child = command
        .arg(&group.roots.run)
        .arg(&group.roots.data)
        .arg(&group.name)
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|source| Error::System { what: "cannot start the supervisor".into(), source })?;
    let pid = i32::try_from(child.id()).map_err(|_| Error::Helper("a process number too large".into()))?;
    Ok((pid, ours))
}

/// The hidden entry.
pub fn entry(arguments: &[String]) -> i32 {
    let [run, data, group] = arguments else { return 2 };
    process::set_name("ficelle-superv");
    // The keeper blocks what it reads from a descriptor.
    let _ = process::unblock_signals();
    let roots = Roots { run: run.into(), data: data.into() };
    let Ok(group) = Group::new(&roots, group) else { return 2 };
    reached(Point::SupervisorBegins);
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return 1 };
    match LocalSet::new().block_on(&runtime, supervise(group)) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Until the keeper closes its end.
async fn supervise(group: Group) -> Result<()> {
    let socket =
        rustix::io::dup(rustix::stdio::stdin()).map_err(failed("cannot open the keeper's socket"))?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(failed("cannot prepare a socket"))?;
    let socket = Rc::new(register(socket, Interest::READABLE | Interest::WRITABLE)?);
    let mut watched: HashMap<String, Watched> = HashMap::new();
    let names = Arc::new(dns::Names::new(&group.roots));
    let mut proxy = None;
    let mut anchor = None;
    // Something has happened since pages were given back.
    let mut stirred = true;
    let (note, mut noted) = tokio::sync::mpsc::channel::<String>(NOTES);
    loop {
        let hearing =
            socket.async_io(Interest::READABLE, |socket| protocol::receive::<Notice>(socket.as_fd()));
        let heard = tokio::select! {
            heard = hearing => heard,
            Some(text) = noted.recv() => {
                let published = watched.values().filter(|container| container.publishes);
                published.for_each(|container| container.note(&text));
                continue;
            }
            () = tokio::time::sleep(memory::QUIET), if stirred => {
                memory::shed();
                stirred = false;
                continue;
            }
        };
        stirred = true;
        // One that was killed before it had read everything is told as an error.
        match heard.unwrap_or(None) {
            None => return bridge(&group, watched, anchor).await,
            Some((Notice::Anchor, mut descriptors)) => {
                let connection = descriptors.pop();
                // Without us and without a keeper the networks would end.
                anchor = connection.zip(descriptors.last().and_then(|netns| rustix::io::dup(netns).ok()));
                let note = note.clone();
                // Notes that come faster than they are written say nothing new.
                let tell = move |text: &str| drop(note.try_send(text.to_owned()));
                proxy = descriptors.pop().map(|netns| Arc::new(Proxy::new(netns, tell)));
            }
            Some((Notice::Note { id, text }, _)) => {
                if let Some(container) = watched.get(&id) {
                    container.note(&text);
                }
            }
            Some((Notice::Running { id, process, ports, address, dns, terminal }, mut descriptors)) => {
                let terminal = if terminal { descriptors.pop() } else { None };
                let sockets = if dns { descriptors.split_off(ports.len()) } else { Vec::new() };
                // Told once more, when ports were taken over: begin anew.
                if let Some(old) = watched.remove(&id) {
                    old.leave();
                }
                let Ok(mut container) = Watched::new(&group, &id, &process, terminal) else { continue };
                if let Ok(sockets) = <[OwnedFd; 2]>::try_from(sockets) {
                    container.answer(sockets, &names, &id);
                }
                if let (Some(proxy), Some(address)) = (&proxy, address) {
                    container.publish(proxy, &ports, descriptors, address);
                }
                watched.insert(id, container);
                reached(Point::Watching);
            }
            Some((Notice::Ended { id, exit, restarting }, mut descriptors)) => {
                reached(Point::EndHeard);
                let late = || Watched::late(&group, &id, descriptors.pop()).ok();
                if let Some(container) = watched.remove(&id).or_else(late) {
                    container.finish(exit, restarting);
                }
                reached(Point::LogWhole);
                // A keeper that is busy hears it when it can; many may end at once.
                let told = Drained { id };
                let telling = socket.async_io(Interest::WRITABLE, |socket| {
                    protocol::send(socket.as_fd(), &told, &[]).map_err(|error| match error {
                        Error::System { source, .. } => source,
                        other => std::io::Error::other(other),
                    })
                });
                let failed = |source| Error::System { what: "cannot tell the keeper".to_owned(), source };
                telling.await.map_err(failed)?;
            }
        }
    }
}

/// The keeper is gone. When it had nothing left to keep, so do we; else another is started, which
/// ends us when it holds all that we do. Meanwhile, and should that fail, the ends of containers are
/// written down here: nobody else learns them.
async fn bridge(
    group: &Group,
    watched: HashMap<String, Watched>,
    anchor: Option<(OwnedFd, OwnedFd)>,
) -> Result<()> {
    if watched.is_empty() {
        return Ok(());
    }
    reached(Point::Bereft);
    let ends: Vec<_> = watched
        .into_iter()
        .map(|(id, mut container)| {
            let (place, cgroup) = (group.place(&id), group.cgroup(&id));
            let pidfd = container.pidfd.take();
            let end = tokio::task::spawn_local(async move { write_end(&place?, cgroup, pidfd).await });
            (container, end)
        })
        .collect();
    let heirs = group.clone();
    // Beside those, which write down first what is over already.
    let called = tokio::task::spawn_blocking(move || {
        // Killed together with the keeper, the anchor would come back with a namespace without bridges.
        let kept = anchor.as_ref().and_then(|(_, netns)| anchor::keep(&heirs.roots, netns.as_fd()).ok());
        (client::ensure(&heirs), anchor, kept)
    });
    let called = called.await;
    if let Ok((Ok(()), ..)) = called {
        return Ok(());
    }
    let finishing: Vec<_> = ends
        .into_iter()
        .map(|(container, end)| {
            tokio::task::spawn_local(async move {
                let exit = end.await.ok().and_then(Result::ok).flatten();
                container.finish(exit, false);
            })
        })
        .collect();
    for finished in finishing {
        let _ = finished.await;
    }
    Ok(())
}

/// Waits for the end of a container and writes it down, unless the keeper has done so before it was gone.
async fn write_end(place: &Place, cgroup: Option<String>, pidfd: Option<OwnedFd>) -> Result<Option<i32>> {
    let exit = match pidfd {
        Some(pidfd) => orphan_end(&pidfd).await?,
        None => None,
    };
    if let Some(ended) = place.ended() {
        return Ok(ended.exit);
    }
    let out_of_memory = cgroup.is_some_and(|path| cgroup::ran_out_of_memory(&path));
    place.write_ended(&Ended { exit, finished: SystemTime::now(), out_of_memory })?;
    Ok(exit)
}

/// How a process ended whose parent is whoever reaps orphans.
async fn orphan_end(pidfd: &OwnedFd) -> Result<Option<i32>> {
    let ended = asynchronous(rustix::io::dup(pidfd).map_err(failed("cannot copy a descriptor"))?)?;
    let _ = ended.readable().await;
    Ok(signal::exit_of(pidfd))
}

/// What goes on for one running container.
struct Watched {
    /// None: it has ended.
    pidfd: Option<OwnedFd>,
    streams: Vec<Rc<Stream>>,
    writer: Rc<RefCell<logs::Writer>>,
    /// Its ports are served here.
    publishes: bool,
    /// Ended with it.
    tasks: Vec<JoinHandle<()>>,
}

/// One way out of a container: a FIFO or the master of its terminal.
struct Stream {
    fd: AsyncFd<OwnedFd>,
    stderr: bool,
    log: Rc<RefCell<logs::Writer>>,
    /// A terminal cannot be spliced into a file, but into a pipe.
    between: Option<(OwnedFd, OwnedFd)>,
}

impl Watched {
    fn new(group: &Group, id: &str, process: &Identity, terminal: Option<OwnedFd>) -> Result<Self> {
        let place = group.place(id)?;
        let spec = place.spec()?;
        let pidfd = signal::pidfd(process);
        let mut container = Self::open(&place, &spec, terminal, pidfd)?;
        for stream in &container.streams {
            container.tasks.push(tokio::task::spawn_local(follow(Rc::clone(stream))));
        }
        if let Some(check) = spec.config.health.clone() {
            let watch = health::watch(place, spec, check, process.clone());
            container.tasks.push(tokio::task::spawn_local(watch));
        }
        Ok(container)
    }

    /// It ended while there was no supervisor: what it wrote is still in the FIFOs, or the terminal.
    fn late(group: &Group, id: &str, terminal: Option<OwnedFd>) -> Result<Self> {
        let place = group.place(id)?;
        Self::open(&place, &place.spec()?, terminal, None)
    }

    fn open(place: &Place, spec: &Spec, terminal: Option<OwnedFd>, pidfd: Option<OwnedFd>) -> Result<Self> {
        let writer = logs::Writer::open(&place.log(spec), &spec.config.log)?;
        let writer = Rc::new(RefCell::new(writer));
        let stream = |fd: OwnedFd, stderr, between| -> Result<Rc<Stream>> {
            rustix::io::ioctl_fionbio(&fd, true).map_err(failed("cannot prepare a pipe"))?;
            Ok(Rc::new(Stream { fd: asynchronous(fd)?, stderr, log: Rc::clone(&writer), between }))
        };
        let streams = match terminal {
            Some(master) => {
                let pipe = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
                vec![stream(master, false, Some(pipe.map_err(failed("cannot make a pipe"))?))?]
            }
            None if spec.config.tty => Vec::new(),
            None => vec![
                stream(open_fifo(place, "out")?, false, None)?,
                stream(open_fifo(place, "err")?, true, None)?,
            ],
        };
        Ok(Self { pidfd, streams, writer, publishes: false, tasks: Vec::new() })
    }

    /// Answers its questions for names.
    fn answer(&mut self, sockets: [OwnedFd; 2], names: &Arc<dns::Names>, id: &str) {
        let serving = dns::serve(dns::Sockets::from_descriptors(sockets), Arc::clone(names), id.to_owned());
        self.tasks.push(tokio::task::spawn_local(async move { drop(serving.await) }));
    }

    /// Carries what comes in at its published ports.
    fn publish(&mut self, proxy: &Arc<Proxy>, ports: &[BoundPort], listeners: Vec<OwnedFd>, to: Ipv4Addr) {
        self.publishes = !ports.is_empty();
        for (port, listener) in ports.iter().zip(listeners) {
            let target = SocketAddr::from((to, port.target));
            let serving = Arc::clone(proxy).serve(listener, port.protocol, target);
            self.tasks.push(tokio::task::spawn_local(async move { drop(serving.await) }));
        }
    }

    /// A log that cannot be written to fails at the container's own lines as well.
    fn note(&self, text: &str) {
        let _ = self.writer.borrow_mut().note(text);
    }

    /// Somebody else goes on with it.
    fn leave(self) {
        for task in &self.tasks {
            task.abort();
        }
    }

    /// The process is gone: what is in the pipes is all there will ever be.
    fn finish(self, exit: Option<i32>, restarting: bool) {
        for task in &self.tasks {
            task.abort();
        }
        for stream in &self.streams {
            while matches!(stream.take(), Ok(length) if length > 0) {}
        }
        let _ = self.writer.borrow_mut().ended(exit.unwrap_or(-1), restarting);
    }
}

impl Stream {
    /// Moves what there is; 0 at the end, an error when there is nothing now.
    fn take(&self) -> std::io::Result<usize> {
        let from = self.fd.get_ref().as_fd();
        let Some((out, into)) = &self.between else { return self.log.borrow_mut().splice(self.stderr, from) };
        splice(from, None, into, None, 64 << 10, SpliceFlags::NONBLOCK)?;
        self.log.borrow_mut().splice(self.stderr, out.as_fd())
    }
}

async fn follow(stream: Rc<Stream>) {
    loop {
        let Ok(mut ready) = stream.fd.readable().await else { return };
        match stream.take() {
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => ready.clear_ready(),
            // A pipe that nobody has open, keeper and container being gone, is at its end, and a terminal
            // says EIO, until somebody opens it again; a full disk may become less full. None is worth a
            // busy loop, which would keep us from all else.
            Ok(0) | Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Ok(_) => {}
        }
    }
}

fn open_fifo(place: &Place, name: &str) -> Result<OwnedFd> {
    let path = place.run.join(name);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(&path, flags, Mode::empty()).map_err(|e| file_error("cannot open", &path, e.into()))
}

/// A descriptor that the event loop waits for until there is something to read.
pub fn asynchronous(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    register(fd, Interest::READABLE)
}

fn register(fd: OwnedFd, interest: Interest) -> Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is one open descriptor for as long as the `AsyncFd` owns it.
    unsafe { AsyncFd::register_with_interest(fd, interest) }
        .map_err(|error| Error::System { what: "cannot wait for a descriptor".into(), source: error.into() })
}
