//! The way out for root: a cable from the anchor's namespace to the host, over which the host's kernel
//! forwards. Everything it changes on the host goes away with the anchor: the link with the namespace,
//! the rules with the process, and forwarding is turned off again if it was off and nobody came to
//! need it.

use std::{
    fs, io,
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};

use super::{
    ipam::{Subnet, overlap},
    netlink::{self, Netlink, Plug},
    netns, nft,
};

/// The end in the anchor's namespace.
const INNER: &str = "uplink";
/// Names of the ends on the host begin so.
const OUTER: &str = "ficup";
/// Two hosts each; link-local, so that no network of a user meets them.
const POOL: Ipv4Addr = Ipv4Addr::new(169, 254, 240, 0);
const POOL_SIZE: u32 = 1024;
const PREFIX: u8 = 30;
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// A way out, until dropped.
#[derive(Debug)]
pub struct Uplink {
    name: String,
    rules: Option<nft::HostRules>,
    /// Set when we turned forwarding on: the links that there were.
    before: Option<Vec<(String, u32)>>,
}

impl Uplink {
    /// Makes a way out of the namespace `inner` to that of the calling thread.
    ///
    /// # Errors
    /// The kernel refuses; then nothing stays.
    pub fn open(inner: &OwnedFd) -> io::Result<Self> {
        let mut host = Netlink::open()?;
        let links = host.links()?;
        let (here, there) = addresses(&host.networks()?)?;
        let forwards = fs::read_to_string(FORWARDING)?.trim() != "0";
        let mut this = Self {
            name: format!("{OUTER}{}", std::process::id()),
            rules: None,
            before: (!forwards).then_some(links),
        };
        this.connect(&mut host, inner, here, there)?;
        let fenced: Vec<u32> = this.before.iter().flatten().map(|&(_, index)| index).collect();
        this.rules = Some(nft::lead_out(&this.name, there, &fenced)?);
        if !forwards {
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

    fn close(&mut self) -> io::Result<()> {
        let mut host = Netlink::open()?;
        host.delete_if_there(&self.name)?;
        self.rules = None;
        // A link that was not there may belong to somebody who found forwarding on and relies on it.
        if let Some(before) = self.before.take()
            && host.links()?.iter().all(|link| before.contains(link))
        {
            fs::write(FORWARDING, "0")?;
        }
        Ok(())
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        // There is nobody left to tell; what matters goes with the namespace and the process anyway.
        let _ = self.close();
    }
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
    fn uplinks_do_not_meet_but_a_wide_route_is_no_obstacle() {
        let wide = (Ipv4Addr::new(169, 254, 0, 0), 16);
        assert_eq!(addresses(&[wide]).unwrap().0, Ipv4Addr::new(169, 254, 240, 1));
        let taken = [wide, (POOL, PREFIX)];
        assert_eq!(addresses(&taken).unwrap().0, Ipv4Addr::new(169, 254, 240, 5));
        assert!(addresses(&[(POOL, 20)]).is_err());
    }
}
