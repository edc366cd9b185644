//! The few sets of rules that the runtime needs. Those in the host's namespace stand in a table that the
//! kernel takes away with the process that made it.

mod encode;

use std::{fmt, io, net::Ipv4Addr, os::fd::AsRawFd};

use netlink_sys::Socket;
use serde::{Deserialize, Serialize};

use self::encode::{
    Batch, Chain, Family, Header, IFNAME, META_IIF, META_IIFNAME, META_L4PROTO, META_OIF, META_OIFNAME, Rule,
    TYPE_IFINDEX, TYPE_IFNAME,
};

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
pub struct HostRules {
    owner: Socket,
    table: String,
}

impl HostRules {
    /// Takes the rules out.
    pub fn clear(&self) -> io::Result<()> {
        let mut batch = Batch::new(Family::Ip);
        batch.delete_table(&self.table);
        batch.transact_over(&self.owner).map(drop)
    }
}

/// Rules in a chain of somebody else, to be taken out again.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Guests {
    chain: String,
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
        // A transaction that fails would tell as well, after the kernel has waited for every reader of
        // rules (RCU).
        if !encode::has_chain(Family::Ip, IPTABLES, chain)? {
            continue;
        }
        let mut batch = Batch::new(Family::Ip);
        for direction in [META_IIFNAME, META_OIFNAME] {
            let mut rule = Rule::default();
            // As iptables itself writes `-i link -j ACCEPT`, so that it can read it.
            let text = [link.as_bytes(), &[0]].concat();
            rule.meta(direction).equal(&text).count().accept();
            batch.guest(IPTABLES, chain, rule);
        }
        match batch.transact() {
            Ok((_, handles)) => return Ok(Some(Guests { chain: chain.to_owned(), handles })),
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
            batch.delete_rule(IPTABLES, &self.chain, handle);
        }
        match batch.commit() {
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => Err(error),
            _ => Ok(()),
        }
    }
}

impl Guests {
    /// Those that are there still: a table that was made anew counts its rules from the beginning, so each must
    /// name `link`.
    pub fn left(mut self, link: &str) -> io::Result<Option<Self>> {
        let text = [link.as_bytes(), &[0]].concat();
        let mut left = Vec::new();
        for handle in self.handles {
            let rule = encode::read_rule(Family::Ip, IPTABLES, &self.chain, &handle)?;
            if rule.is_some_and(|rule| rule.windows(text.len()).any(|part| part == text)) {
                left.push(handle);
            }
        }
        self.handles = left;
        Ok((!self.handles.is_empty()).then_some(self))
    }
}

impl fmt::Debug for HostRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostRules").field(&self.owner.as_raw_fd()).finish()
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
    // Docker's networks are as closed to ours as to each other: only what Docker itself leads there passes.
    // Its bridges are `docker0`, `docker_gwbridge`, and `br-` with twelve digits.
    for (bridge, longest) in [("docker", false), ("br-", true)] {
        let mut apart = Rule::default();
        apart.meta(META_IIFNAME).equal(&name(link)).meta(META_OIFNAME).equal(bridge.as_bytes());
        if longest {
            apart.longest_name();
        }
        apart.direct().drop();
        batch.rule(table, "forward", apart);
    }
    if !fenced.is_empty() {
        batch.set(table, "fenced", TYPE_IFINDEX, 4);
        fenced.iter().for_each(|index| batch.element(table, "fenced", &index.to_ne_bytes()));
        let mut rule = Rule::default();
        rule.meta(META_IIF).in_set("fenced").meta(META_OIF).in_set("fenced").drop();
        batch.rule(table, "forward", rule);
    }
    let owner = batch.commit()?;
    Ok(HostRules { owner, table: table.clone() })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_internal_bridge_is_not_taken_for_one_with_a_way_out() {
        assert!(!INTERNAL.starts_with(BRIDGE));
    }
}
