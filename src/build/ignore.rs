//! Which paths `.dockerignore` leaves out. Pure: paths and patterns in, an answer out.
//!
//! The rules are those of the field's matcher: patterns are cleaned paths below the root; the last
//! one that matches decides; `!` takes back in; `**` crosses directories; a pattern that matches a
//! directory also matches all below it.

/// A list of patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matcher {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    /// `!`: what matches is taken back in.
    except: bool,
    parts: Vec<Part>,
}

/// One component of a pattern.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// `**`: any number of components.
    Any,
    /// Characters, wildcards and classes; never crosses a `/`.
    Glob(Vec<Glyph>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Glyph {
    One(char),
    /// `?`
    Any,
    /// `*`
    Many,
    /// `**` that is not a whole component: like `*`, but it crosses `/`.
    Cross,
    /// `[a-z]`, `[^a]`
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A pattern that cannot be read, with its line (from 1).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: `{pattern}` is not a pattern: {reason}")]
pub struct BadPattern {
    pub line: usize,
    pub pattern: String,
    pub reason: &'static str,
}

impl Matcher {
    /// Reads the text of a `.dockerignore`.
    pub fn parse(text: &str) -> Result<Self, BadPattern> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().enumerate().filter(|(_, line)| !line.starts_with('#'));
        Self::read(lines.map(|(at, line)| (at + 1, line)))
    }

    /// Takes patterns as they stand in a list (a flag, `develop.watch.ignore`).
    pub fn from_patterns<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self, BadPattern> {
        Self::read(patterns.into_iter().enumerate().map(|(at, pattern)| (at + 1, pattern)))
    }

    fn read<'a>(lines: impl Iterator<Item = (usize, &'a str)>) -> Result<Self, BadPattern> {
        let mut rules = Vec::new();
        for (line, raw) in lines {
            let text = raw.trim();
            let (except, text) = match text.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, text),
            };
            let bad = |reason| BadPattern { line, pattern: raw.trim().to_owned(), reason };
            if text.is_empty() {
                if except {
                    return Err(bad("`!` needs a path"));
                }
                continue;
            }
            let cleaned = clean(text);
            // `.` alone is the root, which is never left out.
            if cleaned.is_empty() {
                continue;
            }
            let parts =
                cleaned.split('/').map(|part| Part::read(part).map_err(bad)).collect::<Result<_, _>>()?;
            rules.push(Rule { except, parts });
        }
        Ok(Self { rules })
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether `path` (relative, `/` between components) is left out.
    #[must_use]
    pub fn ignores(&self, path: &str) -> bool {
        let components: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        let mut ignored = false;
        for rule in &self.rules {
            if ignored == rule.except && rule.covers(&components) {
                ignored = !rule.except;
            }
        }
        ignored
    }

    /// Whether nothing below the ignored directory `path` can be taken back in, so that it need not be read.
    #[must_use]
    pub fn prunes(&self, path: &str) -> bool {
        let components: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        self.ignores(path)
            && !self.rules.iter().any(|rule| rule.except && may_reach(&rule.parts, &components))
    }
}

impl Rule {
    /// The pattern matches the path or one of its parents.
    fn covers(&self, components: &[&str]) -> bool {
        ends(&self.parts, components).iter().skip(1).any(|end| *end)
    }
}

impl Part {
    fn read(text: &str) -> Result<Self, &'static str> {
        if text == "**" {
            return Ok(Self::Any);
        }
        let mut glyphs = Vec::new();
        let mut chars = text.chars().peekable();
        while let Some(c) = chars.next() {
            glyphs.push(match c {
                '*' if chars.peek() == Some(&'*') => {
                    while chars.next_if_eq(&'*').is_some() {}
                    Glyph::Cross
                }
                '*' => Glyph::Many,
                '?' => Glyph::Any,
                '\\' => Glyph::One(chars.next().ok_or("nothing stands behind the last backslash")?),
                '[' => class(&mut chars)?,
                c => Glyph::One(c),
            });
        }
        Ok(Self::Glob(glyphs))
    }
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Glyph, &'static str> {
    const OPEN: &str = "`[` has no `]`";
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let low = match chars.next().ok_or(OPEN)? {
            ']' if !ranges.is_empty() => return Ok(Glyph::Class { negated, ranges }),
            ']' => return Err("`[]` is empty"),
            '\\' => chars.next().ok_or(OPEN)?,
            c => c,
        };
        let high = if chars.next_if_eq(&'-').is_some() {
            match chars.next().ok_or(OPEN)? {
                ']' => return Err("a range in `[]` has no end"),
                '\\' => chars.next().ok_or(OPEN)?,
                c => c,
            }
        } else {
            low
        };
        ranges.push((low, high));
    }
}

