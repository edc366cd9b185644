//! The short form of a port: `[[ip:]host:]container[/protocol]`, with ranges.

use std::net::IpAddr;

/// One published container port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortText {
    pub host_ip: Option<String>,
    /// A port or a range; `None` when the engine chooses.
    pub published: Option<String>,
    pub target: u16,
    pub protocol: String,
}

/// Reads the short form; a range of container ports gives one entry each, in the order of their text.
///
/// # Errors
/// What is wrong with it, as a fragment.
pub fn parse(text: &str) -> Result<Vec<PortText>, String> {
    let mut halves = text.split('/');
    let (address, protocol) = (halves.next().unwrap_or_default(), halves.next().unwrap_or("tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("`{protocol}` is no protocol; known are tcp, udp and sctp"));
    }
    let parts: Vec<&str> = address.rsplitn(3, ':').collect();
    let (container, host, ip) =
        (parts[0], parts.get(1).copied().unwrap_or_default(), parts.get(2).copied().unwrap_or_default());
    if container.is_empty() {
        return Err("there is no container port".to_owned());
    }
    let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
    if !ip.is_empty() && ip.parse::<IpAddr>().is_err() {
        return Err(format!("`{ip}` is no IP address"));
    }
    let (first, last) = range(container).ok_or_else(|| wrong_port(container))?;
    let published = match host {
        "" => None,
        host => Some(range(host).ok_or_else(|| wrong_port(host))?),
    };
    let single = first == last;
    if let Some((low, high)) = published
        && !single
        && high - low != last - first
    {
        return Err(format!("the ranges `{host}` and `{container}` have different lengths"));
    }
    let host_ip = Some(ip.to_owned()).filter(|ip| !ip.is_empty());
    let mut found: Vec<PortText> = (first..=last)
        .map(|target| PortText {
            host_ip: host_ip.clone(),
            published: published.map(|(low, high)| match single {
                true if low != high => format!("{low}-{high}"),
                _ => (low + (target - first)).to_string(),
            }),
            target,
            protocol: protocol.clone(),
        })
        .collect();
    found.sort_by_key(|port| port.target.to_string());
    Ok(found)
}

/// `8000` or `8000-8010`.
#[must_use]
pub fn range(text: &str) -> Option<(u16, u16)> {
    let port =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first <= last).then_some((first, last))
}

fn wrong_port(text: &str) -> String {
    format!("`{text}` is no port or range of ports (0 to 65535)")
}

/// `22:22`: what YAML 1.1 reads as a number of base 60.
#[must_use]
pub fn is_sexagesimal(text: &str) -> bool {
    text.contains(':')
        && text.split(':').all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        && text.split(':').skip(1).all(|part| part.parse::<u32>().is_ok_and(|number| number < 60))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match parse(text) {
            Ok(ports) => ports
                .iter()
                .map(|port| {
                    let ip = port.host_ip.as_deref().unwrap_or("*");
                    let published = port.published.as_deref().unwrap_or("?");
                    format!("{ip} {published} {}/{}", port.target, port.protocol)
                })
                .collect::<Vec<_>>()
                .join(", "),
            Err(message) => format!("error: {message}"),
        }
    }

    #[test]
    fn every_form() {
        let table = [
            ("80", "* ? 80/tcp"),
            ("8080:80", "* 8080 80/tcp"),
            ("127.0.0.1:8080:80", "127.0.0.1 8080 80/tcp"),
            ("127.0.0.1::80", "127.0.0.1 ? 80/tcp"),
            ("[::1]:8080:80/udp", "::1 8080 80/udp"),
            ("::1:8080:80", "::1 8080 80/tcp"),
            ("3000-3002:80-82", "* 3000 80/tcp, * 3001 81/tcp, * 3002 82/tcp"),
            ("8000-8002:80", "* 8000-8002 80/tcp"),
            ("9-10", "* ? 10/tcp, * ? 9/tcp"),
        ];
        for (text, expected) in table {
            assert_eq!(read(text), expected, "{text}");
        }
        for wrong in ["", ":", "80:", "eighty", "1-2:3-5", "70000", "80/xyz", "host:1:2", "3-1", "+1"] {
            assert!(read(wrong).starts_with("error"), "{wrong}: {}", read(wrong));
        }
    }
}
