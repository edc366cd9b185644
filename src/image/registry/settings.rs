//! What is set up about registries: mirrors, plain-HTTP hosts, certificates, credentials' place.
//!
//! A file `registries.json` in `$XDG_CONFIG_HOME/ficelle` (else `~/.config/ficelle`) or `/etc/ficelle`:
//!
//! ```json
//! {"mirrors": {"docker.io": ["http://127.0.0.1:5000"]}, "insecure": ["registry.lan:5000"]}
//! ```
//!
//! `FICELLE_MIRRORS="docker.io=http://127.0.0.1:5000,ghcr.io=https://mirror.lan"` and
//! `FICELLE_INSECURE_REGISTRIES="registry.lan:5000"` take the place of what the file says. A mirror is
//! asked first, under the image's own repository name; the registry itself comes last. `HTTPS_PROXY` (for what is
//! spoken to with TLS), `HTTP_PROXY` (for the rest), `ALL_PROXY` and `NO_PROXY` are honoured.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use crate::image::{ImageError, layout::read_bounded};

const MAX_SETTINGS: u64 = 1 << 20;

/// Settings of all registries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registries {
    /// Registry host to base addresses, in the order to ask.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Hosts (`host[:port]`) that may be spoken to without TLS, or with a certificate nobody vouches for.
    pub insecure: Vec<String>,
    /// Files in the form of docker's `config.json`, the first that knows a host wins.
    pub credentials: Vec<PathBuf>,
    /// Directories with `<host[:port]>/ca.crt`, `client.cert`, `client.key`.
    pub certificates: Vec<PathBuf>,
    /// `http://[user:password@]host[:port]` to go through to registries with TLS.
    pub proxy: Option<String>,
    /// The same for what is spoken to without TLS.
    pub plain_proxy: Option<String>,
    /// Hosts, domains and networks that are reached without it, separated by commas.
    pub no_proxy: String,
    /// How long a second of waiting lasts: pauses between tries, and what a silent server is given. Only a
    /// test has reason to make it another than the clock's.
    pub second: Option<Duration>,
}

/// An address to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// `host[:port]`.
    pub host: String,
    /// Schemes to try, in order.
    pub schemes: Vec<&'static str>,
    /// The registry that credentials belong to.
    pub credentials: String,
    /// It stands in for the registry of the image's name.
    pub mirror: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    mirrors: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    insecure: Vec<String>,
}

impl Registries {
    /// Reads the files and variables named above.
    pub fn from_environment() -> Result<Self, ImageError> {
        Self::read(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ImageError> {
        let home = variable("HOME").map(PathBuf::from);
        let below_home = |rest: &str| home.as_ref().map(|home| home.join(rest));
        let config = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(|| below_home(".config"));
        let mut settings = Self::default();
        let files = config.iter().map(|config| config.join("ficelle")).chain([PathBuf::from("/etc/ficelle")]);
        for path in files.map(|directory| directory.join("registries.json")) {
            if let Some(file) = read_file(&path)? {
                settings.mirrors = file.mirrors;
                settings.insecure = file.insecure;
                break;
            }
        }
        if let Some(text) = variable("FICELLE_MIRRORS") {
            settings.mirrors = parse_mirrors(&text)?;
        }
        if let Some(text) = variable("FICELLE_INSECURE_REGISTRIES") {
            settings.insecure = words(&text).map(str::to_owned).collect();
        }
        for mirror in settings.mirrors.values().flatten() {
            split_mirror(mirror)?;
        }
        let either = |name: &str| variable(name).or_else(|| variable(&name.to_lowercase()));
        settings.proxy = either("HTTPS_PROXY").or_else(|| either("ALL_PROXY"));
        settings.plain_proxy = either("HTTP_PROXY").or_else(|| either("ALL_PROXY"));
        settings.no_proxy = either("NO_PROXY").unwrap_or_default();
        let docker = variable("DOCKER_CONFIG").map(PathBuf::from).or_else(|| below_home(".docker"));
        settings.credentials.extend(docker.map(|docker| docker.join("config.json")));
        settings.credentials.extend(variable("REGISTRY_AUTH_FILE").map(PathBuf::from));
        settings
            .credentials
            .extend(variable("XDG_RUNTIME_DIR").map(|run| PathBuf::from(run).join("containers/auth.json")));
        settings.credentials.extend(config.as_ref().map(|config| config.join("containers/auth.json")));
        settings.certificates.extend(config.map(|config| config.join("ficelle/certs.d")));
        settings.certificates.extend(["/etc/docker/certs.d", "/etc/containers/certs.d"].map(PathBuf::from));
        Ok(settings)
    }

    /// Whom to ask for an image of `registry`, in order.
    pub fn endpoints(&self, registry: &str) -> Result<Vec<Endpoint>, ImageError> {
        let mut found = Vec::new();
        for mirror in self.mirrors.get(registry).into_iter().flatten() {
            let (scheme, host) = split_mirror(mirror)?;
            found.push(Endpoint {
                host: host.to_owned(),
                schemes: scheme.map_or_else(|| self.schemes(host), |scheme| vec![scheme]),
                credentials: host.to_owned(),
                mirror: true,
            });
        }
        found.push(self.home(registry));
        Ok(found)
    }

    /// The registry itself: the one that is pushed to and logged in at.
    #[must_use]
    pub fn home(&self, registry: &str) -> Endpoint {
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        Endpoint {
            host: host.to_owned(),
            schemes: self.schemes(host),
            credentials: registry.to_owned(),
            mirror: false,
        }
    }

    /// Nobody listens in on loopback; everything else needs TLS unless it is said otherwise.
    fn schemes(&self, host: &str) -> Vec<&'static str> {
        if is_loopback(host) || self.is_insecure(host) { vec!["https", "http"] } else { vec!["https"] }
    }

    /// So many seconds of waiting on the clock.
    pub(super) fn waiting(&self, time: Duration) -> Duration {
        self.second.map_or(time, |second| time.mul_f64(second.as_secs_f64()))
    }

    pub(super) fn is_insecure(&self, host: &str) -> bool {
        self.insecure.iter().any(|known| known == host)
    }
}

fn read_file(path: &Path) -> Result<Option<File>, ImageError> {
    let bytes = match read_bounded(path, MAX_SETTINGS) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ImageError::File { what: "read", path: path.to_owned(), source }),
        Ok(bytes) => bytes,
    };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ImageError::Invalid(format!("`{}` is malformed: {error}", path.display())))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([',', ' ', '\n']).filter(|word| !word.is_empty())
}

