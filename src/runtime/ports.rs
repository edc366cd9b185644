//! Published ports: taking one on the host, and saying who has it when it is taken. What passes
//! through them is the business of [`Proxy`].

mod datagram;
mod holder;
mod proxy;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::OwnedFd,
    path::Path,
};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

pub use self::proxy::Proxy;
use super::{BoundPort, Error, PortConfig, PortConflict, Result};
use crate::model::Protocol;

/// Connections that wait to be accepted; the kernel lowers it to its own limit.
const BACKLOG: i32 = 4096;

/// Takes the port, listening already for TCP: the first free one of the range, or any. Without a
/// `host_ip` it is taken on all addresses, IPv6 among them, and the address returned is `0.0.0.0`.
///
/// # Errors
/// [`Error::Conflict`] with the holder, [`Error::Permission`], [`Error::Unsupported`] for an address
/// that is not the host's.
pub fn bind(port: &PortConfig) -> Result<(OwnedFd, SocketAddr)> {
    let mut refusal = io::Error::from(io::ErrorKind::AddrInUse);
    for spot in candidates(port) {
        match spot.take() {
            Ok((fd, number)) => {
                return Ok((fd, SocketAddr::new(spot.ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), number)));
            }
            Err(error) if in_use(&error) => refusal = error,
            Err(error) => {
                refusal = error;
                break;
            }
        }
    }
    Err(explain(port, refusal))
}

fn explain(port: &PortConfig, source: io::Error) -> Error {
    let asked = describe(port);
    match source.raw_os_error() {
        _ if in_use(&source) => {
            let holder = candidates(port).next().and_then(holder::of);
            Error::Conflict(match holder {
                Some(holder) => format!("port {asked} is in use by {holder}"),
                None => format!("port {asked} is in use"),
            })
        }
        Some(libc::EACCES | libc::EPERM) => {
            Error::Permission { what: format!("publishing port {asked}"), need: low_port() }
        }
        Some(libc::EADDRNOTAVAIL) => {
            Error::Unsupported(format!("port {asked} cannot be published: the host has no such address"))
        }
        _ => Error::System { what: format!("publish port {asked}"), source },
    }
}

/// What an ordinary user lacks for a port that could not be taken.
fn low_port() -> String {
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    let first = first.trim().parse().unwrap_or(1024_u16);
    format!(
        "a port from {first} on: those below are root's (`sudo sysctl net.ipv4.ip_unprivileged_port_start=80` opens \
         those from 80 on)"
    )
}

/// Whether a port that is taken on all addresses is so on those of IPv6.
#[must_use]
pub fn has_ipv6() -> bool {
    Path::new("/proc/net/if_inet6").exists()
}

/// A port that a container of ours holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    pub port: BoundPort,
    /// How a message names the container.
    pub owner: String,
    /// It will be given up, so it counts as free.
    pub replaced: bool,
}

/// Which of these ports cannot be taken, all together and now. Takes what is free for a moment.
#[must_use]
pub fn check(ports: &[PortConfig], ours: &[Held]) -> Vec<PortConflict> {
    let mut trial = Trial { ours, promised: Vec::new(), fds: Vec::new() };
    ports.iter().filter_map(|port| trial.conflict(port)).collect()
}

struct Trial<'a> {
    ours: &'a [Held],
    promised: Vec<Spot>,
    fds: Vec<OwnedFd>,
}

/// Why an address cannot be promised.
enum Refusal {
    /// By one of ours, named.
    Ours(String, String),
    Host(io::Error),
}

impl<'a> Trial<'a> {
    fn conflict(&mut self, port: &PortConfig) -> Option<PortConflict> {
        let mut first = None;
        for spot in candidates(port) {
            match self.promise(spot) {
                Ok(()) => return None,
                Err(refusal) => _ = first.get_or_insert((spot, refusal)),
            }
        }
        // Of a range, the first refusal stands for all.
        let (holder, error) = match first {
            Some((_, Refusal::Ours(owner, error))) => (Some(owner), error),
            Some((spot, Refusal::Host(error))) => {
                let text = match error.raw_os_error() {
                    Some(libc::EACCES) => format!("this user needs {}", low_port()),
                    _ => error.to_string(),
                };
                (in_use(&error).then(|| holder::of(spot)).flatten(), text)
            }
            None => (None, "the range of ports is empty".to_owned()),
        };
        Some(PortConflict { port: port.clone(), holder, error })
    }

