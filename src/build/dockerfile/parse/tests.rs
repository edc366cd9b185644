//! What Dockerfiles mean, and what their mistakes say.

use super::*;

fn first(text: &str) -> Kind {
    let file =
        parse(&format!("FROM scratch\n{text}")).unwrap_or_else(|mistakes| panic!("{text}: {mistakes:?}"));
    file.stages[0].instructions[0].kind.clone()
}

fn mistake(text: &str) -> (u32, String, String) {
    let mistakes = parse(text).expect_err(text);
    let first = &mistakes[0];
    let line = super::super::line_of(text, first.span.start);
    (line, first.message.clone(), first.help.clone().unwrap_or_default())
}

fn texts(words: &[Word]) -> Vec<&str> {
    words.iter().map(|word| word.text.as_str()).collect()
}

#[test]
fn stages_and_global_arguments_are_told_apart() {
    let text = "ARG V=1\nFROM --platform=linux/amd64 base:$V AS Build\nARG X\nRUN a\nfrom build\nCOPY --from=0 a b\n";
    let file = parse(text).unwrap();
    assert_eq!(file.arguments.len(), 1);
    assert_eq!(file.stages.len(), 2);
    let from = &file.stages[0].from;
    assert_eq!((from.image.text.as_str(), from.name.as_ref().unwrap().text.as_str()), ("base:$V", "build"));
    assert_eq!(from.platform.as_ref().unwrap().text, "linux/amd64");
    assert_eq!(&text[from.image.span.start..from.image.span.end], "base:$V");
    assert_eq!(file.stages[0].instructions.len(), 2);
    assert_eq!(file.stages[0].instructions[1].text, "RUN a");
}

#[test]
fn commands_have_a_shell_form_and_a_json_form() {
    let Kind::Cmd(Command::Exec(args)) = first("CMD [ \"a\",\"b c\" ]") else { panic!() };
    assert_eq!(args, ["a", "b c"]);
    let Kind::Cmd(Command::Shell(word)) = first("CMD echo \"$HOME\" [x]") else { panic!() };
    assert_eq!(word.text, "echo \"$HOME\" [x]");
    let Kind::Entrypoint(Command::Shell(word)) = first("ENTRYPOINT ['a']") else { panic!() };
    assert_eq!(word.text, "['a']");
    let Kind::Run(run) =
        first("RUN --mount=type=cache,target=/c --mount=type=tmpfs,target=/t --network=none make  x")
    else {
        panic!()
    };
    assert_eq!(texts(&run.mounts), ["type=cache,target=/c", "type=tmpfs,target=/t"]);
    assert_eq!(run.network.unwrap().text, "none");
    assert!(matches!(run.command, Command::Shell(word) if word.text == "make  x"));
}

#[test]
fn pairs_keep_their_quotes_for_the_expansion() {
    let Kind::Env(pairs) = first("ENV a=b c=\"d e\" f='g h' i=j\\ k l=") else { panic!() };
    let found: Vec<_> = pairs.iter().map(|(k, v)| (k.text.as_str(), v.text.as_str())).collect();
    assert_eq!(found, [("a", "b"), ("c", "\"d e\""), ("f", "'g h'"), ("i", "j\\ k"), ("l", "")]);
    let Kind::Env(pairs) = first("ENV a  b = \"c\" ") else { panic!() };
    assert_eq!((pairs[0].0.text.as_str(), pairs[0].1.text.as_str()), ("a", "b = \"c\""));
    let Kind::Label(pairs) = first("LABEL \"com.x\"=\"a\\\nb\"") else { panic!() };
    assert_eq!((pairs[0].0.text.as_str(), pairs[0].1.text.as_str()), ("\"com.x\"", "\"ab\""));
}

