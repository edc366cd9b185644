//! A program beside the container's own, attended by a process of its own: the caller has threads,
//! and must not be its parent. When the caller is gone the program is ended.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::{Child, Stdio},
    sync::{Mutex, PoisonError},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    process::{WaitId, WaitIdOptions, WaitIdStatus, waitid},
};
use serde::{Deserialize, Serialize};

use super::{
    ContainerConfig, Error, ExecConfig, Result, Roots, exe,
    exec::{Exec, Running},
    process,
    protocol::{self, Wire},
    signal,
    state::{Group, Identity, failed},
    terminal,
};

/// Name of the entry. Standard input is the socket of the caller.
pub const ENTRY: &str = "__exec";

/// To the process that attends. Descriptors: standard input, output and error, unless it makes a terminal.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    Run { roots: Roots, group: String, id: String, process: Identity, exec: Box<ExecConfig> },
    Signal(i32),
}

/// From the process that attends.
#[derive(Debug, Serialize, Deserialize)]
enum News {
    /// Descriptor: the master of its terminal.
    Started,
    Failed(Wire),
    /// Its code, or 128 and the signal that ended it.
    Ended(i32),
}

/// A program that runs, as its caller holds it.
#[derive(Debug)]
pub struct Attended {
    socket: OwnedFd,
    child: Child,
    /// Where its standard input comes from, until it is taken away.
    input: Mutex<Option<OwnedFd>>,
    /// What it writes: true for standard error. The master of its terminal stands for both.
    outputs: Vec<(bool, OwnedFd)>,
    terminal: Option<OwnedFd>,
}

/// Runs `exec` in a container whose main process is `process`; returns when it was executed.
pub fn start(group: &Group, id: &str, process: Identity, exec: &ExecConfig) -> Result<Attended> {
    let (ours, theirs) = protocol::pair()?;
    let (mut command, _program) = exe::entry(ENTRY)?;
    let child = command
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()
        .map_err(|source| Error::System { what: "cannot run ourselves".into(), source })?;
    drop(command);
    let (input, outputs, given) = if exec.tty { (None, Vec::new(), Vec::new()) } else { streams(exec)? };
    let mut attended = Attended { socket: ours, child, input: Mutex::new(input), outputs, terminal: None };
    let (roots, name) = (group.roots.clone(), group.name.clone());
    let order = Order::Run { roots, group: name, id: id.to_owned(), process, exec: Box::new(exec.clone()) };
    protocol::send(attended.socket.as_fd(), &order, &protocol::borrow(&given))?;
    drop(given);
    match attended.hear()? {
        (News::Started, mut descriptors) => {
            if let Some(master) = descriptors.pop() {
                let copy = |fd: &OwnedFd| fd.try_clone().map_err(cannot("copy a terminal"));
                attended.input = Mutex::new(if exec.stdin { Some(copy(&master)?) } else { None });
                attended.outputs = vec![(false, copy(&master)?)];
                attended.terminal = Some(master);
            }
            Ok(attended)
        }
        (News::Failed(wire), _) => Err(wire.into()),
        (News::Ended(_), _) => Err(Error::Helper("the program ended before it began".to_owned())),
    }
}

/// Our end of its standard input, our ends of what it writes, and its own ends.
type Streams = (Option<OwnedFd>, Vec<(bool, OwnedFd)>, Vec<OwnedFd>);

fn streams(exec: &ExecConfig) -> Result<Streams> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed("cannot make a pipe"));
    let null = || {
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("cannot open /dev/null"))
    };
    let (stdin, input) = if exec.stdin {
        let (theirs, ours) = pipe()?;
        (theirs, Some(ours))
    } else {
        (null()?, None)
    };
    let (out, theirs_out) = pipe()?;
    let (err, theirs_err) = pipe()?;
    Ok((input, vec![(false, out), (true, err)], vec![stdin, theirs_out, theirs_err]))
}

fn cannot(what: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::System { what: format!("cannot {what}"), source }
}

impl Attended {
    fn hear(&self) -> Result<(News, Vec<OwnedFd>)> {
        protocol::receive::<News>(self.socket.as_fd())
            .map_err(cannot("hear the program"))?
            .ok_or_else(|| Error::Helper("the process that attends the program was killed".to_owned()))
    }

