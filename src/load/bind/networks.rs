//! Networks, and how a service is joined to them.

use std::net::IpAddr;

use super::{Bind, Reader, flag, integer, pairs, strings, text};
use crate::{
    load::tree::{Map, Node, Value},
    model::{Attachment, Dns, ExtraHost, Network, NetworkMode, Project, Subnet},
};

impl Bind<'_> {
    pub(super) fn network(&mut self, node: &Node, path: &str) -> Network {
        let pools = node.get("ipam").and_then(|ipam| ipam.get("config"));
        let subnets =
            pools.map(Node::items).unwrap_or_default().iter().filter_map(|pool| self.subnet(pool, path));
        let subnets = subnets.collect();
        if let Some(off) = node.get("enable_ipv4").filter(|node| node.value == Value::Bool(false)) {
            self.tell(off.span, &format!("{path}.enable_ipv4"), "a network without IPv4 is not supported");
        }
        let driver = node.get("ipam").and_then(|ipam| ipam.get("driver"));
        if let Some(driver) = driver.filter(|driver| !matches!(driver.as_str(), None | Some("" | "default")))
        {
            let name = driver.as_str().unwrap_or_default();
            self.tell(
                driver.span,
                &format!("{path}.ipam.driver"),
                format!("there is no address driver `{name}`, only `default`"),
            );
        }
        Network {
            name: text(node, "name").unwrap_or_default(),
            external: flag(node, "external"),
            driver: text(node, "driver"),
            internal: flag(node, "internal"),
            ipv6: flag(node, "enable_ipv6"),
            subnets,
            driver_opts: pairs(node.get("driver_opts")),
            labels: pairs(node.get("labels")),
        }
    }

    fn subnet(&mut self, pool: &Node, path: &str) -> Option<Subnet> {
        let node = pool.get("subnet")?;
        let text = node.as_str().unwrap_or_default();
        let Some((address, prefix)) = prefixed(text) else {
            self.tell(node.span, path, format!("`{text}` is no subnet such as 172.28.0.0/16"));
            return None;
        };
        let gateway = pool.get("gateway").and_then(|node| self.address(node, path));
        let range = pool.get("ip_range").and_then(|node| {
            let text = node.as_str().unwrap_or_default();
            let range = prefixed(text);
            if range.is_none() {
                self.tell(
                    node.span,
                    path,
                    format!("`{text}` is no range of addresses such as 172.28.5.0/24"),
                );
            }
            range
        });
        let named = pool.get("aux_addresses").and_then(Node::as_map).into_iter().flatten();
        let aux_addresses =
            named.filter_map(|(key, node)| Some((key.text.clone(), self.address(node, path)?))).collect();
        Some(Subnet { address, prefix, gateway, range, aux_addresses })
    }

    fn address(&mut self, node: &Node, path: &str) -> Option<IpAddr> {
        let text = node.as_str().unwrap_or_default();
        let address = text.parse().ok();
        if address.is_none() {
            self.tell(node.span, path, format!("`{text}` is no IP address"));
        }
        address
    }
}

fn prefixed(text: &str) -> Option<(IpAddr, u8)> {
    let (address, prefix) = text.split_once('/')?;
    let (address, prefix) = (address.parse::<IpAddr>().ok()?, prefix.parse::<u8>().ok()?);
    (prefix <= if address.is_ipv4() { 32 } else { 128 }).then_some((address, prefix))
}

impl Reader<'_, '_> {
    pub(super) fn network_mode(&mut self, node: &Node, project: &Project) -> NetworkMode {
        match node.get_str("network_mode") {
            None | Some("" | "bridge" | "default") => self.attachments(node, project),
            Some("none") => NetworkMode::None,
            Some("host") => NetworkMode::Host,
            Some(mode) => Self::network_of(mode).unwrap_or_else(|| {
                NetworkMode::Networks([(mode.to_owned(), Attachment::default())].into_iter().collect())
            }),
        }
    }

    /// Networks by the name the engine knows, highest priority first, then by key.
    fn attachments(&mut self, node: &Node, project: &Project) -> NetworkMode {
        let mut found: Vec<(&str, String, Attachment)> = Vec::new();
        for (key, attached) in node.get("networks").and_then(Node::as_map).into_iter().flatten() {
            let name = project.networks.get(&key.text).map_or_else(|| key.text.clone(), |n| n.name.clone());
            let path = format!("networks.{}", key.text);
            found.push((&key.text, name, self.attachment(attached, &path)));
        }
        found.sort_by(|a, b| b.2.priority.cmp(&a.2.priority).then(a.0.cmp(b.0)));
        NetworkMode::Networks(found.into_iter().map(|(_, name, attachment)| (name, attachment)).collect())
    }

    fn attachment(&mut self, node: &Node, path: &str) -> Attachment {
        Attachment {
            aliases: strings(node.get("aliases")),
            ipv4_address: self.parsed(node, path, "ipv4_address", "IPv4 address"),
            ipv6_address: self.parsed(node, path, "ipv6_address", "IPv6 address"),
            link_local_ips: self.addresses(node, "link_local_ips", path),
            priority: integer(node.get("priority")).unwrap_or_default(),
            gw_priority: integer(node.get("gw_priority")).unwrap_or_default(),
            mac_address: self.mac_address(node, path),
            interface_name: self.interface_name(node, path),
            driver_opts: pairs(node.get("driver_opts")),
        }
    }

    fn parsed<T: std::str::FromStr>(&mut self, node: &Node, path: &str, key: &str, noun: &str) -> Option<T> {
        let node = node.get(key).filter(|node| node.as_str() != Some(""))?;
        let text = node.as_str().unwrap_or_default();
        let value = text.parse().ok();
        if value.is_none() {
            self.tell(node, &format!("{path}.{key}"), format!("`{text}` is no {noun}"));
        }
        value
    }

