//! The name server of a container: its sockets live in the container's namespace, so they themselves
//! tell who asks. Answers names on the asker's own networks, and takes the rest to the host's servers.

mod forward;
mod wire;

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};

use self::{
    forward::{Forwarder, Own, SERVERS},
    wire::{Code, Malformed, Question, Record},
};
use super::{Error, Result, Roots, netns, network, network::Lease};
use crate::model::Dns;

/// Where containers send their questions.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Where they arrive: outside the range of ports that the kernel gives away by itself.
pub const PORT: u16 = 65353;

/// Seconds; short, since a container may come back with another address.
const TTL: u32 = 5;
/// A TCP client that says nothing is sent away after this.
const IDLE: Duration = Duration::from_secs(10);
/// TCP clients of one container at once.
const TCP_CLIENTS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transport {
    Udp,
    Tcp,
}

/// What a supervisor knows of names, for all of its containers.
#[derive(Debug)]
pub struct Names {
    roots: Roots,
    known: Mutex<(Version, Arc<Vec<Lease>>)>,
    forwarder: Forwarder,
    /// Whose turn it is among replicas.
    turn: AtomicUsize,
}

/// Device, inode and time of the leases file: it is replaced, never written to.
type Version = Option<(u64, u64, i64, i64)>;

impl Names {
    /// Names leased below `roots`; others are asked for at the servers in `/etc/resolv.conf`.
    #[must_use]
    pub fn new(roots: &Roots) -> Self {
        Self::with_resolv_conf(roots, Path::new("/etc/resolv.conf"))
    }

    #[must_use]
    pub fn with_resolv_conf(roots: &Roots, resolv_conf: &Path) -> Self {
        Self {
            roots: roots.clone(),
            known: Mutex::default(),
            forwarder: Forwarder::new(resolv_conf),
            turn: AtomicUsize::new(0),
        }
    }

    /// The leases as they are now; read again only when they have changed. While they cannot be read
    /// the last ones known hold.
    fn leases(&self) -> Arc<Vec<Lease>> {
        let version = fs::metadata(network::leases_path(&self.roots))
            .ok()
            .map(|file| (file.dev(), file.ino(), file.mtime(), file.mtime_nsec()));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != version
            && let Ok(leases) = network::leases(&self.roots)
        {
            *known = (version, Arc::new(leases));
        }
        known.1.clone()
    }

    /// The answer to a message; `None` when it deserves none.
    async fn respond(
        &self,
        container: &str,
        message: &[u8],
        transport: Transport,
        netns: Option<&OwnedFd>,
    ) -> Option<Vec<u8>> {
        let question = match wire::question(message) {
            Ok(question) => question,
            Err(Malformed::Silence) => return None,
            Err(Malformed::Answer(code)) => return Some(wire::refusal(message, code)),
        };
        let limit = match transport {
            Transport::Udp => question.udp,
            Transport::Tcp => usize::from(u16::MAX),
        };
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let leases = self.leases();
        let (code, records) = match look_up(&leases, container, &question, turn) {
            Found::Records(records) => (Code::NoError, records),
            Found::Missing => (Code::NoSuchName, Vec::new()),
            Found::Elsewhere => {
                let own = own_servers(&leases, container, netns);
                match self.forwarder.ask(message, &question, transport, own.as_ref()).await {
                    Some(reply) => return Some(reply),
                    None => (Code::ServerFailure, Vec::new()),
                }
            }
        };
        Some(wire::reply(message, &question, code, &records, TTL, limit))
    }
}

/// The servers that the container was given, when it was and can be asked from where it is.
fn own_servers(leases: &[Lease], container: &str, netns: Option<&OwnedFd>) -> Option<Own> {
    let lease = leases.iter().find(|lease| lease.container == container && !lease.servers.is_empty())?;
    let servers = lease.servers.iter().take(SERVERS).map(|address| SocketAddr::new(*address, 53)).collect();
    Some(Own { servers, netns: netns?.try_clone().ok()? })
}

/// The sockets of one container's name server. Opened before the container's program starts and
/// held by somebody who outlives the server, no question is lost: it waits in the socket.
#[derive(Debug)]
pub struct Sockets {
    udp: StdUdpSocket,
    tcp: StdTcpListener,
}

