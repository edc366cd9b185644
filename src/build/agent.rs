//! `RUN --mount=type=ssh`: a socket in the step that leads to an agent outside. The step never sees the
//! agent's own socket, so owner and mode can be what it asks for.

use std::{
    fs, io,
    os::{
        fd::AsRawFd,
        unix::{
            fs::FileTypeExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use super::{mounts::Attributes, secret};
use crate::model::Build;

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    Socket(PathBuf),
    /// Key files, for an agent of our own.
    Keys(Vec<PathBuf>),
}

/// `None` when the build was given no agent of this id.
pub fn peer(build: &Build, id: &str) -> Result<Option<Peer>, String> {
    let Some(given) = build.ssh.get(id) else { return Ok(None) };
    let paths = match given.as_deref().filter(|text| !text.is_empty()) {
        Some(paths) => paths.to_owned(),
        None => std::env::var("SSH_AUTH_SOCK").map_err(|_| "SSH_AUTH_SOCK is not set".to_owned())?,
    };
    let paths: Vec<PathBuf> = paths.split(',').map(PathBuf::from).collect();
    let mut sockets = 0;
    for path in &paths {
        let meta = fs::metadata(path).map_err(|error| format!("cannot use `{}`: {error}", path.display()))?;
        sockets += usize::from(meta.file_type().is_socket());
    }
    match (sockets, &paths[..]) {
        (1, [socket]) => Ok(Some(Peer::Socket(socket.clone()))),
        (0, _) => Ok(Some(Peer::Keys(paths))),
        _ => Err("it is either one socket or key files".to_owned()),
    }
}

/// The socket for one step; ends with this value.
#[derive(Debug)]
pub struct Agent {
    pub socket: PathBuf,
    over: Arc<AtomicBool>,
    listens: Option<thread::JoinHandle<()>>,
    own: Option<Child>,
}

impl Agent {
    /// `dir` is in memory, and gone with the step.
    pub fn start(peer: &Peer, dir: &Path, name: &str, attributes: Attributes) -> io::Result<Self> {
        let (outside, own) = match peer {
            Peer::Socket(path) => (path.clone(), None),
            Peer::Keys(keys) => {
                let path = dir.join(format!("{name}.agent"));
                let child = own_agent(&path, keys)?;
                (path, Some(child))
            }
        };
        let socket = dir.join(name);
        // Through the directory's descriptor: an address holds only 108 bytes.
        let held = fs::File::open(dir)?;
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{name}", held.as_raw_fd()))?;
        secret::dress(&socket, attributes)?;
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let listens = thread::spawn(move || {
            for stream in listener.incoming() {
                if ends.load(Ordering::Acquire) {
                    break;
                }
                let Ok(stream) = stream else { continue };
                if let Ok(agent) = UnixStream::connect(&outside) {
                    thread::spawn(move || join(&stream, &agent));
                }
            }
        });
        Ok(Self { socket, over, listens: Some(listens), own })
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Release);
        // Wakes the listener.
        if UnixStream::connect(&self.socket).is_ok()
            && let Some(thread) = self.listens.take()
        {
            let _ = thread.join();
        }
        if let Some(child) = &mut self.own {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Bytes both ways until one side ends.
fn join(inside: &UnixStream, agent: &UnixStream) {
    let pass = |mut from: &UnixStream, mut to: &UnixStream| {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    };
    thread::scope(|scope| {
        scope.spawn(|| pass(agent, inside));
        pass(inside, agent);
    });
}

/// OpenSSH's agent with these keys.
fn own_agent(socket: &Path, keys: &[PathBuf]) -> io::Result<Child> {
    let needed = |program: &str, error: io::Error| {
        io::Error::new(error.kind(), format!("key files need `{program}` of OpenSSH: {error}"))
    };
    let mut agent = Command::new("ssh-agent")
        .arg("-D")
        .arg("-a")
        .arg(socket)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| needed("ssh-agent", error))?;
    // It says its address when it listens.
    let mut said = [0; 1];
    let ready = agent.stdout.as_mut().map(|out| io::Read::read_exact(out, &mut said));
    let add = || -> io::Result<()> {
        ready.unwrap_or(Ok(()))?;
        let mut command = Command::new("ssh-add");
        command.arg("-q").arg("--").args(keys);
        command.env("SSH_AUTH_SOCK", socket).env("SSH_ASKPASS_REQUIRE", "never").stdin(Stdio::null());
        let output = command.output().map_err(|error| needed("ssh-add", error))?;
        if output.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&output.stderr);
        Err(io::Error::other(format!("the keys cannot be used: {}", why.trim())))
    };
    add().inspect_err(|_| {
        let _ = agent.kill();
        let _ = agent.wait();
    })?;
    Ok(agent)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn build(id: &str, path: Option<&str>) -> Build {
        Build { ssh: [(id.to_owned(), path.map(str::to_owned))].into_iter().collect(), ..Build::default() }
    }

    #[test]
    fn an_agent_is_a_socket_or_key_files() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, key) = (dir.path().join("socket"), dir.path().join("key"));
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::write(&key, "").unwrap();
        let (socket_text, key_text) = (socket.to_str().unwrap(), key.to_str().unwrap());
        assert_eq!(peer(&build("a", Some(socket_text)), "a"), Ok(Some(Peer::Socket(socket.clone()))));
        assert_eq!(peer(&build("a", Some(socket_text)), "b"), Ok(None));
        let both = format!("{key_text},{key_text}");
        assert_eq!(peer(&build("a", Some(&both)), "a"), Ok(Some(Peer::Keys(vec![key.clone(), key.clone()]))));
        assert!(peer(&build("a", Some(&format!("{socket_text},{key_text}"))), "a").is_err());
        assert!(peer(&build("a", Some("/no/such")), "a").unwrap_err().contains("/no/such"));
    }

    #[test]
    fn what_is_said_in_the_step_comes_to_the_agent_and_back() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let listener = UnixListener::bind(&outside).unwrap();
        let answers = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = [0; 4];
            stream.read_exact(&mut asked).unwrap();
            stream.write_all(b"pong").unwrap();
            asked
        });
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let attributes = Attributes { mode: 0o600, uid: me.0, gid: me.1 };
        let agent = Agent::start(&Peer::Socket(outside), dir.path(), "0", attributes).unwrap();
        let mut stream = UnixStream::connect(&agent.socket).unwrap();
        stream.write_all(b"ping").unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert_eq!((&answers.join().unwrap(), heard.as_str()), (b"ping", "pong"));
        drop(stream);
        drop(agent);
    }
}