    /// A list of addresses; `path` is where it stands in the service, empty for the service itself.
    fn addresses(&mut self, node: &Node, key: &str, path: &str) -> Vec<IpAddr> {
        let dot = if path.is_empty() { "" } else { "." };
        let mut found = Vec::new();
        for (at, item) in node.get(key).map(Node::items).unwrap_or_default().iter().enumerate() {
            let text = item.as_str().unwrap_or_default();
            match text.parse() {
                Ok(address) => found.push(address),
                Err(_) => {
                    self.tell(item, &format!("{path}{dot}{key}[{at}]"), format!("`{text}` is no IP address"));
                }
            }
        }
        found
    }

    pub(super) fn mac_address(&mut self, node: &Node, path: &str) -> Option<[u8; 6]> {
        let node = node.get("mac_address").filter(|node| node.as_str() != Some(""))?;
        let text = node.as_str().unwrap_or_default();
        let mac = mac(text);
        if mac.is_none() {
            let key = if path.is_empty() { "mac_address".to_owned() } else { format!("{path}.mac_address") };
            self.tell(
                node,
                &key,
                format!("`{text}` is no hardware address of one interface such as 02:42:ac:11:00:02"),
            );
        }
        mac
    }

    /// The kernel's rule for names of interfaces.
    fn interface_name(&mut self, node: &Node, path: &str) -> Option<String> {
        let node = node.get("interface_name").filter(|node| node.as_str() != Some(""))?;
        let name = node.as_str().unwrap_or_default();
        let bad = |c: char| c == '/' || c == ':' || c.is_whitespace();
        if name.len() > 15 || name.contains(bad) || matches!(name, "." | ".." | "lo") {
            let message = format!(
                "`{name}` cannot be the name of an interface: 15 bytes at most, without `/`, `:` and blanks"
            );
            self.tell(node, &format!("{path}.interface_name"), message);
            return None;
        }
        Some(name.to_owned())
    }

    pub(super) fn dns(&mut self, node: &Node) -> Dns {
        Dns {
            servers: self.addresses(node, "dns", ""),
            search: strings(node.get("dns_search")),
            options: strings(node.get("dns_opt")),
        }
    }

    /// Names that the service has for others: `links` beside the dependency, and `external_links`.
    pub(super) fn links(node: &Node) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for key in ["links", "external_links"] {
            for item in node.get(key).map(Node::items).unwrap_or_default() {
                let text = item.as_str().unwrap_or_default();
                let (name, alias) = text.split_once(':').unwrap_or((text, text));
                // A service answers to its name anyhow.
                if key == "external_links" || name != alias {
                    found.push((name.to_owned(), alias.to_owned()));
                }
            }
        }
        found
    }

    pub(super) fn extra_hosts(&mut self, node: &Node) -> Vec<(String, ExtraHost)> {
        let mut found = Vec::new();
        for (at, entry) in node.get("extra_hosts").map(Node::items).unwrap_or_default().iter().enumerate() {
            let Some((host, ip)) = entry.as_str().and_then(|text| text.split_once('=')) else { continue };
            let behind = match ip {
                "host-gateway" => Some(ExtraHost::HostGateway),
                ip => ip.parse().ok().map(ExtraHost::Address),
            };
            match behind {
                Some(behind) => found.push((host.to_owned(), behind)),
                None => self.tell(entry, &format!("extra_hosts[{at}]"), format!("`{ip}` is no IP address")),
            }
        }
        found
    }

    /// A hardware address of the service is one of its primary network.
    pub(super) fn service_mac(&mut self, node: &Node) -> Option<[u8; 6]> {
        let own = self.mac_address(node, "")?;
        let networks = node.get("networks").and_then(Node::as_map).into_iter().flat_map(Map::values);
        let others: Vec<[u8; 6]> =
            networks.filter_map(|network| network.get_str("mac_address").and_then(mac)).collect();
        if !others.is_empty() && !others.contains(&own) {
            let message = "`mac_address` of the service and those of its networks say different things";
            self.tell(node.get("mac_address").unwrap_or(node), "mac_address", message);
        }
        Some(own)
    }
}

/// Six bytes in hexadecimal digits; not one of a group of interfaces.
fn mac(text: &str) -> Option<[u8; 6]> {
    let byte = |part: &str| (part.len() == 2).then(|| u8::from_str_radix(part, 16).ok()).flatten();
    let bytes: Vec<u8> = text.split([':', '-']).map(byte).collect::<Option<_>>()?;
    let mac: [u8; 6] = bytes.try_into().ok()?;
    (mac[0] & 1 == 0 && mac != [0; 6]).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hardware_addresses_are_those_of_one_interface() {
        assert_eq!(mac("02:42:ac:11:65:43"), Some([0x02, 0x42, 0xac, 0x11, 0x65, 0x43]));
        for text in ["", "02:42:ac:11:65", "02:42:ac:11:65:4", "01:00:5e:00:00:01", "00:00:00:00:00:00", "x"]
        {
            assert_eq!(mac(text), None, "{text}");
        }
    }

    #[test]
    fn a_prefix_fits_its_family() {
        assert_eq!(prefixed("10.0.0.0/8"), Some(("10.0.0.0".parse().unwrap(), 8)));
        assert!(prefixed("fd00::/64").is_some());
        assert!(
            prefixed("10.0.0.0/33").is_none()
                && prefixed("fd00::/129").is_none()
                && prefixed("10.0.0.0").is_none()
        );
    }
}
