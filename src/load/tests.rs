//! What users read when a file is wrong: every mistake with file, line and column, and the next move.

use std::{path::Path, time::Duration};

use super::{Diagnostic, Effect, LoadOptions, Loaded, Node, Resolved, config, load, resolve, source::Memory};
use crate::model::MountSource;

/// Every message about these files, one a line: place, message, further places, help.
fn told(files: &[(&str, &str)]) -> String {
    let (Ok(Resolved { warnings: told, .. }) | Err(told)) =
        resolve(&LoadOptions::default(), &Memory::project(files));
    told.iter().map(one_line).collect::<Vec<_>>().join("\n")
}

fn one_line(told: &Diagnostic) -> String {
    let others = told.marks.iter().skip(1).map(|mark| format!(" [{} {}]", mark.place, mark.text));
    let help = told.help.iter().map(|help| format!(" ({help})"));
    told.short() + &others.chain(help).collect::<String>()
}

fn canonical(files: &[(&str, &str)]) -> String {
    let options = LoadOptions { all_resources: true, no_consistency: true, ..LoadOptions::default() };
    match resolve(&options, &Memory::project(files)) {
        Ok(resolved) => config::yaml(&resolved),
        Err(told) => told.iter().map(one_line).collect::<Vec<_>>().join("\n"),
    }
}

#[test]
fn a_tab_in_the_indentation() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n\tweb:\n\t\timage: busybox\n")]), @"compose.yaml:2:2: error: invalid YAML: tabs disallowed within this context (block indentation) (YAML forbids tabs in the indentation; use spaces)");
}

#[test]
fn a_bracket_that_is_not_closed() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    command: [a, b\n")]), @"compose.yaml:5:1: error: invalid YAML: while parsing a flow sequence, expected ',' or ']'");
}

#[test]
fn a_wrong_indentation() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n   ports:\n     - 80\n")]), @"compose.yaml:4:4: error: invalid YAML: while parsing a block mapping, did not find expected key");
}

#[test]
fn an_unknown_key() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    enviroment:\n      A: 1\n")]), @"compose.yaml:4:5: error: unknown key `enviroment` (did you mean `environment`?)");
}

#[test]
fn an_unknown_key_at_the_top() {
    insta::assert_snapshot!(told(&[("compose.yaml", "service:\n  web:\n    image: busybox\n")]), @"compose.yaml:1:1: error: unknown key `service` (did you mean `services`?)");
}

#[test]
fn a_key_of_another_level() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    replicas: 2\nports: [80]\n")]), @r"
    compose.yaml:4:5: error: unknown key `replicas` (write it below `deploy:`, or `scale:`)
    compose.yaml:5:1: error: unknown key `ports` (`ports` belongs to a service, below `services:`)
    ");
}

#[test]
fn a_list_where_a_mapping_is_due() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  - web\n")]), @"compose.yaml:2:3: error: `services` must be a mapping, not a list");
}

#[test]
fn a_number_where_a_string_is_due() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: 12\n    stop_grace_period: 10\n")]), @r#"
    compose.yaml:3:12: error: `image` must be a string, not an integer (put it in quotes: "12")
    compose.yaml:4:24: error: `stop_grace_period` must be a string such as `1m30s`, not an integer (put it in quotes: "10")
    "#);
}

#[test]
fn a_word_that_is_no_port() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    ports:\n      - \"80:eighty\"\n")]), @"compose.yaml:5:9: error: `80:eighty` is no port: `eighty` is no port or range of ports (0 to 65535)");
}

#[test]
fn a_port_that_yaml_takes_for_a_number() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    ports: [99999]\n")]), @"compose.yaml:4:13: error: `99999` is no port: `99999` is no port or range of ports (0 to 65535) (put it in quotes: YAML takes some ports for numbers)");
}

#[test]
fn a_key_that_is_written_twice() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: a\n    image: b\n")]), @"compose.yaml:4:5: error: the key `image` is written twice in one mapping [compose.yaml:3:5 first written here]");
}

#[test]
fn an_undefined_volume() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    volumes: [\"dta:/data\"]\nvolumes: {data: }\n")]), @"compose.yaml:4:15: error: there is no volume `dta` (did you mean `data`?)");
}

#[test]
fn an_undefined_network() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    networks: [back]\n")]), @"compose.yaml:4:16: error: there is no network `back` (define it below the top-level `networks:`)");
}

#[test]
fn an_undefined_dependency() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    depends_on: [bd]\n  db: {image: busybox}\n")]), @"compose.yaml:4:18: error: there is no service `bd` (did you mean `db`?)");
}

