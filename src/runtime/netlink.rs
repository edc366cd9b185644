//! Links, addresses and routes by raw rtnetlink: requests go out in one batch, answers are read after.
//! Knows nothing of containers.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, BorrowedFd},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A route socket of the network namespace it was opened in.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl fmt::Debug for Netlink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Netlink").field("fd", &self.socket.as_raw_fd()).finish()
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub index: u32,
    /// A note that somebody left on it.
    pub alias: String,
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self { index: message.header.index, ..Self::default() };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                _ => {}
            }
        }
        link
    }
}

/// One thing to be changed.
#[derive(Clone, Debug)]
pub struct Request {
    message: RouteNetlinkMessage,
    flags: u16,
}

impl Netlink {
    /// A socket in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends all requests at once; one result each, in order. A failure does not stop those after it.
    pub fn perform(&mut self, requests: &[Request]) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence + 1;
        let mut bytes = Vec::with_capacity(requests.len() * 128);
        for request in requests {
            self.append(&mut bytes, request.message.clone(), request.flags | NLM_F_ACK);
        }
        self.socket.send(&bytes, 0)?;
        let mut results: Vec<Option<io::Result<()>>> = requests.iter().map(|_| None).collect();
        while results.iter().any(Option::is_none) {
            for message in self.receive()? {
                let at = message.header.sequence_number.wrapping_sub(first) as usize;
                if let (Some(place), NetlinkPayload::Error(answer)) = (results.get_mut(at), message.payload) {
                    *place = Some(answer.code.map_or(Ok(()), |_| Err(answer.to_io())));
                }
            }
        }
        Ok(results.into_iter().flatten().collect())
    }

    /// Sends all requests at once and returns the first failure.
    pub fn all(&mut self, requests: &[Request]) -> io::Result<()> {
        self.perform(requests)?.into_iter().collect()
    }

    /// The index of a link; `None` when there is no such link. By a call of its own (netdevice(7)): the answer of
    /// rtnetlink has all there is to know of the link.
    pub fn index(&self, name: &str) -> io::Result<Option<u32>> {
        // SAFETY: the socket is open as long as it is ours.
        let socket = unsafe { BorrowedFd::borrow_raw(self.socket.as_raw_fd()) };
        match rustix::net::netdevice::name_to_index(socket, name) {
            Ok(index) => Ok(Some(index)),
            Err(rustix::io::Errno::NODEV) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The index of a link that must be there.
    pub fn index_of(&self, name: &str) -> io::Result<u32> {
        self.index(name)?
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no link `{name}`")))
    }

    /// Whether none of these links is missing.
    pub fn has_all(&self, names: &[String]) -> io::Result<bool> {
        for name in names {
            if self.index(name)?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn delete_if_there(&mut self, name: &str) -> io::Result<()> {
        match self.all(&[delete_link(name)]) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let answers = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        let links = answers.into_iter().filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(Link::from(message)),
            _ => None,
        });
        Ok(links.collect())
    }

    /// The IPv4 networks that this namespace has a route to or an address in, the default route left out.
    pub fn networks(&mut self) -> io::Result<Vec<(Ipv4Addr, u8)>> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet;
        let mut networks = Vec::new();
        for request in [RouteNetlinkMessage::GetRoute(route), RouteNetlinkMessage::GetAddress(address)] {
            for answer in self.dump(request)? {
                match answer {
                    RouteNetlinkMessage::NewRoute(route) => networks.extend(destination(&route)),
                    RouteNetlinkMessage::NewAddress(address) => networks.extend(subnet(&address)),
                    _ => {}
                }
            }
        }
        networks.sort_unstable();
        networks.dedup();
        Ok(networks)
    }

    fn dump(&mut self, request: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut bytes = Vec::new();
        self.append(&mut bytes, request, NLM_F_REQUEST | NLM_F_DUMP);
        self.socket.send(&bytes, 0)?;
        let mut answers = Vec::new();
        loop {
            for message in self.receive()? {
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(answer) => return Err(answer.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn append(&mut self, bytes: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn receive(&self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        let (bytes, _) = self.socket.recv_from_full()?;
        let mut messages = Vec::new();
        let mut rest = &bytes[..];
        while rest.len() >= 16 {
            let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
            let length = (message.header.length as usize).next_multiple_of(4).min(rest.len());
            messages.push(message);
            rest = &rest[length.max(16)..];
        }
        Ok(messages)
    }
}

/// A new bridge, up.
#[must_use]
pub fn add_bridge(name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes = vec![
        LinkAttribute::IfName(name.to_owned()),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Bridge)]),
    ];
    create(RouteNetlinkMessage::NewLink(link))
}

/// One end of a cable.
#[derive(Clone, Copy, Debug)]
pub struct Plug<'a> {
    pub name: &'a str,
    pub mac: Option<[u8; 6]>,
    /// Where this end is born; here when `None`.
    pub netns: Option<BorrowedFd<'a>>,
}

/// A veth pair; `near` is up and a port of the link `master`, if any. (The far end cannot be up yet:
/// the kernel refuses the flag at creation.)
#[must_use]
pub fn add_veth(near: Plug<'_>, master: Option<u32>, far: Plug<'_>) -> Request {
    let mut link = plugged(near);
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    link.attributes.extend(master.map(LinkAttribute::Controller));
    link.attributes.push(LinkAttribute::LinkInfo(vec![
        LinkInfo::Kind(InfoKind::Veth),
        LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(plugged(far)))),
    ]));
    create(RouteNetlinkMessage::NewLink(link))
}

