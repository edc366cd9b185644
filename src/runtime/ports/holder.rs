//! Who has a port: from the kernel's socket tables to the process that holds the socket.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::Spot;
use crate::model::Protocol;

/// `nginx (pid 4711)`, or what can be seen of a process that hides; `None` when nobody has it.
#[must_use]
pub fn of(spot: Spot) -> Option<String> {
    let tables = match spot.protocol {
        Protocol::Tcp => ["tcp", "tcp6"],
        Protocol::Udp => ["udp", "udp6"],
    };
    let sockets: Vec<Socket> = tables
        .iter()
        .filter_map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok())
        .flat_map(|text| text.lines().skip(1).filter_map(Socket::parse).collect::<Vec<_>>())
        .filter(|socket| spot.protocol == Protocol::Udp || socket.listens)
        .filter(|socket| meets(socket.address, spot))
        .collect();
    let seen = sockets.iter().find_map(|socket| process_of(socket.inode));
    seen.or_else(|| Some(format!("a process of user {}", sockets.first()?.user)))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    address: SocketAddr,
    listens: bool,
    user: u32,
    inode: u64,
}

impl Socket {
    /// A line of /proc/net/tcp and its like.
    fn parse(line: &str) -> Option<Self> {
        const LISTEN: &str = "0A";
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (ip, port) = fields.get(1)?.split_once(':')?;
        Some(Self {
            address: SocketAddr::new(parse_ip(ip)?, u16::from_str_radix(port, 16).ok()?),
            listens: *fields.get(3)? == LISTEN,
            user: fields.get(7)?.parse().ok()?,
            inode: fields.get(9)?.parse().ok()?,
        })
    }
}

/// Words of 32 bits, each in the byte order of the machine.
fn parse_ip(text: &str) -> Option<IpAddr> {
    let word = |at: usize| -> Option<[u8; 4]> {
        Some(u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (at, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

/// An IPv6 socket for every address may have the IPv4 ones as well.
fn meets(socket: SocketAddr, wanted: Spot) -> bool {
    let everywhere = socket.ip().is_unspecified() || wanted.ip.is_none_or(|ip| ip.is_unspecified());
    socket.port() == wanted.number && (everywhere || Some(socket.ip()) == wanted.ip)
}

fn process_of(inode: u64) -> Option<String> {
    let socket = format!("socket:[{inode}]");
    let holds = |pid: u32| {
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|fds| {
            fds.flatten()
                .any(|fd| fs::read_link(fd.path()).is_ok_and(|link| link.as_os_str() == socket.as_str()))
        })
    };
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    // The oldest of several is the one that a person knows.
    pids.sort_unstable();
    let pid = pids.into_iter().find(|&pid| holds(pid))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_the_kernels_tables_are_read() {
        let four = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0 100";
        let socket = Socket::parse(four).unwrap();
        assert_eq!(socket.address.to_string(), "127.0.0.1:8080");
        assert_eq!((socket.listens, socket.user, socket.inode), (true, 1000, 4711));
        let six = "   1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 01 00000000:00000000 00:00000000 00000000 0 0 12";
        let socket = Socket::parse(six).unwrap();
        assert_eq!((socket.address.to_string().as_str(), socket.listens), ("[::1]:80", false));
        let mapped = "0: 0000000000000000FFFF00000100007F:0050 0:0 0A 0:0 0:0 0 0 0 12";
        assert_eq!(Socket::parse(mapped).unwrap().address.to_string(), "127.0.0.1:80");
        for cut in 0..four.len() {
            let _ = Socket::parse(&four[..cut]);
        }
    }
}
