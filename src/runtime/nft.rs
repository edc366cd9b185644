//! The three sets of rules that the runtime needs, written to nf_tables by its own netlink encoding.
//! All of them live in network namespaces of ours; the host's rules are never touched from here.

use std::{io, net::Ipv4Addr};

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
    batch.commit()
}

/// In the anchor's namespace: nothing passes from one bridge to another.
pub fn isolate() -> io::Result<()> {
    let mut batch = Batch::new(Family::Inet);
    batch.table(TABLE);
    batch.pairs(TABLE, WITHIN);
    batch.chain(TABLE, "forward", Chain { kind: "filter", hook: 2, priority: 0, drop: true });
    let mut rule = Rule::default();
    rule.interface_pair().in_set(WITHIN).accept();
    batch.rule(TABLE, "forward", rule);
    batch.commit()
}

/// In the anchor's namespace: frames between ports of this bridge pass.
pub fn permit_within(bridge: &str) -> io::Result<()> {
    let mut batch = Batch::new(Family::Inet);
    batch.pair(TABLE, WITHIN, bridge);
    batch.commit()
}

const META_IIFNAME: u32 = 6;
const META_OIFNAME: u32 = 7;
const META_L4PROTO: u32 = 16;
/// Type of an interface name in nft's numbering, so that `nft list` can show it.
const TYPE_IFNAME: u32 = 41;
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
        self.expression("cmp", |data| {
            data.number(1, 1);
            data.number(2, 0);
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
        self.expression("immediate", |data| {
            data.number(1, 0);
            data.nest(2, |inner| inner.nest(2, |verdict| verdict.number(1, 1)));
        })
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
const NEW_SET: u16 = 9;
const NEW_ELEMENT: u16 = 12;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;

const REQUEST: u16 = 1;
const ACK: u16 = 4;
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

    /// A set of pairs of interface names.
    fn pairs(&mut self, table: &str, set: &str) {
        self.message(NEW_SET, CREATE, |message| {
            message.text(1, table);
            message.text(2, set);
            message.number(3, 0);
            message.number(4, TYPE_IFNAME << 6 | TYPE_IFNAME);
            message.number(5, 32);
            message.number(10, 1);
        });
    }

    fn pair(&mut self, table: &str, set: &str, interface: &str) {
        let mut key = [0; 2 * IFNAME];
        for half in key.chunks_exact_mut(IFNAME) {
            half.iter_mut().zip(interface.bytes()).for_each(|(to, from)| *to = from);
        }
        self.message(NEW_ELEMENT, CREATE, |message| {
            message.text(1, table);
            message.text(2, set);
            message.nest(3, |list| {
                list.nest(1, |element| element.nest(1, |inner| inner.bytes(1, &key)));
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
    fn commit(mut self) -> io::Result<()> {
        self.control(BATCH_END);
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        socket.send(&self.bytes, 0)?;
        let mut acks = 0;
        while acks < self.acks {
            let (bytes, _) = socket.recv_from_full()?;
            acks += acknowledged(&bytes)?;
        }
        Ok(())
    }
}

/// Counts the acknowledgements in an answer; the first refusal ends it.
fn acknowledged(bytes: &[u8]) -> io::Result<usize> {
    const ERROR: u16 = 2;
    let mut count = 0;
    let mut rest = bytes;
    while let (Some(length), Some(kind)) = (rest.first_chunk::<4>(), rest.get(4..6)) {
        let length = u32::from_ne_bytes(*length) as usize;
        if kind == ERROR.to_ne_bytes()
            && let Some(code) = rest.get(16..20).and_then(<[u8]>::first_chunk::<4>)
        {
            match i32::from_ne_bytes(*code) {
                0 => count += 1,
                code => return Err(io::Error::from_raw_os_error(code.wrapping_neg())),
            }
        }
        rest = rest.get(length.next_multiple_of(4).max(16)..).unwrap_or_default();
    }
    Ok(count)
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
