//! The few sets of rules that the runtime needs, written to nf_tables by its own netlink encoding. Rules
//! in the host's namespace stand in a table that the kernel takes away with the process that made it.

use std::{fmt, io, net::Ipv4Addr, os::fd::AsRawFd};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};

/// Names of bridges that have a way out begin so.
pub const BRIDGE: &str = "fic";
/// Names of bridges of internal networks begin so; it must not begin with [`BRIDGE`].
pub const INTERNAL: &str = "fii";
const TABLE: &str = "ficelle";
/// The set of bridge pairs (each with itself) between which frames may pass. Ordinarily they never
/// see the forward chain; with br_netfilter loaded they do.
const WITHIN: &str = "within";

/// In a container's namespace: what is sent to port 53 of `server` goes to `port` there, so that a
/// container may have a name server of its own on port 53.
pub fn redirect_dns(server: Ipv4Addr, port: u16) -> io::Result<()> {
    let mut batch = Batch::new(Family::Ip);
    batch.table(TABLE);
    batch.chain(TABLE, "output", Chain { kind: "nat", hook: 3, priority: -100, drop: false });
    for protocol in [libc::IPPROTO_UDP, libc::IPPROTO_TCP] {
        let mut rule = Rule::default();
        rule.meta(META_L4PROTO).equal(&[u8::try_from(protocol).unwrap_or(u8::MAX)]);
        rule.payload(Header::Network, 16, 4).equal(&server.octets());
        rule.payload(Header::Transport, 2, 2).equal(&53_u16.to_be_bytes());
        rule.destination(server, port);
        batch.rule(TABLE, "output", rule);
    }
    batch.commit().map(drop)
}

/// In the anchor's namespace: nothing passes from one bridge to another.
pub fn isolate() -> io::Result<()> {
    let mut batch = Batch::new(Family::Inet);
    batch.table(TABLE);
    batch.set(TABLE, WITHIN, TYPE_IFNAME << 6 | TYPE_IFNAME, 2 * IFNAME);
    batch.chain(TABLE, "forward", Chain { kind: "filter", hook: 2, priority: 0, drop: true });
    let mut rule = Rule::default();
    rule.interface_pair().in_set(WITHIN).accept();
    batch.rule(TABLE, "forward", rule);
    batch.commit().map(drop)
}

/// In the anchor's namespace: bridges that have a way out may use the link `uplink`, and everything
/// leaves it with its address. What comes in there must be an answer.
pub fn permit_out(uplink: &str) -> io::Result<()> {
    let mut batch = Batch::new(Family::Inet);
    let mut out = Rule::default();
    out.meta(META_IIFNAME).equal(BRIDGE.as_bytes()).meta(META_OIFNAME).equal(&name(uplink)).accept();
    batch.rule(TABLE, "forward", out);
    let mut back = Rule::default();
    back.meta(META_IIFNAME).equal(&name(uplink)).answers().accept();
    batch.rule(TABLE, "forward", back);
    batch.chain(TABLE, "postrouting", Chain { kind: "nat", hook: 4, priority: 100, drop: false });
    let mut hide = Rule::default();
    hide.meta(META_OIFNAME).equal(&name(uplink)).masquerade();
    batch.rule(TABLE, "postrouting", hide);
    batch.commit().map(drop)
}

/// Rules of the host that end with this value, or with its process.
pub struct HostRules(Socket);

/// Rules in a chain of somebody else, to be taken out again.
#[derive(Debug)]
pub struct Guests {
    chain: &'static str,
    handles: Vec<[u8; 8]>,
}

/// The filter table of iptables, as far as it stands in nf_tables.
const IPTABLES: &str = "filter";
/// The chain that Docker keeps for others, else the one that everything passes.
const OPEN_TO_GUESTS: [&str; 2] = ["DOCKER-USER", "FORWARD"];

