//! Datagrams with the address of the host that they were sent to: an answer must come from there, and a
//! socket for every address would not know it otherwise.

use std::{
    io, mem,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6},
    os::fd::{AsRawFd, BorrowedFd},
};

/// Who sent a datagram, and to which address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    pub client: SocketAddr,
    pub here: IpAddr,
}

/// Room for the control message of either family, aligned for its header.
type Control = [u64; 16];

/// Makes the kernel tell the destination of each datagram that the socket receives.
pub fn tell_destinations(socket: BorrowedFd<'_>) -> io::Result<()> {
    let address = SocketAddr::try_from(rustix::net::getsockname(socket)?)?;
    let (level, option) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    // SAFETY: the value is an integer of the size that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            length_of::<libc::c_int>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The length of the next datagram and its path; does not wait.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Path)> {
    // SAFETY: both are plain structures for which zeros are a value.
    let (mut name, mut message) =
        unsafe { (mem::zeroed::<libc::sockaddr_storage>(), mem::zeroed::<libc::msghdr>()) };
    let mut control: Control = [0; 16];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = length_of::<libc::sockaddr_storage>();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of::<Control>() as _;
    // SAFETY: every pointer in the message is to a local that outlives the call, with its true length.
    let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let Ok(count) = usize::try_from(count) else { return Err(io::Error::last_os_error()) };
    let client = client(&name).ok_or(io::ErrorKind::InvalidData)?;
    let here = destination(&message).ok_or(io::ErrorKind::InvalidData)?;
    Ok((count, Path { client, here }))
}

/// Sends an answer the same way back; does not wait.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], path: Path) -> io::Result<()> {
    // SAFETY: a plain structure for which zeros are a value.
    let mut message = unsafe { mem::zeroed::<libc::msghdr>() };
    let mut control: Control = [0; 16];
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    let (mut v4, mut v6);
    match path.client {
        SocketAddr::V4(client) => {
            v4 = sockaddr_v4(client);
            message.msg_name = (&raw mut v4).cast();
            message.msg_namelen = length_of::<libc::sockaddr_in>();
        }
        SocketAddr::V6(client) => {
            v6 = sockaddr_v6(client);
            message.msg_name = (&raw mut v6).cast();
            message.msg_namelen = length_of::<libc::sockaddr_in6>();
        }
    }
    match path.here {
        IpAddr::V4(here) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr { s_addr: u32::from_ne_bytes(here.octets()) },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            attach(&mut message, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        IpAddr::V6(here) => {
            let info =
                libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: here.octets() }, ipi6_ifindex: 0 };
            attach(&mut message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: every pointer in the message is to a local that outlives the call, with its true length.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, flags) };
    if sent >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts one control message into the room that `message` points to.
fn attach<T>(message: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, info: T) {
    let length = length_of::<T>();
    // SAFETY: only computes; the room (128 bytes, aligned for the header) is larger than either message.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(length) as _;
        let header = libc::CMSG_FIRSTHDR(message);
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(length) as _;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(info);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the largest structure here has 128 bytes")]
const fn length_of<T>() -> u32 {
    size_of::<T>() as u32
}

fn destination(message: &libc::msghdr) -> Option<IpAddr> {
    // SAFETY: the kernel has filled the control messages and their lengths in.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                    let info = libc::CMSG_DATA(header).cast::<libc::in_pktinfo>().read_unaligned();
                    return Some(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into());
                }
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().read_unaligned();
                    return Some(Ipv6Addr::from(info.ipi6_addr.s6_addr).into());
                }
                _ => header = libc::CMSG_NXTHDR(message, header),
            }
        }
    }
    None
}

fn client(name: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match libc::c_int::from(name.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which structure it is, and the storage is large enough for it.
            let v4 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let v6 = unsafe { &*(&raw const *name).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            let port = u16::from_be(v6.sin6_port);
            Some(SocketAddrV6::new(ip, port, v6.sin6_flowinfo, v6.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a family is a small number")]
fn sockaddr_v4(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as _,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a family is a small number")]
fn sockaddr_v6(address: SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as _,
        sin6_port: address.port().to_be(),
        sin6_flowinfo: address.flowinfo(),
        sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
        sin6_scope_id: address.scope_id(),
    }
}

#[cfg(test)]
mod tests {
    use std::{net::UdpSocket, os::fd::AsFd};

    use super::*;

    /// A datagram to `to` at a socket for `bound`, and its answer at a client that hears nobody else.
    fn there_and_back(bound: &str, to: &str) {
        let server = UdpSocket::bind((bound, 0)).unwrap();
        tell_destinations(server.as_fd()).unwrap();
        let number = server.local_addr().unwrap().port();
        let client = UdpSocket::bind((if to.contains(':') { "::" } else { "0.0.0.0" }, 0)).unwrap();
        client.connect((to, number)).unwrap();
        client.send(b"question").unwrap();
        let mut buffer = [0; 20];
        rustix::event::poll(&mut [rustix::event::PollFd::new(&server, rustix::event::PollFlags::IN)], None)
            .unwrap();
        let (count, path) = receive(server.as_fd(), &mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"question");
        assert_eq!(path.client.port(), client.local_addr().unwrap().port());
        assert_eq!(path.here.to_canonical(), to.parse::<IpAddr>().unwrap());
        send(server.as_fd(), b"answer", path).unwrap();
        client.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let count = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"answer");
    }

    #[test]
    fn an_answer_comes_from_the_address_that_was_asked() {
        there_and_back("0.0.0.0", "127.0.0.1");
        there_and_back("0.0.0.0", "127.0.0.2");
        if UdpSocket::bind("[::1]:0").is_ok() {
            there_and_back("::", "::1");
            there_and_back("::", "127.0.0.2");
        }
    }

    #[test]
    fn nothing_to_receive_does_not_wait() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = receive(socket.as_fd(), &mut [0; 10]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }
}
