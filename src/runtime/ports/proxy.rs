//! Carries what comes in at published ports to the containers: TCP by splice, without copying, and
//! UDP by a socket for each client. Connections start in the anchor's namespace, so that containers of
//! internal networks are reached as well.

use std::{
    collections::HashMap,
    fmt, io,
    net::{SocketAddr, UdpSocket as StdUdpSocket},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::{
    net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt},
    pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    io::Interest,
    net::{TcpListener, TcpSocket, TcpStream, UdpSocket},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
    time::{Instant, timeout, timeout_at},
};

use super::datagram::{self, Path};
use crate::{
    model::Protocol,
    runtime::{Error, Result, netns},
};

/// Two sockets and two pipes.
const DESCRIPTORS_PER_CONNECTION: u32 = 6;
/// Left for everything else that the process does.
const RESERVED_DESCRIPTORS: u64 = 256;
/// Bytes that may be under way in one direction.
const PIPE: usize = 256 * 1024;
/// A container that does not answer; the kernel's own notice (no such neighbour) comes sooner.
const CONNECT: Duration = Duration::from_secs(15);
/// A UDP client of which nothing passes is forgotten after this.
const UDP_IDLE: Duration = Duration::from_secs(90);

/// What the ports of a supervisor share.
pub struct Proxy {
    anchor: OwnedFd,
    permits: Arc<Semaphore>,
    limit: usize,
    full: AtomicBool,
    note: Box<dyn Fn(&str) + Send + Sync>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy").field("anchor", &self.anchor).field("limit", &self.limit).finish()
    }
}

impl Proxy {
    /// `anchor` is the namespace of the bridges. Raises the process's limit of descriptors as far as
    /// it may and serves as many connections as fit; `note` hears when they do not.
    #[must_use]
    pub fn new(anchor: OwnedFd, note: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let limit = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: limit.maximum, ..limit };
        let allowed = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
        let free = allowed.unwrap_or(u64::MAX).saturating_sub(RESERVED_DESCRIPTORS);
        let permits = usize::try_from(free / u64::from(DESCRIPTORS_PER_CONNECTION)).unwrap_or(usize::MAX);
        Self::with_limit(anchor, permits.clamp(1, Semaphore::MAX_PERMITS), note)
    }

    /// At most `limit` connections at once.
    #[must_use]
    pub fn with_limit(anchor: OwnedFd, limit: usize, note: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let permits = Arc::new(Semaphore::new(limit));
        Self { anchor, permits, limit, full: AtomicBool::new(false), note: Box::new(note) }
    }

    /// Serves one published port (a socket of [`super::bind`]) until dropped; connections end with it.
    /// Needs a tokio runtime with I/O and time.
    ///
    /// # Errors
    /// The socket fails.
    pub async fn serve(self: Arc<Self>, port: OwnedFd, protocol: Protocol, target: SocketAddr) -> Result<()> {
        let served = match protocol {
            Protocol::Tcp => self.serve_tcp(port, target).await,
            Protocol::Udp => self.serve_udp(port, target).await,
        };
        served.map_err(|source| Error::System {
            what: format!("serve the port of {target}/{protocol}"),
            source,
        })
    }

    async fn serve_tcp(self: Arc<Self>, port: OwnedFd, target: SocketAddr) -> io::Result<()> {
        let listener = TcpListener::from_std(std::net::TcpListener::from(port))?;
        let mut connections = JoinSet::new();
        loop {
            let permit = self.admission().await;
            let client = tokio::select! {
                accepted = listener.accept() => accepted,
                Some(_) = connections.join_next() => continue,
            };
            match client {
                Ok((client, _)) => {
                    let this = self.clone();
                    connections.spawn(async move {
                        let _permit = permit;
                        this.connect_through(client, target).await;
                    });
                }
                Err(error) => self.after_failure(&error, &mut connections).await?,
            }
        }
    }

    /// The client went away before it was accepted, or descriptors ran out after all: then the next
    /// end of a connection is waited for. Anything else is the end.
    async fn after_failure(&self, error: &io::Error, connections: &mut JoinSet<()>) -> io::Result<()> {
        match error.raw_os_error() {
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP | libc::EFAULT) => {
                Err(io::Error::new(error.kind(), error.to_string()))
            }
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                (self.note)(&format!("new connections wait: {error}"));
                let _ = timeout(Duration::from_secs(1), connections.join_next()).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Waits until one more connection is allowed.
    async fn admission(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            self.full.store(false, Ordering::Relaxed);
            return Some(permit);
        }
        self.tell_full();
        self.permits.clone().acquire_owned().await.ok()
    }

    /// Once each time the limit is reached, not for each that waits.
    fn tell_full(&self) {
        if !self.full.swap(true, Ordering::Relaxed) {
            (self.note)(&format!(
                "all {} connections to published ports that the limit of open files allows are in use; more wait",
                self.limit
            ));
        }
    }

    async fn connect_through(&self, client: TcpStream, target: SocketAddr) {
        let ended = match self.connect(target).await {
            Ok(server) => relay(&client, &server).await.inspect_err(|_| reset(&server)),
            Err(error) => Err(error),
        };
        if ended.is_err() {
            reset(&client);
        }
    }

    async fn connect(&self, target: SocketAddr) -> io::Result<TcpStream> {
        let fd = self.socket(target, SocketType::STREAM)?;
        let socket = TcpSocket::from_std_stream(std::net::TcpStream::from(fd));
        timeout(CONNECT, socket.connect(target)).await?
    }

    /// A socket of the anchor's namespace, for what is on one of its bridges: a network that is not there
    /// for a moment must not send what is meant for a container out of the host.
    fn socket(&self, target: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
        let family = if target.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = netns::within(self.anchor.as_fd(), || rustix::net::socket_with(family, kind, flags, None))??;
        only_neighbours(&fd)?;
        Ok(fd)
    }

    async fn serve_udp(self: Arc<Self>, port: OwnedFd, target: SocketAddr) -> io::Result<()> {
        datagram::tell_destinations(port.as_fd())?;
        let port = Arc::new(UdpSocket::from_std(StdUdpSocket::from(port))?);
        let clients = Clients::default();
        let mut answers = JoinSet::new();
        let mut buffer = vec![0; 65536];
        loop {
            let (count, client) = tokio::select! {
                received = port.async_io(Interest::READABLE, || datagram::receive(port.as_fd(), &mut buffer)) => match received {
                    Ok(received) => received,
                    // An answer that found nobody any more.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                    Err(error) => return Err(error),
                },
                Some(_) = answers.join_next() => continue,
            };
            let Some(server) = clients.known(client).or_else(|| {
                let permit =
                    self.permits.clone().try_acquire_owned().inspect_err(|_| self.tell_full()).ok()?;
                let server = Arc::new(self.udp_towards(target).ok()?);
                clients.add(client, server.clone());
                let (port, server_, clients) = (port.clone(), server.clone(), clients.clone());
                answers.spawn(async move {
                    let _permit = permit;
                    clients.answer(&port, &server_, client).await;
                });
                Some(server)
            }) else {
                continue;
            };
            // A container that does not listen, or not fast enough, loses it, as UDP does.
            let _ = rustix::net::send(&*server, &buffer[..count], SendFlags::DONTWAIT);
        }
    }

    fn udp_towards(&self, target: SocketAddr) -> io::Result<UdpSocket> {
        let fd = self.socket(target, SocketType::DGRAM)?;
        rustix::net::connect(&fd, &target)?;
        UdpSocket::from_std(StdUdpSocket::from(fd))
    }
}

