//! The netlink encoding of nf_tables, as far as our rules need it. Knows nothing of their meaning.

use std::{io, net::Ipv4Addr};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

pub const META_IIF: u32 = 4;
pub const META_OIF: u32 = 5;
pub const META_IIFNAME: u32 = 6;
pub const META_OIFNAME: u32 = 7;
pub const META_L4PROTO: u32 = 16;
/// Types in nft's numbering, so that `nft list` can show sets.
pub const TYPE_IFINDEX: u32 = 40;
pub const TYPE_IFNAME: u32 = 41;
/// Bits of the state of a connection.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
/// A bit of its status (IPS_DST_NAT).
const DESTINATION_CHANGED: u32 = 1 << 5;
pub const IFNAME: usize = 16;

#[derive(Clone, Copy, Debug)]
pub enum Family {
    Inet = 1,
    Ip = 2,
}

#[derive(Clone, Copy, Debug)]
pub enum Header {
    Network = 1,
    Transport = 2,
}

/// Where a base chain hooks in.
#[derive(Clone, Copy, Debug)]
pub struct Chain {
    pub kind: &'static str,
    pub hook: u32,
    pub priority: i32,
    /// What matches no rule is dropped.
    pub drop: bool,
}

/// The expressions of a rule, in order. Values pass through register 1 (and 2 behind it).
#[derive(Clone, Debug, Default)]
pub struct Rule(Attributes);

impl Rule {
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Attributes)) -> &mut Self {
        self.0.nest(1, |element| {
            element.text(1, name);
            element.nest(2, data);
        });
        self
    }

    pub fn meta(&mut self, key: u32) -> &mut Self {
        self.meta_into(key, 1)
    }

    fn meta_into(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("meta", |data| {
            data.number(2, key);
            data.number(1, register);
        })
    }

    pub fn interface_pair(&mut self) -> &mut Self {
        self.meta_into(META_IIFNAME, 1).meta_into(META_OIFNAME, 2)
    }

    pub fn payload(&mut self, header: Header, offset: u32, length: u32) -> &mut Self {
        self.expression("payload", |data| {
            data.number(1, 1);
            data.number(2, header as u32);
            data.number(3, offset);
            data.number(4, length);
        })
    }

    /// Goes on when the register begins with these bytes.
    pub fn equal(&mut self, value: &[u8]) -> &mut Self {
        self.compare(0, value)
    }

    fn compare(&mut self, operator: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |data| {
            data.number(1, 1);
            data.number(2, operator);
            data.nest(3, |inner| inner.bytes(1, value));
        })
    }

    pub fn in_set(&mut self, set: &str) -> &mut Self {
        self.expression("lookup", |data| {
            data.text(1, set);
            data.number(2, 1);
        })
    }

    pub fn accept(&mut self) -> &mut Self {
        self.verdict(1)
    }

    pub fn drop(&mut self) -> &mut Self {
        self.verdict(0)
    }

    fn verdict(&mut self, code: u32) -> &mut Self {
        self.expression("immediate", |data| {
            data.number(1, 0);
            data.nest(2, |inner| inner.nest(2, |verdict| verdict.number(1, code)));
        })
    }

    pub fn count(&mut self) -> &mut Self {
        self.expression("counter", |data| {
            data.bytes(1, &[0; 8]);
            data.bytes(2, &[0; 8]);
        })
    }

    /// Goes on for packets of connections that were opened from the other side.
    pub fn answers(&mut self) -> &mut Self {
        self.expression("ct", |data| {
            data.number(2, 0);
            data.number(1, 1);
        })
        .masked(&ESTABLISHED_OR_RELATED.to_ne_bytes())
        .compare(1, &[0; 4])
    }

    /// Of a connection that goes where it was sent to, which no other rule redirected.
    pub fn direct(&mut self) -> &mut Self {
        self.expression("ct", |data| {
            data.number(2, 2);
            data.number(1, 1);
        })
        .masked(&DESTINATION_CHANGED.to_ne_bytes())
        .compare(0, &[0; 4])
    }

    /// Out of a link whose name is as long as it can be.
    pub fn longest_name(&mut self) -> &mut Self {
        let mut last = [0; IFNAME];
        last[IFNAME - 2] = u8::MAX;
        self.meta(META_OIFNAME).masked(&last).compare(1, &[0; IFNAME])
    }

    fn masked(&mut self, mask: &[u8]) -> &mut Self {
        self.expression("bitwise", |data| {
            data.number(1, 1);
            data.number(2, 1);
            data.number(3, u32::try_from(mask.len()).unwrap_or_default());
            data.nest(4, |nest| nest.bytes(1, mask));
            data.nest(5, |xor| xor.bytes(1, &vec![0; mask.len()]));
        })
    }

    /// Gives the packet the address of the link that it leaves by.
    pub fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |_| {})
    }

    /// Sends the packet to this address and port.
    pub fn destination(&mut self, address: Ipv4Addr, port: u16) -> &mut Self {
        self.immediate(1, &address.octets()).immediate(2, &port.to_be_bytes()).expression("nat", |data| {
            data.number(1, 1);
            data.number(2, Family::Ip as u32);
            data.number(3, 1);
            data.number(5, 2);
        })
    }

    fn immediate(&mut self, register: u32, value: &[u8]) -> &mut Self {
        self.expression("immediate", |data| {
            data.number(1, register);
            data.nest(2, |inner| inner.bytes(1, value));
        })
    }
}

