//! Broken files, each with the place and the first words of what is told. A row is a mistake that somebody
//! makes; what is said of it is wrong when it names no line.

use super::{
    LoadOptions, Severity,
    attributes::{DEVICE_REQUEST, Form, PORT, PROJECT, Table},
    load, resolve,
    source::Memory,
};

/// Lines of a service that has an image.
const SERVICES: &[(&str, &str, &str)] = &[
    ("ports: [eighty]", "4:13", "`eighty` is no port: `eighty` is no port or range of ports (0 to 65535)"),
    (
        "ports: ['80:70000']",
        "4:13",
        "`80:70000` is no port: `70000` is no port or range of ports (0 to 65535)",
    ),
    ("ports: {a: b}", "4:12", "`ports` must be a list, not a mapping"),
    ("ports: ['1:2:3:4:5']", "4:13", "`1:2:3:4:5` is no port: `1:2:3` is no IP address"),
    ("ports: ['80/tpc']", "4:13", "`80/tpc` is no port: `tpc` is no protocol; known are tcp, udp and sctp"),
    ("environment: true", "4:18", "`environment` must be a mapping or a list of `KEY=value`, not a boolean"),
    ("environment: [[a]]", "4:19", "`environment` must be a string, `KEY=value`, not a list"),
    ("environment: {A: [1]}", "4:22", "`A` must be a string, a number or a boolean, not a list"),
    ("environment: {A: {b: c}}", "4:22", "`A` must be a string, a number or a boolean, not a mapping"),
    ("environment: [A=1, 3]", "4:24", "`environment` must be a string, `KEY=value`, not an integer"),
    ("env_file: missing.env", "4:15", "env_file `missing.env` not found"),
    ("env_file: [{required: true}]", "4:16", "`env_file` needs the key `path`"),
    ("env_file: {a: b}", "4:15", "`env_file` must be a list, not a mapping"),
    ("command: {a: b}", "4:14", "`command` must be a list, not a mapping"),
    ("command: 12", "4:14", "`command` must be a list, not an integer"),
    ("entrypoint: true", "4:17", "`entrypoint` must be a list, not a boolean"),
    ("command: \"a 'b\"", "4:14", "a quote in this command is not closed"),
    ("depends_on: db", "4:17", "`depends_on` must be a list of names or a mapping, not a string"),
    ("depends_on: [db]", "4:18", "there is no service `db`"),
    (
        "depends_on: {db: {condition: healthy}}",
        "4:34",
        "`condition` must be one of `service_started`, `service_healthy`, `service_completed_successfully`",
    ),
    ("depends_on: {web: {condition: service_started}}", "4:18", "dependency cycle: web -> web"),
    ("depends_on: [1]", "4:18", "`depends_on` must be a string, a name, not an integer"),
    ("volumes: [data:/x]", "4:15", "there is no volume `data`"),
    (
        "volumes: [{type: bnd, target: /x}]",
        "4:22",
        "`type` must be one of `bind`, `volume`, `tmpfs`, `cluster`, `npipe`, `image`",
    ),
    ("volumes: [{source: a, target: /x}]", "4:15", "`volumes` needs the key `type`"),
    ("volumes: /x", "4:14", "`volumes` must be a list, not a string"),
    ("networks: [nope]", "4:16", "there is no network `nope`"),
    ("networks: {nope: {aliases: x}}", "4:32", "`aliases` must be a list, not a string"),
    ("networks: back", "4:15", "`networks` must be a list of names or a mapping, not a string"),
    ("healthcheck: {test: 5}", "4:25", "`test` must be a list, not an integer"),
    ("healthcheck: {interval: 10}", "4:29", "`interval` must be a string such as `1m30s`, not an integer"),
    (
        "healthcheck: {interval: soon}",
        "4:29",
        "`soon` is no duration; write a number with its unit, such as `1m30s`",
    ),
    ("healthcheck: {tests: x}", "4:19", "unknown key `tests`"),
    ("healthcheck: {retries: many}", "4:28", "`many` is no integer"),
    ("healthcheck: [a]", "4:18", "`healthcheck` must be a mapping, not a list"),
    ("restart: 5", "4:14", "`restart` must be a string, not an integer"),
    ("privileged: maybe", "4:17", "`maybe` is no boolean; write true or false"),
    ("privileged: [true]", "4:17", "`privileged` must be a boolean, not a list"),
    ("read_only: 12", "4:16", "`read_only` must be a boolean, not an integer"),
    ("tty: 'perhaps'", "4:10", "`perhaps` is no boolean; write true or false"),
    ("init: {}", "4:11", "`init` must be a boolean, not a mapping"),
    ("mem_limit: lots", "4:16", "`lots` is no size; write it as `64m` or `1.5gb`"),
    ("mem_limit: 5x", "4:16", "`5x` is no size; write it as `64m` or `1.5gb`"),
    ("mem_limit: [1]", "4:16", "`mem_limit` must be a size such as `64m`, not a list"),
    ("shm_size: big", "4:15", "`big` is no size; write it as `64m` or `1.5gb`"),
    ("cpus: half", "4:11", "`half` is no number"),
    ("cpus: [1]", "4:11", "`cpus` must be a number, not a list"),
    ("cpu_shares: x", "4:17", "`x` is no integer"),
    ("pids_limit: few", "4:17", "`few` is no integer"),
    ("oom_score_adj: 5000", "4:20", "`oom_score_adj` must be between -1000 and 1000"),
    ("cpu_percent: 200", "4:18", "`cpu_percent` must be between 0 and 100"),
    ("stop_grace_period: 10", "4:24", "`stop_grace_period` must be a string such as `1m30s`, not an integer"),
    (
        "stop_grace_period: soon",
        "4:24",
        "`soon` is no duration; write a number with its unit, such as `1m30s`",
    ),
    ("stop_signal: 9", "4:18", "`stop_signal` must be a string, not an integer"),
    (
        "pull_policy: often",
        "4:18",
        "`often` is no pull policy; known are always, never, build, if_not_present, missing, refresh, daily, weekly and `every_<duration>`",
    ),
    ("pull_policy: 1", "4:18", "`pull_policy` must be a string, not an integer"),
    ("ulimits: {nofile: many}", "4:23", "`many` is no integer"),
    ("ulimits: {nofile: {soft: 1}}", "4:23", "`nofile` needs the key `hard`"),
    ("ulimits: [1]", "4:14", "`ulimits` must be a mapping, not a list"),
    ("ulimits: {nofile: {soft: 1, hart: 2}}", "4:33", "unknown key `hart`"),
    ("build: [a]", "4:12", "`build` must be a string or a mapping, not a list"),
    ("build: {contxt: .}", "4:13", "unknown key `contxt`"),
    ("build: {context: 5}", "4:22", "`context` must be a string, not an integer"),
    ("build: {args: 5}", "4:19", "`args` must be a mapping or a list of `KEY=value`, not an integer"),
    ("build: {target: [a]}", "4:21", "`target` must be a string, not a list"),
    ("deploy: {replica: 2}", "4:14", "unknown key `replica`"),
    ("deploy: {replicas: two}", "4:24", "`two` is no integer"),
    ("deploy: {resources: {limit: {}}}", "4:26", "unknown key `limit`"),
    (
        "deploy: {resources: {limits: {memory: 5}}}",
        "4:43",
        "`memory` must be a string such as `64m`, not an integer",
    ),
    ("deploy: {resources: {limits: {cpu: '1'}}}", "4:35", "unknown key `cpu`"),
    ("deploy: {update_config: {order: first}}", "4:37", "`order` must be one of `start-first`, `stop-first`"),
    ("labels: 5", "4:13", "`labels` must be a mapping or a list of `KEY=value`, not an integer"),
    ("labels: [[a]]", "4:14", "`labels` must be a string, `KEY=value`, not a list"),
    ("logging: json", "4:14", "`logging` must be a mapping, not a string"),
    ("logging: {drivers: x}", "4:15", "unknown key `drivers`"),
    ("logging: {options: [a]}", "4:24", "`options` must be a mapping, not a list"),
    ("extends: nobody", "4:14", "there is no service `nobody` in `compose.yaml` to extend"),
    ("extends: {file: a.yaml}", "4:14", "`extends` needs the name of a `service`"),
    ("extends: {service: x, file: missing.yaml}", "4:33", "Compose file `missing.yaml` not found"),
    ("cap_add: ALL", "4:14", "`cap_add` must be a list, not a string"),
    ("cap_add: [1]", "4:15", "`cap_add` must be a string, not an integer"),
    ("devices: [{target: /x}]", "4:15", "`devices` needs the key `source`"),
    ("dns: 5", "4:10", "`dns` must be a list, not an integer"),
    ("extra_hosts: [nohost]", "4:19", "`nohost` is not of the form `host:address`"),
    ("extra_hosts: 5", "4:18", "`extra_hosts` must be a list of `host:address` or a mapping, not an integer"),
    ("secrets: [pw]", "4:15", "there is no secret `pw`"),
    ("configs: [cf]", "4:15", "there is no config `cf`"),
    ("profiles: dev", "4:15", "`profiles` must be a list, not a string"),
    (
        "container_name: 'a b'",
        "4:21",
        "`a b` is no container name: two or more of letters, digits, `_`, `.` and `-`, a letter or digit first",
    ),
    ("hostname: 5", "4:15", "`hostname` must be a string, not an integer"),
    ("user: 1000", "4:11", "`user` must be a string, not an integer"),
    ("working_dir: [a]", "4:18", "`working_dir` must be a string, not a list"),
    ("tmpfs: 5", "4:12", "`tmpfs` must be a list, not an integer"),
    ("sysctls: 5", "4:14", "`sysctls` must be a mapping or a list of `KEY=value`, not an integer"),
    ("cgroup: mine", "4:13", "`cgroup` must be one of `host`, `private`"),
    ("scale: x", "4:12", "`x` is no integer"),
    ("gpus: some", "4:11", "`gpus` must be `all` or a list of devices, not a string"),
    ("blkio_config: {weights: 5}", "4:20", "unknown key `weights`"),
    ("develop: {watch: [{path: .}]}", "4:23", "`watch` needs the key `action`"),
    (
        "develop: {watch: [{path: ., action: build}]}",
        "4:41",
        "`action` must be one of `rebuild`, `sync`, `restart`, `sync+restart`, `sync+exec`",
    ),
    ("environments: {A: 1}", "4:5", "unknown key `environments`"),
    ("replicas: 2", "4:5", "unknown key `replicas`"),
    ("dockerfile: D", "4:5", "unknown key `dockerfile`"),
    ("network: x", "4:5", "unknown key `network`"),
    ("link: [a]", "4:5", "unknown key `link`"),
    ("post_start: [{user: root}]", "4:18", "`post_start` needs the key `command`"),
    ("attach: x y", "4:13", "`x y` is no boolean; write true or false"),
    ("provider: {options: {}}", "4:15", "`provider` needs the key `type`"),
    ("mac_address: [a]", "4:18", "`mac_address` must be a string, not a list"),
    ("credential_spec: x", "4:22", "`credential_spec` must be a mapping, not a string"),
    ("storage_opt: [a]", "4:18", "`storage_opt` must be a mapping, not a list"),
    ("isolation: 5", "4:16", "`isolation` must be a string, not an integer"),
    ("links: {a: b}", "4:12", "`links` must be a list, not a mapping"),
    ("models: [m]", "4:14", "there is no model `m`"),
    ("annotations: 5", "4:18", "`annotations` must be a mapping or a list of `KEY=value`, not an integer"),
    ("label_file: none.env", "4:17", "label_file `none.env` not found"),
    ("group_add: x", "4:16", "`group_add` must be a list, not a string"),
    ("volumes_from: [nobody]", "4:20", "there is no service `nobody`"),
    ("network_mode: service:nobody", "4:19", "there is no service `nobody`"),
    ("image: j", "4:5", "the key `image` is written twice in one mapping"),
];

