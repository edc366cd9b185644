//! The leases of all containers, in one file that is replaced whole: the boot they are of, then a line each.
//! What looking for an address or a container takes stands before the rest of a line, which is read only where
//! it matters: each start and end of a container changes a line, and there may be thousands.

use std::{
    borrow::Cow,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use super::{
    Error, Result, Roots,
    ipam::Lease,
    state::{boot_id, file_error},
};

/// A lease as far as others must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken<'a> {
    pub up: bool,
    pub network: &'a str,
    pub group: &'a str,
    pub container: &'a str,
    pub replaces: Option<&'a str>,
    pub address: Ipv4Addr,
    pub v6: Option<Ipv6Addr>,
    /// All of it as JSON, but whether it is up and what it replaces.
    whole: Cow<'a, str>,
}

const UP: &str = "up";
const DOWN: &str = "down";
/// In place of what a lease has not.
const NOTHING: &str = "-";

impl<'a> Taken<'a> {
    pub fn of(lease: &'a Lease) -> Self {
        Self {
            up: lease.up,
            network: &lease.network,
            group: &lease.group,
            container: &lease.container,
            replaces: lease.replaces.as_deref(),
            address: lease.address,
            v6: lease.v6.as_ref().map(|v6| v6.address),
            whole: serde_json::to_string(lease).unwrap_or_default().into(),
        }
    }

    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(8, ' ');
        let mut next = || fields.next();
        let up = next()? == UP;
        let (network, group, container) = (next()?, next()?, next()?);
        let replaces = next().map(|id| (id != NOTHING).then_some(id))?;
        let address = next()?.parse().ok()?;
        let v6 = match next()? {
            NOTHING => None,
            address => Some(address.parse().ok()?),
        };
        Some(Self { up, network, group, container, replaces, address, v6, whole: next()?.into() })
    }

    fn line(&self) -> String {
        let Self { network, group, container, address, whole, .. } = self;
        let up = if self.up { UP } else { DOWN };
        let replaces = self.replaces.unwrap_or(NOTHING);
        let v6 = self.v6.map_or_else(|| NOTHING.to_owned(), |address| address.to_string());
        format!("{up} {network} {group} {container} {replaces} {address} {v6} {whole}\n")
    }

    pub fn lease(&self) -> serde_json::Result<Lease> {
        let mut lease: Lease = serde_json::from_str(&self.whole)?;
        lease.up = self.up;
        lease.replaces = self.replaces.map(str::to_owned);
        Ok(lease)
    }

    /// How a message names who has it.
    pub fn holder(&self) -> String {
        let short = self.container.get(..12).unwrap_or(self.container);
        let names = self.lease().map(|lease| lease.names.join(", ")).unwrap_or_default();
        format!("container {short} ({names}) of project `{}`", self.group)
    }
}

/// The file as it was read.
#[derive(Debug)]
pub struct Leases {
    path: PathBuf,
    text: String,
}

impl Leases {
    /// None are left of another boot: addresses mean nothing after it.
    pub fn read(roots: &Roots) -> Result<Self> {
        let path = path(roots);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read.map_err(|e| file_error("read", &path, e))?,
        };
        let this_boot = text.split('\n').next() == Some(boot_id().as_str());
        Ok(Self { path, text: if this_boot { text } else { String::new() } })
    }

    pub fn taken(&self) -> Result<Vec<Taken<'_>>> {
        self.text
            .lines()
            .skip(1)
            .map(|line| Taken::parse(line).ok_or_else(|| self.unreadable("no lease")))
            .collect()
    }

    pub fn all(&self) -> Result<Vec<Lease>> {
        self.taken()?.iter().map(|taken| taken.lease().map_err(|e| self.unreadable(e))).collect()
    }

    fn unreadable(&self, why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        file_error("read", &self.path, io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

/// What the file is to hold.
pub fn text(all: &[Taken<'_>]) -> String {
    let mut text = boot_id();
    text.push('\n');
    text.extend(all.iter().map(Taken::line));
    text
}

/// The file whose replacement tells that leases have changed.
#[must_use]
pub fn path(roots: &Roots) -> PathBuf {
    roots.run.join("leases")
}

#[cfg(test)]
mod tests {
    use super::{
        super::ipam::{Address6, Interface},
        *,
    };

    fn lease() -> Lease {
        Lease {
            network: "a_default".into(),
            bridge: "fic0".into(),
            address: Ipv4Addr::new(10, 9, 8, 2),
            prefix: 24,
            gateway: Ipv4Addr::new(10, 9, 8, 1),
            names: vec!["web".into(), "a name with spaces".into()],
            internal: true,
            container: "c1".into(),
            group: "a".into(),
            replaces: Some("c0".into()),
            up: true,
            v6: Some(Address6 {
                address: "fd00::2".parse().unwrap(),
                prefix: 64,
                gateway: "fd00::1".parse().unwrap(),
            }),
            interface: Interface { name: Some("lan".into()), mtu: Some(1400), ..Interface::default() },
            links: vec![("db".into(), "store".into())],
            servers: vec!["192.0.2.1".parse().unwrap()],
        }
    }

    fn stored(text: String) -> (tempfile::TempDir, Leases) {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::below(dir.path());
        fs::create_dir_all(&roots.run).unwrap();
        fs::write(path(&roots), text).unwrap();
        let leases = Leases::read(&roots).unwrap();
        (dir, leases)
    }

    #[test]
    fn a_lease_comes_back_as_it_was() {
        let plain = Lease { replaces: None, up: false, v6: None, container: "c2".into(), ..lease() };
        let all = [lease(), plain];
        let (_dir, leases) = stored(text(&all.each_ref().map(Taken::of)));
        assert_eq!(leases.all().unwrap(), all);
        let taken = leases.taken().unwrap();
        assert_eq!(taken, all.each_ref().map(Taken::of));
        assert_eq!(taken[0].holder(), "container c1 (web, a name with spaces) of project `a`");
    }

    #[test]
    fn what_is_no_lease_is_told_with_its_file() {
        let (_dir, leases) = stored(format!("{}up a_default a c1 - 10.9.8 - {{}}\n", text(&[])));
        let error = leases.taken().unwrap_err();
        assert!(matches!(&error, Error::File { path, .. } if path.ends_with("leases")), "{error}");
    }
}
