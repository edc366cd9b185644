//! A Dockerfile as data: instructions with the place of every word. Reads no files and expands nothing.

mod flags;
mod lex;
mod parse;
mod rule;
mod words;

pub use lex::{Directives, Heredoc};
pub use parse::{parse, parse_trigger};
pub use rule::{CheckOptions, Lint, Rule};

/// Bytes `start..end` of the Dockerfile's text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: usize,
    pub end: usize,
}

/// A mistake at a place, with what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub span: Span,
    pub message: String,
    pub help: Option<String>,
}

impl Mistake {
    #[must_use]
    pub fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: None }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// A word as written (quotes and variables included), and where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Word {
    pub text: String,
    pub span: Span,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Dockerfile {
    pub directives: Directives,
    /// ARG before the first FROM.
    pub arguments: Vec<Instruction>,
    pub stages: Vec<Stage>,
    /// What checks see while it is read.
    pub lints: Vec<Lint>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// `FROM` as written.
    pub keyword: Word,
    pub from: From,
    pub span: Span,
    pub instructions: Vec<Instruction>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct From {
    pub image: Word,
    /// After AS, in lower case.
    pub name: Option<Word>,
    /// `AS` and the name as written.
    pub as_word: Option<Word>,
    pub written_name: Option<Word>,
    pub platform: Option<Word>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    /// As written.
    pub keyword: Word,
    pub kind: Kind,
    pub span: Span,
    /// On one line, continuations joined: `RUN make all`.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    From(From),
    Run(Run),
    Cmd(Command),
    Entrypoint(Command),
    Label(Vec<(Word, Word)>),
    Env(Vec<(Word, Word)>),
    Maintainer(Word),
    Expose(Vec<Word>),
    Copy(Box<Copy>),
    Volume(Vec<Word>),
    User(Word),
    Workdir(Word),
    Arg(Vec<(Word, Option<Word>)>),
    /// The trigger as text.
    OnBuild(Word),
    StopSignal(Word),
    Health(Health),
    Shell(Vec<String>),
}

/// What a program is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A line for the shell of the stage.
    Shell(Word),
    /// Program and arguments: the JSON form.
    Exec(Vec<String>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub command: Command,
    /// Values of `--mount`.
    pub mounts: Vec<Word>,
    pub network: Option<Word>,
    /// `--security=insecure`, where it stands.
    pub insecure: Option<Span>,
    pub heredocs: Vec<Heredoc>,
}

/// COPY, or ADD.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copy {
    pub add: bool,
    pub sources: Vec<Word>,
    /// Files whose content stands in the Dockerfile.
    pub inline: Vec<Heredoc>,
    pub to: Word,
    pub from: Option<Word>,
    pub chown: Option<Word>,
    pub chmod: Option<Word>,
    pub link: bool,
    pub parents: bool,
    pub exclude: Vec<Word>,
    /// ADD: whether archives are extracted; by what they are when `None`.
    pub unpack: Option<bool>,
    /// ADD of an address: `sha256:` and hex, or a commit.
    pub checksum: Option<Word>,
    /// ADD of a repository.
    pub keep_git_dir: bool,
}

impl Copy {
    /// `COPY --from=files path to`
    #[must_use]
    pub fn all_from(files: Word, path: Word, to: Word) -> Self {
        Self {
            add: false,
            sources: vec![path],
            inline: Vec::new(),
            to,
            from: Some(files),
            chown: None,
            chmod: None,
            link: false,
            parents: false,
            exclude: Vec::new(),
            unpack: None,
            checksum: None,
            keep_git_dir: false,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    None,
    Check {
        command: Command,
        /// Nanoseconds, as the image configuration has it.
        interval: Option<i64>,
        timeout: Option<i64>,
        start_period: Option<i64>,
        start_interval: Option<i64>,
        retries: Option<u32>,
    },
}

/// Whether a line of RUN is nothing but `<<NAME`.
#[must_use]
pub fn is_heredoc(line: &Word) -> bool {
    !line.text.contains(char::is_whitespace) && words::heredoc(&line.text, line.span).is_some()
}

/// 1 for the first line.
#[must_use]
pub fn line_of(text: &str, offset: usize) -> u32 {
    let upto = &text.as_bytes()[..offset.min(text.len())];
    u32::try_from(upto.iter().filter(|b| **b == b'\n').count()).unwrap_or(u32::MAX - 1) + 1
}

/// The candidate that differs least from `word`, when it is near enough to be meant.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let limit = (word.len() / 3).max(1);
    candidates
        .iter()
        .map(|candidate| (distance(word, candidate), *candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edits (insert, delete, replace, swap of neighbours) that turn one word into the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().collect());
    let mut rows = vec![(0..=b.len()).collect::<Vec<_>>()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replaced.min(rows[i - 1][j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_fingers_is_recognised() {
        assert_eq!(nearest("FORM", &["RUN", "FROM", "COPY"]), Some("FROM"));
        assert_eq!(nearest("WORKDIRR", &["RUN", "WORKDIR"]), Some("WORKDIR"));
        assert_eq!(nearest("BANANA", &["RUN", "FROM"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }

    #[test]
    fn lines_count_from_one() {
        assert_eq!([0, 1, 2, 3, 99].map(|offset| line_of("a\nb\n", offset)), [1, 1, 2, 2, 3]);
    }
}
