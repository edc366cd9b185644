//! `RUN --mount`: its grammar. Pure.

use super::dockerfile::{Mistake, Word, nearest};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    pub kind: Kind,
    /// As written; relative to the working directory.
    pub target: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files of the context, a stage or an image; what is written to them is lost.
    Bind {
        from: Option<String>,
        source: String,
        writable: bool,
    },
    /// A directory that stays between builds.
    Cache {
        id: String,
        from: Option<String>,
        source: String,
        read_only: bool,
        sharing: Sharing,
        attributes: Attributes,
    },
    Tmpfs {
        size: Option<u64>,
    },
    /// A secret of the build as a file, as a variable, or as both.
    Secret {
        id: String,
        required: bool,
        file: bool,
        env: Option<String>,
        attributes: Attributes,
    },
    /// The socket of an agent; the target is empty when it is not given.
    Ssh {
        id: String,
        required: bool,
        attributes: Attributes,
    },
}

/// What happens when two steps want one cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    #[default]
    Shared,
    /// The second one gets its own.
    Private,
    /// The second one waits.
    Locked,
}

/// Of the directory when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

const KEYS: &[&str] = &[
    "type",
    "from",
    "source",
    "src",
    "target",
    "dst",
    "destination",
    "readonly",
    "ro",
    "readwrite",
    "rw",
    "id",
    "sharing",
    "required",
    "size",
    "mode",
    "uid",
    "gid",
    "env",
];

/// `word` has its variables replaced.
pub fn parse(word: &Word) -> Result<Mount, Mistake> {
    let wrong = |message: String| Mistake::new(word.span, message);
    let mut fields: Vec<(&str, Option<&str>)> = Vec::new();
    for field in word.text.split(',').filter(|field| !field.is_empty()) {
        let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
        let lower = key.to_ascii_lowercase();
        match KEYS.iter().find(|known| **known == lower) {
            Some(known) => fields.push((known, value)),
            None => {
                let mistake = wrong(format!("unexpected key '{key}' in '{field}'"));
                return Err(match nearest(&lower, KEYS) {
                    Some(near) => mistake.help(format!("did you mean {near}?")),
                    None => mistake,
                });
            }
        }
    }
    let read = Fields { fields, word };
    let kind = read.text(&["type"]).unwrap_or("bind");
    let target = read.text(&["target", "dst", "destination"]).map(str::to_owned);
    let from = read.text(&["from"]).filter(|from| !from.is_empty()).map(str::to_owned);
    let source = read.text(&["source", "src"]).unwrap_or("/").to_owned();
    let needed = || {
        target
            .clone()
            .ok_or_else(|| wrong("invalid mount target: it must be given".into()).help("add `target=/path`"))
    };
    let kind = match kind {
        "bind" => {
            let writable = match read.truth(&["readonly", "ro"])? {
                Some(read_only) => !read_only,
                None => read.truth(&["readwrite", "rw"])?.unwrap_or(false),
            };
            return Ok(Mount { kind: Kind::Bind { from, source, writable }, target: needed()? });
        }
        "cache" => Kind::Cache {
            id: read.text(&["id"]).or(target.as_deref()).unwrap_or_default().to_owned(),
            from,
            source,
            read_only: read.truth(&["readonly", "ro"])?.unwrap_or(false),
            sharing: read.sharing()?,
            attributes: read.attributes(0o755)?,
        },
        "tmpfs" => Kind::Tmpfs { size: read.text(&["size"]).map(|text| read.size(text)).transpose()? },
        "secret" => {
            let given = read.text(&["source", "src"]).or_else(|| read.text(&["id"]));
            let id = given.or_else(|| target.as_deref().and_then(|path| path.rsplit('/').next()));
            let id = id.unwrap_or_default().to_owned();
            if id.is_empty() {
                return Err(wrong("secret mount needs an id".into()).help("add `id=name`"));
            }
            let required = read.truth(&["required"])?.unwrap_or(false);
            let env = read.text(&["env"]).filter(|name| !name.is_empty()).map(str::to_owned);
            let file = target.is_some() || env.is_none();
            let name = id.rsplit('/').next().unwrap_or_default();
            let target = target.unwrap_or_else(|| format!("/run/secrets/{name}"));
            let attributes = read.attributes(0o400)?;
            return Ok(Mount { kind: Kind::Secret { id, required, file, env, attributes }, target });
        }
        "ssh" => {
            let id = read.text(&["id"]).unwrap_or("default").to_owned();
            let required = read.truth(&["required"])?.unwrap_or(false);
            let attributes = read.attributes(0o600)?;
            let kind = Kind::Ssh { id, required, attributes };
            return Ok(Mount { kind, target: target.unwrap_or_default() });
        }
        other => {
            let mistake = wrong(format!("unsupported mount type \"{other}\""));
            return Err(mistake.help("the types are bind, cache, tmpfs, secret and ssh"));
        }
    };
    Ok(Mount { kind, target: needed()? })
}

/// The stage or image that a mount reads, as written.
#[must_use]
pub fn from_of(text: &str) -> Option<&str> {
    text.split(',').find_map(|field| field.strip_prefix("from=")).filter(|from| !from.is_empty())
}

struct Fields<'a> {
    fields: Vec<(&'a str, Option<&'a str>)>,
    word: &'a Word,
}