/// Whole files.
const FILES: &[(&str, &str, &str)] = &[
    ("services:\n  web:\n    image: \"${TAG\"\n", "3:13", "invalid interpolation format `${TAG`"),
    (
        "services:\n  web:\n    image: ${TAG:?set it}\n",
        "3:12",
        "required variable `TAG` is missing a value: set it",
    ),
    ("services:\n  web:\n    image: ${1X}\n", "3:12", "invalid interpolation format `${1X}`"),
    ("services:\n  web:\n    image: ${A:-${B}\n", "3:12", "invalid interpolation format `${A:-${B}`"),
    (
        "services:\n\tweb:\n\t\timage: i\n",
        "2:2",
        "invalid YAML: tabs disallowed within this context (block indentation)",
    ),
    (
        "services:\n  web:\n    image: i\n   ports: [80]\n",
        "4:4",
        "invalid YAML: while parsing a block mapping, did not find expected key",
    ),
    ("service:\n  web: {image: i}\n", "1:1", "unknown key `service`"),
    ("services: [a]\n", "1:11", "`services` must be a mapping, not a list"),
    ("services:\n  web:\n", "2:6", "`web` has no value; it must be a mapping"),
    ("- a\n", "1:1", "a Compose file must be a mapping, not a list"),
    ("just words\n", "1:1", "a Compose file must be a mapping, not a string"),
    (
        "services:\n  web: {image: i}\n  web: {image: j}\n",
        "3:3",
        "the key `web` is written twice in one mapping",
    ),
    (
        "services:\n  web: &a\n    image: i\n  b: *c\n",
        "4:6",
        "invalid YAML: while parsing node, found unknown anchor",
    ),
    (
        "services:\n  web: {image: i\n",
        "3:1",
        "invalid YAML: while parsing a flow mapping, did not find expected ',' or '}'",
    ),
    (
        "services:\n  'we b': {image: i}\n",
        "2:3",
        "`we b` is no valid name: letters, digits, `.`, `_` and `-` only",
    ),
    (
        "services:\n  web: {image: \"i}\n",
        "2:16",
        "invalid YAML: while scanning a quoted scalar, found unexpected end of stream",
    ),
    (
        "services:\n  a: {image: i, depends_on: [b]}\n  b: {image: i, depends_on: [a]}\n",
        "2:30",
        "dependency cycle: a -> b -> a",
    ),
    (
        "services:\n  a: {image: i, extends: b}\n  b: {extends: a}\n",
        "2:26",
        "services extend one another in a circle: a -> b -> a",
    ),
    ("include: [none.yaml]\n", "1:11", "Compose file `none.yaml` not found"),
    (
        "include: [compose.yaml]\nservices: {a: {image: i}}\n",
        "1:11",
        "files include one another in a circle: compose.yaml -> compose.yaml",
    ),
    ("services:\n  web:\n    image: i\nvolumes:\n  d: {drivr: x}\n", "5:7", "unknown key `drivr`"),
    (
        "services:\n  web:\n    image: i\nnetworks:\n  n: {ipam: [a]}\n",
        "5:13",
        "`ipam` must be a mapping, not a list",
    ),
    ("services:\n  web:\n    image: i\nsecrets:\n  s: {fil: x}\n", "5:7", "unknown key `fil`"),
    ("services:\n  web:\n    image: i\nnetworks: [a]\n", "4:11", "`networks` must be a mapping, not a list"),
    ("services:\n  web:\n    image: i\nports: [80]\n", "4:1", "unknown key `ports`"),
    ("services:\n  web:\n    image: i\nname: [x]\n", "4:7", "`name` must be a string, not a list"),
    (
        "services:\n  web:\n    image: i\n  db: {}\n",
        "4:3",
        "this service has neither an `image` nor a `build`",
    ),
    (
        "services:\n  web:\n    image: !wrong i\n    ports: {{}\n",
        "4:13",
        "a key must be a string, `a mapping` is a mapping",
    ),
    ("? [a]\n: b\n", "1:3", "a key must be a string, `a list` is a list"),
    ("services:\n  1: {image: i}\n  web: x\n", "2:3", "a key must be a string, `1` is an integer"),
    ("name: ''\nservices: {a: {imag: i}}\n", "2:16", "unknown key `imag`"),
];

