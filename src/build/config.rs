//! The image configuration: what instructions write into it, in the shape that Docker and the
//! registries read. Pure.

use std::collections::BTreeMap;

use oci_spec::image::ImageConfiguration;
use serde::{Deserialize, Serialize};

use crate::image::{DockerConfig, Image, ImageError, Platform};

const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const COMMENT: &str = "buildkit.dockerfile.v0";

/// The whole document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Document {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    pub architecture: String,
    pub os: String,
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    #[serde(rename = "os.features", default, skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    #[serde(default)]
    pub config: Config,
    pub rootfs: RootFs,
    #[serde(default)]
    pub history: Vec<History>,
}

/// How a container is started from it. The names are those of the document.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub exposed_ports: BTreeMap<String, Nothing>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub volumes: BTreeMap<String, Nothing>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "nullable")]
    pub labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub on_build: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", deserialize_with = "nullable")]
    pub shell: Vec<String>,
}

/// `{}`: the document has sets as maps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nothing {}

/// Times are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Healthcheck {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_period: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<String>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub empty_layer: Option<bool>,
}

/// Go writes an empty list as null.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Whether an instruction made a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    Layer,
    Nothing,
}

impl Document {
    /// That of an image of the store.
    pub fn of(image: &Image) -> Result<Self, ImageError> {
        let read = || {
            let mut whole = serde_json::to_value(&image.config)?;
            if let (Some(whole), serde_json::Value::Object(extra)) =
                (whole.as_object_mut(), serde_json::to_value(&image.docker)?)
            {
                let config = whole.entry("config").or_insert_with(|| serde_json::json!({}));
                if let Some(config) = config.as_object_mut() {
                    config.extend(extra);
                }
            }
            serde_json::from_value(whole)
        };
        read().map_err(|error| unreadable(&error))
    }

    /// What the store takes.
    pub fn split(&self) -> Result<(ImageConfiguration, DockerConfig), ImageError> {
        let split = || {
            let whole = serde_json::to_value(self)?;
            Ok((serde_json::from_value(whole.clone())?, serde_json::from_value(whole["config"].clone())?))
        };
        split().map_err(|error| unreadable(&error))
    }

    /// `FROM scratch`.
    #[must_use]
    pub fn scratch(platform: &Platform) -> Self {
        Self {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone(),
            ..Self::default()
        }
    }

    /// What each stage starts with: a PATH, whatever the base says.
    pub fn begin(&mut self) {
        if !self.config.env.iter().any(|entry| entry.starts_with("PATH=")) {
            self.config.env.push(PATH.into());
        }
        if self.config.working_dir.is_empty() {
            self.config.working_dir = "/".into();
        }
    }

    pub fn record(&mut self, created_by: &str, created: &str, made: Made) {
        self.history.push(History {
            created: Some(created.to_owned()),
            created_by: Some(created_by.to_owned()),
            comment: Some(COMMENT.into()),
            empty_layer: (made == Made::Nothing).then_some(true),
            ..History::default()
        });
    }

    #[must_use]
    pub fn env(&self, name: &str) -> Option<&str> {
        self.config
            .env
            .iter()
            .find_map(|entry| entry.split_once('=').filter(|(key, _)| *key == name))
            .map(|(_, v)| v)
    }

    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let same = |old: &&mut String| old.split_once('=').map_or(old.as_str(), |(key, _)| key) == name;
        match self.config.env.iter_mut().find(same) {
            Some(old) => *old = entry,
            None => self.config.env.push(entry),
        }
    }

    /// An ENTRYPOINT takes back the CMD of the base, unless this stage wrote its own.
    pub fn set_entrypoint(&mut self, args: Vec<String>, cmd_is_own: bool) {
        self.config.entrypoint = Some(args);
        if !cmd_is_own {
            self.config.cmd = None;
        }
    }

    #[must_use]
    pub fn shell(&self) -> Vec<String> {
        if self.config.shell.is_empty() {
            vec!["/bin/sh".into(), "-c".into()]
        } else {
            self.config.shell.clone()
        }
    }

    /// The working directory that `path` names from the present one.
    #[must_use]
    pub fn directory(&self, path: &str) -> String {
        let full = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.config.working_dir)
        };
        let mut parts: Vec<&str> = Vec::new();
        for part in full.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        format!("/{}", parts.join("/"))
    }
}

fn unreadable(error: &serde_json::Error) -> ImageError {
    ImageError::Invalid(format!("the image's configuration is malformed: {error}"))
}

