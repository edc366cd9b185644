//! The way out for root: a cable from the anchor's namespace to the host, over which the host's kernel
//! forwards. Everything it changes on the host goes away with the anchor: the link with the namespace,
//! our rules with the process, those among others' when it ends. Forwarding is turned off again by the
//! last of us if it was off before the first, and nobody else came to need it. What an anchor that was killed
//! could not take back stands in a note beside its socket, for whoever comes next.

mod helper;

use std::{
    fs::{self, File},
    io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use self::helper::Helper;
use super::{
    Error, Result, anchor,
    ipam::{Subnet, overlap},
    netlink::{self, Link, Netlink, Plug},
    netns, nft, rootless,
    state::{Identity, boot_id, read_json, write_json},
};

/// A way out of the anchor's namespace, until dropped.
#[derive(Debug)]
pub enum WayOut {
    Cable(Uplink),
    /// Of an ordinary user.
    Helper(Helper),
}

impl WayOut {
    /// Leads from the namespace `inner` to that of the calling thread. `run` is the tree of the anchor.
    pub fn open(run: &Path, inner: &OwnedFd) -> io::Result<Self> {
        if rootless::is_confined() {
            Helper::open(inner).map(Self::Helper)
        } else {
            Uplink::open(run, inner).map(Self::Cable)
        }
    }

    /// False when it must be opened anew.
    pub fn leads_out(&mut self) -> bool {
        match self {
            Self::Cable(_) => true,
            Self::Helper(helper) => helper.lives(),
        }
    }

    /// Ends it. `lock` keeps others of this tree out until they would notice nothing of it any more.
    pub fn close(self, lock: Option<File>) {
        match self {
            // There is nobody left to tell; what matters goes with the namespace and the process anyway.
            Self::Cable(mut uplink) => drop(uplink.close(lock)),
            Self::Helper(_) => {}
        }
    }
}

/// The end in the anchor's namespace.
const INNER: &str = "uplink";
/// Names of the ends on the host begin so.
const OUTER: &str = "ficup";
/// Two hosts each; link-local, so that no network of a user meets them.
const POOL: Ipv4Addr = Ipv4Addr::new(169, 254, 240, 0);
const POOL_SIZE: u32 = 1024;
const PREFIX: u8 = 30;
/// Note on the host's end for those who come later; indices of links follow.
const WAS_OFF: &str = "ficelle: forwarding was off with links ";
/// The same of an end that is being removed, and counts no more.
const GOING: &str = "ficelle: goes";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// A way out, until dropped.
#[derive(Debug)]
pub struct Uplink {
    name: String,
    rules: Option<nft::HostRules>,
    guests: Option<nft::Guests>,
    /// Set when forwarding was off before the first uplink: the links that there were, uplinks aside.
    before: Option<Vec<u32>>,
    /// Of what must be taken back; `None` when it was.
    note: Option<PathBuf>,
}

/// What a way out changed on the host that does not go with its process.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    anchor: Identity,
    link: String,
    guests: Option<nft::Guests>,
    before: Option<Vec<u32>>,
}

const NOTE: &str = "uplink.json";

/// Takes back what an anchor of this tree left that was killed, unless `dry`; what that was.
pub fn mend(run: &Path, dry: bool) -> Result<Vec<String>> {
    let path = run.join(NOTE);
    if rootless::is_confined() || !path.exists() {
        return Ok(Vec::new());
    }
    let _lock = anchor::hold_still(run)?;
    let Some(note) = read_json::<Note>(&path)? else { return Ok(Vec::new()) };
    let failed = |source: io::Error| Error::System {
        what: "cannot take back a way out of the networks".into(),
        source,
    };
    // As long as its link is there a new anchor of those who use it takes over.
    let (uplinks, _) = sorted(Netlink::open().and_then(|mut host| host.links()).map_err(failed)?);
    if uplinks.iter().any(|uplink| uplink.name == note.link) {
        return Ok(Vec::new());
    }
    note.mend(&path, dry).map_err(failed)
}

impl Note {
    fn is_of_this_boot(&self) -> bool {
        self.anchor.boot == boot_id()
    }