/// The clients of a UDP port.
#[derive(Clone, Debug, Default)]
struct Clients(Arc<Mutex<HashMap<Path, Client>>>);

#[derive(Debug)]
struct Client {
    /// Its socket towards the container.
    server: Arc<UdpSocket>,
    /// When something passed, either way.
    last: Instant,
}

impl Clients {
    /// The socket of a client that is just sending.
    fn known(&self, client: Path) -> Option<Arc<UdpSocket>> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = table.get_mut(&client)?;
        known.last = Instant::now();
        Some(known.server.clone())
    }

    fn add(&self, client: Path, server: Arc<UdpSocket>) {
        let added = Client { server, last: Instant::now() };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(client, added);
    }

    /// Takes the container's answers to the client, until nothing has passed for a while.
    async fn answer(&self, port: &UdpSocket, server: &UdpSocket, client: Path) {
        while let Some(deadline) = self.deadline(client) {
            if timeout_at(deadline, server.readable()).await.is_err() {
                continue;
            }
            let mut buffer = [0; 65536];
            if let Ok(count) = server.try_recv(&mut buffer) {
                let _ = datagram::send(port.as_fd(), &buffer[..count], client);
                self.known(client);
            }
        }
    }

    /// When the client will have been silent for too long; `None` when it has, and is forgotten.
    fn deadline(&self, client: Path) -> Option<Instant> {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let deadline = table.get(&client)?.last + UDP_IDLE;
        if deadline <= Instant::now() {
            table.remove(&client);
            return None;
        }
        Some(deadline)
    }
}

/// Both ways until both have ended.
async fn relay(client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::try_join!(pump(client, server), pump(server, client))?;
    Ok(())
}

/// One way: the end of what is read closes that half of the other connection.
async fn pump(from: &TcpStream, to: &TcpStream) -> io::Result<()> {
    let (outlet, inlet) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    // A smaller pipe is only slower.
    let _ = fcntl_setpipe_size(&inlet, PIPE);
    let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
    loop {
        // The pipe is empty here, so only the connection can make this wait; below, only the other can.
        let mut left = from
            .async_io(Interest::READABLE, || Ok(splice(from.as_fd(), None, &inlet, None, PIPE, flags)?))
            .await?;
        if left == 0 {
            return match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
                Err(rustix::io::Errno::NOTCONN) | Ok(()) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        while left > 0 {
            left -= to
                .async_io(Interest::WRITABLE, || Ok(splice(&outlet, None, to.as_fd(), None, left, flags)?))
                .await?;
        }
    }
}

/// What has to pass a gateway is unreachable (SO_DONTROUTE, socket(7)).
fn only_neighbours(fd: &OwnedFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of_val(&on)).unwrap_or_default();
    // SAFETY: the option is an int, which lives until the call returns.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_DONTROUTE, (&raw const on).cast(), size)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lets the close that follows say that the connection broke.
fn reset(stream: &TcpStream) {
    let _ = sockopt::set_socket_linger(stream, Some(Duration::ZERO));
}
