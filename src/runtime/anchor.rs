//! The anchor: one process per state tree that holds the network namespace of the bridges, and its way
//! out when asked for one. It lives as long as anybody holds a connection to it, then ends and leaves
//! nothing. It stays in the host's namespace itself.
//!
//! The races are closed by one lock: who looks for the anchor connects (or makes the listener and
//! connects) while holding it, and the anchor takes its socket away only while holding it.

use std::{
    fs::{self, File},
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags,
    },
};

use super::{
    Error, Result, Roots,
    failpoint::{self, Point, reached},
    lock, memory, netlink,
    netlink::Netlink,
    netns, nft, process,
    state::file_error,
    uplink::WayOut,
};

/// First argument of the hidden entry.
pub const ENTRY: &str = "__anchor";

/// Asks for the way out.
const UPLINK: u8 = b'u';
/// Asks for the removal of the bridge whose name follows.
const REMOVE: u8 = b'r';
/// Bytes of a request: a kind and the name of a link.
const LONGEST: usize = 1 + 15;
/// All is well; a text says what is not.
const DONE: u8 = 0;

const SOCKET: &str = "anchor.sock";
const LOCK: &str = "anchor.lock";
/// An anchor that ends between our connect and its answer is looked for again, this often.
const ATTEMPTS: usize = 5;

/// How long who knows the namespace of a killed anchor comes first.
const HEIRS: Duration = Duration::from_millis(250);

/// A hold on the anchor. The namespace is usable as long as this lives.
#[derive(Debug)]
pub struct Anchor {
    connection: UnixStream,
    netns: OwnedFd,
}

impl Anchor {
    /// The namespace with the bridges.
    #[must_use]
    pub fn netns(&self) -> BorrowedFd<'_> {
        self.netns.as_fd()
    }

    /// Becomes readable (hung up) when the anchor was killed; [`Anchor::revive`] then.
    #[must_use]
    pub fn connection(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }

    /// Lets networks that are not internal reach what the host reaches; once made, it is there for
    /// all. Needed again after [`Anchor::revive`].
    pub fn open_way_out(&self) -> Result<()> {
        self.ask_way_out()?;
        self.hear_way_out()?.ok_or_else(|| no_way_out(io::ErrorKind::UnexpectedEof.into()))
    }

    /// Asks only: [`Anchor::connection`] becomes readable when there is an answer to
    /// [hear](Anchor::hear_way_out).
    pub fn ask_way_out(&self) -> Result<()> {
        (&self.connection).write_all(&[UPLINK]).map_err(no_way_out)
    }

    /// Waits for the answer; `None` when the anchor was killed before it gave one.
    pub fn hear_way_out(&self) -> Result<Option<()>> {
        let mut text = [0; 512];
        match (&self.connection).read(&mut text) {
            Ok(0) => Ok(None),
            Ok(1) if text[0] == DONE => Ok(Some(())),
            Ok(count) => Err(Error::Helper(String::from_utf8_lossy(&text[..count]).into_owned())),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(no_way_out(error)),
        }
    }

    /// Takes a bridge away. When nobody else holds the namespace, which then ends with it, that is not
    /// waited for.
    pub fn remove_bridge(&self, bridge: &str) -> Result<()> {
        let failed = |source| Error::System { what: format!("have bridge `{bridge}` removed"), source };
        let request = [&[REMOVE], bridge.as_bytes()].concat();
        (&self.connection).write_all(&request).map_err(failed)?;
        let mut text = [0; 512];
        match (&self.connection).read(&mut text).map_err(failed)? {
            // It is gone with the namespace.
            0 => Ok(()),
            1 if text[0] == DONE => Ok(()),
            count => Err(Error::Helper(String::from_utf8_lossy(&text[..count]).into_owned())),
        }
    }

    /// Connects again after the anchor was killed; a new one takes over this namespace, so nothing
    /// in it is lost.
    pub fn revive(self, roots: &Roots) -> Result<Self> {
        keep(roots, self.netns.as_fd())
    }
}

fn no_way_out(source: io::Error) -> Error {
    Error::System { what: "ask the network anchor for a way out".to_owned(), source }
}

/// Connects to the anchor; should it have been killed, a new one takes over the namespace that is
/// handed in.
pub fn keep(roots: &Roots, netns: BorrowedFd<'_>) -> Result<Anchor> {
    seek(roots, Some(netns))
}