#[test]
fn copies_have_sources_a_destination_and_flags() {
    let Kind::Copy(copy) =
        first("COPY --from=build --chown=1:2 --chmod=u+x --link --exclude=*.o --exclude=t a b* /c/")
    else {
        panic!()
    };
    assert_eq!((texts(&copy.sources), copy.to.text.as_str()), (vec!["a", "b*"], "/c/"));
    assert_eq!(copy.from.unwrap().text, "build");
    assert_eq!(copy.chown.unwrap().text, "1:2");
    assert_eq!(copy.chmod.unwrap().text, "u+x");
    assert_eq!((copy.link, copy.parents, texts(&copy.exclude)), (true, false, vec!["*.o", "t"]));
    let Kind::Copy(copy) = first("ADD [\"a b\", \"c\"]") else { panic!() };
    assert!(copy.add);
    assert_eq!((texts(&copy.sources), copy.to.text.as_str()), (vec!["a b"], "c"));
    let Kind::Copy(copy) = first("COPY <<one real <<\"two\" /d/\n1\none\n2\ntwo\n") else { panic!() };
    assert_eq!(texts(&copy.sources), ["real"]);
    let inline: Vec<_> =
        copy.inline.iter().map(|h| (h.name.as_str(), h.content.as_str(), h.expand)).collect();
    assert_eq!(inline, [("one", "1\n", true), ("two", "2\n", false)]);
}

#[test]
fn arguments_may_have_a_default_and_stand_in_one_line() {
    let Kind::Arg(args) = first("ARG A B=1 C=\"x y\" D=") else { panic!() };
    let found: Vec<_> = args
        .iter()
        .map(|(name, value)| (name.text.as_str(), value.as_ref().map(|v| v.text.as_str())))
        .collect();
    assert_eq!(found, [("A", None), ("B", Some("1")), ("C", Some("\"x y\"")), ("D", Some(""))]);
}

#[test]
fn health_checks_have_times_in_nanoseconds() {
    let Kind::Health(Health::Check { command, interval, timeout, retries, start_period, start_interval }) =
        first("HEALTHCHECK --interval=1m30s --timeout=500ms --retries=3 --start-period=0s CMD [\"a\"]")
    else {
        panic!()
    };
    assert_eq!(command, Command::Exec(vec!["a".into()]));
    assert_eq!((interval, timeout, retries), (Some(90_000_000_000), Some(500_000_000), Some(3)));
    assert_eq!((start_period, start_interval), (None, None));
    assert_eq!(first("HEALTHCHECK none"), Kind::Health(Health::None));
}

#[test]
fn triggers_are_checked_when_they_are_written() {
    let Kind::OnBuild(word) = first("ONBUILD COPY . /app") else { panic!() };
    assert_eq!(word.text, "COPY . /app");
    let Kind::OnBuild(word) = first("ONBUILD RUN <<E\nx\nE\n") else { panic!() };
    assert_eq!(word.text, "RUN <<E\nx\nE");
    assert!(matches!(parse_trigger(&word.text).unwrap().kind, Kind::Run(_)));
}