    fn promise(&mut self, spot: Spot) -> Result<(), Refusal> {
        if self.promised.iter().any(|other| other.meets(spot)) {
            let owner = "another container of this project".to_owned();
            return Err(Refusal::Ours(owner, "the port is asked for twice".to_owned()));
        }
        match spot.take() {
            Ok((fd, number)) => {
                self.promised.push(Spot { number, ..spot });
                self.fds.push(fd);
                Ok(())
            }
            Err(error) => {
                let holders = self.ours.iter().filter(|held| Spot::of(held.port).meets(spot));
                let (leaving, staying): (Vec<&Held>, Vec<&Held>) = holders.partition(|held| held.replaced);
                match staying.first() {
                    Some(held) => Err(Refusal::Ours(held.owner.clone(), error.to_string())),
                    None if in_use(&error) && !leaving.is_empty() => {
                        self.promised.push(spot);
                        Ok(())
                    }
                    None => Err(Refusal::Host(error)),
                }
            }
        }
    }
}

/// What a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Spot {
    /// Every address of the host, IPv4 and IPv6, when `None`.
    ip: Option<IpAddr>,
    /// 0 lets the kernel choose.
    number: u16,
    protocol: Protocol,
}

/// The spots to try, in order.
fn candidates(port: &PortConfig) -> impl Iterator<Item = Spot> + use<> {
    let (ip, protocol) = (port.host_ip, port.protocol);
    let (first, last) = port.published.unwrap_or((0, 0));
    (first..=last).map(move |number| Spot { ip, number, protocol })
}

impl Spot {
    /// What a container of ours holds; `0.0.0.0` may stand for every address.
    fn of(port: BoundPort) -> Self {
        let ip = Some(port.host_ip).filter(|ip| *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        Self { ip, number: port.host_port, protocol: port.protocol }
    }

    /// Whether two sockets cannot have these at once.
    fn meets(self, other: Self) -> bool {
        let addresses = match (self.ip, other.ip) {
            (Some(a), Some(b)) => {
                a.is_ipv4() == b.is_ipv4() && (a == b || a.is_unspecified() || b.is_unspecified())
            }
            _ => true,
        };
        addresses && self.protocol == other.protocol && self.number == other.number && self.number != 0
    }

    /// The socket and the port it got.
    fn take(self) -> io::Result<(OwnedFd, u16)> {
        let number = self.number;
        match self.ip {
            Some(ip) => take(SocketAddr::new(ip, number), Family::Only, self.protocol),
            None => match take((Ipv6Addr::UNSPECIFIED, number).into(), Family::Both, self.protocol) {
                // A host without IPv6.
                Err(error)
                    if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
                {
                    take((Ipv4Addr::UNSPECIFIED, number).into(), Family::Only, self.protocol)
                }
                other => other,
            },
        }
    }
}

/// Whether an IPv6 socket takes IPv4 along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Only,
    Both,
}

fn take(address: SocketAddr, reach: Family, protocol: Protocol) -> io::Result<(OwnedFd, u16)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let fd = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if family == AddressFamily::INET6 {
        sockopt::set_ipv6_v6only(&fd, reach == Family::Only)?;
    }
    if protocol == Protocol::Tcp {
        // Against former connections only: two listeners still exclude each other. (For UDP it
        // would let both have the port.)
        sockopt::set_socket_reuseaddr(&fd, true)?;
    }
    rustix::net::bind(&fd, &address)?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&fd, BACKLOG)?;
    }
    let bound = SocketAddr::try_from(rustix::net::getsockname(&fd)?)?;
    Ok((fd, bound.port()))
}

fn in_use(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrInUse
}