impl Sockets {
    /// # Errors
    /// The address is taken in that namespace (by a name server that was already opened).
    pub fn open(netns: BorrowedFd<'_>) -> Result<Self> {
        netns::within(netns, || -> io::Result<Self> {
            let udp = socket(SocketType::DGRAM)?;
            let tcp = socket(SocketType::STREAM)?;
            // Connections of a supervisor before this one may linger.
            sockopt::set_socket_reuseaddr(&tcp, true)?;
            let here = std::net::SocketAddrV4::new(SERVER, PORT);
            rustix::net::bind(&udp, &here)?;
            rustix::net::bind(&tcp, &here)?;
            rustix::net::listen(&tcp, 64)?;
            Ok(Self { udp: udp.into(), tcp: tcp.into() })
        })
        .and_then(|opened| opened)
        .map_err(|source| Error::System {
            what: "open the name server's sockets in the container's network namespace".to_owned(),
            source,
        })
    }

    /// UDP, then TCP, to be handed to another process.
    #[must_use]
    pub fn into_descriptors(self) -> [OwnedFd; 2] {
        [self.udp.into(), self.tcp.into()]
    }

    /// What [`Sockets::into_descriptors`] gave.
    #[must_use]
    pub fn from_descriptors([udp, tcp]: [OwnedFd; 2]) -> Self {
        Self { udp: udp.into(), tcp: tcp.into() }
    }
}

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::INET, kind, flags, None)?)
}

/// The network namespace that a socket was made in.
fn netns_of(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    const SIOCGSKNS: libc::Ioctl = 0x894c;
    // SAFETY: the request takes no argument.
    let fd = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGSKNS) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Answers the questions of `container` until dropped. Needs a tokio runtime with I/O and time.
///
/// # Errors
/// The sockets fail.
pub async fn serve(sockets: Sockets, names: Arc<Names>, container: String) -> Result<()> {
    let container: Arc<str> = container.into();
    let failed = |source| Error::System { what: format!("serve names to container {container}"), source };
    let netns = Arc::new(netns_of(sockets.udp.as_fd()).ok());
    let udp = Arc::new(UdpSocket::from_std(sockets.udp).map_err(failed)?);
    let tcp = TcpListener::from_std(sockets.tcp).map_err(failed)?;
    let clients = Arc::new(Semaphore::new(TCP_CLIENTS));
    let mut under_way = JoinSet::new();
    let mut buffer = vec![0; 4096];
    loop {
        tokio::select! {
            received = udp.recv_from(&mut buffer) => {
                let (count, asker) = received.map_err(failed)?;
                let (udp, names, container, netns) = (udp.clone(), names.clone(), container.clone(), netns.clone());
                let message = buffer[..count].to_vec();
                let answering = async move {
                    if let Some(reply) = names.respond(&container, &message, Transport::Udp, netns.as_ref().as_ref()).await {
                        // An asker that is gone asks again, or does not care.
                        let _ = udp.send_to(&reply, asker).await;
                    }
                };
                now_or_later(answering, &mut under_way);
            }
            accepted = tcp.accept(), if clients.available_permits() > 0 => {
                let (stream, _) = accepted.map_err(failed)?;
                let (names, container, netns) = (names.clone(), container.clone(), netns.clone());
                let permit = clients.clone().try_acquire_owned();
                under_way.spawn(async move {
                    let _permit = permit;
                    let _ = converse(stream, &names, &container, netns.as_ref().as_ref()).await;
                });
            }
            Some(_) = under_way.join_next() => {}
        }
    }
}

/// Most answers are known at once: only those that must wait become a task.
fn now_or_later(work: impl Future<Output = ()> + Send + 'static, tasks: &mut JoinSet<()>) {
    let mut work = Box::pin(work);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    if work.as_mut().poll(&mut context).is_pending() {
        tasks.spawn(work);
    }
}