/// Without leading `/`, `.`, doubled `/`; `..` goes up and never above the root.
fn clean(text: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// For each number of components, from 0, whether the pattern matches so many of the first ones. Without
/// recursion: a set of positions in the path, moved on by each part of the pattern.
fn ends(parts: &[Part], components: &[&str]) -> Vec<bool> {
    let mut at = vec![false; components.len() + 1];
    at[0] = true;
    for (number, part) in parts.iter().enumerate() {
        let mut next = vec![false; at.len()];
        match part {
            Part::Any => {
                // At the end it means everything below, so at least one component.
                let last = number + 1 == parts.len();
                if let Some(from) = at.iter().position(|at| *at) {
                    next[from + usize::from(last)..].fill(true);
                }
            }
            Part::Glob(glyphs) if glyphs.contains(&Glyph::Cross) => {
                let mut positions = Positions::new(glyphs);
                for (from, name) in components.iter().enumerate() {
                    if at[from] {
                        positions.begin();
                    }
                    name.chars().for_each(|c| positions.step(c));
                    next[from + 1] = positions.are_through();
                    positions.step('/');
                }
            }
            Part::Glob(glyphs) => {
                for (from, name) in components.iter().enumerate().filter(|(from, _)| at[*from]) {
                    next[from + 1] = glob(glyphs, name);
                }
            }
        }
        at = next;
    }
    at
}

/// Whether the pattern could match something below the directory.
fn may_reach(parts: &[Part], directory: &[&str]) -> bool {
    let (Some((first, rest)), Some((name, below))) = (parts.split_first(), directory.split_first()) else {
        // The directory is used up: something below it fits what is left. Or the pattern is: then it
        // names a parent, and all below it.
        return true;
    };
    match first {
        Part::Any => true,
        Part::Glob(glyphs) if glyphs.contains(&Glyph::Cross) => true,
        Part::Glob(glyphs) => glob(glyphs, name) && may_reach(rest, below),
    }
}

fn glob(glyphs: &[Glyph], text: &str) -> bool {
    let mut positions = Positions::new(glyphs);
    positions.begin();
    text.chars().for_each(|c| positions.step(c));
    positions.are_through()
}

/// Where in a pattern a text may stand: all places at once, so that no text takes long.
struct Positions<'a> {
    glyphs: &'a [Glyph],
    at: Vec<bool>,
}

impl<'a> Positions<'a> {
    fn new(glyphs: &'a [Glyph]) -> Self {
        Self { glyphs, at: vec![false; glyphs.len() + 1] }
    }

    /// A text begins here, beside those that began before.
    fn begin(&mut self) {
        self.at[0] = true;
        self.spread();
    }

    fn are_through(&self) -> bool {
        self.at[self.glyphs.len()]
    }

    fn step(&mut self, c: char) {
        let mut next = vec![false; self.at.len()];
        for (i, glyph) in self.glyphs.iter().enumerate().filter(|(i, _)| self.at[*i]) {
            match glyph {
                Glyph::Cross => next[i] = true,
                Glyph::Many => next[i] |= c != '/',
                Glyph::Any => next[i + 1] |= c != '/',
                Glyph::One(wanted) => next[i + 1] |= *wanted == c,
                Glyph::Class { negated, ranges } => {
                    let inside = ranges.iter().any(|(low, high)| *low <= c && c <= *high);
                    next[i + 1] |= c != '/' && inside != *negated;
                }
            }
        }
        self.at = next;
        self.spread();
    }

    /// What may stand for nothing is passed over.
    fn spread(&mut self) {
        for (i, glyph) in self.glyphs.iter().enumerate() {
            if self.at[i] && matches!(glyph, Glyph::Many | Glyph::Cross) {
                self.at[i + 1] = true;
            }
        }
    }
}