/// Place and message of the first mistake.
fn told(text: &str) -> String {
    let found = load(&LoadOptions::default(), &Memory::project(&[("compose.yaml", text)])).map(|_| ());
    let told = found.expect_err(text);
    let first = told.iter().find(|told| told.severity == Severity::Error).unwrap();
    first.short()
}

#[test]
fn every_broken_file_is_told_with_its_line_and_column() {
    assert!(SERVICES.len() + FILES.len() >= 118);
    let services = SERVICES
        .iter()
        .map(|(lines, at, message)| (format!("services:\n  web:\n    image: i\n    {lines}\n"), at, message));
    let files = FILES.iter().map(|(text, at, message)| ((*text).to_owned(), at, message));
    let wrong: Vec<_> = services
        .chain(files)
        .map(|(text, at, message)| (told(&text), format!("compose.yaml:{at}: error: {message}")))
        .filter(|(told, wanted)| told != wanted)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The kinds of mistake that people make most: a name, the file, and all that is told, help included.
const KINDS: &[(&str, &str, &[&str])] = &[
    (
        "a port that is a word",
        "services:\n  web: {image: i, ports: [eighty]}\n",
        &["2:27: error: `eighty` is no port: `eighty` is no port or range of ports (0 to 65535)"],
    ),
    (
        "an image name in capitals",
        "services:\n  web: {image: BusyBox:Latest}\n",
        &[
            "2:16: warning: image name `BusyBox:Latest` has upper-case letters; repository names are lower case (write `busybox:latest`)",
        ],
    ),
    (
        "a mistyped key, and nothing else because of it",
        "services:\n  web: {imagee: nginx}\n",
        &["2:9: error: unknown key `imagee` (did you mean `image`?)"],
    ),
    (
        "several mistakes at once",
        "services:\n  web: {imag: i, prots: [80], restart: 5}\n",
        &[
            "2:9: error: unknown key `imag` (did you mean `image`?)",
            "2:18: error: unknown key `prots` (did you mean `ports`?)",
            "2:40: error: `restart` must be a string, not an integer (put it in quotes: \"5\")",
        ],
    ),
    (
        "a tab in the indentation",
        "services:\n\tweb: {image: i}\n",
        &[
            "2:2: error: invalid YAML: tabs disallowed within this context (block indentation) (YAML forbids tabs in the indentation; use spaces)",
        ],
    ),
    (
        "a dependency that is not there",
        "services:\n  web: {image: i, depends_on: [bd]}\n  db: {image: i}\n",
        &["2:32: error: there is no service `bd` (did you mean `db`?)"],
    ),
    (
        "a volume that is not declared",
        "services:\n  web: {image: i, volumes: ['data:/x']}\n",
        &["2:29: error: there is no volume `data` (define it below the top-level `volumes:`)"],
    ),
    (
        "an environment in the plural",
        "services:\n  web: {image: i, environments: {A: 1}}\n",
        &["2:19: error: unknown key `environments` (did you mean `environment`?)"],
    ),
    (
        "a key of the build beside it",
        "services:\n  web: {build: ., dockerfile: D}\n",
        &["2:19: error: unknown key `dockerfile` (write it below `build:`)"],
    ),
    (
        "a key of the service in its build",
        "services:\n  web: {build: {context: ., ports: [80]}}\n",
        &["2:29: error: unknown key `ports` (`ports` belongs to a service)"],
    ),
    (
        "a key of deploy in the service",
        "services:\n  web: {image: i, placement: {}}\n",
        &["2:19: error: unknown key `placement` (`placement` belongs to the `deploy:` of a service)"],
    ),
    (
        "a key of the service at the top",
        "services:\n  web: {image: i}\nvolumes_from: [web]\n",
        &["3:1: error: unknown key `volumes_from` (`volumes_from` belongs to a service, below `services:`)"],
    ),
    (
        "a service at the top",
        "services:\n  web: {image: i}\ndb: {}\n",
        &["3:1: error: unknown key `db` (if `db` is a service, it belongs below `services:`)"],
    ),
    (
        "a port of base 60",
        "services:\n  web:\n    image: i\n    ports:\n      - 22:22\n",
        &[
            "5:9: warning: `22:22` without quotes is a number of base 60 to YAML 1.1 (put it in quotes, so that every reader takes it for a port: \"22:22\")",
        ],
    ),
    (
        "a yes for a boolean",
        "services:\n  web: {image: i, privileged: yes}\n",
        &[
            "2:31: warning: `yes` is text, taken for true (write `true`: only `true` and `false` are booleans)",
        ],
    ),
    (
        "a restart that is a boolean",
        "services:\n  web: {image: i, restart: false}\n",
        &["2:28: error: `restart` must be a string, not a boolean (put it in quotes: \"no\")"],
    ),
    (
        "no space behind a colon",
        "services:\n  web:\n    image:nginx\n",
        &[
            "3:5: error: `web` must be a mapping, not a string (a space must follow the colon: `image: nginx`)",
        ],
    ),
    (
        "no space behind a dash",
        "services:\n  web:\n    image: i\n    ports:\n      -80:80\n",
        &["5:7: error: `ports` must be a list, not a string (a space must follow the dash: `- 80:80`)"],
    ),
    (
        "a colon in a value",
        "services:\n  web:\n    image: i\n    command: a: b\n",
        &[
            "4:15: error: invalid YAML: mapping values are not allowed in this context (a value that contains `: ` must stand in quotes; a key of its own, on a line of its own)",
        ],
    ),
    (
        "a sign that YAML keeps for itself",
        "services:\n  web:\n    image: i\n    command: @x\n",
        &[
            "4:14: error: invalid YAML: unexpected character: `@' (a value that begins with `@` must stand in quotes)",
        ],
    ),
    (
        "a scalar for a list",
        "services:\n  web: {image: i, ports: 80}\n",
        &["2:26: error: `ports` must be a list, not an integer (write it as a list: [\"80\"])"],
    ),
];

#[test]
fn the_common_kinds_of_mistake_are_told_with_their_place_and_their_help() {
    for (name, text, wanted) in KINDS {
        let source = Memory::project(&[("compose.yaml", text)]);
        let told = load(&LoadOptions::default(), &source)
            .map_or_else(|told| told, |loaded| loaded.resolved.warnings);
        let told: Vec<String> = told
            .iter()
            .map(|told| {
                let help: String = told.help.iter().map(|help| format!(" ({help})")).collect();
                told.short() + &help
            })
            .collect();
        let wanted: Vec<String> = wanted.iter().map(|wanted| format!("compose.yaml:{wanted}")).collect();
        assert_eq!(told, wanted, "{name}");
    }
}

/// The numbers of a linear congruence: the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % end
    }
}