/// `80`, `80/tcp`, `8000-8010/udp` as the ports of the document.
pub fn ports(text: &str) -> Result<Vec<String>, String> {
    let invalid = |why: &str| format!("invalid port `{text}`: {why}");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !["tcp", "udp", "sctp"].contains(&protocol.as_str()) {
        return Err(invalid("the protocol is tcp, udp or sctp"));
    }
    // `host:container` is understood, and only the second counts.
    let range = range.rsplit(':').next().unwrap_or(range);
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().map_err(|_| invalid("a port is a number from 0 to 65535"));
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err(invalid("the range ends before it starts"));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

/// Seconds since 1970 as RFC 3339 in UTC, with nanoseconds when there are any.
#[must_use]
pub fn rfc3339(seconds: i64, nanos: u32) -> String {
    let (days, rest) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days to a date of the Gregorian calendar, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + i64::from(month <= 2);
    let fraction =
        if nanos == 0 { String::new() } else { format!(".{nanos:09}").trim_end_matches('0').to_owned() };
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_has_dockers_names() {
        let mut document = Document::scratch(&Platform::parse("linux/amd64").unwrap());
        document.begin();
        document.set_env("A", "1");
        document.set_env("A", "2");
        document.config.exposed_ports.insert("80/tcp".into(), Nothing {});
        document.config.on_build = vec!["RUN x".into()];
        document.config.healthcheck =
            Some(Healthcheck { test: vec!["NONE".into()], interval: Some(5), ..Healthcheck::default() });
        document.record("ENV A=2", "2020-01-01T00:00:00Z", Made::Nothing);
        let json = serde_json::to_value(&document).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "ExposedPorts": {"80/tcp": {}},
                    "Env": [PATH, "A=2"],
                    "Healthcheck": {"Test": ["NONE"], "Interval": 5},
                    "WorkingDir": "/",
                    "OnBuild": ["RUN x"],
                },
                "rootfs": {"type": "layers", "diff_ids": []},
                "history": [{
                    "created": "2020-01-01T00:00:00Z", "created_by": "ENV A=2",
                    "comment": "buildkit.dockerfile.v0", "empty_layer": true,
                }],
            })
        );
        assert_eq!(serde_json::from_value::<Document>(json).unwrap(), document);
    }

    #[test]
    fn what_go_writes_is_read() {
        let text = r#"{"architecture":"arm64","os":"linux","config":{"Env":null,"Cmd":["sh"],"OnBuild":null,
            "ExposedPorts":null,"Labels":null,"Volumes":null},"rootfs":{"type":"layers","diff_ids":null},"extra":1}"#;
        let document: Document = serde_json::from_str(text).unwrap();
        assert_eq!(document.config.cmd, Some(vec!["sh".to_owned()]));
    }

    #[test]
    fn an_entrypoint_takes_back_the_command_of_the_base() {
        let mut document = Document::default();
        document.config.cmd = Some(vec!["base".into()]);
        document.set_entrypoint(vec!["e".into()], false);
        assert_eq!(document.config.cmd, None);
        document.config.cmd = Some(vec!["own".into()]);
        document.set_entrypoint(vec!["e".into()], true);
        assert_eq!(document.config.cmd, Some(vec!["own".to_owned()]));
    }

    #[test]
    fn directories_are_relative_to_the_one_before() {
        let mut document = Document::default();
        document.config.working_dir = "/a/b".into();
        for (path, full) in [("c", "/a/b/c"), ("/x/../y/", "/y"), ("../../..", "/"), (".", "/a/b")] {
            assert_eq!(document.directory(path), full, "{path}");
        }
    }

    #[test]
    fn ports_have_a_protocol_and_may_be_ranges() {
        assert_eq!(ports("80").unwrap(), ["80/tcp"]);
        assert_eq!(ports("53/UDP").unwrap(), ["53/udp"]);
        assert_eq!(ports("8000-8002/tcp").unwrap(), ["8000/tcp", "8001/tcp", "8002/tcp"]);
        assert_eq!(ports("8080:80").unwrap(), ["80/tcp"]);
        for bad in ["", "x", "70000", "80/x", "2-1", "-1"] {
            assert!(ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (seconds, nanos, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_709_251_199, 500_000_000, "2024-02-29T23:59:59.5Z"),
            (4_107_542_400, 1, "2100-03-01T00:00:00.000000001Z"),
            (-1, 0, "1969-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(seconds, nanos), text);
        }
    }
}
