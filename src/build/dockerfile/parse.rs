//! Logical lines to instructions and stages.

use std::ops::Range;

use super::{
    Command, Copy, Dockerfile, From, Health, Instruction, Kind, Lint, Mistake, Rule, Run, Span, Stage, Word,
    flags::{self, Flags, Known},
    lex::{self, Line},
    nearest, words,
};

const KEYWORDS: &[&str] = &[
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// All mistakes of a Dockerfile, or what it says.
pub fn parse(text: &str) -> Result<Dockerfile, Vec<Mistake>> {
    let lexed = lex::lex(text);
    let mut mistakes = lexed.mistakes;
    let mut file = Dockerfile {
        directives: lexed.directives,
        arguments: Vec::new(),
        stages: Vec::new(),
        lints: lexed.lints,
    };
    // What follows a FROM with a mistake is in no stage, and that is not its own mistake.
    let mut headless = false;
    for line in &lexed.lines {
        let escape = file.directives.escape;
        match instruction(line, escape, &mut file.lints) {
            Ok(found) => match place(&mut file, found) {
                Err(mistake) if !headless => mistakes.push(mistake),
                _ => {}
            },
            Err(mistake) => {
                let (keyword, _) = words::keyword(&line.text);
                headless |= line.text[keyword].eq_ignore_ascii_case("from");
                mistakes.push(mistake);
            }
        }
    }
    if lexed.lines.is_empty() {
        mistakes.push(
            Mistake::new(Span::default(), "file with no instructions")
                .help("a Dockerfile starts with FROM, as in `FROM alpine`"),
        );
    } else if file.stages.is_empty() && mistakes.is_empty() {
        mistakes.push(Mistake::new(Span::default(), "no build stage in current context").help("add a FROM"));
    }
    mistakes.sort_by_key(|mistake| mistake.span.start);
    if mistakes.is_empty() { Ok(file) } else { Err(mistakes) }
}

/// The instruction that an image's ONBUILD trigger holds.
pub fn parse_trigger(text: &str) -> Result<Instruction, Mistake> {
    let lexed = lex::lex(text);
    if let Some(mistake) = lexed.mistakes.into_iter().next() {
        return Err(mistake);
    }
    match &lexed.lines[..] {
        [line] => instruction(line, '\\', &mut Vec::new()),
        _ => Err(Mistake::new(Span::default(), "a trigger is one instruction")),
    }
}

fn place(file: &mut Dockerfile, instruction: Instruction) -> Result<(), Mistake> {
    match instruction.kind {
        Kind::From(from) => {
            file.stages.push(Stage {
                keyword: instruction.keyword,
                from,
                span: instruction.span,
                instructions: Vec::new(),
            });
        }
        _ => match (file.stages.last_mut(), &instruction.kind) {
            (Some(stage), _) => stage.instructions.push(instruction),
            (None, Kind::Arg(_)) => file.arguments.push(instruction),
            (None, _) => {
                return Err(Mistake::new(instruction.span, "no build stage in current context")
                    .help("only ARG may stand before the first FROM"));
            }
        },
    }
    Ok(())
}

fn instruction(line: &Line, escape: char, lints: &mut Vec<Lint>) -> Result<Instruction, Mistake> {
    let (name, rest) = words::keyword(&line.text);
    let at = line.span(name.start, name.end);
    let written = Word { text: line.text[name.clone()].to_owned(), span: at };
    let keyword = line.text[name].to_ascii_uppercase();
    if !KEYWORDS.contains(&keyword.as_str()) {
        let mistake = Mistake::new(at, format!("unknown instruction: {keyword}"));
        return Err(match nearest(&keyword, KEYWORDS) {
            Some(near) => mistake.help(format!("did you mean {near}?")),
            None => mistake.help(format!("the instructions are {}", KEYWORDS.join(", "))),
        });
    }
    let (flags, rest) = flags::take(line, rest, escape, known_flags(&keyword))?;
    let mut reader = Reader { line, escape, keyword: &keyword, at, rest, flags, lints };
    let kind = reader.kind()?;
    let text = format!("{keyword} {}", line.text[reader.rest.clone()].trim()).trim_end().to_owned();
    Ok(Instruction { keyword: written, kind, span: line.whole(), text })
}

fn known_flags(keyword: &str) -> Known {
    match keyword {
        "FROM" => Known { valued: &["platform"], ..flags::NONE },
        "RUN" => Known { valued: &["network", "security", "device"], repeated: &["mount"], ..flags::NONE },
        "COPY" => Known {
            valued: &["from", "chown", "chmod"],
            repeated: &["exclude"],
            truths: &["link", "parents"],
        },
        "ADD" => Known {
            valued: &["chown", "chmod", "checksum"],
            repeated: &["exclude"],
            truths: &["link", "keep-git-dir", "unpack"],
        },
        "HEALTHCHECK" => Known {
            valued: &["interval", "timeout", "start-period", "start-interval", "retries"],
            ..flags::NONE
        },
        _ => flags::NONE,
    }
}

/// One instruction behind its keyword and flags.
struct Reader<'a> {
    line: &'a Line,
    escape: char,
    keyword: &'a str,
    at: Span,
    rest: Range<usize>,
    flags: Flags,
    lints: &'a mut Vec<Lint>,
}

