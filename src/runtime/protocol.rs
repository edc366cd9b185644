//! What the processes of the runtime say to each other: JSON over local sockets, descriptors beside.

use std::{
    cell::RefCell,
    io,
    mem::MaybeUninit,
    net::Ipv4Addr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    BoundPort, Error, ExecConfig, RestartConfig, Result, Roots,
    state::{Identity, Spec, failed},
};

/// A keeper says so of a request that its version has not got.
pub const NOT_UNDERSTOOD: &str = "the keeper does not understand";

/// Asked of a keeper, one per connection.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Are you there?
    Hello,
    /// The asker is about to start containers; not answered. As long as it keeps the connection, what
    /// they will need is there: the supervisor, and with `networks` the anchor.
    Prepare { networks: bool },
    /// Answered when every start that is under way has ended: what the files tell is then true.
    Settle,
    /// Answered when the program was executed, or could not be.
    Start { id: String },
    /// From now on no policy brings it back; answered when no start of it is under way.
    Stop { id: String },
    /// Answered when its end is written down, with all that it wrote.
    Ended { id: String },
    /// Runs a further program that nobody listens to; answered when it was executed.
    Exec { id: String, exec: ExecConfig },
    /// Answered with the master of its terminal.
    Terminal { id: String },
    /// Nobody but those who have it open writes to its standard input any more.
    CloseInput { id: String },
    /// The container is being removed: what is held for it is let go.
    Forget { id: String },
}

#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    Done,
    Failed(Wire),
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    Started(Started),
    /// To a keeper that took over from a dead one. Descriptors as of [`Started`].
    TakenOver {
        ports: Vec<BoundPort>,
        address: Option<Ipv4Addr>,
        dns: bool,
    },
    /// A further program runs.
    Executed,
    Failed(Wire),
}

/// Descriptors: a listener for each port (none when they were held already), the two sockets of the
/// name server, the master of the terminal.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    pub process: Identity,
    pub ports: Vec<BoundPort>,
    /// Where the ports lead to.
    pub address: Option<Ipv4Addr>,
    pub dns: bool,
    pub restart: RestartConfig,
    pub terminal: bool,
}

/// From keeper to supervisor.
#[derive(Debug, Serialize, Deserialize)]
pub enum Notice {
    /// Descriptors: the namespace of the bridges, and a hold on the anchor.
    Anchor,
    /// Descriptors: a listener for each port, the sockets of the name server, the terminal.
    Running {
        id: String,
        process: Identity,
        ports: Vec<BoundPort>,
        address: Option<Ipv4Addr>,
        dns: bool,
        terminal: bool,
    },
    /// What the users of a container should know, for its log.
    Note { id: String, text: String },
    /// A descriptor: the terminal, for whoever did not know that it ran.
    Ended { id: String, exit: Option<i32>, restarting: bool },
}

/// From supervisor to keeper: all that the container wrote is in its log.
#[derive(Debug, Serialize, Deserialize)]
pub struct Drained {
    pub id: String,
}

/// To a foreground run.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunOrder {
    pub roots: Roots,
    pub spec: Spec,
}

/// From a foreground run, at its end.
#[derive(Debug, Serialize, Deserialize)]
pub enum RunResult {
    Ended { exit: i32 },
    Failed(Wire),
}

/// An [`Error`] on its way to another process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wire {
    kind: Kind,
    message: String,
    source: Option<String>,
    code: i32,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Kind {
    NoContainer,
    NoNetwork,
    NoVolume,
    Conflict,
    Invalid,
    Unsupported,
    Exhausted,
    Exec,
    Condition,
    Timeout,
    System,
    Helper,
}

impl From<&Error> for Wire {
    fn from(error: &Error) -> Self {
        let (kind, message, code) = match error {
            Error::NoContainer(name) => (Kind::NoContainer, name.clone(), 0),
            Error::NoNetwork(name) => (Kind::NoNetwork, name.clone(), 0),
            Error::NoVolume(name) => (Kind::NoVolume, name.clone(), 0),
            Error::Conflict(text) => (Kind::Conflict, text.clone(), 0),
            Error::Invalid(text) => (Kind::Invalid, text.clone(), 0),
            Error::Unsupported(text) => (Kind::Unsupported, text.clone(), 0),
            Error::Exhausted(text) => (Kind::Exhausted, text.clone(), 0),
            Error::Exec { message, code } => (Kind::Exec, message.clone(), *code),
            Error::Condition(text) => (Kind::Condition, text.clone(), 0),
            Error::Timeout(time) => {
                (Kind::Timeout, String::new(), i32::try_from(time.as_millis()).unwrap_or(i32::MAX))
            }
            Error::Helper(text) => (Kind::Helper, text.clone(), 0),
            Error::Permission { .. } | Error::Rootless { .. } => (Kind::Helper, error.to_string(), 0),
            Error::File { source, .. } | Error::System { source, .. } => {
                (Kind::System, error.to_string(), source.raw_os_error().unwrap_or(0))
            }
        };
        let source = std::error::Error::source(error).map(ToString::to_string);
        Self { kind, message, source, code }
    }
}