#[test]
fn a_circle_of_dependencies() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  a:\n    image: x\n    depends_on: [b]\n  b:\n    image: x\n    depends_on: [c]\n  c:\n    image: x\n    depends_on: [a]\n")]), @"compose.yaml:4:18: error: dependency cycle: a -> b -> c -> a [compose.yaml:7:18 `b` needs `c`] [compose.yaml:10:18 `c` needs `a`]");
}

#[test]
fn a_service_without_image_and_build() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    command: top\n")]), @"compose.yaml:2:3: error: this service has neither an `image` nor a `build`");
}

#[test]
fn a_malformed_variable() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: \"busybox:${TAG\"\n")]), @r"
    compose.yaml:3:21: error: invalid interpolation format `${TAG` (a `$` that is meant as such is written `$$`)
    ");
}

#[test]
fn a_required_variable_that_is_not_set() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox:${TAG:?set a tag}\n")]), @r"
    compose.yaml:3:20: error: required variable `TAG` is missing a value: set a tag
    ");
}

#[test]
fn a_size_and_a_duration_that_are_none() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    mem_limit: lots\n    healthcheck: {interval: 5}\n    stop_grace_period: soon\n")]), @r#"
    compose.yaml:4:16: error: `lots` is no size; write it as `64m` or `1.5gb`
    compose.yaml:5:29: error: `interval` must be a string such as `1m30s`, not an integer (put it in quotes: "5")
    compose.yaml:6:24: error: `soon` is no duration; write a number with its unit, such as `1m30s`
    "#);
}

#[test]
fn a_file_of_variables_that_is_missing() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    env_file: [web.env]\n")]), @"compose.yaml:4:16: error: env_file `web.env` not found");
}

#[test]
fn a_service_to_extend_that_is_missing() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    extends: {service: bse}\n  base: {image: busybox}\n")]), @r"
    compose.yaml:3:24: error: there is no service `bse` in `compose.yaml` to extend (did you mean `base`?)
    compose.yaml:2:3: error: this service has neither an `image` nor a `build`
    ");
}

#[test]
fn three_mistakes_in_one_file() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    imgae: busybox\n    ports: [\"x\"]\n    networks: [nowhere]\n")]), @r"
    compose.yaml:3:5: error: unknown key `imgae` (did you mean `image`?)
    compose.yaml:4:13: error: `x` is no port: `x` is no port or range of ports (0 to 65535)
    compose.yaml:5:16: error: there is no network `nowhere` (define it below the top-level `networks:`)
    ");
}

#[test]
fn an_alias_without_anchor() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web: *base\n")]), @"compose.yaml:2:8: error: invalid YAML: while parsing node, found unknown anchor (no `&name` stands before this alias; a value that begins with `*` must stand in quotes)");
}

#[test]
fn two_ways_to_say_one_limit() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    mem_limit: 64m\n    deploy: {resources: {limits: {memory: 128m}}}\n")]), @"compose.yaml:4:16: error: `mem_limit` and `deploy.resources.limits.memory` say different things [compose.yaml:5:43 `deploy.resources.limits.memory` stands here]");
}

#[test]
fn a_target_that_is_mounted_twice() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    volumes: [\"/x\"]\n    tmpfs: /x\n")]), @"compose.yaml:5:12: error: `/x` is mounted twice [compose.yaml:4:15 first mounted here]");
}

#[test]
fn a_value_that_is_no_choice() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    depends_on: {db: {condition: healthy}}\n  db: {image: busybox}\n")]), @"compose.yaml:4:34: error: `condition` must be one of `service_started`, `service_healthy`, `service_completed_successfully` (did you mean `service_healthy`?)");
}

#[test]
fn a_wrong_value_that_another_file_replaces_is_no_mistake() {
    let base =
        "services:\n  web:\n    image: busybox\n    mem_limit: ${LIMIT}\n    stop_grace_period: soon\n";
    let over = "services:\n  web:\n    mem_limit: 64m\n    stop_grace_period: 5s\n";
    let told = told(&[("compose.yaml", base), ("compose.override.yaml", over)]);
    insta::assert_snapshot!(told, @"compose.yaml:4:16: warning: the variable `LIMIT` is not set; a blank string is used");
}

#[test]
fn a_boolean_that_is_none() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    privileged: maybe\n    read_only: 1\n")]), @r"
    compose.yaml:4:17: error: `maybe` is no boolean; write true or false
    compose.yaml:5:16: error: `read_only` must be a boolean, not an integer
    ");
}

#[test]
fn an_old_key() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    log_driver: syslog\n    net: host\n")]), @r"
    compose.yaml:4:5: error: unknown key `log_driver` (write `logging: {driver: ...}`)
    compose.yaml:5:5: error: unknown key `net` (write `network_mode:` or `networks:`)
    ");
}