/// Connects to the anchor, started when there is none.
pub fn connect(roots: &Roots) -> Result<Anchor> {
    seek(roots, None)
}

/// Connects to the anchor if it lives.
pub fn existing(roots: &Roots) -> Result<Option<Anchor>> {
    if !roots.run.join(SOCKET).exists() {
        return Ok(None);
    }
    let connection = {
        let _lock = lock(&roots.run)?;
        dial(&directory(&roots.run)?)
    };
    match connection {
        Ok(connection) => match receive(&connection)? {
            Reply::Netns(netns) => Ok(Some(Anchor { connection, netns })),
            Reply::Failed(_) | Reply::Gone => Ok(None),
        },
        Err(error) if absent(&error) => Ok(None),
        Err(error) => Err(file_error("connect to", &roots.run.join(SOCKET), error)),
    }
}

/// The socket of an anchor that was killed and that nobody needs; removed unless `dry`.
pub fn leavings(roots: &Roots, dry: bool) -> Result<Vec<String>> {
    let path = roots.run.join(SOCKET);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let _lock = lock(&roots.run)?;
    match dial(&directory(&roots.run)?) {
        Err(error) if absent(&error) && path.exists() => {}
        _ => return Ok(Vec::new()),
    }
    if !dry {
        fs::remove_file(&path).map_err(|error| file_error("remove", &path, error))?;
    }
    Ok(vec!["socket of an anchor".to_owned()])
}

/// Keeps others from making, ending or mending an anchor meanwhile.
pub fn hold_still(run: &Path) -> Result<File> {
    lock(run)
}

fn seek(roots: &Roots, adopt: Option<BorrowedFd<'_>>) -> Result<Anchor> {
    fs::create_dir_all(&roots.run).map_err(|error| file_error("make", &roots.run, error))?;
    for _ in 0..ATTEMPTS {
        let connection = dial_or_start(roots, adopt)?;
        match receive(&connection)? {
            Reply::Netns(netns) => return Ok(Anchor { connection, netns }),
            Reply::Failed(message) => return Err(Error::Helper(message)),
            Reply::Gone => {}
        }
    }
    Err(Error::Helper(format!("the network anchor of {} ends as soon as it starts", roots.run.display())))
}

/// A connection, perhaps to a listener whose process is only being started.
///
/// An anchor that ends by itself takes its socket away. One that was killed has heirs, who hold its namespace
/// and are about to hand it to another: a new namespace would cut their containers off.
fn dial_or_start(roots: &Roots, adopt: Option<BorrowedFd<'_>>) -> Result<UnixStream> {
    let path = roots.run.join(SOCKET);
    let directory = directory(&roots.run)?;
    let until = Instant::now() + HEIRS;
    let _lock = loop {
        let lock = lock(&roots.run)?;
        match dial(&directory) {
            Ok(connection) => return Ok(connection),
            Err(error) if !absent(&error) => return Err(file_error("connect to", &path, error)),
            Err(error) => {
                let killed = error.kind() == io::ErrorKind::ConnectionRefused;
                if adopt.is_some() || !killed || Instant::now() > until {
                    break lock;
                }
            }
        }
        drop(lock);
        std::thread::sleep(Duration::from_millis(5));
    };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(file_error("remove", &path, error));
        }
        _ => {}
    }
    let listener =
        UnixListener::bind(short(&directory)).map_err(|error| file_error("listen at", &path, error))?;
    let connection = dial(&directory).map_err(|error| file_error("connect to", &path, error))?;
    start(&roots.run, listener, adopt)?;
    Ok(connection)
}

fn start(run: &Path, listener: UnixListener, adopt: Option<BorrowedFd<'_>>) -> Result<()> {
    let failed = |error| Error::System { what: "start the network anchor".to_owned(), source: error };
    let mut command = Command::new(super::program());
    command
        .arg0("ficelle-anchor")
        .arg(ENTRY)
        .arg(run)
        .env_clear()
        .stdin(OwnedFd::from(listener))
        .stderr(Stdio::null());
    failpoint::hand_on(&mut command);
    match adopt {
        Some(netns) => command.arg("adopt").stdout(netns.try_clone_to_owned().map_err(failed)?),
        None => command.stdout(Stdio::null()),
    };
    // It forks itself into the background at once, so this is no long wait.
    let status = command.status().map_err(failed)?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Helper(format!("the network anchor failed ({status})")))
    }
}