    /// Passes on what it writes (true: standard error) until it ends; its code, or 128 and the signal
    /// that ended it. Others that still hold its streams are not waited for.
    pub fn follow(&self, sink: &mut dyn FnMut(bool, &[u8])) -> Result<i32> {
        let mut open: Vec<&(bool, OwnedFd)> = self.outputs.iter().collect();
        loop {
            let mut fds = vec![PollFd::new(&self.socket, PollFlags::IN)];
            fds.extend(open.iter().map(|(_, fd)| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(failed("cannot wait for the program")(e)),
            }
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            let mut output = ready.iter().skip(1);
            open.retain(|(stderr, fd)| {
                !output.next().is_some_and(|ready| *ready) || pass_on(fd, *stderr, sink)
            });
            if ready.first() == Some(&true) {
                let code = match self.hear()?.0 {
                    News::Ended(code) => code,
                    News::Failed(wire) => return Err(wire.into()),
                    News::Started => return Err(Error::Helper("the program began twice".to_owned())),
                };
                for (stderr, fd) in open {
                    let _ = rustix::io::ioctl_fionbio(fd, true);
                    while pass_on(fd, *stderr, sink) {}
                }
                return Ok(code);
            }
        }
    }

    /// Sends it a signal by number.
    pub fn signal(&self, signal: i32) -> Result<()> {
        protocol::send(self.socket.as_fd(), &Order::Signal(signal), &[])
    }

    /// Its standard input, once; it ends when that is closed.
    pub fn take_input(&self) -> Option<OwnedFd> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Tells its terminal, if it has one, how many rows and columns there are.
    pub fn resize(&self, size: (u16, u16)) -> Result<()> {
        self.terminal.as_ref().map_or(Ok(()), |terminal| terminal::resize(terminal.as_fd(), size))
    }
}

/// One read; false when there is no more, now or ever.
fn pass_on(fd: &OwnedFd, stderr: bool, sink: &mut dyn FnMut(bool, &[u8])) -> bool {
    let mut buffer = [0; 32 << 10];
    match rustix::io::read(fd, &mut buffer) {
        Ok(length @ 1..) => {
            sink(stderr, buffer.get(..length).unwrap_or_default());
            true
        }
        Err(rustix::io::Errno::INTR) => true,
        // A terminal that nobody has open any more says EIO.
        Ok(0) | Err(_) => false,
    }
}

/// Writes everything, waiting where the other side does not read; an error when it is gone.
pub fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
                let _ = poll(&mut fds, None);
            }
            Err(e) => return Err(failed("cannot write to the program")(e)),
        }
    }
    Ok(())
}

impl Drop for Attended {
    fn drop(&mut self) {
        // Whoever attends ends by the end of its socket.
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both);
        let _ = self.child.wait();
    }
}

/// The hidden entry.
pub fn entry() -> i32 {
    process::set_name("ficelle-exec");
    process::close_all_but(&mut []);
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return 1 };
    let Ok(Some((Order::Run { roots, group, id, process, exec }, given))) = protocol::receive(socket.as_fd())
    else {
        return 1;
    };
    let config = Group::new(&roots, &group).and_then(|group| group.place(&id)?.spec());
    let begun = config.and_then(|spec| begin(&spec.config, &process, &exec, given));
    let (running, master) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            let _ = protocol::send(socket.as_fd(), &News::Failed(Wire::from(&error)), &[]);
            return 1;
        }
    };
    let with: Vec<BorrowedFd<'_>> = master.iter().map(AsFd::as_fd).collect();
    let _ = protocol::send(socket.as_fd(), &News::Started, &with);
    drop(master);
    let code = attend(&socket, &running);
    let _ = protocol::send(socket.as_fd(), &News::Ended(code), &[]);
    0
}

/// The program, and the master of its terminal.
fn begin(
    config: &ContainerConfig,
    process: &Identity,
    exec: &ExecConfig,
    given: Vec<OwnedFd>,
) -> Result<(Running, Option<OwnedFd>)> {
    let program = Exec::new(config, process, exec)?;
    if !exec.tty {
        let streams = <[OwnedFd; 3]>::try_from(given)
            .map_err(|_| Error::Helper("the caller gave no streams".to_owned()))?;
        return Ok((program.spawn(process, &streams)?, None));
    }
    let (master, slave) = terminal::open_in(process, program.user())?;
    if let Some(size) = exec.size {
        terminal::resize(master.as_fd(), size)?;
    }
    let copy = || rustix::io::fcntl_dupfd_cloexec(&slave, 3).map_err(failed("cannot copy a terminal"));
    let streams = [copy()?, copy()?, copy()?];
    drop(slave);
    Ok((program.spawn(process, &streams)?, Some(master)))
}

/// Until the end of the program; its code.
fn attend(socket: &OwnedFd, running: &Running) -> i32 {
    let mut listens = true;
    loop {
        let mut fds = vec![PollFd::new(&running.pidfd, PollFlags::IN)];
        if listens {
            fds.push(PollFd::new(socket, PollFlags::IN));
        }
        if poll(&mut fds, None).is_err() {
            continue;
        }
        let ended = !fds[0].revents().is_empty();
        let asked = fds.get(1).is_some_and(|fd| !fd.revents().is_empty());
        if ended {
            let status = waitid(WaitId::PidFd(running.pidfd.as_fd()), WaitIdOptions::EXITED).ok().flatten();
            let signal = status.as_ref().and_then(WaitIdStatus::terminating_signal);
            let code = status.as_ref().and_then(WaitIdStatus::exit_status);
            return code.or(signal.map(|signal| 128 + signal)).unwrap_or(255);
        }
        if asked {
            match protocol::receive::<Order>(socket.as_fd()) {
                Ok(Some((Order::Signal(number), _))) => drop(signal::send(&running.pidfd, number)),
                Ok(Some((Order::Run { .. }, _))) => {}
                Ok(None) | Err(_) => {
                    listens = false;
                    let _ = signal::send(&running.pidfd, libc::SIGKILL);
                }
            }
        }
    }
}