fn parse_mirrors(text: &str) -> Result<BTreeMap<String, Vec<String>>, ImageError> {
    let mut mirrors: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for word in words(text) {
        let (registry, mirror) = word.split_once('=').ok_or_else(|| {
            ImageError::Invalid(format!(
                "`{word}` in FICELLE_MIRRORS is no mirror: expected `registry=address`, as in `docker.io=http://127.0.0.1:5000`"
            ))
        })?;
        mirrors.entry(registry.to_owned()).or_default().push(mirror.to_owned());
    }
    Ok(mirrors)
}

/// `[http[s]://]host[:port]`.
fn split_mirror(mirror: &str) -> Result<(Option<&'static str>, &str), ImageError> {
    let (scheme, rest) = match mirror.split_once("://") {
        None => (None, mirror),
        Some(("http", rest)) => (Some("http"), rest),
        Some(("https", rest)) => (Some("https"), rest),
        Some(_) => (None, ""),
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    if host.is_empty() || host.contains(['/', '@', '?', '#']) {
        return Err(ImageError::Invalid(format!(
            "`{mirror}` is no address of a mirror: expected `http[s]://host[:port]`"
        )));
    }
    Ok((scheme, host))
}

/// Whether `host[:port]` is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<Registries, ImageError> {
        Registries::read(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn mirrors_come_first_and_the_registry_last() {
        let set = settings(&[("FICELLE_MIRRORS", "docker.io=http://127.0.0.1:5000, docker.io=mirror.lan")])
            .unwrap();
        let hosts: Vec<_> = set
            .endpoints("docker.io")
            .unwrap()
            .into_iter()
            .map(|endpoint| format!("{}://{}", endpoint.schemes.join("|"), endpoint.host))
            .collect();
        assert_eq!(hosts, ["http://127.0.0.1:5000", "https://mirror.lan", "https://registry-1.docker.io"]);
        assert_eq!(set.endpoints("ghcr.example").unwrap().len(), 1);
    }

    #[test]
    fn only_loopback_and_what_is_said_goes_without_tls() {
        let set = settings(&[("FICELLE_INSECURE_REGISTRIES", "lan:5000")]).unwrap();
        for (host, schemes) in [
            ("localhost:5000", 2),
            ("127.0.0.1", 2),
            ("127.9.9.9:80", 2),
            ("[::1]:5000", 2),
            ("lan:5000", 2),
            ("lan", 1),
            ("localhost.evil", 1),
            ("10.0.0.1:5000", 1),
        ] {
            assert_eq!(set.schemes(host).len(), schemes, "{host}");
        }
    }

    #[test]
    fn a_file_gives_the_same_and_variables_win() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("ficelle")).unwrap();
        let file = dir.path().join("ficelle/registries.json");
        std::fs::write(&file, r#"{"mirrors": {"docker.io": ["http://a:1"]}, "insecure": ["b"]}"#).unwrap();
        let home = dir.path().to_str().unwrap();
        let set = settings(&[("XDG_CONFIG_HOME", home)]).unwrap();
        assert_eq!(
            (set.mirrors["docker.io"].as_slice(), set.insecure.as_slice()),
            (["http://a:1".into()].as_slice(), ["b".into()].as_slice())
        );
        let set = settings(&[("XDG_CONFIG_HOME", home), ("FICELLE_MIRRORS", "x=y")]).unwrap();
        assert!(!set.mirrors.contains_key("docker.io") && set.is_insecure("b"));
        std::fs::write(&file, r#"{"mirror": {}}"#).unwrap();
        let error = settings(&[("XDG_CONFIG_HOME", home)]).unwrap_err().to_string();
        assert!(error.contains("registries.json") && error.contains("unknown field"), "{error}");
    }

    #[test]
    fn bad_mirrors_are_told() {
        for bad in ["docker.io", "docker.io=ftp://x", "docker.io=http://x/path", "docker.io="] {
            assert!(settings(&[("FICELLE_MIRRORS", bad)]).is_err(), "{bad}");
        }
    }
}
