//! Asking a group's keeper, and starting one where none is.

use std::{
    io::{Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::Stdio,
    time::Duration,
};

use super::{
    Error, Result, exe,
    failpoint::{Point, reached},
    keeper, lock,
    protocol::{self, NOT_UNDERSTOOD, Reply, Request, Wire},
    rootfs, signal,
    state::{Group, Identity, Place, Stage, State, make_dir, read_json},
};

/// A keeper that ends between our connection and its answer is asked for again this often.
const TRIES: usize = 5;

/// Asks, with a keeper started if there is none.
pub fn ask(group: &Group, request: &Request) -> Result<()> {
    for _ in 0..TRIES {
        let Some(stream) = reach(group)? else { continue };
        if let Some(reply) = talk(group, stream, request)? {
            return reply;
        }
    }
    Err(Error::Helper(format!("the keeper of `{}` ends as soon as it is asked", group.name)))
}

/// A keeper that waits for what it will be asked as long as the connection is kept, with what the
/// containers will need. `None` when it could not be had at once: those who ask will bring one.
pub fn prepare(group: &Group, networks: bool) -> Option<UnixStream> {
    let stream = reach(group).ok()??;
    let text = serde_json::to_vec(&Request::Prepare { networks }).ok()?;
    (&stream).write_all(&text).and_then(|()| stream.shutdown(std::net::Shutdown::Write)).ok()?;
    Some(stream)
}

/// A connection to the keeper, started when there is none; `None` when it must be tried again.
fn reach(group: &Group) -> Result<Option<UnixStream>> {
    if let Some(stream) = connect(group) {
        return Ok(Some(stream));
    }
    spawn(group)?;
    let stream = connect(group);
    if stream.is_none() {
        // One that is just leaving listens no more and lets nobody else begin.
        wait_for_leave(group);
    }
    Ok(stream)
}

/// Asks a keeper that lives; false when there is none.
pub fn ask_living(group: &Group, request: &Request) -> Result<bool> {
    let Some(stream) = connect(group) else { return Ok(false) };
    match talk(group, stream, request)? {
        Some(reply) => reply.map(|()| true),
        None => Ok(false),
    }
}

/// Waits until the end of a container is written down; false when nobody could tell it in this time.
pub fn await_end(group: &Group, id: &str, time: Duration) -> bool {
    let Some(stream) = connect(group) else { return false };
    let id = id.to_owned();
    stream.set_read_timeout(Some(time)).is_ok()
        && matches!(talk(group, stream, &Request::Ended { id }), Ok(Some(Ok(()))))
}

/// Asks a keeper that lives for a descriptor.
pub fn ask_for(group: &Group, request: &Request) -> Result<OwnedFd> {
    let gone = || Error::Condition("the container does not run any more".to_owned());
    let mut stream = connect(group).ok_or_else(gone)?;
    let text = serde_json::to_vec(request).map_err(|e| Error::Helper(e.to_string()))?;
    let asked = stream.write_all(&text).and_then(|()| stream.shutdown(std::net::Shutdown::Write));
    let heard = asked.and_then(|()| protocol::receive::<Reply>(stream.as_fd()));
    match heard {
        Ok(Some((Reply::Done, mut descriptors))) => descriptors.pop().ok_or_else(gone),
        Ok(Some((Reply::Failed(wire), _))) => Err(wire.into()),
        Ok(None) | Err(_) => Err(gone()),
    }
}

/// Whether somebody listens; one that is just dying does, too.
pub fn lives(group: &Group) -> bool {
    connect(group).is_some()
}

/// Makes sure that there is a keeper: one that answers, since a dying one still accepts.
pub fn ensure(group: &Group) -> Result<()> {
    ask(group, &Request::Hello)
}

/// Starts a keeper where a container runs and nobody would tell its end.
pub fn ensure_if_unattended(group: &Group, place: &Place) -> Result<()> {
    let state: Option<State> = read_json(&place.run.join("state.json"))?;
    match state {
        Some(state) if !matches!(state.phase, Stage::Exited { .. }) => ensure(group),
        _ => Ok(()),
    }
}

/// Until a keeper that has nothing left to do is gone.
pub fn wait_for_leave(group: &Group) {
    let Ok(Some(keeper)) = read_json::<Identity>(&group.run().join("keeper.json")) else { return };
    if let Some(pidfd) = signal::pidfd(&keeper) {
        let _ = signal::wait_for_end(&pidfd, Duration::from_secs(2));
    }
}

fn connect(group: &Group) -> Option<UnixStream> {
    // Through the descriptor: paths of sockets are short.
    let dir = rootfs::open_path(&group.run()).ok()?;
    UnixStream::connect(format!("/proc/self/fd/{}/keeper.sock", dir.as_raw_fd())).ok()
}

/// `None` when it ended before it answered.
fn talk(group: &Group, mut stream: UnixStream, request: &Request) -> Result<Option<Result<()>>> {
    let text = serde_json::to_vec(request).map_err(|e| Error::Helper(e.to_string()))?;
    let mut answer = Vec::new();
    let talked = stream
        .write_all(&text)
        .and_then(|()| stream.shutdown(std::net::Shutdown::Write))
        .inspect(|()| reached(Point::Asked))
        .and_then(|()| stream.read_to_end(&mut answer));
    if talked.is_err() || answer.is_empty() {
        return Ok(None);
    }
    match serde_json::from_slice(&answer) {
        Ok(Reply::Done) => Ok(Some(Ok(()))),
        Ok(Reply::Failed(wire)) => match wire.into() {
            Error::Helper(said) if said.starts_with(NOT_UNDERSTOOD) => Err(of_another_version(group)),
            error => Ok(Some(Err(error))),
        },
        Err(_) => Err(of_another_version(group)),
    }
}

/// The containers do not depend on it: a keeper of this version takes them over.
fn of_another_version(group: &Group) -> Error {
    let keeper = read_json::<Identity>(&group.run().join("keeper.json")).ok().flatten();
    let who = keeper.map_or_else(|| "its process".to_owned(), |keeper| keeper.pid.to_string());
    Error::Unsupported(format!(
        "the keeper of `{}` is of another version of ficelle; `kill -9 {who}` ends it, the containers run on, and \
         the next command brings one of this version",
        group.name
    ))
}

/// Starts a keeper, unless another command is just doing so; returns when it listens.
fn spawn(group: &Group) -> Result<()> {
    make_dir(&group.run())?;
    let _lock = lock::lock(&group.run().join("spawn.lock"), |_| {})?;
    if connect(group).is_some() {
        return Ok(());
    }
    let (mut command, _program) = exe::entry(keeper::ENTRY)?;
    let failed = |source| Error::System { what: "cannot start the keeper".to_owned(), source };
    let mut child = command
        .args([group.roots.run.as_os_str(), group.roots.data.as_os_str(), group.name.as_ref()])
        .stdout(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut said).map_err(failed)?;
    }
    // It has gone into the background; this one ends at once.
    child.wait().map_err(failed)?;
    reached(Point::KeeperCalled);
    match serde_json::from_slice::<Wire>(&said) {
        Ok(wire) => Err(wire.into()),
        Err(_) => Ok(()),
    }
}
