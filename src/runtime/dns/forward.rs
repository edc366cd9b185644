//! Asks the host's name servers what is no name of ours. The sockets belong to the host's namespace.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, UdpSocket},
    sync::Semaphore,
    time::timeout,
};

use super::{Transport, wire, wire::Question};
use crate::runtime::netns;

/// One server's time; a client waits 5 s before it asks again.
const PATIENCE: Duration = Duration::from_secs(2);
/// More servers than this are not asked, as the C library does it.
pub const SERVERS: usize = 3;
/// Questions under way at once, of all containers of a supervisor; each costs a descriptor.
const AT_ONCE: usize = 256;

/// The host's name servers, read anew for each question: the host may have moved to another network.
#[derive(Debug)]
pub struct Forwarder {
    resolv_conf: PathBuf,
    permits: Semaphore,
}

impl Forwarder {
    #[must_use]
    pub fn new(resolv_conf: &Path) -> Self {
        Self { resolv_conf: resolv_conf.to_owned(), permits: Semaphore::new(AT_ONCE) }
    }

    /// The first answer that any server gives, whatever it says; `None` when there is none. `own` are
    /// the servers of the asker, and the namespace that they are asked from.
    pub async fn ask(
        &self,
        query: &[u8],
        question: &Question,
        transport: Transport,
        own: Option<&Own>,
    ) -> Option<Vec<u8>> {
        let _permit = self.permits.try_acquire().ok()?;
        let mut outgoing = query.to_vec();
        // Not the client's: nobody inside may choose what an answer is recognised by.
        outgoing[..2].copy_from_slice(&random().to_be_bytes());
        let (servers, from) = match own {
            Some(own) => (own.servers.clone(), From(Some(&own.netns))),
            None => (self.servers(), From(None)),
        };
        for server in servers {
            if let Some(mut reply) = ask_server(server, from, &outgoing, question, transport).await {
                reply[..2].copy_from_slice(&query[..2]);
                return Some(reply);
            }
        }
        None
    }

    fn servers(&self) -> Vec<SocketAddr> {
        name_servers(&fs::read_to_string(&self.resolv_conf).unwrap_or_default())
    }
}

/// Servers that a container was given in place of the host's.
#[derive(Debug)]
pub struct Own {
    pub servers: Vec<SocketAddr>,
    /// The container's: they may be reached from nowhere else.
    pub netns: OwnedFd,
}

/// The namespace in which sockets are opened; the caller's when `None`.
#[derive(Clone, Copy, Debug)]
struct From<'a>(Option<&'a OwnedFd>);

impl From<'_> {
    fn open<T: Send>(self, open: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
        match self.0 {
            Some(netns) => netns::within(netns.as_fd(), open)?,
            None => open(),
        }
    }
}

/// The servers of a resolv.conf, at most three.
fn name_servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "nameserver").then(|| words.next())?
        })
        .filter_map(|address| address.split('%').next()?.parse::<IpAddr>().ok())
        .take(SERVERS)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

async fn ask_server(
    server: SocketAddr,
    from: From<'_>,
    query: &[u8],
    question: &Question,
    transport: Transport,
) -> Option<Vec<u8>> {
    if transport == Transport::Tcp {
        return patiently(over_tcp(server, from, query, question)).await;
    }
    let short = patiently(over_udp(server, from, query, question)).await?;
    if !wire::is_truncated(&short) {
        return Some(short);
    }
    // What was cut may be whole over TCP and still fit into what the client takes.
    let whole = patiently(over_tcp(server, from, query, question)).await;
    Some(whole.filter(|reply| reply.len() <= question.udp).unwrap_or(short))
}

async fn patiently(asking: impl Future<Output = io::Result<Vec<u8>>>) -> Option<Vec<u8>> {
    timeout(PATIENCE, asking).await.ok()?.ok()
}

async fn over_udp(
    server: SocketAddr,
    from: From<'_>,
    query: &[u8],
    question: &Question,
) -> io::Result<Vec<u8>> {
    let here: IpAddr =
        if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = from.open(|| std::net::UdpSocket::bind((here, 0)))?;
    socket.set_nonblocking(true)?;
    let socket = UdpSocket::from_std(socket)?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let count = socket.recv(&mut buffer).await?;
        if wire::answers(&buffer[..count], query, question) {
            buffer.truncate(count);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(
    server: SocketAddr,
    from: From<'_>,
    query: &[u8],
    question: &Question,
) -> io::Result<Vec<u8>> {
    let socket = from.open(|| if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() })?;
    let mut stream = socket.connect(server).await?;
    let length = u16::try_from(query.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    stream.write_all(&[&length.to_be_bytes()[..], query].concat()).await?;
    let mut reply = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut reply).await?;
    match wire::answers(&reply, query, question) {
        true => Ok(reply),
        false => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn random() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    let [a, b, ..] = RandomState::new().hash_one(()).to_ne_bytes();
    u16::from_ne_bytes([a, b])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 9.9.9.9\n; x\nsearch a b\nnameserver 192.0.2.1\n nameserver\t::1 # here\n\
                    nameserver fe80::1%eth0\nnameserver nonsense\noptions edns0\nnameserver 192.0.2.4\n";
        let found: Vec<String> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["192.0.2.1:53", "[::1]:53", "[fe80::1]:53"]);
        assert!(name_servers("").is_empty());
    }
}