    fn mend(self, path: &Path, dry: bool) -> io::Result<Vec<String>> {
        let mut found = Vec::new();
        if self.anchor.lives() {
            return Ok(found);
        }
        let same_boot = self.is_of_this_boot();
        let guests = self.guests.filter(|_| same_boot).map(|guests| guests.left(&self.link));
        if let Some(guests) = guests.transpose()?.flatten() {
            found.push(format!("rules of iptables for the link {}", self.link));
            if !dry {
                guests.leave()?;
            }
        }
        let _alone = hold_forwarding()?;
        let mut host = Netlink::open()?;
        let links = sorted(host.links()?);
        if same_boot
            && let Some(before) = &self.before
            && fs::read_to_string(FORWARDING)?.trim() == "1"
        {
            if unneeded(before, &links) {
                found.push(format!("{FORWARDING}, which was 0"));
                if !dry {
                    fs::write(FORWARDING, "0")?;
                }
            } else if !dry
                && let Some(heir) = links.0.iter().find(|link| link.name != self.link && link.alias != GOING)
            {
                // The last of us turns it off, and would not know that it was.
                host.all(&[netlink::set_alias(heir.index, &note(before))])?;
            }
        }
        if !dry {
            fs::remove_file(path)?;
        }
        Ok(found)
    }
}

/// Keeps others of us, of whatever tree, from turning forwarding on or off meanwhile.
fn hold_forwarding() -> io::Result<File> {
    let file = File::open(FORWARDING)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// A link that was not there may belong to somebody who found forwarding on and relies on it.
fn unneeded(before: &[u32], (uplinks, others): &(Vec<Link>, Vec<Link>)) -> bool {
    uplinks.iter().all(|uplink| uplink.alias == GOING)
        && others.iter().all(|link| before.contains(&link.index))
}

impl Uplink {
    /// Makes a way out of the namespace `inner` to that of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses; then nothing stays.
    pub fn open(run: &Path, inner: &OwnedFd) -> io::Result<Self> {
        let note = run.join(NOTE);
        // Others of this tree neither mend nor begin meanwhile.
        let _lock = anchor::hold_still(run).map_err(io::Error::other)?;
        let left = read_json::<Note>(&note).map_err(io::Error::other)?;
        // The link of one that was killed may go at any moment, and what is noted on it.
        let inherited =
            left.as_ref().filter(|left| left.is_of_this_boot()).and_then(|left| left.before.clone());
        if let Some(left) = left {
            left.mend(&note, false)?;
        }
        // Until our link is there for the others to see.
        let alone = hold_forwarding()?;
        let mut host = Netlink::open()?;
        let (uplinks, others) = sorted(host.links()?);
        let off = fs::read_to_string(FORWARDING)?.trim() == "0";
        let before = match off {
            true => Some(others.iter().map(|link| link.index).collect()),
            false => uplinks.iter().find_map(|uplink| read_note(&uplink.alias)).or(inherited),
        };
        let name = format!("{OUTER}{}", std::process::id());
        let mut this = Self { name, rules: None, guests: None, before, note: Some(note) };
        let (here, there) = addresses(&host.networks()?)?;
        let connected = this.connect(&mut host, inner, here, there);
        drop(alone);
        connected?;
        let fenced = this.before.as_deref().unwrap_or_default();
        this.rules = Some(nft::lead_out(&this.name, there, fenced)?);
        this.guests = nft::ask_iptables(&this.name)?;
        this.write_note()?;
        if off {
            fs::write(FORWARDING, "1")?;
        }
        Ok(this)
    }

    fn connect(
        &self,
        host: &mut Netlink,
        inner: &OwnedFd,
        here: Ipv4Addr,
        there: Ipv4Addr,
    ) -> io::Result<()> {
        netns::within(inner.as_fd(), || Netlink::open()?.delete_if_there(INNER))??;
        let near = Plug { name: &self.name, mac: None, netns: None };
        host.all(&[netlink::add_veth(
            near,
            None,
            Plug { name: INNER, mac: None, netns: Some(inner.as_fd()) },
        )])?;
        let no_ipv6 = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name);
        if fs::exists(&no_ipv6)? {
            fs::write(&no_ipv6, "1")?;
        }
        let index = host.index_of(&self.name)?;
        host.all(&[netlink::add_address(index, here, PREFIX)])?;
        if let Some(before) = &self.before {
            host.all(&[netlink::set_alias(index, &note(before))])?;
        }
        netns::within(inner.as_fd(), || {
            let mut netlink = Netlink::open()?;
            let index = netlink.index_of(INNER)?;
            netlink.all(&[
                netlink::add_address(index, there, PREFIX),
                netlink::set_up(index),
                netlink::add_route((Ipv4Addr::UNSPECIFIED, 0), here),
            ])?;
            nft::permit_out(INNER)?;
            fs::write(FORWARDING, "1")
        })?
    }

    fn write_note(&self) -> io::Result<()> {
        let anchor = Identity::of(std::process::id().cast_signed());
        let Some((anchor, path)) = anchor.zip(self.note.as_ref()) else { return Ok(()) };
        let (link, guests, before) = (self.name.clone(), self.guests.clone(), self.before.clone());
        write_json(path, &Note { anchor, link, guests, before }).map_err(io::Error::other)
    }

    fn close(&mut self, lock: Option<File>) -> io::Result<()> {
        let Some(note) = self.note.take() else { return Ok(()) };
        let rules = self.rules.take();
        // Taken out as a transaction: a table that only goes with its socket makes the kernel wait for
        // every reader of rules (RCU), and the removal of the link with it.
        let cleared = rules.as_ref().map_or(Ok(()), nft::HostRules::clear);
        let left = self.guests.take().map_or(Ok(()), nft::Guests::leave);
        let alone = hold_forwarding()?;
        let mut host = Netlink::open()?;
        let (uplinks, others) = sorted(host.links()?);
        let own = uplinks.iter().find(|uplink| uplink.name == self.name);
        // One that was killed may have left the note to us.
        let before = self.before.take().or_else(|| read_note(&own?.alias));
        if let Some(own) = own {
            host.all(&[netlink::set_alias(own.index, GOING)])?;
        }
        let uplinks = uplinks.into_iter().filter(|uplink| uplink.name != self.name).collect();
        if before.is_some_and(|before| unneeded(&before, &(uplinks, others))) {
            fs::write(FORWARDING, "0")?;
        }
        drop(alone);
        if left.is_ok() {
            let _ = fs::remove_file(note);
        }
        // The kernel takes its time for the link, and there is nothing left that others could find.
        drop(lock);
        let cut = host.delete_if_there(&self.name);
        drop(rules);
        cleared.and(left).and(cut)
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        let _ = self.close(None);
    }
}