fn plugged(plug: Plug<'_>) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(plug.name.to_owned()));
    // Without asking, a cable gets a queue for each CPU, and each is an object to be made.
    link.attributes.push(LinkAttribute::NumTxQueues(1));
    link.attributes.push(LinkAttribute::NumRxQueues(1));
    link.attributes.extend(plug.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
    link.attributes.extend(plug.netns.map(|netns| LinkAttribute::NetNsFd(netns.as_raw_fd())));
    link
}

#[must_use]
pub fn set_up(index: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    Request { message: RouteNetlinkMessage::SetLink(link), flags: NLM_F_REQUEST }
}

/// Leaves a note on a link, at most 255 bytes.
#[must_use]
pub fn set_alias(index: u32, alias: &str) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::IfAlias(alias.to_owned()));
    Request { message: RouteNetlinkMessage::SetLink(link), flags: NLM_F_REQUEST }
}

#[must_use]
pub fn delete_link(name: &str) -> Request {
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    Request { message: RouteNetlinkMessage::DelLink(link), flags: NLM_F_REQUEST }
}

/// An address of IPv6 is used at once, without asking whether another has it: leases say that nobody has.
#[must_use]
pub fn add_address(index: u32, address: impl Into<IpAddr>, prefix: u8) -> Request {
    let address = address.into();
    let mut message = AddressMessage::default();
    message.header.prefix_len = prefix;
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(address), AddressAttribute::Address(address)];
    match address {
        IpAddr::V4(address) => {
            message.header.family = AddressFamily::Inet;
            if prefix < 31 {
                let broadcast = Ipv4Addr::from_bits(address.to_bits() | !mask(prefix));
                message.attributes.push(AddressAttribute::Broadcast(broadcast));
            }
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
    }
    create(RouteNetlinkMessage::NewAddress(message))
}

/// The largest packet of a link, in bytes.
#[must_use]
pub fn set_mtu(index: u32, mtu: u32) -> Request {
    let mut link = LinkMessage::default();
    link.header.index = index;
    link.attributes.push(LinkAttribute::Mtu(mtu));
    Request { message: RouteNetlinkMessage::SetLink(link), flags: NLM_F_REQUEST }
}

/// The way to `network` (everywhere: `0.0.0.0/0`) through `gateway`.
#[must_use]
pub fn add_route((network, prefix): (Ipv4Addr, u8), gateway: Ipv4Addr) -> Request {
    let mut route = RouteMessage::default();
    route.header.address_family = AddressFamily::Inet;
    route.header.destination_prefix_length = prefix;
    route.header.table = RouteHeader::RT_TABLE_MAIN;
    route.header.protocol = RouteProtocol::Boot;
    route.header.scope = RouteScope::Universe;
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(gateway)));
    if prefix > 0 {
        route.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(network)));
    }
    create(RouteNetlinkMessage::NewRoute(route))
}

/// The bits of an address that name its network, for a prefix length of 0 to 32.
#[must_use]
pub fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0)
}

fn create(message: RouteNetlinkMessage) -> Request {
    Request { message, flags: NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL }
}

fn destination(route: &RouteMessage) -> Option<(Ipv4Addr, u8)> {
    if route.header.kind != RouteType::Unicast {
        return None;
    }
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(network)) => {
            Some((*network, route.header.destination_prefix_length))
        }
        _ => None,
    })
}

fn subnet(address: &AddressMessage) -> Option<(Ipv4Addr, u8)> {
    let prefix = address.header.prefix_len;
    address.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(IpAddr::V4(address)) => {
            Some((Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix))
        }
        _ => None,
    })
}