async fn converse(
    mut stream: TcpStream,
    names: &Names,
    container: &str,
    netns: Option<&OwnedFd>,
) -> io::Result<()> {
    loop {
        let message = timeout(IDLE, read_message(&mut stream)).await??;
        let Some(reply) = names.respond(container, &message, Transport::Tcp, netns).await else {
            return Ok(());
        };
        let length = u16::try_from(reply.len()).map_err(|_| io::ErrorKind::InvalidData)?;
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        timeout(IDLE, stream.write_all(&framed)).await??;
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut message = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// What we know of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// The name is ours; there may be no record of the kind asked for.
    Records(Vec<Record>),
    /// There is no such name, or nobody who has it runs.
    Missing,
    /// Not ours to say.
    Elsewhere,
}

/// Looks on the networks of the asker, in its order; the first that knows the name answers. The
/// `turn` says which replica comes first.
fn look_up(leases: &[Lease], asker: &str, question: &Question, turn: usize) -> Found {
    let own: Vec<&Lease> = leases.iter().filter(|lease| lease.container == asker).collect();
    let found = match (question.class, question.kind, wire::reverse(&question.name)) {
        (wire::IN, wire::PTR | wire::ANY, Some(address)) => pointer(leases, &own, address),
        (wire::IN, kind, None) => addresses(leases, &own, &question.name, kind, turn),
        _ => None,
    };
    // A network without a way out has none for questions either.
    let way_out = own.iter().any(|lease| !lease.internal);
    found.unwrap_or(if way_out { Found::Elsewhere } else { Found::Missing })
}

fn addresses(leases: &[Lease], own: &[&Lease], name: &str, kind: u16, turn: usize) -> Option<Found> {
    let mut known = false;
    for here in own {
        let name = linked(here, name);
        let bearers = leases.iter().filter(|lease| lease.network == here.network && bears(lease, name));
        let (up, down): (Vec<&Lease>, Vec<&Lease>) = bearers.partition(|lease| lease.up);
        known |= !down.is_empty();
        if up.is_empty() {
            continue;
        }
        let four = || up.iter().map(|lease| Record::Address(lease.address));
        let six = || up.iter().filter_map(|lease| Some(Record::Address6(lease.v6.as_ref()?.address)));
        // All our names have addresses, and nothing else.
        let mut records: Vec<Record> = match kind {
            wire::A => four().collect(),
            wire::AAAA => six().collect(),
            wire::ANY => four().chain(six()).collect(),
            _ => Vec::new(),
        };
        records.dedup();
        if !records.is_empty() {
            let first = turn % records.len();
            records.rotate_left(first);
        }
        return Some(Found::Records(records));
    }
    known.then_some(Found::Missing)
}

/// The name behind one that the asker alone uses, or the name itself.
fn linked<'a>(asker: &'a Lease, name: &'a str) -> &'a str {
    let link = asker.links.iter().find(|(_, alias)| alias.eq_ignore_ascii_case(name));
    link.map_or(name, |(target, _)| target)
}

/// By itself, or as `name.network`.
fn bears(lease: &Lease, name: &str) -> bool {
    lease.names.iter().any(|own| {
        own.eq_ignore_ascii_case(name)
            || name
                .get(..own.len())
                .filter(|start| start.eq_ignore_ascii_case(own))
                .and_then(|_| name[own.len()..].strip_prefix('.'))
                .is_some_and(|rest| rest.eq_ignore_ascii_case(&lease.network))
    })
}

fn pointer(leases: &[Lease], own: &[&Lease], address: IpAddr) -> Option<Found> {
    let has = |lease: &Lease| match address {
        IpAddr::V4(address) => lease.address == address,
        IpAddr::V6(address) => lease.v6.as_ref().is_some_and(|v6| v6.address == address),
    };
    let covers = |lease: &Lease| match address {
        IpAddr::V4(address) => super::ipam::network_of(address, lease.prefix) == lease.subnet(),
        IpAddr::V6(address) => lease.v6.as_ref().is_some_and(|v6| {
            super::ipam::network_of6(address, v6.prefix) == super::ipam::network_of6(v6.address, v6.prefix)
        }),
    };
    let here = own.iter().find(|lease| covers(lease))?;
    let on_it = || leases.iter().filter(|lease| lease.network == here.network);
    let Some(holder) = on_it().find(|lease| has(lease) && lease.up) else {
        return Some(Found::Missing);
    };
    // Its own name is better than one that it shares with replicas.
    let shared = |name: &String| {
        on_it().any(|other| other.container != holder.container && other.names.contains(name))
    };
    let name = holder.names.iter().rev().find(|name| !shared(name)).or(holder.names.first());
    Some(Found::Records(
        name.map(|name| Record::Pointer(format!("{name}.{}", here.network))).into_iter().collect(),
    ))
}

/// What a container finds in its `/etc/resolv.conf`: our server, or (without networks) the servers asked
/// for or those of the host; with the search domains and options asked for or those of the host. A name
/// without dots is asked of our server as it is, unless something says otherwise.
#[must_use]
pub fn resolv_conf(host: &str, asked: &Dns, ours: bool) -> String {
    let of_host = |words: &[&str]| -> Vec<String> {
        let is = |line: &&str| line.split_whitespace().next().is_some_and(|word| words.contains(&word));
        host.lines().map(str::trim).filter(is).map(ToOwned::to_owned).collect()
    };
    let mut lines = Vec::new();
    if ours {
        lines.push(format!("nameserver {SERVER}"));
    } else if asked.servers.is_empty() {
        lines.extend(of_host(&["nameserver"]));
    } else {
        lines.extend(asked.servers.iter().map(|server| format!("nameserver {server}")));
    }
    match asked.search.as_slice() {
        [] => lines.extend(of_host(&["search", "domain"])),
        [only] if only == "." => {}
        domains => lines.push(format!("search {}", domains.join(" "))),
    }
    let mut options = asked.options.clone();
    if options.is_empty() {
        let lines = of_host(&["options"]);
        options.extend(lines.iter().flat_map(|line| line.split_whitespace().skip(1)).map(ToOwned::to_owned));
    }
    if ours && !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    if !options.is_empty() {
        lines.push(format!("options {}", options.join(" ")));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(container: &str, network: &str, address: &str, names: &[&str]) -> Lease {
        Lease {
            network: network.to_owned(),
            bridge: String::new(),
            address: address.parse().unwrap(),
            prefix: 24,
            gateway: Ipv4Addr::UNSPECIFIED,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            internal: network.starts_with("internal"),
            container: container.to_owned(),
            group: "demo".to_owned(),
            replaces: None,
            up: true,
            v6: None,
            interface: super::super::ipam::Interface::default(),
            links: Vec::new(),
            servers: Vec::new(),
        }
    }

    fn ask_kind(leases: &[Lease], asker: &str, name: &str, kind: u16, turn: usize) -> String {
        let mut message = vec![0; 12];
        message[5] = 1;
        for label in name.split('.') {
            message.push(u8::try_from(label.len()).unwrap());
            message.extend(label.bytes());
        }
        message.push(0);
        message.extend([kind.to_be_bytes(), [0, 1]].concat());
        match look_up(leases, asker, &wire::question(&message).unwrap(), turn) {
            Found::Missing => "missing".to_owned(),
            Found::Elsewhere => "elsewhere".to_owned(),
            Found::Records(records) => records
                .iter()
                .map(|record| match record {
                    Record::Address(address) => address.to_string(),
                    Record::Address6(address) => address.to_string(),
                    Record::Pointer(name) => name.clone(),
                })
                .collect::<Vec<_>>()
                .join(" "),
        }
    }

    fn ask(leases: &[Lease], asker: &str, name: &str) -> String {
        ask_kind(leases, asker, name, wire::A, 0)
    }

    fn stack() -> Vec<Lease> {
        vec![
            lease("w1", "front", "10.0.1.2", &["web", "demo-web-1"]),
            lease("w2", "front", "10.0.1.3", &["web", "demo-web-2"]),
            lease("w1", "back", "10.0.2.2", &["web", "demo-web-1"]),
            lease("d1", "back", "10.0.2.3", &["db", "demo-db-1", "Postgres"]),
            lease("x1", "foreign", "10.0.3.2", &["secret"]),
            lease("i1", "internal", "10.0.4.2", &["vault"]),
        ]
    }

    #[test]
    fn names_are_answered_on_the_askers_networks_only() {
        let stack = stack();
        assert_eq!(ask(&stack, "w1", "db"), "10.0.2.3");
        assert_eq!(ask(&stack, "w1", "DEMO-DB-1"), "10.0.2.3");
        assert_eq!(ask(&stack, "w1", "postgres"), "10.0.2.3");
        assert_eq!(ask(&stack, "w1", "db.back"), "10.0.2.3");
        assert_eq!(ask(&stack, "w2", "db"), "elsewhere");
        assert_eq!(ask(&stack, "w1", "secret"), "elsewhere");
        assert_eq!(ask(&stack, "w1", "secret.foreign"), "elsewhere");
        assert_eq!(ask(&stack, "nobody", "db"), "missing");
    }

    #[test]
    fn a_link_is_a_name_for_the_asker_alone() {
        let mut stack = stack();
        stack[2].links.push(("db".into(), "database".into()));
        assert_eq!(ask(&stack, "w1", "Database"), "10.0.2.3");
        assert_eq!(ask(&stack, "d1", "database"), "elsewhere");
    }

    #[test]
    fn an_address_of_ipv6_is_told_and_found_again() {
        let mut stack = stack();
        let address = "fd00::3".parse().unwrap();
        stack[3].v6 =
            Some(super::super::ipam::Address6 { address, prefix: 64, gateway: "fd00::1".parse().unwrap() });
        stack[2].v6 = Some(super::super::ipam::Address6 {
            address: "fd00::2".parse().unwrap(),
            prefix: 64,
            gateway: "fd00::1".parse().unwrap(),
        });
        assert_eq!(ask_kind(&stack, "w1", "db", wire::AAAA, 0), "fd00::3");
        let back = format!("3.{}0.0.d.f.ip6.arpa", "0.".repeat(27));
        assert_eq!(ask_kind(&stack, "w1", &back, wire::PTR, 0), "Postgres.back");
    }

    #[test]
    fn replicas_take_turns() {
        let stack = stack();
        assert_eq!(ask_kind(&stack, "w2", "web", wire::A, 0), "10.0.1.2 10.0.1.3");
        assert_eq!(ask_kind(&stack, "w2", "web", wire::A, 1), "10.0.1.3 10.0.1.2");
    }

    #[test]
    fn our_names_have_no_other_records() {
        let stack = stack();
        assert_eq!(ask_kind(&stack, "w1", "db", wire::AAAA, 0), "");
        assert_eq!(ask_kind(&stack, "w1", "example.org", wire::AAAA, 0), "elsewhere");
    }

    #[test]
    fn only_what_runs_is_answered_and_nobody_else_is_asked() {
        let mut stack = stack();
        stack[3].up = false;
        assert_eq!(ask(&stack, "w1", "db"), "missing");
        stack[0].up = false;
        assert_eq!(ask(&stack, "w2", "web"), "10.0.1.3");
    }

    #[test]
    fn an_internal_network_asks_nobody() {
        let mut stack = stack();
        assert_eq!(ask(&stack, "i1", "example.org"), "missing");
        assert_eq!(ask_kind(&stack, "i1", "8.8.8.8.in-addr.arpa", wire::PTR, 0), "missing");
        stack.push(lease("i1", "front", "10.0.1.9", &["vault"]));
        assert_eq!(ask(&stack, "i1", "example.org"), "elsewhere");
    }

    #[test]
    fn an_address_leads_back_to_the_containers_own_name() {
        let stack = stack();
        let back = |asker, name| ask_kind(&stack, asker, name, wire::PTR, 0);
        assert_eq!(back("w2", "2.1.0.10.in-addr.arpa"), "demo-web-1.front");
        assert_eq!(back("w2", "77.1.0.10.in-addr.arpa"), "missing");
        assert_eq!(back("w2", "3.2.0.10.in-addr.arpa"), "elsewhere");
    }

    #[test]
    fn search_domains_and_options_of_the_host_are_kept() {
        let host = "# x\nnameserver 192.0.2.1\nsearch corp.example\n options ndots:2 \nsortlist 1\n";
        let ours = |host, asked: &Dns| resolv_conf(host, asked, true);
        let none = Dns::default();
        assert_eq!(ours(host, &none), "nameserver 127.0.0.11\nsearch corp.example\noptions ndots:2\n");
        assert_eq!(ours("", &none), "nameserver 127.0.0.11\noptions ndots:0\n");
        let asked = Dns {
            servers: vec!["192.0.2.7".parse().unwrap()],
            search: vec!["a.example".into(), "b.example".into()],
            options: vec!["use-vc".into()],
        };
        let search = "search a.example b.example\noptions use-vc";
        assert_eq!(ours(host, &asked), format!("nameserver 127.0.0.11\n{search} ndots:0\n"));
        assert_eq!(resolv_conf(host, &asked, false), format!("nameserver 192.0.2.7\n{search}\n"));
        let bare = Dns { search: vec![".".into()], ..Dns::default() };
        assert_eq!(resolv_conf(host, &bare, false), "nameserver 192.0.2.1\noptions ndots:2\n");
    }
}