impl From<Wire> for Error {
    fn from(wire: Wire) -> Self {
        let Wire { kind, message, source, code } = wire;
        match kind {
            Kind::NoContainer => Self::NoContainer(message),
            Kind::NoNetwork => Self::NoNetwork(message),
            Kind::NoVolume => Self::NoVolume(message),
            Kind::Conflict => Self::Conflict(message),
            Kind::Invalid => Self::Invalid(message),
            Kind::Unsupported => Self::Unsupported(message),
            Kind::Exhausted => Self::Exhausted(message),
            Kind::Exec => Self::Exec { message, code },
            Kind::Condition => Self::Condition(message),
            Kind::Timeout => Self::Timeout(Duration::from_millis(u64::try_from(code).unwrap_or(0))),
            Kind::Helper => Self::Helper(message),
            Kind::System => Self::System {
                what: message,
                source: match (code, source) {
                    (0, Some(text)) => io::Error::other(text),
                    (code, _) => io::Error::from_raw_os_error(code),
                },
            },
        }
    }
}

/// A message is one packet, with at most this many bytes and descriptors.
const LONGEST: usize = 128 << 10;
const MOST_DESCRIPTORS: usize = 128;

/// Sends one message over a packet socket.
pub fn send(socket: BorrowedFd<'_>, message: &impl Serialize, with: &[BorrowedFd<'_>]) -> Result<()> {
    let text = serde_json::to_vec(message).map_err(|e| Error::Helper(format!("cannot say: {e}")))?;
    if text.len() > LONGEST || with.len() > MOST_DESCRIPTORS {
        return Err(Error::Unsupported(format!(
            "more than {MOST_DESCRIPTORS} published ports in one container"
        )));
    }
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !with.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(with));
    }
    rustix::io::retry_on_intr(|| {
        sendmsg(socket, &[io::IoSlice::new(&text)], &mut control, SendFlags::NOSIGNAL)
    })
    .map_err(failed("cannot tell another process of the runtime"))?;
    Ok(())
}

/// Receives one message; `None` when the other side is gone.
pub fn receive<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    thread_local! {
        // Made once: to clear that much for each message would cost more than all the rest.
        static TEXT: RefCell<Vec<u8>> = RefCell::new(vec![0; LONGEST]);
    }
    TEXT.with_borrow_mut(|text| receive_into(socket, text))
}

fn receive_into<T: DeserializeOwned>(
    socket: BorrowedFd<'_>,
    text: &mut [u8],
) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [io::IoSliceMut::new(text)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    if received.bytes == 0 {
        return Ok(None);
    }
    let descriptors = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        })
        .flatten()
        .collect();
    let text = text.get(..received.bytes).unwrap_or_default();
    Ok(Some((serde_json::from_slice(text)?, descriptors)))
}

/// The two ends of a packet socket.
pub fn pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::SEQPACKET,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )
    .map_err(failed("cannot make a socket"))
}

/// Borrows each.
pub fn borrow(descriptors: &[OwnedFd]) -> Vec<BorrowedFd<'_>> {
    descriptors.iter().map(AsFd::as_fd).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_arrives_with_its_descriptors_and_then_the_end() {
        let (here, there) = pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let drained = Drained { id: "x".into() };
        send(here.as_fd(), &drained, &[file.as_fd(), here.as_fd()]).unwrap();
        drop(here);
        let (message, descriptors) = receive::<Drained>(there.as_fd()).unwrap().unwrap();
        assert_eq!((message.id.as_str(), descriptors.len()), ("x", 2));
        drop(descriptors);
        assert!(receive::<Drained>(there.as_fd()).unwrap().is_none());
    }

    #[test]
    fn an_error_is_the_same_on_the_other_side() {
        let errors = [
            Error::NoContainer("x".into()),
            Error::Conflict("taken".into()),
            Error::Exec { message: "no".into(), code: 127 },
            Error::Timeout(Duration::from_millis(1500)),
            Error::System { what: "w".into(), source: io::Error::from_raw_os_error(libc::ENOSPC) },
        ];
        for error in errors {
            let text = serde_json::to_string(&Wire::from(&error)).unwrap();
            let back = Error::from(serde_json::from_str::<Wire>(&text).unwrap());
            assert_eq!(format!("{error:?}"), format!("{back:?}"));
        }
    }
}