/// The hidden entry: the listener is its standard input, a namespace to take over its standard
/// output. Must run before any thread exists.
#[must_use]
pub fn entry(args: &[String]) -> i32 {
    let Some(run) = args.first() else { return 2 };
    let adopt = args.get(1).is_some_and(|arg| arg == "adopt");
    // SAFETY: this process has one thread, and the child goes on as an ordinary process.
    match unsafe { libc::fork() } {
        -1 => 1,
        0 => match hold(Path::new(run), adopt) {
            Ok(()) => 0,
            Err(_) => 1,
        },
        _ => 0,
    }
}

fn hold(run: &Path, adopt: bool) -> io::Result<()> {
    // SAFETY: nothing in this process owns a descriptor above standard error.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
    let _ = rustix::process::setsid();
    process::set_name("ficelle-anchor");
    reached(Point::AnchorBegins);
    rustix::process::chdir("/")?;
    // SAFETY: standard input is the listener, handed over by `start`, and used by nothing else.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(0) });
    let netns = furnish(adopt).map_err(|error| format!("failed to set up the network namespace: {error}"));
    reached(Point::AnchorFurnished);
    serve(run, &listener, netns.as_ref())
}

/// The namespace to hold: a new one with loopback and the rules of isolation, or the one handed over.
fn furnish(adopt: bool) -> io::Result<OwnedFd> {
    let null = File::options().write(true).open("/dev/null")?;
    if adopt {
        let netns = rustix::io::dup(rustix::stdio::stdout())?;
        rustix::io::fcntl_setfd(&netns, rustix::io::FdFlags::CLOEXEC)?;
        rustix::stdio::dup2_stdout(&null)?;
        return Ok(netns);
    }
    let netns = netns::create()?;
    netns::within(netns.as_fd(), || {
        // Our networks are IPv4 only: no bridge may get an IPv6 address by itself.
        for scope in ["all", "default"] {
            let knob = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
            if fs::exists(&knob)? {
                fs::write(&knob, "1")?;
            }
        }
        Netlink::open()?.all(&[netlink::set_up(1)])?;
        nft::isolate()
    })??;
    Ok(netns)
}

/// Hands the namespace to everybody who connects, until nobody is connected any more.
fn serve(run: &Path, listener: &UnixListener, netns: Result<&OwnedFd, &String>) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut holders: Vec<UnixStream> = Vec::new();
    let mut uplink = None;
    // Something has happened since pages were given back.
    let mut stirred = true;
    // Bridges that are to go when somebody else comes, or with the namespace.
    let mut doomed: Vec<String> = Vec::new();
    loop {
        while let Some(holder) = next(listener)? {
            if let Ok(netns) = netns {
                // Failing, who makes the bridge anew hears of it.
                doomed.drain(..).for_each(|bridge| drop(remove(netns, &bridge)));
            }
            reached(Point::AnchorAnswers);
            answer(&holder, netns);
            holders.push(holder);
        }
        if holders.is_empty() && retire(run, listener, &mut uplink)? {
            return Ok(());
        }
        let mut watched = vec![PollFd::new(listener, PollFlags::IN)];
        watched.extend(holders.iter().map(|holder| PollFd::new(holder, PollFlags::IN | PollFlags::RDHUP)));
        let quiet = rustix::time::Timespec { tv_sec: 1, tv_nsec: 0 };
        match poll(&mut watched, stirred.then_some(&quiet)) {
            Ok(0) => {
                memory::shed();
                stirred = false;
            }
            Ok(_) => stirred = true,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let ready: Vec<bool> = watched[1..].iter().map(|fd| !fd.revents().is_empty()).collect();
        let mut ready = ready.into_iter();
        let mut asked = Vec::new();
        // First who is gone, then what the others ask for.
        holders.retain(|holder| match ready.next() {
            Some(true) => hear(holder).map(|request| asked.push((holder.as_raw_fd(), request))).is_some(),
            _ => true,
        });
        let alone = holders.len() == 1;
        holders.retain_mut(|holder| {
            let request = asked.iter().find(|(fd, _)| *fd == holder.as_raw_fd()).map(|(_, request)| request);
            match (request, netns) {
                (None, _) => true,
                (Some(_), Err(_)) => false,
                (Some(Request::Uplink), Ok(netns)) => reply(holder, open(run, netns, &mut uplink)),
                (Some(Request::Remove(bridge)), Ok(_)) if alone => {
                    doomed.push(bridge.clone());
                    reply(holder, Ok(()))
                }
                (Some(Request::Remove(bridge)), Ok(netns)) => reply(holder, remove(netns, bridge)),
            }
        });
    }
}