/// One slip of the finger: a letter lost, one more, swapped with its neighbour, or another one.
fn mistyped(key: &str, dice: &mut Dice) -> String {
    let mut letters: Vec<char> = key.chars().collect();
    let at = dice.below(letters.len());
    match dice.below(4) {
        0 => drop(letters.remove(at)),
        1 => letters.insert(at, char::from(b'a' + u8::try_from(dice.below(26)).unwrap())),
        2 if at + 1 < letters.len() => letters.swap(at, at + 1),
        _ => letters[at] = char::from(b'a' + u8::try_from(dice.below(26)).unwrap()),
    }
    letters.into_iter().collect()
}

/// Every mapping of known keys that a value of this form has: its rows, and the file around it in flow style,
/// with `@` where the mapping stands.
fn mappings(form: Form, around: &str, found: &mut Vec<(String, Table)>) {
    let within = |inner: &str| around.replacen('@', inner, 1);
    let mut of = |table: Table, around: &str| {
        for row in table {
            mappings(row.form, &around.replacen('@', &format!("{{{}: @}}", row.name), 1), found);
        }
        found.push((around.to_owned(), table));
    };
    match form {
        Form::Object(table) | Form::Closed(table) | Form::ObjectOrNull(table) | Form::Short(_, table) => {
            of(table, around);
        }
        Form::Ports => of(PORT, &within("[@]")),
        Form::Gpus => of(DEVICE_REQUEST, &within("[@]")),
        Form::List(item) => mappings(*item, &within("[@]"), found),
        Form::Keyed(item) | Form::Names(item, _) => mappings(*item, &within("{a: @}"), found),
        _ => {}
    }
}