fn describe(port: &PortConfig) -> String {
    let ip = port.host_ip.map(|ip| if ip.is_ipv6() { format!("[{ip}]:") } else { format!("{ip}:") });
    let number = match port.published {
        Some((first, last)) if first == last => first.to_string(),
        Some((first, last)) => format!("{first}-{last}"),
        None => "(any)".to_owned(),
    };
    format!("{}{number}/{}", ip.unwrap_or_default(), port.protocol)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

    fn tcp(host_ip: Option<IpAddr>, published: Option<(u16, u16)>) -> PortConfig {
        PortConfig { target: 80, published, host_ip, protocol: Protocol::Tcp }
    }

    fn held(ip: IpAddr, number: u16, replaced: bool) -> Held {
        let port = BoundPort { host_ip: ip, host_port: number, target: 80, protocol: Protocol::Tcp };
        Held { port, owner: "container a-web-1 of project a".to_owned(), replaced }
    }

    fn me() -> String {
        let name = std::fs::read_to_string("/proc/self/comm").unwrap();
        format!("{} (pid {})", name.trim_end(), std::process::id())
    }

    #[test]
    fn a_port_without_an_address_answers_on_all_of_them() {
        let (_fd, address) = bind(&tcp(None, None)).unwrap();
        assert!(address.ip().is_unspecified() && address.is_ipv4() && address.port() != 0);
        TcpStream::connect((LOCAL, address.port())).unwrap();
        if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).unwrap();
        }
    }

    #[test]
    fn a_port_of_one_address_is_not_seen_on_another() {
        let (_fd, address) = bind(&tcp(Some(LOCAL), None)).unwrap();
        TcpStream::connect(address).unwrap();
        assert!(TcpStream::connect(("127.0.0.2", address.port())).is_err());
    }

    #[test]
    fn a_taken_port_names_its_holder() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let number = listener.local_addr().unwrap().port();
        for host_ip in [None, Some(LOCAL)] {
            let port = tcp(host_ip, Some((number, number)));
            let error = bind(&port).unwrap_err();
            assert!(matches!(error, Error::Conflict(_)));
            assert!(error.to_string().ends_with(&format!("{number}/tcp is in use by {}", me())), "{error}");
            let conflicts = check(std::slice::from_ref(&port), &[]);
            assert_eq!(conflicts.len(), 1);
            assert_eq!(conflicts[0].holder, Some(me()));
        }
    }

    #[test]
    fn a_taken_udp_port_names_its_holder_and_leaves_tcp_alone() {
        let socket = UdpSocket::bind((LOCAL, 0)).unwrap();
        let number = socket.local_addr().unwrap().port();
        let udp = PortConfig { protocol: Protocol::Udp, ..tcp(None, Some((number, number))) };
        assert_eq!(check(std::slice::from_ref(&udp), &[])[0].holder, Some(me()));
        assert!(matches!(bind(&udp), Err(Error::Conflict(_))));
        assert_eq!(check(&[tcp(Some(LOCAL), Some((number, number)))], &[]), []);
    }

    #[test]
    fn a_range_gives_its_first_free_port() {
        // Two neighbours, of which the first is taken.
        let (taken, first) = loop {
            let listener = TcpListener::bind((LOCAL, 0)).unwrap();
            let number = listener.local_addr().unwrap().port();
            if number < u16::MAX && TcpListener::bind((LOCAL, number + 1)).is_ok() {
                break (listener, number);
            }
        };
        let range = tcp(Some(LOCAL), Some((first, first + 1)));
        let (_fd, address) = bind(&range).unwrap();
        assert_eq!(address.port(), first + 1);
        let error = bind(&range).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("port 127.0.0.1:{first}-{}/tcp is in use by ", first + 1)),
            "{error}"
        );
        drop(taken);
    }

    #[test]
    fn the_same_port_twice_is_a_conflict_of_the_project_with_itself() {
        let number = TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap().port();
        let ports = [tcp(None, Some((number, number))), tcp(Some(LOCAL), Some((number, number)))];
        let conflicts = check(&ports, &[]);
        assert_eq!(conflicts.len(), 1);
        assert_eq!(conflicts[0].holder.as_deref(), Some("another container of this project"));
        assert_eq!(check(&ports[..1], &[]), []);
    }

    #[test]
    fn both_families_may_be_asked_for_by_name() {
        if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            return;
        }
        let number = TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap().port();
        let at = |ip: IpAddr| tcp(Some(ip), Some((number, number)));
        let ports = [at(Ipv4Addr::UNSPECIFIED.into()), at(Ipv6Addr::UNSPECIFIED.into())];
        assert_eq!(check(&ports, &[]), []);
        let _both: Vec<_> = ports.iter().map(|port| bind(port).unwrap()).collect();
        TcpStream::connect((LOCAL, number)).unwrap();
        TcpStream::connect((Ipv6Addr::LOCALHOST, number)).unwrap();
    }

    #[test]
    fn what_a_replaced_container_holds_is_free_and_what_another_holds_is_named() {
        let listener = TcpListener::bind((LOCAL, 0)).unwrap();
        let number = listener.local_addr().unwrap().port();
        let port = [tcp(Some(LOCAL), Some((number, number)))];
        assert_eq!(check(&port, &[held(LOCAL, number, true)]), []);
        let conflicts = check(&port, &[held(LOCAL, number, false)]);
        assert_eq!(conflicts[0].holder.as_deref(), Some("container a-web-1 of project a"));
        // A promise can be kept once.
        let twice = [port[0].clone(), port[0].clone()];
        assert_eq!(check(&twice, &[held(LOCAL, number, true)]).len(), 1);
    }

    #[test]
    fn an_address_that_is_not_the_hosts_is_told() {
        let port = tcp(Some("203.0.113.7".parse().unwrap()), Some((8080, 8080)));
        let error = bind(&port).unwrap_err().to_string();
        assert_eq!(error, "port 203.0.113.7:8080/tcp cannot be published: the host has no such address");
        assert_eq!(check(&[port], &[])[0].holder, None);
    }
}