enum Request {
    Uplink,
    Remove(String),
}

/// What a holder asks for; `None` when it is gone.
fn hear(mut holder: &UnixStream) -> Option<Request> {
    let mut bytes = [0; LONGEST];
    let count = holder.read(&mut bytes).ok()?;
    match bytes.get(..count)? {
        [UPLINK] => Some(Request::Uplink),
        [REMOVE, name @ ..] => Some(Request::Remove(String::from_utf8_lossy(name).into_owned())),
        _ => None,
    }
}

fn open(run: &Path, netns: &OwnedFd, uplink: &mut Option<WayOut>) -> Result<(), String> {
    reached(Point::WayOutAsked);
    if !uplink.as_mut().is_some_and(WayOut::leads_out) {
        let opened = WayOut::open(run, netns)
            .map_err(|error| format!("failed to open a way out of the containers' networks: {error}"))?;
        *uplink = Some(opened);
    }
    Ok(())
}

fn remove(netns: &OwnedFd, bridge: &str) -> Result<(), String> {
    netns::within(netns.as_fd(), || Netlink::open()?.delete_if_there(bridge))
        .and_then(|done| done)
        .map_err(|error| format!("failed to remove bridge `{bridge}`: {error}"))
}

/// False when nobody hears it.
fn reply(holder: &mut UnixStream, done: Result<(), String>) -> bool {
    let reply = done.map_or_else(String::into_bytes, |()| vec![DONE]);
    holder.write_all(&reply).is_ok()
}

fn next(listener: &UnixListener) -> io::Result<Option<UnixStream>> {
    match listener.accept() {
        Ok((holder, _)) => Ok(Some(holder)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
        Err(error) => Err(error),
    }
}

/// Takes the socket away, unless somebody has just connected, and then the way out: nobody waits for its end.
fn retire(run: &Path, listener: &UnixListener, uplink: &mut Option<WayOut>) -> io::Result<bool> {
    let Ok(lock) = lock(run) else { return Ok(true) };
    let mut waiting = [PollFd::new(listener, PollFlags::IN)];
    if poll(&mut waiting, Some(&rustix::time::Timespec::default()))? > 0 {
        return Ok(false);
    }
    reached(Point::AnchorRetires);
    match fs::remove_file(run.join(SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(uplink) = uplink.take() {
        uplink.close(Some(lock));
    }
    Ok(true)
}

/// Zero and the namespace, or the text of what went wrong. Who is gone before is noticed by poll.
fn answer(holder: &UnixStream, netns: Result<&OwnedFd, &String>) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds;
    let text = match netns {
        Ok(netns) => {
            fds = [netns.as_fd()];
            control.push(SendAncillaryMessage::ScmRights(&fds));
            &[0][..]
        }
        Err(message) => message.as_bytes(),
    };
    let _ = rustix::net::sendmsg(holder, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL);
}

enum Reply {
    Netns(OwnedFd),
    Failed(String),
    /// It ended before it answered.
    Gone,
}

fn receive(connection: &UnixStream) -> Result<Reply> {
    let mut text = [0; 512];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut slices = [IoSliceMut::new(&mut text)];
        match rustix::net::recvmsg(connection, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CONNRESET) => return Ok(Reply::Gone),
            other => break other,
        }
    };
    let count = received
        .map_err(|error| Error::System {
            what: "receive the network namespace from the anchor".to_owned(),
            source: error.into(),
        })?
        .bytes;
    let netns = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(match (netns, count) {
        (Some(netns), _) => Reply::Netns(netns),
        (None, 0) => Reply::Gone,
        (None, _) => Reply::Failed(String::from_utf8_lossy(&text[..count]).into_owned()),
    })
}

fn lock(run: &Path) -> Result<File> {
    lock::lock(&run.join(LOCK), |_| {})
}

fn directory(run: &Path) -> Result<OwnedFd> {
    rustix::fs::open(run, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| file_error("open", run, error.into()))
}

fn dial(directory: &OwnedFd) -> io::Result<UnixStream> {
    UnixStream::connect(short(directory))
}

/// The socket by a path that fits into 108 bytes wherever the state tree is.
fn short(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}/{SOCKET}", directory.as_raw_fd())
}

/// Nobody listens there.
fn absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}
