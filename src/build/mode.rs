//! `--chmod`: octal, or the symbolic form of chmod(1). Pure.

/// What becomes of a file's permission bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModeChange {
    Exactly(u32),
    Clauses(Vec<Clause>),
}

/// `u+x` and the like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clause {
    /// Bits of the classes that are meant: 0o4700 for the user, 0o2070 for the group, 0o7 for others.
    who: u32,
    operator: char,
    permissions: String,
}

impl ModeChange {
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            return u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .map(Self::Exactly)
                .ok_or_else(|| {
                    format!(
                        "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
                    )
                });
        }
        let clauses = text.split(',').map(clauses).collect::<Option<Vec<_>>>();
        clauses
            .map(|clauses| Self::Clauses(clauses.concat()))
            .ok_or_else(|| format!("invalid chmod parameter: '{text}'. it should be like 755 or u=rwX,go=rX"))
    }

    /// The bits that `mode` becomes.
    #[must_use]
    pub fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        match self {
            Self::Exactly(bits) => *bits,
            Self::Clauses(clauses) => {
                clauses.iter().fold(mode & 0o7777, |mode, clause| clause.apply(mode, is_dir))
            }
        }
    }
}

fn clauses(text: &str) -> Option<Vec<Clause>> {
    let operators = text.find(['+', '-', '='])?;
    let mut who = 0;
    for class in text[..operators].chars() {
        who |= match class {
            'u' => 0o4700,
            'g' => 0o2070,
            'o' => 0o0007,
            'a' => 0o6777,
            _ => return None,
        };
    }
    if operators == 0 {
        who = 0o6777;
    }
    let mut found = Vec::new();
    let mut rest = &text[operators..];
    while let Some(operator) = rest.chars().next() {
        let end = rest[1..].find(['+', '-', '=']).map_or(rest.len(), |at| at + 1);
        let permissions = &rest[1..end];
        let copies = permissions.len() == 1 && "ugo".contains(permissions);
        if !copies && !permissions.chars().all(|c| "rwxXst".contains(c)) {
            return None;
        }
        found.push(Clause { who, operator, permissions: permissions.to_owned() });
        rest = &rest[end..];
    }
    Some(found)
}

impl Clause {
    fn apply(&self, mode: u32, is_dir: bool) -> u32 {
        let everyone = |bits: u32| bits * 0o111;
        let mut bits = 0;
        for permission in self.permissions.chars() {
            bits |= match permission {
                'r' => everyone(4),
                'w' => everyone(2),
                'x' => everyone(1),
                'X' if is_dir || mode & 0o111 != 0 => everyone(1),
                's' => 0o6000,
                'u' => everyone(mode >> 6 & 7),
                'g' => everyone(mode >> 3 & 7),
                'o' => everyone(mode & 7),
                _ => 0,
            };
        }
        let mut bits = bits & self.who;
        if self.permissions.contains('t') {
            bits |= 0o1000;
        }
        match self.operator {
            '+' => mode | bits,
            '-' => mode & !bits,
            // A directory keeps its set-id bits unless they are named.
            _ => (mode & !(self.who & if is_dir { 0o777 } else { 0o7777 })) | bits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        let table = [
            ("755", 0o644, false, 0o755),
            ("0", 0o644, false, 0),
            ("4755", 0, false, 0o4755),
            ("u+x", 0o644, false, 0o744),
            ("+x", 0o644, false, 0o755),
            ("a-w", 0o666, false, 0o444),
            ("go=", 0o755, false, 0o700),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, true, 0o755),
            ("X", 0o600, false, 0),
            ("a+X", 0o744, false, 0o755),
            ("g=u", 0o640, false, 0o660),
            ("u+s", 0o755, false, 0o4755),
            ("+t", 0o777, true, 0o1777),
            ("u+rw-x", 0o100, false, 0o600),
            ("o+w,o-r", 0o644, false, 0o642),
            ("g=rx", 0o2755, true, 0o2755),
        ];
        for (text, mode, is_dir, expected) in table {
            match ModeChange::parse(text) {
                Ok(change) => assert_eq!(change.apply(mode, is_dir), expected, "{text} on {mode:o}"),
                Err(message) => assert_eq!(text, "X", "{message}"),
            }
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "8", "10000", "u", "x+r", "u+z", "u+x,", "0x1", "-1x"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