/// Those of us, and all others.
fn sorted(links: Vec<Link>) -> (Vec<Link>, Vec<Link>) {
    links.into_iter().partition(|link| link.name.starts_with(OUTER))
}

/// As much as an alias holds; a link left out counts as one that came later.
fn note(before: &[u32]) -> String {
    const LONGEST: usize = 255;
    let mut note = WAS_OFF.to_owned();
    for index in before {
        let item = format!("{index},");
        if note.len() + item.len() > LONGEST {
            break;
        }
        note.push_str(&item);
    }
    note
}

fn read_note(alias: &str) -> Option<Vec<u32>> {
    let list = alias.strip_prefix(WAS_OFF)?;
    Some(list.split(',').filter_map(|index| index.parse().ok()).collect())
}

/// The host's address on the cable and ours.
fn addresses(taken: &[Subnet]) -> io::Result<(Ipv4Addr, Ipv4Addr)> {
    let first = POOL.to_bits();
    (0..POOL_SIZE)
        .map(|number| first + number * 4)
        // A route to all of the link-local range is no obstacle: ours is narrower.
        .find(|&base| {
            let wanted = (Ipv4Addr::from_bits(base), PREFIX);
            !taken.iter().any(|&subnet| subnet.1 > 16 && overlap(subnet, wanted))
        })
        .map(|base| (Ipv4Addr::from_bits(base + 1), Ipv4Addr::from_bits(base + 2)))
        .ok_or_else(|| io::Error::other("all link-local addresses for uplinks are taken"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_read_as_written_and_a_long_one_is_cut() {
        assert_eq!(read_note(&note(&[1, 22, 333])), Some(vec![1, 22, 333]));
        assert_eq!(read_note("something else"), None);
        let many: Vec<u32> = (1000..1200).collect();
        let read = read_note(&note(&many)).unwrap();
        assert!(note(&many).len() <= 255 && read.len() > 30 && many.starts_with(&read));
    }

    #[test]
    fn uplinks_do_not_meet_but_a_wide_route_is_no_obstacle() {
        let wide = (Ipv4Addr::new(169, 254, 0, 0), 16);
        assert_eq!(addresses(&[wide]).unwrap().0, Ipv4Addr::new(169, 254, 240, 1));
        let taken = [wide, (POOL, PREFIX)];
        assert_eq!(addresses(&taken).unwrap().0, Ipv4Addr::new(169, 254, 240, 5));
        assert!(addresses(&[(POOL, 20)]).is_err());
    }
}