/// In the host's namespace: where iptables is in use, what passes `link` is accepted there too. What
/// one table accepts another can still drop, and Docker and ufw drop what they do not know.
pub fn ask_iptables(link: &str) -> io::Result<Option<Guests>> {
    for chain in OPEN_TO_GUESTS {
        let mut batch = Batch::new(Family::Ip);
        for direction in [META_IIFNAME, META_OIFNAME] {
            let mut rule = Rule::default();
            // As iptables itself writes `-i link -j ACCEPT`, so that it can read it.
            let text = [link.as_bytes(), &[0]].concat();
            rule.meta(direction).equal(&text).count().accept();
            batch.guest(IPTABLES, chain, rule);
        }
        match batch.transact() {
            Ok((_, handles)) => return Ok(Some(Guests { chain, handles })),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl Guests {
    /// Takes the rules out. A chain that is gone took them along.
    pub fn leave(self) -> io::Result<()> {
        let mut batch = Batch::new(Family::Ip);
        for handle in &self.handles {
            batch.message(DELETE_RULE, 0, |message| {
                message.text(1, IPTABLES);
                message.text(2, self.chain);
                message.bytes(3, handle);
            });
        }
        match batch.commit() {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for HostRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostRules").field(&self.0.as_raw_fd()).finish()
    }
}

/// In the host's namespace: what comes from `source` leaves with the host's address, and over `link`
/// nobody but it opens connections. Between the links `fenced` (by index) nothing is forwarded: they
/// were there when forwarding was off.
pub fn lead_out(link: &str, source: Ipv4Addr, fenced: &[u32]) -> io::Result<HostRules> {
    let table = &format!("ficelle-{link}");
    let mut batch = Batch::new(Family::Ip);
    batch.own_table(table);
    batch.chain(table, "postrouting", Chain { kind: "nat", hook: 4, priority: 100, drop: false });
    let mut hide = Rule::default();
    hide.payload(Header::Network, 12, 4).equal(&source.octets()).masquerade();
    batch.rule(table, "postrouting", hide);
    batch.chain(table, "forward", Chain { kind: "filter", hook: 2, priority: 0, drop: false });
    let mut back = Rule::default();
    back.meta(META_OIFNAME).equal(&name(link)).answers().accept();
    batch.rule(table, "forward", back);
    let mut into = Rule::default();
    into.meta(META_OIFNAME).equal(&name(link)).drop();
    batch.rule(table, "forward", into);
    if !fenced.is_empty() {
        batch.set(table, "fenced", TYPE_IFINDEX, 4);
        fenced.iter().for_each(|index| batch.element(table, "fenced", &index.to_ne_bytes()));
        let mut rule = Rule::default();
        rule.meta(META_IIF).in_set("fenced").meta(META_OIF).in_set("fenced").drop();
        batch.rule(table, "forward", rule);
    }
    batch.commit().map(HostRules)
}

/// In the anchor's namespace: frames between ports of this bridge pass.
pub fn permit_within(bridge: &str) -> io::Result<()> {
    let mut batch = Batch::new(Family::Inet);
    batch.element(TABLE, WITHIN, &[name(bridge), name(bridge)].concat());
    batch.commit().map(drop)
}

/// As the kernel compares it whole: with zeros to the end.
fn name(interface: &str) -> [u8; IFNAME] {
    let mut name = [0; IFNAME];
    name.iter_mut().zip(interface.bytes()).for_each(|(to, from)| *to = from);
    name
}

const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
/// Types in nft's numbering, so that `nft list` can show sets.
const TYPE_IFINDEX: u32 = 40;
const TYPE_IFNAME: u32 = 41;
/// Bits of the state of a connection.
const ESTABLISHED_OR_RELATED: u32 = 2 | 4;
const IFNAME: usize = 16;

#[derive(Clone, Copy, Debug)]
enum Family {
    Inet = 1,
    Ip = 2,
}

#[derive(Clone, Copy, Debug)]
enum Header {
    Network = 1,
    Transport = 2,
}

/// Where a base chain hooks in.
#[derive(Clone, Copy, Debug)]
struct Chain {
    kind: &'static str,
    hook: u32,
    priority: i32,
    /// What matches no rule is dropped.
    drop: bool,
}

/// The expressions of a rule, in order. Values pass through register 1 (and 2 behind it).
#[derive(Clone, Debug, Default)]
struct Rule(Attributes);

impl Rule {
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Attributes)) -> &mut Self {
        self.0.nest(1, |element| {
            element.text(1, name);
            element.nest(2, data);
        });
        self
    }

    fn meta(&mut self, key: u32) -> &mut Self {
        self.meta_into(key, 1)
    }

    fn meta_into(&mut self, key: u32, register: u32) -> &mut Self {
        self.expression("meta", |data| {
            data.number(2, key);
            data.number(1, register);
        })
    }

    fn interface_pair(&mut self) -> &mut Self {
        self.meta_into(META_IIFNAME, 1).meta_into(META_OIFNAME, 2)
    }

    fn payload(&mut self, header: Header, offset: u32, length: u32) -> &mut Self {
        self.expression("payload", |data| {
            data.number(1, 1);
            data.number(2, header as u32);
            data.number(3, offset);
            data.number(4, length);
        })
    }

    /// Goes on when the register begins with these bytes.
    fn equal(&mut self, value: &[u8]) -> &mut Self {
        self.compare(0, value)
    }

    fn compare(&mut self, operator: u32, value: &[u8]) -> &mut Self {
        self.expression("cmp", |data| {
            data.number(1, 1);
            data.number(2, operator);
            data.nest(3, |inner| inner.bytes(1, value));
        })
    }

    fn in_set(&mut self, set: &str) -> &mut Self {
        self.expression("lookup", |data| {
            data.text(1, set);
            data.number(2, 1);
        })
    }

    fn accept(&mut self) -> &mut Self {
        self.verdict(1)
    }

    fn drop(&mut self) -> &mut Self {
        self.verdict(0)
    }

    fn verdict(&mut self, code: u32) -> &mut Self {
        self.expression("immediate", |data| {
            data.number(1, 0);
            data.nest(2, |inner| inner.nest(2, |verdict| verdict.number(1, code)));
        })
    }

    fn count(&mut self) -> &mut Self {
        self.expression("counter", |data| {
            data.bytes(1, &[0; 8]);
            data.bytes(2, &[0; 8]);
        })
    }

    /// Goes on for packets of connections that were opened from the other side.
    fn answers(&mut self) -> &mut Self {
        self.expression("ct", |data| {
            data.number(2, 0);
            data.number(1, 1);
        })
        .expression("bitwise", |data| {
            data.number(1, 1);
            data.number(2, 1);
            data.number(3, 4);
            data.nest(4, |mask| mask.bytes(1, &ESTABLISHED_OR_RELATED.to_ne_bytes()));
            data.nest(5, |xor| xor.bytes(1, &[0; 4]));
        })
        .compare(1, &[0; 4])
    }

    /// Gives the packet the address of the link that it leaves by.
    fn masquerade(&mut self) -> &mut Self {
        self.expression("masq", |_| {})
    }

    /// Sends the packet to this address and port.
    fn destination(&mut self, address: Ipv4Addr, port: u16) -> &mut Self {
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
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
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

/// A transaction: all of it happens, or nothing.
#[derive(Debug)]
struct Batch {
    family: Family,
    bytes: Vec<u8>,
    sequence: u32,
    acks: usize,
}

impl Batch {
    fn new(family: Family) -> Self {
        let mut this = Self { family, bytes: Vec::with_capacity(2048), sequence: 0, acks: 0 };
        this.control(BATCH_BEGIN);
        this
    }

    fn table(&mut self, name: &str) {
        self.message(NEW_TABLE, CREATE, |table| table.text(1, name));
    }

    fn chain(&mut self, table: &str, name: &str, chain: Chain) {
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

    fn rule(&mut self, table: &str, chain: &str, rule: Rule) {
        self.message(NEW_RULE, CREATE | APPEND, |message| {
            message.text(1, table);
            message.text(2, chain);
            message.nest(4, |expressions| *expressions = rule.0);
        });
    }

    /// A rule before all others of the chain, whose handle is told.
    fn guest(&mut self, table: &str, chain: &str, rule: Rule) {
        self.message(NEW_RULE, CREATE | ECHO, |message| {
            message.text(1, table);
            message.text(2, chain);
            message.nest(4, |expressions| *expressions = rule.0);
        });
    }

    /// A table that goes with the socket.
    fn own_table(&mut self, name: &str) {
        const OWNER: u32 = 2;
        self.message(NEW_TABLE, CREATE, |table| {
            table.text(1, name);
            table.number(2, OWNER);
        });
    }

    /// A set of keys of this type and so many bytes.
    fn set(&mut self, table: &str, set: &str, kind: u32, bytes: usize) {
        self.message(NEW_SET, CREATE, |message| {
            message.text(1, table);
            message.text(2, set);
            message.number(3, 0);
            message.number(4, kind);
            message.number(5, u32::try_from(bytes).unwrap_or(u32::MAX));
            message.number(10, 1);
        });
    }

    fn element(&mut self, table: &str, set: &str, key: &[u8]) {
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
    fn commit(self) -> io::Result<Socket> {
        Ok(self.transact()?.0)
    }

    /// The socket it went through and the handles of the rules that were to be told.
    fn transact(mut self) -> io::Result<(Socket, Vec<[u8; 8]>)> {
        self.control(BATCH_END);
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
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
        Ok((socket, handles))
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
struct Attributes(Vec<u8>);

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

    #[test]
    fn an_internal_bridge_is_not_taken_for_one_with_a_way_out() {
        assert!(!INTERNAL.starts_with(BRIDGE));
    }
}