#[test]
fn a_mistyped_key_is_answered_with_the_right_one() {
    let mut dice = Dice(1);
    let mut levels = Vec::new();
    mappings(Form::Object(PROJECT), "@", &mut levels);
    let keys: Vec<_> = levels
        .iter()
        .flat_map(|(around, table)| table.iter().map(move |row| (around, *table, row.name)))
        .collect();
    assert!(keys.len() > 250, "{} keys", keys.len());
    let (mut asked, mut right) = (0_u32, 0_u32);
    let mut wrong = Vec::new();
    while asked < 1000 {
        let (around, table, key) = keys[dice.below(keys.len())];
        let typed = mistyped(key, &mut dice);
        if key.len() < 3 || typed.starts_with("x-") || table.iter().any(|row| row.name == typed) {
            continue;
        }
        asked += 1;
        let text = around.replacen('@', &format!("{{{typed}: 1}}"), 1);
        let told = resolve(&LoadOptions::default(), &Memory::project(&[("compose.yaml", &text)]));
        let told = told.map_or_else(|told| told, |resolved| resolved.warnings);
        let about = told.iter().find(|told| told.message == format!("unknown key `{typed}`"));
        let help = about.and_then(|told| told.help.first().cloned());
        if help.as_ref() == Some(&format!("did you mean `{key}`?")) {
            right += 1;
        } else {
            wrong.push(format!("{text}: {help:?}, not {key}"));
        }
    }
    assert!(right * 100 > asked * 95, "{right} of {asked}: {wrong:#?}");
}

#[test]
fn a_mistake_is_told_to_programs_in_one_line() {
    let text = "services:\n  web:\n    imag: i,50%\n";
    let told = load(&LoadOptions::default(), &Memory::project(&[("compose.yaml", text)])).map(|_| ());
    let told = &told.expect_err(text)[0];
    assert_eq!(
        told.github(),
        "::error file=compose.yaml,line=3,col=5::unknown key `imag`%0Ahelp: did you mean `image`?"
    );
    let json: serde_json::Value = serde_json::from_str(&told.json()).unwrap();
    assert_eq!(json["severity"], "error");
    assert_eq!(json["path"], "services.web.imag");
    assert_eq!(json["marks"][0]["place"]["line"], 3);
    assert_eq!(json["help"][0], "did you mean `image`?");
}