impl<'a> Fields<'a> {
    fn field(&self, names: &[&str]) -> Option<Option<&'a str>> {
        self.fields.iter().rev().find(|(key, _)| names.contains(key)).map(|(_, value)| *value)
    }

    fn text(&self, names: &[&str]) -> Option<&'a str> {
        self.field(names).map(Option::unwrap_or_default)
    }

    fn wrong(&self, message: String) -> Mistake {
        Mistake::new(self.word.span, message)
    }

    fn truth(&self, names: &[&str]) -> Result<Option<bool>, Mistake> {
        match self.field(names) {
            None => Ok(None),
            Some(None | Some("true" | "1")) => Ok(Some(true)),
            Some(Some("false" | "0")) => Ok(Some(false)),
            Some(Some(other)) => Err(self.wrong(format!("invalid value for {}: {other}", names[0]))),
        }
    }

    fn number(&self, names: &[&str], radix: u32) -> Result<Option<u32>, Mistake> {
        let Some(text) = self.text(names) else { return Ok(None) };
        u32::from_str_radix(text, radix)
            .map(Some)
            .map_err(|_| self.wrong(format!("invalid value {text} for {}", names[0])))
    }

    fn attributes(&self, mode: u32) -> Result<Attributes, Mistake> {
        Ok(Attributes {
            mode: self.number(&["mode"], 8)?.unwrap_or(mode),
            uid: self.number(&["uid"], 10)?.unwrap_or(0),
            gid: self.number(&["gid"], 10)?.unwrap_or(0),
        })
    }

    fn sharing(&self) -> Result<Sharing, Mistake> {
        match self.text(&["sharing"]) {
            None | Some("shared") => Ok(Sharing::Shared),
            Some("private") => Ok(Sharing::Private),
            Some("locked") => Ok(Sharing::Locked),
            Some(other) => Err(self
                .wrong(format!("unsupported sharing value \"{other}\""))
                .help("it is shared, private or locked")),
        }
    }

    /// `64m`, `1g`, bytes.
    fn size(&self, text: &str) -> Result<u64, Mistake> {
        let lower = text.to_ascii_lowercase();
        let digits = lower.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let factor = match lower[digits.len()..].trim_end_matches('b') {
            "" => Some(1),
            "k" => Some(1 << 10),
            "m" => Some(1 << 20),
            "g" => Some(1u64 << 30),
            _ => None,
        };
        let number = digits.parse::<u64>().ok();
        number
            .zip(factor)
            .and_then(|(number, factor)| number.checked_mul(factor))
            .ok_or_else(|| self.wrong(format!("invalid size {text}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(text: &str) -> Result<Mount, String> {
        parse(&Word { text: text.into(), ..Word::default() }).map_err(|mistake| mistake.message)
    }

    #[test]
    fn every_type_has_its_keys_and_defaults() {
        let bind = |from: Option<&str>, source: &str, writable| Kind::Bind {
            from: from.map(Into::into),
            source: source.into(),
            writable,
        };
        let secret = |id: &str, required, file, env: Option<&str>| Kind::Secret {
            id: id.into(),
            required,
            file,
            env: env.map(Into::into),
            attributes: Attributes { mode: 0o400, uid: 0, gid: 0 },
        };
        let table = [
            ("target=/a", bind(None, "/", false), "/a"),
            ("type=bind,from=x,src=y,dst=a,rw", bind(Some("x"), "y", true), "a"),
            ("type=bind,target=/a,readonly=false", bind(None, "/", true), "/a"),
            ("type=tmpfs,target=/t,size=64m", Kind::Tmpfs { size: Some(64 << 20) }, "/t"),
            ("type=secret,id=s", secret("s", false, true, None), "/run/secrets/s"),
            ("type=secret,target=/x/y,required", secret("y", true, true, None), "/x/y"),
            ("type=secret,id=s,env=S", secret("s", false, false, Some("S")), "/run/secrets/s"),
            ("type=secret,id=s,env=S,target=/s", secret("s", false, true, Some("S")), "/s"),
            (
                "type=ssh",
                Kind::Ssh {
                    id: "default".into(),
                    required: false,
                    attributes: Attributes { mode: 0o600, uid: 0, gid: 0 },
                },
                "",
            ),
        ];
        for (text, kind, target) in table {
            assert_eq!(mount(text), Ok(Mount { kind, target: target.into() }), "{text}");
        }
        let Kind::Cache { id, sharing, attributes, .. } =
            mount("type=cache,target=/c,sharing=locked,mode=0700,uid=5").unwrap().kind
        else {
            panic!()
        };
        assert_eq!(
            (id.as_str(), sharing, attributes),
            ("/c", Sharing::Locked, Attributes { mode: 0o700, uid: 5, gid: 0 })
        );
    }

    #[test]
    fn wrong_mounts_are_told() {
        let table = [
            ("type=bind", "invalid mount target: it must be given"),
            ("type=volume,target=/x", "unsupported mount type \"volume\""),
            ("type=cache,target=/x,sharng=locked", "unexpected key 'sharng' in 'sharng=locked'"),
            ("type=cache,target=/x,sharing=none", "unsupported sharing value \"none\""),
            ("type=tmpfs,target=/x,size=1q", "invalid size 1q"),
            ("target=/x,ro=maybe", "invalid value for readonly: maybe"),
            ("type=secret", "secret mount needs an id"),
        ];
        for (text, message) in table {
            assert_eq!(mount(text), Err(message.into()), "{text}");
        }
        assert_eq!(from_of("type=bind,from=a,target=/x"), Some("a"));
        assert_eq!(from_of("target=/x"), None);
    }
}