const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
const GET_CHAIN: u16 = 4;
const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;
const DELETE_RULE: u16 = 8;
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
const ECHO: u16 = 8;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// Whether there is this chain, in the network namespace of the calling thread.
pub fn has_chain(family: Family, table: &str, chain: &str) -> io::Result<bool> {
    let mut request = Batch { family, bytes: Vec::new(), sequence: 0, acks: 0 };
    request.message(GET_CHAIN, 0, |message| {
        message.text(1, table);
        message.text(3, chain);
    });
    match request.send() {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// A transaction: all of it happens, or nothing.
#[derive(Debug)]
pub struct Batch {
    family: Family,
    bytes: Vec<u8>,
    sequence: u32,
    acks: usize,
}

impl Batch {
    pub fn new(family: Family) -> Self {
        let mut this = Self { family, bytes: Vec::with_capacity(2048), sequence: 0, acks: 0 };
        this.control(BATCH_BEGIN);
        this
    }

    pub fn table(&mut self, name: &str) {
        self.message(NEW_TABLE, CREATE, |table| table.text(1, name));
    }

    pub fn delete_table(&mut self, name: &str) {
        self.message(DELETE_TABLE, 0, |table| table.text(1, name));
    }

    pub fn chain(&mut self, table: &str, name: &str, chain: Chain) {
        self.message(NEW_CHAIN, CREATE, |message| {
            message.text(1, table);
            message.text(3, name);
            message.nest(4, |hook| {
                hook.number(1, chain.hook);
                hook.bytes(2, &chain.priority.to_be_bytes());
            });
            message.number(5, u32::from(!chain.drop));
            message.text(7, chain.kind);
        });
    }

    pub fn rule(&mut self, table: &str, chain: &str, rule: Rule) {
        self.message(NEW_RULE, CREATE | APPEND, |message| {
            message.text(1, table);
            message.text(2, chain);
            message.nest(4, |expressions| *expressions = rule.0);
        });
    }

    /// A rule before all others of the chain, whose handle is told.
    pub fn guest(&mut self, table: &str, chain: &str, rule: Rule) {
        self.message(NEW_RULE, CREATE | ECHO, |message| {
            message.text(1, table);
            message.text(2, chain);
            message.nest(4, |expressions| *expressions = rule.0);
        });
    }

    pub fn delete_rule(&mut self, table: &str, chain: &str, handle: &[u8; 8]) {
        self.message(DELETE_RULE, 0, |message| {
            message.text(1, table);
            message.text(2, chain);
            message.bytes(3, handle);
        });
    }

    /// A table that goes with the socket.
    pub fn own_table(&mut self, name: &str) {
        const OWNER: u32 = 2;
        self.message(NEW_TABLE, CREATE, |table| {
            table.text(1, name);
            table.number(2, OWNER);
        });
    }

    /// A set of keys of this type and so many bytes.
    pub fn set(&mut self, table: &str, set: &str, kind: u32, bytes: usize) {
        self.message(NEW_SET, CREATE, |message| {
            message.text(1, table);
            message.text(2, set);
            message.number(3, 0);
            message.number(4, kind);
            message.number(5, u32::try_from(bytes).unwrap_or(u32::MAX));
            message.number(10, 1);
        });
    }

    pub fn element(&mut self, table: &str, set: &str, key: &[u8]) {
        self.message(NEW_ELEMENT, CREATE, |message| {
            message.text(1, table);
            message.text(2, set);
            message.nest(3, |list| {
                list.nest(1, |element| element.nest(1, |inner| inner.bytes(1, key)));
            });
        });
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes)) {
        let mut attributes = Attributes::default();
        fill(&mut attributes);
        self.acks += 1;
        self.frame(SUBSYSTEM << 8 | kind, REQUEST | ACK | flags, self.family as u8, 0, &attributes.0);
    }

    fn control(&mut self, kind: u16) {
        self.frame(kind, REQUEST, 0, SUBSYSTEM, &[]);
    }

    fn frame(&mut self, kind: u16, flags: u16, family: u8, resource: u16, body: &[u8]) {
        let length = u32::try_from(20 + body.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(body);
        self.sequence += 1;
    }

    /// Carries the transaction out in the network namespace of the calling thread.
    pub fn commit(self) -> io::Result<Socket> {
        Ok(self.transact()?.0)
    }

    /// The socket it went through and the handles of the rules that were to be told.
    pub fn transact(mut self) -> io::Result<(Socket, Vec<[u8; 8]>)> {
        self.control(BATCH_END);
        self.send()
    }

    /// As whoever has opened the socket: a table with an owner is for its owner to change.
    pub fn transact_over(mut self, socket: &Socket) -> io::Result<Vec<[u8; 8]>> {
        self.control(BATCH_END);
        self.send_over(socket)
    }

    fn send(self) -> io::Result<(Socket, Vec<[u8; 8]>)> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let handles = self.send_over(&socket)?;
        Ok((socket, handles))
    }

    fn send_over(self, socket: &Socket) -> io::Result<Vec<[u8; 8]>> {
        socket.send(&self.bytes, 0)?;
        let mut acks = 0;
        let mut handles = Vec::new();
        while acks < self.acks {
            let (bytes, _) = socket.recv_from_full()?;
            acks += acknowledged(&bytes)?;
            handles.extend(
                messages(&bytes)
                    .filter_map(|(kind, body)| (kind == SUBSYSTEM << 8 | NEW_RULE).then(|| handle(body))?),
            );
        }
        Ok(handles)
    }
}

/// A rule as the kernel writes it; `None` when there is none of this handle.
pub fn read_rule(family: Family, table: &str, chain: &str, handle: &[u8; 8]) -> io::Result<Option<Vec<u8>>> {
    let mut question = Batch { family, bytes: Vec::new(), sequence: 0, acks: 0 };
    question.message(GET_RULE, 0, |message| {
        message.text(1, table);
        message.text(2, chain);
        message.bytes(3, handle);
    });
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&question.bytes, 0)?;
    let mut found = None;
    loop {
        let (bytes, _) = socket.recv_from_full()?;
        let rule = messages(&bytes).find(|(kind, _)| *kind == SUBSYSTEM << 8 | NEW_RULE);
        found = rule.map(|(_, body)| body.to_vec()).or(found);
        match acknowledged(&bytes) {
            Ok(0) => {}
            Ok(_) => return Ok(found),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Counts the acknowledgements in an answer; the first refusal ends it.
fn acknowledged(bytes: &[u8]) -> io::Result<usize> {
    const ERROR: u16 = 2;
    let mut count = 0;
    for (_, body) in messages(bytes).filter(|&(kind, _)| kind == ERROR) {
        match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
            Some(0) => count += 1,
            Some(code) => return Err(io::Error::from_raw_os_error(code.wrapping_neg())),
            None => {}
        }
    }
    Ok(count)
}

/// Type and body of each message.
fn messages(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const HEADER: usize = 16;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = rest.get(HEADER..length.max(HEADER))?;
        rest = rest.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The handle in a message about a rule.
fn handle(body: &[u8]) -> Option<[u8; 8]> {
    const HANDLE: u16 = 3;
    let mut rest = body.get(4..)?;
    while let Some(header) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]])).max(4);
        if u16::from_ne_bytes([header[2], header[3]]) == HANDLE {
            return rest.get(4..length)?.first_chunk().copied();
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// Netlink attributes; numbers are big-endian as nf_tables wants them.
#[derive(Clone, Debug, Default)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        const NESTED: u16 = 0x8000;
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(kind | NESTED, &inner.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_but_tell_their_true_length() {
        let mut attributes = Attributes::default();
        attributes.nest(3, |inner| inner.bytes(1, &[7]));
        let mut expected = vec![12, 0, 3, 0x80, 5, 0, 1, 0, 7, 0, 0, 0];
        if cfg!(target_endian = "big") {
            expected = vec![0, 12, 0x80, 3, 0, 5, 0, 1, 7, 0, 0, 0];
        }
        assert_eq!(attributes.0, expected);
    }

    #[test]
    fn an_answer_is_counted_and_a_refusal_is_an_error() {
        let answer = |code: i32| {
            let mut bytes = Vec::new();
            bytes.extend(36_u32.to_ne_bytes());
            bytes.extend(2_u16.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(code.to_ne_bytes());
            bytes.extend([0; 16]);
            bytes
        };
        assert_eq!(acknowledged(&[answer(0), answer(0)].concat()).unwrap(), 2);
        let refused = acknowledged(&[answer(0), answer(-libc::ENOENT)].concat()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::ENOENT));
        for cut in 0..36 {
            let _ = acknowledged(&answer(0)[..cut]);
        }
    }
}