impl Reader<'_> {
    fn kind(&mut self) -> Result<Kind, Mistake> {
        Ok(match self.keyword {
            "FROM" => Kind::From(self.from()?),
            "RUN" => Kind::Run(self.run()?),
            "CMD" => Kind::Cmd(self.command(self.rest.clone())?),
            "ENTRYPOINT" => Kind::Entrypoint(self.command(self.rest.clone())?),
            "LABEL" => Kind::Label(self.pairs()?),
            "ENV" => Kind::Env(self.pairs()?),
            "MAINTAINER" => Kind::Maintainer(self.maintainer()?),
            "EXPOSE" => Kind::Expose(self.some(words::plain(self.line, self.rest.clone()))?),
            "COPY" | "ADD" => Kind::Copy(Box::new(self.copy()?)),
            "VOLUME" => Kind::Volume(self.volumes()?),
            "USER" => Kind::User(self.exactly_one()?),
            "WORKDIR" => Kind::Workdir(self.exactly_one()?),
            "ARG" => Kind::Arg(self.arguments()?),
            "ONBUILD" => Kind::OnBuild(self.trigger()?),
            "STOPSIGNAL" => Kind::StopSignal(self.exactly_one()?),
            "HEALTHCHECK" => Kind::Health(self.health()?),
            _ => Kind::Shell(self.shell()?),
        })
    }

    fn rest_text(&self) -> &str {
        &self.line.text[self.rest.clone()]
    }

    fn rest_word(&self) -> Word {
        words::word(self.line, self.rest.clone())
    }

    fn wrong(&self, message: impl Into<String>) -> Mistake {
        let span =
            if self.rest.is_empty() { self.at } else { self.line.span(self.rest.start, self.rest.end) };
        Mistake::new(span, message)
    }

    fn some(&self, words: Vec<Word>) -> Result<Vec<Word>, Mistake> {
        if words.is_empty() {
            return Err(self.wrong(format!("{} requires at least one argument", self.keyword)));
        }
        Ok(words)
    }

    fn exactly_one(&self) -> Result<Word, Mistake> {
        if self.rest.is_empty() {
            return Err(self.wrong(format!("{} requires exactly one argument", self.keyword)));
        }
        Ok(self.rest_word())
    }

    fn from(&mut self) -> Result<From, Mistake> {
        let words = words::plain(self.line, self.rest.clone());
        let (image, named) = match &words[..] {
            [image] => (image.clone(), None),
            [image, word, name] if word.text.eq_ignore_ascii_case("as") => {
                (image.clone(), Some((stage_name(name)?, word.clone(), name.clone())))
            }
            _ => {
                return Err(self
                    .wrong("FROM requires either one or three arguments")
                    .help("write `FROM image` or `FROM image AS name`"));
            }
        };
        let (name, as_word, written_name) = match named {
            Some((name, word, written)) => (Some(name), Some(word), Some(written)),
            None => (None, None, None),
        };
        Ok(From { image, name, as_word, written_name, platform: self.flags.one("platform") })
    }

    fn run(&mut self) -> Result<Run, Mistake> {
        let insecure = match self.flags.one("security") {
            Some(word) if word.text == "insecure" => Some(word.span),
            Some(word) if word.text != "sandbox" => {
                let message = format!("security mode \"{}\" is not valid", word.text);
                return Err(Mistake::new(word.span, message).help("it is sandbox or insecure"));
            }
            _ => None,
        };
        if let Some(word) = self.flags.one("device") {
            return Err(Mistake::new(word.span, "--device is not supported: there are no CDI devices here")
                .help("run the step that needs the device in a container"));
        }
        Ok(Run {
            insecure,
            command: self.command(self.rest.clone())?,
            mounts: self.flags.all("mount"),
            network: self.flags.one("network"),
            heredocs: self.line.heredocs.clone(),
        })
    }

    fn command(&mut self, range: Range<usize>) -> Result<Command, Mistake> {
        if range.is_empty() && self.keyword != "CMD" && self.keyword != "ENTRYPOINT" {
            return Err(self.wrong(format!("{} requires at least one argument", self.keyword)));
        }
        match words::json(self.line, range.clone()) {
            Some(words) => Ok(Command::Exec(words?)),
            None => Ok(Command::Shell(words::word(self.line, range))),
        }
    }

    /// `a=b c="d e"`, or the old form `a b c`.
    fn pairs(&mut self) -> Result<Vec<(Word, Word)>, Mistake> {
        let ranges = words::quoted_ranges(&self.line.text, self.rest.clone(), self.escape);
        let Some(first) = ranges.first() else {
            return Err(self.wrong(format!("{} requires at least one argument", self.keyword)));
        };
        if !self.line.text[first.clone()].contains('=') {
            return self.old_pair();
        }
        ranges
            .into_iter()
            .map(|range| {
                let Some(at) = self.line.text[range.clone()].find('=') else {
                    let text = &self.line.text[range.clone()];
                    return Err(Mistake::new(
                        self.line.span(range.start, range.end),
                        format!("can't find = in \"{text}\". Must be of the form: name=value"),
                    )
                    .help("put quotes around a value with spaces"));
                };
                let name = words::word(self.line, range.start..range.start + at);
                let value = words::word(self.line, range.start + at + 1..range.end);
                self.named(name, value)
            })
            .collect()
    }

    fn old_pair(&mut self) -> Result<Vec<(Word, Word)>, Mistake> {
        let text = self.rest_text();
        let end = text.find(char::is_whitespace);
        let Some(end) = end else {
            return Err(self
                .wrong(format!("{} must have two arguments", self.keyword))
                .help(format!("write `{} {text}=value`", self.keyword)));
        };
        let name = words::word(self.line, self.rest.start..self.rest.start + end);
        let value = words::trim(&self.line.text, self.rest.start + end..self.rest.end);
        let value = words::word(self.line, value);
        let message = format!(
            "\"{} key=value\" should be used instead of legacy \"{0} key value\" format",
            self.keyword
        );
        self.lints.push(Lint::new(Rule::LegacyKeyValueFormat, self.line.whole(), message));
        Ok(vec![self.named(name, value)?])
    }

    fn named(&self, name: Word, value: Word) -> Result<(Word, Word), Mistake> {
        if name.text.is_empty() {
            return Err(Mistake::new(value.span, format!("{} names can not be blank", self.keyword)));
        }
        Ok((name, value))
    }

    fn maintainer(&mut self) -> Result<Word, Mistake> {
        let message = "Maintainer instruction is deprecated in favor of using label";
        self.lints.push(Lint::new(Rule::MaintainerDeprecated, self.line.whole(), message));
        self.exactly_one()
    }

    fn volumes(&self) -> Result<Vec<Word>, Mistake> {
        let words = self.some(self.words_or_json()?)?;
        match words.iter().find(|word| word.text.trim().is_empty()) {
            Some(word) => Err(Mistake::new(word.span, "VOLUME specified can not be an empty string")),
            None => Ok(words),
        }
    }

    fn words_or_json(&self) -> Result<Vec<Word>, Mistake> {
        match words::json(self.line, self.rest.clone()) {
            Some(texts) => {
                let span = self.line.span(self.rest.start, self.rest.end);
                Ok(texts?.into_iter().map(|text| Word { text, span }).collect())
            }
            None => Ok(words::plain(self.line, self.rest.clone())),
        }
    }

    fn arguments(&self) -> Result<Vec<(Word, Option<Word>)>, Mistake> {
        let ranges = words::quoted_ranges(&self.line.text, self.rest.clone(), self.escape);
        if ranges.is_empty() {
            return Err(self.wrong("ARG requires at least one argument"));
        }
        ranges
            .into_iter()
            .map(|range| {
                let at = self.line.text[range.clone()].find('=');
                let name = words::word(self.line, range.start..at.map_or(range.end, |at| range.start + at));
                if name.text.is_empty() {
                    return Err(Mistake::new(
                        self.line.span(range.start, range.end),
                        "ARG names can not be blank",
                    ));
                }
                Ok((name, at.map(|at| words::word(self.line, range.start + at + 1..range.end))))
            })
            .collect()
    }

    fn copy(&mut self) -> Result<Copy, Mistake> {
        let mut words = self.words_or_json()?;
        if words.len() < 2 {
            let only = if words.is_empty() {
                ""
            } else {
                ", but only one was provided. Destination could not be determined"
            };
            return Err(self
                .wrong(format!("{} requires at least two arguments{only}", self.keyword))
                .help(format!("write `{} source destination`", self.keyword)));
        }
        let to = words.pop().unwrap_or_default();
        let mut heredocs = self.line.heredocs.clone();
        let sources = words
            .into_iter()
            .filter(|word| words::heredoc(&word.text, word.span).is_none())
            .collect::<Vec<_>>();
        heredocs.retain(|heredoc| !heredoc.name.is_empty());
        Ok(Copy {
            add: self.keyword == "ADD",
            sources,
            inline: heredocs,
            to,
            from: self.flags.one("from"),
            chown: self.flags.one("chown"),
            chmod: self.flags.one("chmod"),
            link: self.flags.truth("link")?.unwrap_or(false),
            parents: self.flags.truth("parents")?.unwrap_or(false),
            exclude: self.flags.all("exclude"),
            unpack: self.flags.truth("unpack")?,
            checksum: self.flags.one("checksum"),
            keep_git_dir: self.flags.truth("keep-git-dir")?.unwrap_or(false),
        })
    }

    fn trigger(&self) -> Result<Word, Mistake> {
        let word = self.exactly_one().map_err(|_| self.wrong("ONBUILD requires at least one argument"))?;
        let inner = Line::plain(&word.text);
        let (name, _) = words::keyword(&inner.text);
        let keyword = inner.text[name].to_ascii_uppercase();
        match keyword.as_str() {
            "ONBUILD" => Err(self.wrong("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")),
            "FROM" | "MAINTAINER" => {
                Err(self.wrong(format!("{keyword} isn't allowed as an ONBUILD trigger")))
            }
            _ => {
                let mut text = word.text.clone();
                for heredoc in &self.line.heredocs {
                    text = format!("{text}\n{}{}", heredoc.content, heredoc.name);
                }
                parse_trigger(&text).map_err(|mistake| Mistake { span: word.span, ..mistake })?;
                Ok(Word { text, span: word.span })
            }
        }
    }

    fn health(&mut self) -> Result<Health, Mistake> {
        let (name, rest) = words::keyword(self.rest_text());
        let kind = self.rest_text()[name].to_ascii_uppercase();
        let rest = self.rest.start + rest.start..self.rest.start + rest.end;
        match kind.as_str() {
            "" => Err(self.wrong("Missing command after HEALTHCHECK").help("write `HEALTHCHECK CMD ...`")),
            "NONE" if !rest.is_empty() => Err(self.wrong("HEALTHCHECK NONE takes no arguments")),
            "NONE" => Ok(Health::None),
            "CMD" if rest.is_empty() => Err(self.wrong("Missing command after HEALTHCHECK CMD")),
            "CMD" => Ok(Health::Check {
                command: self.command(rest)?,
                interval: self.duration("interval")?,
                timeout: self.duration("timeout")?,
                start_period: self.duration("start-period")?,
                start_interval: self.duration("start-interval")?,
                retries: self.retries()?,
            }),
            other => Err(self.wrong(format!("Unknown type \"{other}\" in HEALTHCHECK (try CMD)"))),
        }
    }

    fn duration(&mut self, flag: &str) -> Result<Option<i64>, Mistake> {
        let Some(word) = self.flags.one(flag) else { return Ok(None) };
        match go_duration(&word.text) {
            Some(0) => Ok(None),
            Some(nanos) if nanos >= 1_000_000 => Ok(Some(nanos)),
            Some(_) => Err(Mistake::new(word.span, format!("Interval \"{flag}\" cannot be less than 1ms"))),
            None => Err(Mistake::new(word.span, format!("invalid duration \"{}\"", word.text))
                .help("write a number and a unit, as in `30s` or `1m30s`")),
        }
    }

    fn retries(&mut self) -> Result<Option<u32>, Mistake> {
        let Some(word) = self.flags.one("retries") else { return Ok(None) };
        match word.text.parse::<u32>() {
            Ok(0) => Ok(None),
            Ok(count) if i32::try_from(count).is_ok() => Ok(Some(count)),
            _ => Err(Mistake::new(word.span, format!("--retries must be a number, not \"{}\"", word.text))),
        }
    }

    fn shell(&self) -> Result<Vec<String>, Mistake> {
        match words::json(self.line, self.rest.clone()) {
            Some(words) => {
                let words = words?;
                if words.is_empty() {
                    return Err(self.wrong("SHELL requires at least one argument"));
                }
                Ok(words)
            }
            None => Err(self
                .wrong("SHELL requires the arguments to be in JSON form")
                .help("write `SHELL [\"/bin/sh\", \"-c\"]`")),
        }
    }
}

/// In lower case: a letter, then letters, digits, `-`, `_` and `.`.
fn stage_name(word: &Word) -> Result<Word, Mistake> {
    let name = word.text.to_ascii_lowercase();
    let valid = name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.".contains(c));
    if !valid {
        return Err(Mistake::new(
            word.span,
            format!(
                "invalid name for build stage: \"{}\", name can't start with a number or contain symbols",
                word.text
            ),
        ));
    }
    Ok(Word { text: name, span: word.span })
}

/// `1h2m3.5s` in nanoseconds, the grammar of Go's durations; `None` also for negative ones.
fn go_duration(text: &str) -> Option<i64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let units =
            [("ns", 1.), ("us", 1e3), ("µs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];
        let (unit, size) = units.into_iter().find(|(unit, _)| {
            rest.strip_prefix(unit).is_some_and(|after| {
                after.is_empty() || after.starts_with(|c: char| c.is_ascii_digit() || c == '.')
            })
        })?;
        total += number * size;
        rest = &rest[unit.len()..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked, fractions of nanoseconds go")]
    (total < 9.2e18).then_some(total as i64)
}

#[cfg(test)]
mod tests;