#[test]
fn a_key_that_is_no_string() {
    insta::assert_snapshot!(told(&[("compose.yaml", "services:\n  web:\n    image: busybox\n    environment: {1: a}\n")]), @r#"compose.yaml:4:19: error: a key must be a string, `1` is an integer (write `"1"`)"#);
}

#[test]
fn nothing_at_all() {
    insta::assert_snapshot!(told(&[("compose.yaml", "\n")]), @"error: empty compose file: `compose.yaml`");
}

#[test]
fn a_whole_message() {
    let (Ok(Resolved { warnings: told, .. }) | Err(told)) = resolve(
        &LoadOptions::default(),
        &Memory::project(&[(
            "compose.yaml",
            "services:\n  web:\n    image: busybox\n    environment:\n      A: \"x ${B:?please}\"\n    depnds_on: [db]\n",
        )]),
    );
    let text: String = told.iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(text, @r#"
    error: required variable `B` is missing a value: please
     --> compose.yaml:5:13
      |
    5 |       A: "x ${B:?please}"
      |             ^^^^^^^^^^^^
      = in `services.web.environment.A`
    error: unknown key `depnds_on`
     --> compose.yaml:6:5
      |
    6 |     depnds_on: [db]
      |     ^^^^^^^^^
      = in `services.web.depnds_on`
      = help: did you mean `depends_on`?
    "#);
}

#[test]
fn a_missing_file_says_where_it_was_looked_for() {
    insta::assert_snapshot!(told(&[("notes.txt", "")]), @"error: no configuration file provided: not found (looked in `/project` and the directories above it for compose.yaml, compose.yml, docker-compose.yaml, docker-compose.yml) (name a file with `-f FILE`, or a directory with `--project-directory DIR`)");
}

// ---- hostile input ----

/// Loads a file and gives the first message; fails when that takes long (milliseconds are usual, but other
/// tests run beside this one).
fn first_told(text: &str) -> String {
    told(&[("compose.yaml", text)]).lines().next().unwrap_or_default().to_owned()
}

#[test]
fn an_alias_inside_its_own_anchor_is_refused() {
    assert_eq!(
        first_told("a: &a\n  <<: *a\n"),
        "compose.yaml:2:7: error: this alias stands inside the value it refers to"
    );
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "x-a0: &a0 [lol]\n".to_owned();
    for level in 1..30 {
        let before = level - 1;
        let aliases = vec![format!("*a{before}"); 10].join(", ");
        text += &format!("x-a{level}: &a{level} [{aliases}]\n");
    }
    assert!(first_told(&text).contains("more than 100000 values, aliases expanded"), "{}", first_told(&text));
}

#[test]
fn deep_nesting_is_refused_however_it_is_written() {
    for text in ["[".repeat(100_000), "{a: ".repeat(20_000), "? ".repeat(20_000), "- ".repeat(20_000)] {
        let told = first_told(&text);
        let refused = told.contains("nested deeper than 64 levels") || told.contains("recursion limit");
        assert!(refused, "{told}");
    }
    let mapping: String = (0..200).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(first_told(&mapping).contains("nested deeper than 64 levels"));
}

#[test]
fn many_aliases_and_long_texts_are_refused() {
    let many = format!("x: &x 1\ny: [{}]\n", "*x, ".repeat(60_000));
    assert!(first_told(&many).contains("more than 50000 aliases"));
    let long = format!("x: &x {}\ny: [{}]\n", "a".repeat(1 << 20), "*x, ".repeat(100));
    assert!(first_told(&long).contains("more than 16 MiB of text"), "{}", first_told(&long));
}

#[test]
fn merge_keys_upon_merge_keys_stay_within_the_budget() {
    let mut text = "x-0: &m0 {k: 1}\n".to_owned();
    for level in 1..400 {
        text += &format!("x-{level}: &m{level} {{<<: [*m{0}, *m{0}, *m{0}], k{level}: 1}}\n", level - 1);
    }
    let told = first_told(&text);
    assert!(told.contains("aliases expanded") || told.contains("levels"), "{told}");
}

#[test]
fn nested_variables_are_bounded() {
    let text = format!("services: {{a: {{image: '{}x{}'}}}}\n", "${A:-".repeat(10_000), "}".repeat(10_000));
    assert!(first_told(&text).contains("invalid interpolation format"), "{}", first_told(&text));
}

#[test]
fn a_long_chain_of_dependencies_loads() {
    let mut text = "services:\n  s0: {image: x}\n".to_owned();
    for at in 1..2_000 {
        text += &format!("  s{at}: {{image: x, depends_on: [s{}]}}\n", at - 1);
    }
    assert_eq!(first_told(&text), "");
}

#[test]
fn binary_rubbish_is_refused() {
    for text in [
        "\u{0}\u{1}\u{2}",
        "%YAML 9.9\n---\n",
        "%",
        "\u{feff}",
        "!!binary x",
        "a: !foo b",
        "&a",
        "*",
        "---\n---\n...",
    ] {
        assert!(!told(&[("compose.yaml", text)]).is_empty(), "{text:?}");
    }
}

#[test]
fn files_that_include_or_extend_themselves_are_refused() {
    let include = told(&[("compose.yaml", "include: [a.yaml]\n"), ("a.yaml", "include: [compose.yaml]\n")]);
    assert_eq!(
        include.lines().next().unwrap(),
        "a.yaml:1:11: error: files include one another in a circle: compose.yaml -> a.yaml -> compose.yaml [compose.yaml:1:11 includes `a.yaml`]"
    );
    let extends = told(&[("compose.yaml", "services:\n  a: {extends: b}\n  b: {extends: a}\n")]);
    assert_eq!(
        extends.lines().next().unwrap(),
        "compose.yaml:2:16: error: services extend one another in a circle: a -> b -> a [compose.yaml:3:16 `b` extends]"
    );
}

// ---- several files ----

/// The canonical form of one service laid on another.
fn merged(base: &str, over: &str) -> String {
    let indent = |text: &str| text.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let base = format!("services:\n  a:\n    image: x\n    network_mode: none\n{}", indent(base));
    let over = format!("services:\n  a:\n{}", indent(over));
    let text = canonical(&[("compose.yaml", &base), ("compose.override.yaml", &over)]);
    let body = text.split("    network_mode: none\n");
    let (before, after) = (body.clone().next().unwrap_or_default(), body.clone().nth(1).unwrap_or_default());
    let before = before.strip_prefix("name: project\nservices:\n  a:\n").unwrap_or(before);
    format!("{before}{after}")
        .lines()
        .map(|line| line.strip_prefix("    ").unwrap_or(line))
        .filter(|line| *line != "image: x")
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn scalars_are_replaced() {
    insta::assert_snapshot!(merged("user: a\nhostname: h", "user: b"), @r"
    hostname: h
    user: b
    ");
}

#[test]
fn commands_are_replaced_and_can_be_cleared() {
    insta::assert_snapshot!(merged("command: a b\nentrypoint: [e]", "command: []\nentrypoint: f g"), @r"
    command: []
    entrypoint:
      - f
      - g
    ");
}

#[test]
fn environments_merge_by_name_in_both_forms() {
    insta::assert_snapshot!(merged("environment: [A=1, B=2, D]\nlabels: {k: v}", "environment: {B: 3, C: true}\nlabels: [k=w, l]"), @r#"
    environment:
      A: "1"
      B: "3"
      C: "true"
      D: null
    labels:
      k: w
      l: ""
    "#);
}

#[test]
fn ports_are_joined_and_unique() {
    insta::assert_snapshot!(merged("ports: [\"80:80\", \"127.0.0.1:81:81\"]", "ports: [\"80:80\", {target: 82, published: 82}]"), @r#"
    ports:
      - mode: ingress
        target: 80
        published: "80"
        protocol: tcp
      - mode: ingress
        host_ip: 127.0.0.1
        target: 81
        published: "81"
        protocol: tcp
      - mode: ingress
        target: 82
        published: "82"
        protocol: tcp
    "#);
}

#[test]
fn mounts_are_unique_by_target() {
    insta::assert_snapshot!(merged("volumes: [\"./a:/x\", \"/y\"]\ndevices: [\"/dev/a:/dev/x\"]", "volumes: [\"./b:/x:ro\"]\ndevices: [\"/dev/b:/dev/x\"]"), @r"
    devices:
      - source: /dev/b
        target: /dev/x
        permissions: rwm
    volumes:
      - type: bind
        source: /project/b
        target: /x
        read_only: true
        bind:
          create_host_path: true
      - type: volume
        target: /y
    ");
}

#[test]
fn lists_are_joined_and_unique() {
    insta::assert_snapshot!(merged("cap_add: [A, B]\ndns: 1.1.1.1\nexpose: [80]\ntmpfs: /a", "cap_add: [B, C]\ndns: [2.2.2.2]\nexpose: [\"80\", 81]\ntmpfs: [/b]"), @r#"
    cap_add:
      - A
      - B
      - C
    dns:
      - 1.1.1.1
      - 2.2.2.2
    expose:
      - "80"
      - "81"
    tmpfs:
      - /a
      - /b
    "#);
}

#[test]
fn dependencies_merge_by_name() {
    insta::assert_snapshot!(merged("depends_on: [b]", "depends_on: {b: {condition: service_healthy, restart: true}}"), @r"
    depends_on:
      b:
        condition: service_healthy
        restart: true
        required: true
    ");
}

#[test]
fn builds_merge_deeply() {
    insta::assert_snapshot!(merged("build: ./dir", "build: {args: {A: 1}, target: t}"), @r#"
    build:
      context: /project/dir
      dockerfile: Dockerfile
      args:
        A: "1"
      target: t
    "#);
}

#[test]
fn health_checks_merge_but_their_test_is_replaced() {
    insta::assert_snapshot!(merged("healthcheck: {test: [CMD, a, b], interval: 1m}", "healthcheck: {test: c, retries: 3}"), @r"
    healthcheck:
      test:
        - CMD-SHELL
        - c
      interval: 1m0s
      retries: 3
    ");
}

#[test]
fn logging_options_merge_for_the_same_driver_only() {
    insta::assert_snapshot!(merged("logging: {driver: syslog, options: {a: 1}}", "logging: {driver: json-file, options: {b: 2}}"), @r#"
    logging:
      driver: json-file
      options:
        b: "2"
    "#);
}

#[test]
fn logging_options_merge_when_one_names_no_driver() {
    insta::assert_snapshot!(merged("logging: {driver: syslog, options: {a: 1}}", "logging: {options: {b: 2}}"), @r#"
    logging:
      driver: syslog
      options:
        a: "1"
        b: "2"
    "#);
}

#[test]
fn ulimits_are_replaced_one_by_one() {
    insta::assert_snapshot!(merged("ulimits: {nofile: {soft: 1, hard: 2}, nproc: 3}", "ulimits: {nofile: 5}"), @r"
    ulimits:
      nofile: 5
      nproc: 3
    ");
}

#[test]
fn hosts_are_joined() {
    insta::assert_snapshot!(merged("extra_hosts: [\"a:1.1.1.1\"]", "extra_hosts: {b: 2.2.2.2, a: 3.3.3.3}"), @r"
    extra_hosts:
      - a=1.1.1.1
      - a=3.3.3.3
      - b=2.2.2.2
    ");
}

#[test]
fn reset_takes_away_and_override_replaces() {
    insta::assert_snapshot!(merged("ports: [\"80:80\"]\nenvironment: {A: 1, B: 2}\nlabels: {k: v}", "ports: !reset null\nenvironment: {A: !reset null}\nlabels: !override {l: w}"), @r#"
    environment:
      B: "2"
    labels:
      l: w
    "#);
}

#[test]
fn an_empty_value_leaves_what_is_there() {
    insta::assert_snapshot!(merged("labels: {k: v}\nuser: a", "labels:\nuser:"), @r"
    labels:
      k: v
    user: a
    ");
}

#[test]
fn secrets_are_unique_by_target() {
    insta::assert_snapshot!(merged("secrets: [s]", "secrets: [{source: s, mode: 0400}]"), @r#"
    secrets:
      - source: s
        target: /run/secrets/s
        mode: "0400"
    "#);
}

#[test]
fn an_item_of_a_distinct_list_twice_is_refused() {
    insta::assert_snapshot!(merged("security_opt: [a]", "security_opt: [a]"), @"compose.override.yaml:3:20: error: `a` is listed twice [compose.yaml:5:20 first listed here]");
}

// ---- older formats ----

#[test]
fn a_fig_file_is_read_as_it_was_meant() {
    let fig = "web:\n  build: .\n  dockerfile: Dev\n  links: [db]\n  net: \"container:db\"\n  log_driver: none\ndb:\n  image: postgres\n  mem_limit: 64m\n";
    insta::assert_snapshot!(canonical(&[("fig.yml", fig)]), @r#"
    name: project
    services:
      db:
        image: postgres
        mem_limit: "67108864"
        networks:
          default: null
      web:
        build:
          context: /project
          dockerfile: Dev
        depends_on:
          db:
            condition: service_started
            restart: true
            required: true
        links:
          - db
        logging:
          driver: none
        network_mode: service:db
    networks:
      default:
        name: project_default
    "#);
    insta::assert_snapshot!(told(&[("fig.yml", fig)]), @"fig.yml:1:1: warning: read as a file of the first format: its top level is the services (`ficelle migrate FILE` prints it in today's form, with a top-level `services:`)");
}

#[test]
fn a_group_file_is_read_as_it_was_meant() {
    let group = "name: shop\ncontainers:\n  web: {image: nginx, ports: [\"80:80\"]}\n";
    insta::assert_snapshot!(canonical(&[("group.yml", group)]), @r#"
    name: shop
    services:
      web:
        image: nginx
        networks:
          default: null
        ports:
          - mode: ingress
            target: 80
            published: "80"
            protocol: tcp
    networks:
      default:
        name: shop_default
    "#);
}

// ---- what engines get ----

fn loaded(files: &[(&str, &str)]) -> Loaded {
    load(&LoadOptions::default(), &Memory::project(files)).unwrap_or_else(|told| panic!("{told:?}"))
}

#[test]
fn a_service_reaches_the_model_whole() {
    let text = r#"
name: shop
services:
  web:
    build: {context: ./web, args: {A: 1}, target: prod}
    command: serve --port 80
    environment: [A=1, GONE]
    ports: ["8080:80", "127.0.0.1::443/udp"]
    volumes: ["data:/data:ro", "./src:/src", "/cache"]
    tmpfs: "/run:size=1m,mode=1777,noexec"
    networks: {front: , back: {aliases: [w], priority: 10}}
    healthcheck: {test: curl localhost, interval: 5s, retries: 2}
    restart: on-failure:3
    stop_grace_period: 1m30s
    deploy: {replicas: 2, resources: {limits: {cpus: "0.5", memory: 64m, pids: 10}}}
    security_opt: ["no-new-privileges:true", seccomp=unconfined]
    ulimits: {nofile: {soft: 1, hard: 2}}
    depends_on: {db: {condition: service_healthy}}
    extra_hosts: ["a:1.2.3.4"]
  db: {image: "postgres:15", network_mode: none, profiles: [x, y]}
networks: {front: , back: {internal: true, ipam: {config: [{subnet: 10.9.0.0/24, gateway: 10.9.0.1}]}}}
volumes: {data: {name: shared, external: true}}
"#;
    let options = LoadOptions { profiles: vec!["x".to_owned()], ..LoadOptions::default() };
    let loaded = load(&options, &Memory::project(&[("compose.yaml", text)])).unwrap();
    assert_eq!(loaded.unsupported, []);
    let web = &loaded.project.services["web"];
    assert_eq!((web.scale, web.container.image.as_str()), (2, "shop-web"));
    let build = web.build.as_ref().unwrap();
    assert_eq!((build.context.as_path(), build.target.as_deref()), (Path::new("/project/web"), Some("prod")));
    assert_eq!(web.container.stop_grace_period, Some(Duration::from_secs(90)));
    let mut spec = serde_json::to_value(&web.container).unwrap();
    let unset = serde_json::to_value(crate::model::ContainerSpec::default()).unwrap();
    // What is as if nothing had been written says nothing.
    spec.as_object_mut().unwrap().retain(|key, value| *value != unset[key.as_str()]);
    insta::assert_snapshot!(serde_json::to_string_pretty(&spec).unwrap(), @r#"
    {
      "image": "shop-web",
      "command": [
        "serve",
        "--port",
        "80"
      ],
      "environment": {
        "A": "1",
        "GONE": null
      },
      "network": {
        "networks": {
          "shop_back": {
            "aliases": [
              "w"
            ],
            "ipv4_address": null,
            "ipv6_address": null,
            "link_local_ips": [],
            "priority": 10,
            "gw_priority": 0,
            "mac_address": null,
            "interface_name": null,
            "driver_opts": {}
          },
          "shop_front": {
            "aliases": [],
            "ipv4_address": null,
            "ipv6_address": null,
            "link_local_ips": [],
            "priority": 0,
            "gw_priority": 0,
            "mac_address": null,
            "interface_name": null,
            "driver_opts": {}
          }
        }
      },
      "ports": [
        {
          "target": 80,
          "published": {
            "first": 8080,
            "last": 8080
          },
          "host_ip": null,
          "protocol": "tcp"
        },
        {
          "target": 443,
          "published": null,
          "host_ip": "127.0.0.1",
          "protocol": "udp"
        }
      ],
      "extra_hosts": [
        [
          "a",
          {
            "address": "1.2.3.4"
          }
        ]
      ],
      "mounts": [
        {
          "target": "/data",
          "read_only": true,
          "source": {
            "volume": {
              "name": "shared",
              "options": {
                "nocopy": false,
                "subpath": null
              }
            }
          }
        },
        {
          "target": "/src",
          "read_only": false,
          "source": {
            "bind": {
              "path": "/project/src",
              "create": true,
              "propagation": null,
              "recursive": true
            }
          }
        },
        {
          "target": "/cache",
          "read_only": false,
          "source": {
            "anonymous": {
              "options": {
                "nocopy": false,
                "subpath": null
              }
            }
          }
        },
        {
          "target": "/run",
          "read_only": false,
          "source": {
            "tmpfs": {
              "size": 1048576,
              "mode": 1023,
              "options": [
                "noexec"
              ]
            }
          }
        }
      ],
      "healthcheck": {
        "test": {
          "shell": "curl localhost"
        },
        "interval": {
          "secs": 5,
          "nanos": 0
        },
        "timeout": null,
        "retries": 2,
        "start_period": null,
        "start_interval": null
      },
      "restart": {
        "on_failure": {
          "max_retries": 3
        }
      },
      "stop_grace_period": {
        "secs": 90,
        "nanos": 0
      },
      "security_opt": [
        {
          "no_new_privileges": true
        },
        "seccomp_unconfined"
      ],
      "ulimits": {
        "nofile": {
          "soft": 1,
          "hard": 2
        }
      },
      "limits": {
        "memory": 67108864,
        "memory_swap": null,
        "memory_reservation": null,
        "nano_cpus": 500000000,
        "cpu_shares": null,
        "cpuset": null,
        "pids": 10,
        "cpu_period": null,
        "cpu_quota": null,
        "cpu_rt_period": null,
        "cpu_rt_runtime": null,
        "memory_swappiness": null,
        "oom_kill_disable": false,
        "blkio": {
          "weight": null,
          "weight_device": [],
          "read_bps": [],
          "write_bps": [],
          "read_iops": [],
          "write_iops": []
        }
      }
    }
    "#);
    insta::assert_snapshot!(serde_json::to_string(&loaded.project.networks["back"]).unwrap(), @r#"{"name":"shop_back","external":false,"driver":null,"internal":true,"ipv6":false,"subnets":[{"address":"10.9.0.0","prefix":24,"gateway":"10.9.0.1","range":null,"aux_addresses":{}}],"driver_opts":{},"labels":{}}"#);
    let place = |path: &str| loaded.project.places.nearest(path).unwrap().to_string();
    assert_eq!(place("services.web.ports[1]"), "compose.yaml:8:24");
    assert_eq!(place("services.web.command"), "compose.yaml:6:14");
}

#[test]
fn what_is_not_honoured_is_listed_with_its_place() {
    let text = "services:\n  web:\n    image: x\n    use_api_socket: true\n    links: [\"db:alias\"]\n    restart: sometimes\n    deploy: {mode: global}\n  db: {image: x}\n";
    let list = loaded(&[("compose.yaml", text)]).unsupported;
    let short: Vec<_> = list.iter().map(|entry| format!("{:?} {}", entry.effect, entry.short())).collect();
    insta::assert_snapshot!(short.join("\n"), @r"
    Refused compose.yaml:4:5: `services.web.use_api_socket` cannot be: there is no daemon, and so no socket to talk to it
    Ignored compose.yaml:7:14: `services.web.deploy.mode` means something on a cluster only
    Refused compose.yaml:6:14: `sometimes` is no restart policy; known are no, always, on-failure[:retries] and unless-stopped
    ");
    assert!(list.iter().any(|entry| entry.effect == Effect::Ignored));
}

#[test]
fn labels_and_address_options_that_change_nothing_are_told() {
    let text = "services:\n  web:\n    image: x\n    volumes:\n      - {type: volume, source: data, target: /data, volume: {labels: {a: b}}}\n      - {type: volume, target: /own, volume: {labels: {a: b}}}\nvolumes: {data: {}}\nnetworks: {default: {ipam: {options: {a: b}}}}\n";
    let loaded = loaded(&[("compose.yaml", text)]);
    let list = loaded.unsupported.iter().map(|entry| format!("{:?} {}", entry.effect, entry.short()));
    insta::assert_snapshot!(list.collect::<Vec<_>>().join("\n"), @r"
    Ignored compose.yaml:8:29: `networks.default.ipam.options` means something with another address driver only
    Ignored compose.yaml:5:70: `services.web.volumes[0].volume.labels` has no effect: a volume with a name has the labels of its own
    ");
    let mounts = &loaded.project.services["web"].container.mounts;
    let MountSource::Anonymous { options } = &mounts[1].source else { panic!("{mounts:?}") };
    assert_eq!(options.labels["a"], "b");
}

#[test]
fn log_options_without_effect_are_told_one_by_one() {
    let text = "services:\n  web:\n    image: x\n    logging:\n      driver: local\n      options:\n        max-size: 1m\n        compress: \"true\"\n        mode: blocking\n        tag: web\n  other:\n    image: x\n    logging: {driver: syslog, options: {tag: x}}\n";
    let list = loaded(&[("compose.yaml", text)]).unsupported;
    let short: Vec<_> = list.iter().map(|entry| format!("{:?} {}", entry.effect, entry.short())).collect();
    insta::assert_snapshot!(short.join("\n"), @r"
    Ignored compose.yaml:8:9: `services.web.logging.options.compress` has no effect: logs are kept as they were written, unpacked
    Ignored compose.yaml:10:9: `services.web.logging.options.tag` has no effect: logs are kept as they were written, unpacked
    ");
}

#[test]
fn the_name_comes_from_the_strongest_source() {
    let name = |text: &str, flag: Option<&str>, variable: &[(&str, &str)]| {
        let options = LoadOptions { project_name: flag.map(ToOwned::to_owned), ..LoadOptions::default() };
        let source = Memory::project(&[("compose.yaml", text)]).with_environment(variable);
        load(&options, &source).map(|loaded| loaded.project.name).map_err(|told| one_line(&told[0]))
    };
    let (plain, named) = ("services: {}", "name: My.File\nservices: {}");
    assert_eq!(name(plain, None, &[]).unwrap(), "project");
    assert_eq!(name(named, None, &[]).unwrap(), "myfile");
    assert_eq!(name(named, None, &[("COMPOSE_PROJECT_NAME", "var")]).unwrap(), "var");
    assert_eq!(name(named, Some("flag"), &[("COMPOSE_PROJECT_NAME", "var")]).unwrap(), "flag");
    assert!(name(plain, Some("Not.Normal"), &[]).unwrap_err().contains("`notnormal` would do"));
}

#[test]
fn every_value_is_explained_by_its_place_and_why_it_won() {
    let files = Memory::project(&[
        (
            "compose.yaml",
            "include: [other.yaml]\nservices:\n  base:\n    image: \"a:${TAG}\"\n    user: \"1\"\n  web:\n    extends: base\n    hostname: ${HOST:-h}\n    environment: [HOME, A=1]\n",
        ),
        ("compose.override.yaml", "services:\n  web:\n    user: ${WHO}\n    hostname: over\n"),
        ("other.yaml", "services:\n  third:\n    image: c\n"),
        (".env", "TAG=7\n"),
    ])
    .with_environment(&[("WHO", "me"), ("HOME", "/h")]);
    let options = LoadOptions { explain: true, ..LoadOptions::default() };
    let resolved = resolve(&options, &files).unwrap();
    let lines: Vec<_> = resolved
        .explained
        .iter()
        .map(|value| {
            let place = value.place.as_ref().map(ToString::to_string).unwrap_or_default();
            format!("{}: {} | {place} | {}", value.path, value.value, value.why.join(", "))
        })
        .collect();
    insta::assert_snapshot!(lines.join("\n"), @r"
    services.third.image: c | other.yaml:3:12 | include (compose.yaml:1:11)
    services.third.networks.default: null |  | default
    services.base.image: a:7 | compose.yaml:4:12 | `TAG` from `.env`
    services.base.user: 1 | compose.yaml:5:11 | 
    services.base.networks.default: null |  | default
    services.web.image: a:7 | compose.yaml:4:12 | `TAG` from `.env`, extends `base` (compose.yaml:7:14)
    services.web.user: me | compose.override.yaml:3:11 | `WHO` from the shell, override of compose.yaml:5:11
    services.web.hostname: over | compose.override.yaml:4:15 | override of compose.yaml:8:15
    services.web.environment.HOME: /h | compose.yaml:9:19 | `HOME` from the shell
    services.web.environment.A: 1 | compose.yaml:9:25 | 
    services.web.networks.default: null |  | default
    name: project |  | default
    networks.default.name: project_default |  | default
    ");
}

#[test]
fn an_empty_image_is_none() {
    assert!(first_told("services: {a: {image: ''}}\n").contains("neither an `image` nor a `build`"));
}

#[test]
fn lists_of_a_provider_are_joined_and_its_single_values_replaced() {
    let base = "services:\n  db:\n    provider: {type: cloud, options: {size: s, zone: [a]}}\n";
    let over = "services:\n  db:\n    provider: {options: {size: m, zone: [b]}}\n";
    let files = [("compose.yaml", base), ("compose.override.yaml", over)];
    let loaded = load(&LoadOptions::default(), &Memory::project(&files)).unwrap();
    let provider =
        loaded.resolved.canonical.get("services").and_then(|services| services.get("db")?.get("provider"));
    let options = provider.and_then(|provider| provider.get("options")).unwrap();
    let list = |key: &str| options.get(key).map(Node::items).unwrap_or_default();
    assert_eq!(list("size").iter().filter_map(Node::as_str).collect::<Vec<_>>(), ["m"]);
    assert_eq!(list("zone").iter().filter_map(Node::as_str).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_build_of_an_included_file_has_the_directory_of_that_file() {
    let files = [
        ("compose.yaml", "include: [part/compose.yaml]\n"),
        ("part/compose.yaml", "services: {web: {build: {target: dev}}}\n"),
    ];
    assert!(canonical(&files).contains("context: /project/part\n"), "{}", canonical(&files));
}

#[test]
fn scale_is_shown_as_replicas_of_a_deploy_that_is_there() {
    let text =
        "services:\n  web: {image: a, scale: 2, deploy: {labels: {a: b}}}\n  db: {image: a, scale: 2}\n";
    let loaded = load(&LoadOptions::default(), &Memory::project(&[("compose.yaml", text)])).unwrap();
    assert_eq!(config::yaml(&loaded.resolved).matches("replicas: 2").count(), 1);
}