/// Whether `name` matches a pattern of one component (`*`, `?`, `[a-z]`), as in `COPY *.txt`.
pub fn matches_name(pattern: &str, name: &str) -> Result<bool, &'static str> {
    // A doubled star is only a star here.
    let mut single = String::new();
    for c in pattern.chars() {
        if !(c == '*' && single.ends_with('*') && !single.ends_with("\\*")) {
            single.push(c);
        }
    }
    let Part::Glob(glyphs) = Part::read(&single)? else { return Ok(true) };
    Ok(glob(&glyphs, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ignored(patterns: &str, paths: &[&str]) -> Vec<bool> {
        let matcher = Matcher::parse(patterns).unwrap();
        paths.iter().map(|path| matcher.ignores(path)).collect()
    }

    #[test]
    fn a_pattern_matches_as_the_field_has_it() {
        let table: &[(&str, &str, bool)] = &[
            ("a", "a", true),
            ("a", "b/a", false),
            ("a", "a/b/c", true),
            ("a/", "a/b", true),
            ("/a", "a", true),
            ("./a", "a", true),
            ("a/../b", "b", true),
            ("../x", "x", true),
            ("a//b", "a/b", true),
            ("A", "a", false),
            ("*", "a", true),
            ("*", "a/b", true),
            ("*.go", "x.go", true),
            ("*.go", "d/x.go", false),
            ("*/x", "d/x", true),
            ("*/x", "x", false),
            ("*/*/x", "d/x", false),
            ("a?", "ab", true),
            ("a?", "a", false),
            ("?", "ü", true),
            ("**", "a", true),
            ("**", "a/b/c", true),
            ("**/x", "x", true),
            ("**/x", "a/b/x", true),
            ("**/x", "a/xx", false),
            ("a/**", "a", false),
            ("a/**", "a/b", true),
            ("a/**", "a/b/c", true),
            ("a/**/x", "a/x", true),
            ("a/**/x", "a/b/c/x", true),
            ("a/**/x", "b/x", false),
            ("**/*.o", "d/e/f.o", true),
            ("**/a/**", "x/a", false),
            ("**/a/**", "x/a/y", true),
            ("a**", "a/b/c", true),
            ("a**", "abc", true),
            ("a**b", "a/x/b", true),
            ("**c", "a/b/c", true),
            ("**.go", "d/x.go", true),
            ("[a-c]x", "bx", true),
            ("[a-c]x", "dx", false),
            ("[^a-c]x", "dx", true),
            ("[^a-c]x", "ax", false),
            ("[\\]]", "]", true),
            ("[]-a]", "b", false),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("a\\?b", "a?b", true),
            ("a.b", "axb", false),
            ("a(b)+", "a(b)+", true),
            (".git", ".git/config", true),
            (".git", ".gitignore", false),
            ("d*", "dir/file", true),
            ("dir/*", "dir/sub/file", true),
            ("*/temp*", "sub/temporary.txt", true),
            ("  a  ", "a", true),
            ("", "a", false),
            (".", "a", false),
            ("/", "a", false),
        ];
        for (pattern, path, expected) in table {
            match Matcher::parse(pattern) {
                Ok(matcher) => assert_eq!(matcher.ignores(path), *expected, "{pattern:?} on {path:?}"),
                Err(bad) => assert!(!expected, "{bad}"),
            }
        }
    }

    #[test]
    fn the_last_match_decides() {
        assert_eq!(ignored("*.md\n!README.md", &["a.md", "README.md", "d/a.md"]), [true, false, false]);
        assert_eq!(ignored("!README.md\n*.md", &["README.md"]), [true]);
        assert_eq!(ignored("*\n!src", &["src", "src/main.rs", "x", "x/y"]), [false, false, true, true]);
        assert_eq!(ignored("*\n!src\nsrc/*.tmp", &["src/a.rs", "src/a.tmp"]), [false, true]);
        assert_eq!(ignored("dir\n!dir/keep", &["dir/keep", "dir/lose", "dir"]), [false, true, true]);
        assert_eq!(ignored("**\n!**/*.rs", &["a.rs", "a/b.rs", "a/b.c"]), [false, false, true]);
        assert_eq!(ignored("*.md\n! x.md", &["x.md", "y.md"]), [false, true]);
    }

    #[test]
    fn comments_marks_and_line_ends_are_read() {
        assert_eq!(ignored("\u{feff}# c\r\na\r\n\r\n #b\r\n", &["a", "# c", "#b"]), [true, false, true]);
    }

    #[test]
    fn a_directory_is_pruned_unless_something_comes_back() {
        let prunes = |text: &str, path: &str| Matcher::parse(text).unwrap().prunes(path);
        assert!(prunes("node_modules", "node_modules"));
        assert!(prunes("node_modules\n!src/x", "node_modules"));
        assert!(!prunes("*\n!a/b/c", "a"));
        assert!(!prunes("*\n!a/b/c", "a/b"));
        assert!(prunes("*\n!a/b/c", "a/x"));
        assert!(!prunes("*\n!**/keep", "a/x"));
        assert!(!prunes("a", "b"));
    }

    #[test]
    fn a_bad_pattern_names_its_line() {
        let bad = |text: &str| Matcher::parse(text).unwrap_err().to_string();
        assert_eq!(bad("a\n!"), "line 2: `!` is not a pattern: `!` needs a path");
        assert_eq!(bad("[a"), "line 1: `[a` is not a pattern: `[` has no `]`");
        assert_eq!(bad("\na\\"), "line 2: `a\\` is not a pattern: nothing stands behind the last backslash");
        assert_eq!(bad("[a-]"), "line 1: `[a-]` is not a pattern: a range in `[]` has no end");
    }

    #[test]
    fn many_stars_stay_cheap() {
        let matcher = Matcher::parse(&"*a".repeat(40)).unwrap();
        assert!(!matcher.ignores(&"a".repeat(200).replace("aaaaaaaaaa", "aaaab")));
    }

    #[test]
    fn names_match_within_a_component() {
        let table = [
            ("*.txt", "a.txt", true),
            ("*.txt", "a.md", false),
            ("a**c", "abbc", true),
            ("x", "x", true),
            ("[ab]", "b", true),
        ];
        for (pattern, name, expected) in table {
            assert_eq!(matches_name(pattern, name), Ok(expected), "{pattern} {name}");
        }
        assert!(matches_name("[", "x").is_err());
    }

    #[test]
    fn many_wildcards_cost_no_more_than_a_few() {
        let patterns = format!("{}x\n{}y\n", "**/*/".repeat(40), "a**/".repeat(40));
        assert_eq!(ignored(&patterns, &[&"a/b".repeat(40), &"b/".repeat(99)]), [false, false]);
    }
}