#[test]
fn mistakes_have_place_message_and_help() {
    let table: &[(&str, u32, &str, &str)] = &[
        ("", 1, "file with no instructions", "a Dockerfile starts with FROM, as in `FROM alpine`"),
        (
            "# only a comment\n",
            1,
            "file with no instructions",
            "a Dockerfile starts with FROM, as in `FROM alpine`",
        ),
        ("ARG a", 1, "no build stage in current context", "add a FROM"),
        ("RUN x\nFROM y", 1, "no build stage in current context", "only ARG may stand before the first FROM"),
        ("FROM x\n\nRUM x", 3, "unknown instruction: RUM", "did you mean RUN?"),
        ("FROM x\nENTRYPIONT a", 2, "unknown instruction: ENTRYPIONT", "did you mean ENTRYPOINT?"),
        (
            "FROM",
            1,
            "FROM requires either one or three arguments",
            "write `FROM image` or `FROM image AS name`",
        ),
        (
            "FROM a b c",
            1,
            "FROM requires either one or three arguments",
            "write `FROM image` or `FROM image AS name`",
        ),
        (
            "FROM a AS 1x",
            1,
            "invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
            "",
        ),
        ("FROM a\nRUN", 2, "RUN requires at least one argument", ""),
        (
            "FROM a\nRUN --security=unsafe x",
            2,
            "security mode \"unsafe\" is not valid",
            "it is sandbox or insecure",
        ),
        (
            "FROM a\nCOPY a",
            2,
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
            "write `COPY source destination`",
        ),
        ("FROM a\nADD", 2, "ADD requires at least two arguments", "write `ADD source destination`"),
        ("FROM a\nCOPY --form=x a b", 2, "unknown flag: --form", "did you mean --from?"),
        ("FROM a\nENV x", 2, "ENV must have two arguments", "write `ENV x=value`"),
        (
            "FROM a\nENV x=y z",
            2,
            "can't find = in \"z\". Must be of the form: name=value",
            "put quotes around a value with spaces",
        ),
        ("FROM a\nLABEL =y", 2, "LABEL names can not be blank", ""),
        ("FROM a\nENV", 2, "ENV requires at least one argument", ""),
        ("FROM a\nEXPOSE", 2, "EXPOSE requires at least one argument", ""),
        ("FROM a\nUSER", 2, "USER requires exactly one argument", ""),
        ("FROM a\nWORKDIR", 2, "WORKDIR requires exactly one argument", ""),
        ("FROM a\nVOLUME [\"\"]", 2, "VOLUME specified can not be an empty string", ""),
        (
            "FROM a\nSHELL /bin/sh -c",
            2,
            "SHELL requires the arguments to be in JSON form",
            "write `SHELL [\"/bin/sh\", \"-c\"]`",
        ),
        (
            "FROM a\nCMD [\"a\", 1]",
            2,
            "when using JSON array syntax, arrays must be comprised of strings only",
            "write `\"1\"`",
        ),
        ("FROM a\nONBUILD", 2, "ONBUILD requires at least one argument", ""),
        ("FROM a\nONBUILD ONBUILD RUN x", 2, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed", ""),
        ("FROM a\nONBUILD FROM x", 2, "FROM isn't allowed as an ONBUILD trigger", ""),
        ("FROM a\nONBUILD RUM x", 2, "unknown instruction: RUM", "did you mean RUN?"),
        ("FROM a\nHEALTHCHECK FOO x", 2, "Unknown type \"FOO\" in HEALTHCHECK (try CMD)", ""),
        ("FROM a\nHEALTHCHECK CMD", 2, "Missing command after HEALTHCHECK CMD", ""),
        ("FROM a\nHEALTHCHECK NONE x", 2, "HEALTHCHECK NONE takes no arguments", ""),
        (
            "FROM a\nHEALTHCHECK --interval=3 CMD x",
            2,
            "invalid duration \"3\"",
            "write a number and a unit, as in `30s` or `1m30s`",
        ),
        ("FROM a\nHEALTHCHECK --timeout=1us CMD x", 2, "Interval \"timeout\" cannot be less than 1ms", ""),
        ("FROM a\nARG =x", 2, "ARG names can not be blank", ""),
        (
            "FROM a\nRUN x \\\n  <<EOF\n\nb",
            3,
            "unterminated heredoc",
            "put a line with only `EOF` at its end",
        ),
    ];
    for (text, line, message, help) in table {
        assert_eq!(mistake(text), (*line, (*message).to_owned(), (*help).to_owned()), "{text:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once() {
    let mistakes = parse("FROM a\nRUM x\nCOPY a\nRUN ok\nENV").unwrap_err();
    assert_eq!(mistakes.len(), 3, "{mistakes:?}");
}

#[test]
fn durations_have_gos_grammar() {
    let table = [
        ("1s", Some(1_000_000_000)),
        ("1m30s", Some(90_000_000_000)),
        ("1.5h", Some(5_400_000_000_000)),
        ("10ms", Some(10_000_000)),
        ("0", Some(0)),
        ("", None),
        ("5", None),
        ("-1s", None),
        ("1x", None),
        ("s", None),
    ];
    for (text, nanos) in table {
        assert_eq!(go_duration(text), nanos, "{text}");
    }
}

/// [`parse`] of each file of `trees.txt`.
#[test]
fn files_are_read_as_the_table_has_them() {
    let table = include_str!("trees.txt");
    let (mut good, mut bad) = (0, 0);
    for case in table.split("\n== ").skip(1) {
        let (name, rest) = case.split_once('\n').unwrap();
        let (text, wanted) = rest.split_once("--\n").map(|(text, wanted)| (text, wanted.trim_end())).unwrap();
        let line_ends = if name.ends_with("of-windows") { "\r\n" } else { "\n" };
        let text = text.replace('\n', line_ends);
        assert_eq!(tree(&text), wanted, "{name}");
        *if parse(&text).is_ok() { &mut good } else { &mut bad } += 1;
    }
    // BuildKit has 33 files that can be read and 4 that cannot, each told anew here, and what we found beside them.
    assert_eq!((good, bad), (36, 16));
}

/// A line for each instruction, or for each mistake.
fn tree(text: &str) -> String {
    let lines: Vec<String> = match parse(text) {
        Err(mistakes) => mistakes
            .iter()
            .map(|wrong| format!("{}: {}", super::super::line_of(text, wrong.span.start), wrong.message))
            .collect(),
        Ok(file) => {
            let stages = file.stages.iter().flat_map(|stage| {
                let from = std::iter::once(stage_line(&stage.from));
                from.chain(stage.instructions.iter().map(|instruction| line(&instruction.kind)))
            });
            file.arguments.iter().map(|argument| line(&argument.kind)).chain(stages).collect()
        }
    };
    lines.join("\n")
}

fn stage_line(from: &From) -> String {
    let name = from.name.as_ref().map(|name| format!(" as {:?}", name.text));
    let platform = from.platform.as_ref().map(|word| format!(" platform {:?}", word.text));
    format!("from {:?}{}{}", from.image.text, name.unwrap_or_default(), platform.unwrap_or_default())
}

fn line(kind: &Kind) -> String {
    let words = |words: &[Word]| words.iter().map(|word| format!(" {:?}", word.text)).collect::<String>();
    let pairs = |pairs: &[(Word, Word)]| {
        pairs.iter().map(|(name, value)| format!(" {:?}={:?}", name.text, value.text)).collect::<String>()
    };
    match kind {
        Kind::From(from) => stage_line(from),
        Kind::Run(run) => run_line(run),
        Kind::Cmd(command) => format!("cmd {}", command_line(command)),
        Kind::Entrypoint(command) => format!("entrypoint {}", command_line(command)),
        Kind::Label(all) => format!("label{}", pairs(all)),
        Kind::Env(all) => format!("env{}", pairs(all)),
        Kind::Maintainer(word) => format!("maintainer {:?}", word.text),
        Kind::Expose(all) => format!("expose{}", words(all)),
        Kind::Copy(copy) => copy_line(copy),
        Kind::Volume(all) => format!("volume{}", words(all)),
        Kind::User(word) => format!("user {:?}", word.text),
        Kind::Workdir(word) => format!("workdir {:?}", word.text),
        Kind::Arg(all) => {
            let value = |value: &Option<Word>| value.as_ref().map(|word| format!("={:?}", word.text));
            let all = all.iter().map(|(name, v)| format!(" {:?}{}", name.text, value(v).unwrap_or_default()));
            format!("arg{}", all.collect::<String>())
        }
        Kind::OnBuild(word) => format!("onbuild {:?}", word.text),
        Kind::StopSignal(word) => format!("stopsignal {:?}", word.text),
        Kind::Health(Health::None) => "health none".into(),
        Kind::Health(Health::Check { command, interval, timeout, start_period, start_interval, retries }) => {
            let times = [
                ("interval", interval),
                ("timeout", timeout),
                ("period", start_period),
                ("start", start_interval),
            ];
            let times = times.iter().filter_map(|(name, time)| time.map(|time| format!(" {name} {time}")));
            let retries = retries.map(|count| format!(" retries {count}")).unwrap_or_default();
            format!("health cmd {}{}{retries}", command_line(command), times.collect::<String>())
        }
        Kind::Shell(all) => format!("shell {all:?}"),
    }
}

fn command_line(command: &Command) -> String {
    match command {
        Command::Exec(args) => format!("{args:?}"),
        Command::Shell(line) => format!("{:?}", line.text),
    }
}

fn heredoc_line(heredoc: &lex::Heredoc) -> String {
    let expand = if heredoc.expand { " expand" } else { "" };
    format!(" here {}{expand} {:?}", heredoc.name, heredoc.content)
}

fn run_line(run: &Run) -> String {
    let mut text = format!("run {}", command_line(&run.command));
    text.extend(run.mounts.iter().map(|word| format!(" --mount {:?}", word.text)));
    text.extend(run.network.iter().map(|word| format!(" --network {:?}", word.text)));
    text.extend(run.insecure.iter().map(|_| " --security insecure"));
    text.extend(run.heredocs.iter().map(heredoc_line));
    text
}

fn copy_line(copy: &Copy) -> String {
    let mut text = String::from(if copy.add { "add" } else { "copy" });
    text.extend(copy.sources.iter().map(|word| format!(" {:?}", word.text)));
    text += &format!(" to {:?}", copy.to.text);
    let valued =
        [("from", &copy.from), ("chown", &copy.chown), ("chmod", &copy.chmod), ("checksum", &copy.checksum)];
    text.extend(
        valued
            .iter()
            .filter_map(|(name, word)| word.as_ref().map(|word| format!(" --{name} {:?}", word.text))),
    );
    let truths = [("link", copy.link), ("parents", copy.parents), ("keep-git-dir", copy.keep_git_dir)];
    text.extend(truths.iter().filter(|(_, set)| *set).map(|(name, _)| format!(" --{name}")));
    text.extend(copy.exclude.iter().map(|word| format!(" --exclude {:?}", word.text)));
    text.extend(copy.unpack.iter().map(|unpack| format!(" --unpack {unpack}")));
    text.extend(copy.inline.iter().map(heredoc_line));
    text
}

mod properties {
    use proptest::prelude::*;

    use super::*;
    use crate::build::{
        expand::{Quotes, expand},
        ignore::{Matcher, matches_name},
        mode::ModeChange,
        mounts,
    };

    /// Mostly what means something in a Dockerfile.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            prop::sample::select(vec![
                "FROM ",
                "RUN ",
                "COPY ",
                "ADD ",
                "ENV ",
                "ARG ",
                "LABEL ",
                "ONBUILD ",
                "HEALTHCHECK ",
                "CMD ",
                "a",
                "b=",
                " ",
                "\n",
                "\\\n",
                "\\",
                "`",
                "'",
                "\"",
                "$",
                "${",
                "}",
                ":-",
                "##",
                "%",
                "//",
                "<<EOF",
                "<<-'X'",
                "EOF\n",
                "X\n",
                "[",
                "]",
                "[\"a\"]",
                "--from=",
                "--mount=",
                "--",
                ",",
                "# escape=`\n",
                "# ",
                "\t",
                "\r\n",
                "*",
                "**",
                "!",
                "?",
                "-",
                "^",
                "é",
                "\u{feff}",
                "\u{2028}",
                "0",
                "755",
                "u+x",
            ])
            .prop_map(str::to_owned),
            any::<char>().prop_map(String::from),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn nothing_that_is_written_makes_it_panic(text in text()) {
            for text in [text.clone(), format!("FROM a\n{text}")] {
                match parse(&text) {
                    Ok(file) => {
                        for instruction in file.stages.iter().flat_map(|stage| &stage.instructions) {
                            prop_assert!(text.is_char_boundary(instruction.span.start));
                            prop_assert!(text.get(instruction.span.start..instruction.span.end).is_some());
                        }
                    }
                    Err(mistakes) => {
                        prop_assert!(!mistakes.is_empty());
                        for mistake in mistakes {
                            prop_assert!(text.get(mistake.span.start..mistake.span.end).is_some(), "{mistake:?}");
                        }
                    }
                }
            }
            let variables = |name: &str| name.len().is_multiple_of(2).then(|| "va lue".to_owned());
            for quotes in [Quotes::Removed, Quotes::Kept] {
                let _ = expand(&text, '\\', quotes, &variables);
            }
            let _ = Matcher::parse(&text).map(|matcher| (matcher.ignores("a/b"), matcher.prunes("a/b")));
            let _ = matches_name(&text, "a");
            let _ = ModeChange::parse(&text);
            let _ = mounts::parse(&Word { text: text.clone(), ..Word::default() });
            let _ = go_duration(&text);
        }

        #[test]
        fn a_literal_word_expands_to_itself(text in "[a-zA-Z0-9/._ -]{0,40}") {
            let expanded = expand(&text, '\\', Quotes::Removed, &|_: &str| None).unwrap();
            prop_assert_eq!(&expanded.text, &text);
            prop_assert_eq!(expanded.words, text.split_whitespace().collect::<Vec<_>>());
        }

        #[test]
        fn a_pruned_directory_has_nothing_in_it(patterns in prop::collection::vec("!?[ab*/]{1,5}", 1..5), below in "[ab]{1,2}(/[ab]{1,2}){0,2}") {
            if let Ok(matcher) = Matcher::from_patterns(patterns.iter().map(String::as_str)) {
                let parents = below.match_indices('/').map(|(at, _)| &below[..at]);
                for parent in parents {
                    prop_assert!(!matcher.prunes(parent) || matcher.ignores(&below), "{patterns:?} {parent} {below}");
                }
            }
        }
    }
}
