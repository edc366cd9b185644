//! The short form of a mount: `[source:]target[:options]`.

/// A mount as the short form says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountText {
    pub source: Option<String>,
    pub target: String,
    pub read_only: bool,
    pub nocopy: bool,
    pub propagation: Option<String>,
    pub selinux: Option<String>,
    /// A text too short to have parts: a target alone.
    pub bare: bool,
    /// Options nobody knows.
    pub unknown: Vec<String>,
}

/// Reads the short form. A single letter before a colon is a drive of Windows.
///
/// # Errors
/// What is wrong with it, as a fragment.
pub fn parse(text: &str) -> Result<MountText, &'static str> {
    let mut mount = MountText::default();
    if text.is_empty() {
        return Err("the mount is empty");
    }
    if text.len() < 3 {
        text.clone_into(&mut mount.target);
        mount.bare = true;
        return Ok(mount);
    }
    let parts = split(text);
    if parts.iter().any(String::is_empty) {
        return Err("a part between colons is empty");
    }
    match parts.as_slice() {
        [target] => target.clone_into(&mut mount.target),
        [source, target] => {
            mount.source = Some(source.clone());
            target.clone_into(&mut mount.target);
        }
        [source, target, options] => {
            mount.source = Some(source.clone());
            target.clone_into(&mut mount.target);
            for option in options.split(',') {
                mount.option(option);
            }
        }
        _ => return Err("there are too many colons"),
    }
    Ok(mount)
}

impl MountText {
    fn option(&mut self, option: &str) {
        match option {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "nocopy" => self.nocopy = true,
            "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" => {
                self.propagation = Some(option.to_owned());
            }
            "z" | "Z" => self.selinux = Some(option.to_owned()),
            other => self.unknown.push(other.to_owned()),
        }
    }

    /// Whether the source is a path of the host rather than the name of a volume.
    #[must_use]
    pub fn is_bind(&self) -> bool {
        self.source.as_deref().is_some_and(|source| {
            source.starts_with(['.', '/', '~']) || source.starts_with("\\\\") || has_drive(source)
        })
    }
}

fn has_drive(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next().is_some_and(char::is_alphabetic) && chars.next() == Some(':')
}

fn split(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    // Colons of variables left as written part nothing.
    let mut open = 0_usize;
    for c in text.chars() {
        let Some(part) = parts.last_mut() else { break };
        match c {
            '{' if part.ends_with('$') => open += 1,
            '}' => open = open.saturating_sub(1),
            _ => {}
        }
        let drive = part.chars().count() == 1 && part.chars().all(char::is_alphabetic);
        if c == ':' && !drive && open == 0 {
            parts.push(String::new());
        } else {
            part.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        match parse(text) {
            Ok(mount) => format!(
                "{} {} {}{}{}",
                mount.source.as_deref().unwrap_or("-"),
                mount.target,
                if mount.is_bind() { "bind" } else { "volume" },
                if mount.read_only { " ro" } else { "" },
                if mount.nocopy { " nocopy" } else { "" },
            ),
            Err(message) => format!("error: {message}"),
        }
    }

    #[test]
    fn every_form() {
        let table = [
            ("/data", "- /data volume"),
            ("db:/data", "db /data volume"),
            ("./src:/app:ro", "./src /app bind ro"),
            ("~/x:/y", "~/x /y bind"),
            ("db:/data:nocopy,ro", "db /data volume ro nocopy"),
            ("c:\\x:/y", "c:\\x /y bind"),
            ("v:/x", "- v:/x volume"),
            ("db::b", "error: a part between colons is empty"),
            ("db:/b:ro:x", "error: there are too many colons"),
            ("data:${DIR:-/x}:ro", "data ${DIR:-/x} volume ro"),
            ("${A:-${B:-c}}:/x", "${A:-${B:-c}} /x volume"),
            ("", "error: the mount is empty"),
        ];
        for (text, expected) in table {
            assert_eq!(read(text), expected, "{text}");
        }
    }
}
