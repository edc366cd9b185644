use super::*;
use crate::{build::dockerfile, image::Platform};

/// `line Rule: message` of each, over a base with `HOME` set.
fn lint(text: &str) -> Vec<String> {
    let file = dockerfile::parse(text).unwrap();
    let platforms = Platforms::native(Platform::parse("linux/amd64").unwrap());
    let given = |name: &str| (name == "GIVEN").then(|| "busybox".to_owned());
    let graph = Graph::new(&file, &given, &platforms, None, &[]).unwrap();
    let facts = Facts {
        text,
        platforms: &platforms,
        base: &|stage| {
            let known = BaseFacts { env: vec!["HOME".into()], ..BaseFacts::default() };
            let unknown = matches!(&graph.stages[stage].base, Base::Image(name) if name == "unknown");
            (!unknown).then_some(known)
        },
        ignored: &|path| path == "out" || path.starts_with("out/"),
    };
    check(&file, &graph, &facts)
        .into_iter()
        .map(|lint| format!("{} {}: {}", line_of(text, lint.span.start), lint.rule.name(), lint.message))
        .collect()
}

#[test]
fn every_rule_finds_what_it_is_for() {
    let table: &[(&str, &[&str])] = &[
        ("FROM a AS Build", &["1 StageNameCasing: Stage name 'Build' should be lowercase"]),
        ("FROM a as b", &["1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match"]),
        ("from a AS b", &["1 FromAsCasing: 'AS' and 'from' keywords' casing do not match"]),
        ("FROM a\nRUN x \\\n\n  y", &["3 NoEmptyContinuation: Empty continuation line"]),
        (
            "FROM a\nrun x\nRun y\nRUN z",
            &[
                "2 ConsistentInstructionCasing: Command 'run' should match the case of the command majority (uppercase)",
                "3 ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (uppercase)",
            ],
        ),
        (
            "FROM a AS b\nFROM a AS b",
            &["2 DuplicateStageName: Duplicate stage name \"b\", stage names should be unique"],
        ),
        (
            "FROM a AS scratch",
            &["1 ReservedStageName: Stage name should not use the same name as reserved stage \"scratch\""],
        ),
        (
            "FROM a\nCMD x",
            &[
                "2 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            ],
        ),
        ("FROM a\nSHELL [\"/bin/bash\"]\nENTRYPOINT x", &[]),
        (
            "FROM a\nMAINTAINER me",
            &["2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label"],
        ),
        (
            "ARG VERSION=1\nFROM a${VERSOIN}",
            &["2 UndefinedArgInFrom: FROM argument 'VERSOIN' is not declared (did you mean VERSION?)"],
        ),
        (
            "FROM a\nWORKDIR x",
            &[
                "2 WorkdirRelativePath: Relative workdir \"x\" can have unexpected results if the base image changes",
            ],
        ),
        ("FROM a\nWORKDIR /x\nWORKDIR y", &[]),
        (
            "FROM a\nARG NAME\nENV X=$NAMER Y=$HOME Z=${Q:-d}",
            &["3 UndefinedVar: Usage of undefined variable '$NAMER' (did you mean $NAME?)"],
        ),
        ("FROM unknown\nENV X=$NOPE", &[]),
        (
            "FROM a\nCMD [\"x\"]\nCMD [\"y\"]",
            &[
                "2 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used",
            ],
        ),
        (
            "FROM a\nENV x y",
            &[
                "2 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            ],
        ),
        (
            "FROM --platform=$TARGETPLATFORM a",
            &[
                "1 RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            ],
        ),
        (
            "FROM a\nARG API_KEY\nENV PUBLIC_KEY=1 KEYBOARD=1",
            &[
                "2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"API_KEY\")",
            ],
        ),
        (
            "ARG GIVEN\nFROM $GIVEN",
            &[
                "2 InvalidDefaultArgInFrom: Default value for ARG $GIVEN results in empty or invalid base image name",
            ],
        ),
        (
            "FROM --platform=linux/amd64 a",
            &[
                "1 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\"",
            ],
        ),
        ("FROM --platform=linux/amd64 a AS build-amd64", &[]),
        (
            "FROM a\nCOPY out/f in /x/\nADD ./out /y",
            &[
                "2 CopyIgnoredFile: Attempting to Copy file \"out/f\" that is excluded by .dockerignore",
                "3 CopyIgnoredFile: Attempting to Add file \"./out\" that is excluded by .dockerignore",
            ],
        ),
        (
            "# syntax=docker/dockerfile:1\n# what it is\nARG A=1\n# A what it is\nARG A=2\nFROM a",
            &[
                "3 InvalidDefinitionDescription: Comment for ARG should follow the format: `# A <description>`",
            ],
        ),
        (
            "FROM a\nEXPOSE 80/TCP 81",
            &["2 ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase"],
        ),
        (
            "FROM a\nEXPOSE 127.0.0.1:80:80",
            &[
                "2 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
            ],
        ),
        ("FROM a AS unused\nCMD x\nFROM a", &[]),
    ];
    for (text, expected) in table {
        assert_eq!(lint(text), *expected, "{text}");
    }
    let shown = |rule: &&Rule| {
        let word = format!(" {}: ", rule.name());
        table.iter().any(|(_, expected)| expected.iter().any(|line| line.contains(&word)))
    };
    // The next test has the one that needs an image.
    let left: Vec<&Rule> = Rule::ALL.iter().filter(|rule| !shown(rule)).collect();
    assert_eq!(left, [&Rule::InvalidBaseImagePlatform]);
}

#[test]
fn a_base_for_another_machine_is_told() {
    let text = "FROM a";
    let file = dockerfile::parse(text).unwrap();
    let platforms = Platforms::native(Platform::parse("linux/amd64").unwrap());
    let graph = Graph::new(&file, &|_: &str| None, &platforms, None, &[]).unwrap();
    let foreign = Some(("linux/arm64".to_owned(), "linux/amd64".to_owned()));
    let facts = Facts {
        text,
        platforms: &platforms,
        base: &|_| Some(BaseFacts { foreign: foreign.clone(), ..BaseFacts::default() }),
        ignored: &|_| false,
    };
    let found = check(&file, &graph, &facts);
    assert_eq!((found[0].rule, line_of(text, found[0].span.start)), (Rule::InvalidBaseImagePlatform, 1));
    assert_eq!(
        found[0].message,
        "Base image a was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build"
    );
}
