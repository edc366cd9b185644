//! Images built from Dockerfiles on real layers and a real runtime: what they hold, what is not done
//! twice, and what a Dockerfile cannot do.

use std::{
    fs,
    io::{BufRead, Write},
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Once},
};

use ficelle::{
    build::{self, BuildError, BuildEvent},
    image::{Image, Store},
    model::{Build, ImageRef},
    runtime::{Core, Roots},
};
use serde_json::json;
use sha2::{Digest, Sha256};

/// A machine that cannot build skips aloud.
macro_rules! workshop {
    () => {
        match Workshop::new() {
            Ok(workshop) => workshop,
            Err(why) => {
                println!("SKIPPED: {why}");
                return;
            }
        }
    };
}

mod inputs;
mod shared;

/// A store with the image `base`, and a build context.
struct Workshop {
    dir: tempfile::TempDir,
    store: Store,
    core: Core,
}

/// What a build came to, and what it said.
struct Outcome {
    result: Result<Image, BuildError>,
    events: Vec<BuildEvent>,
}

impl Workshop {
    fn new() -> Result<Self, String> {
        static PROGRAM: Once = Once::new();
        PROGRAM.call_once(|| ficelle::runtime::use_program(env!("CARGO_BIN_EXE_ficelle").into()));
        if !Path::new("/bin/busybox").exists() {
            return Err("no /bin/busybox (apt-get install busybox-static)".into());
        }
        let dir = tempfile::tempdir().unwrap();
        let core = Core::new(Roots::below(&dir.path().join("state")));
        core.permitted().map_err(|error| error.to_string())?;
        let store = Store::open(dir.path().join("data/images"));
        fs::create_dir(dir.path().join("context")).unwrap();
        let workshop = Self { dir, store, core };
        workshop.load_base(
            "base",
            &json!({"Env": ["PATH=/bin", "BASE=yes"], "Cmd": ["sh"], "Labels": {"from": "base"}}),
        );
        Ok(workshop)
    }

    /// Loads an image with busybox under this name.
    fn load_base(&self, name: &str, config: &serde_json::Value) {
        let root = self.dir.path().join("base-root");
        if !root.exists() {
            for path in ["bin", "etc", "tmp", "usr/share"] {
                fs::create_dir_all(root.join(path)).unwrap();
            }
            fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
            for name in [
                "sh", "cat", "cp", "echo", "env", "id", "ln", "ls", "mkdir", "mv", "pwd", "rm", "sleep",
                "touch", "test", "chmod", "grep", "stat", "head", "tr", "true",
            ] {
                symlink("busybox", root.join("bin").join(name)).unwrap();
            }
            fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:44::/srv:/bin/sh\n")
                .unwrap();
            fs::write(root.join("etc/group"), "root:x:0:\nweb:x:44:\nextra:x:55:web\n").unwrap();
            fs::write(root.join("etc/motd"), "hello\n").unwrap();
            symlink("usr/share", root.join("share")).unwrap();
            fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        }
        let mut builder = tar::Builder::new(Vec::new());
        builder.follow_symlinks(false);
        builder.append_dir_all("", &root).unwrap();
        let layer = builder.into_inner().unwrap();
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "created": "2020-01-01T00:00:00Z", "config": config.clone(),
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
            "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "base"}],
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [format!("{name}:latest")], "Layers": ["layer.tar"]}]);
        let mut archive = tar::Builder::new(Vec::new());
        for (name, bytes) in [
            ("manifest.json", manifest.to_string().into_bytes()),
            ("config.json", config.to_string().into_bytes()),
            ("layer.tar", layer),
        ] {
            let mut header = tar::Header::new_ustar();
            header.set_mode(0o644);
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        let path = self.dir.path().join("base.tar");
        fs::write(&path, archive.into_inner().unwrap()).unwrap();
        self.store.load(&path, &|_, _, _| {}).unwrap();
    }

    fn context(&self) -> PathBuf {
        self.dir.path().join("context")
    }

    fn write(&self, path: &str, content: &str) {
        let path = self.context().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn build(&self, dockerfile: &str) -> Outcome {
        self.build_with(dockerfile, |_| {})
    }

    fn build_with(&self, dockerfile: &str, adjust: impl FnOnce(&mut Build)) -> Outcome {
        self.write("Dockerfile", dockerfile);
        let mut wanted = Build { context: self.context(), ..Build::default() };
        adjust(&mut wanted);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let events = Arc::clone(&heard);
        let reference: ImageRef = "built".parse().unwrap();
        let result = tokio::runtime::Runtime::new().unwrap().block_on(build::build(
            &self.store,
            &self.core,
            &wanted,
            &[reference],
            None,
            Arc::new(move |event| events.lock().unwrap().push(event)),
        ));
        let events = std::mem::take(&mut *heard.lock().unwrap());
        Outcome { result, events }
    }
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}"))
}

impl Outcome {
    fn image(&self) -> &Image {
        self.result.as_ref().unwrap_or_else(|error| panic!("{error}\n{:#?}", self.events))
    }

    fn error(&self) -> &BuildError {
        self.result.as_ref().expect_err("the build must fail")
    }

    /// The steps that were carried out, and those that were not.
    fn steps(&self, wanted: bool) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                BuildEvent::Step { step, cached } if *cached == wanted && !step.contains(" FROM ") => {
                    Some(step.as_str())
                }
                _ => None,
            })
            .collect()
    }

    fn output(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                BuildEvent::Output(line) => Some(line.as_str()),
                _ => None,
            })
            .collect()
    }

    fn warnings(&self) -> Vec<&str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                BuildEvent::Warning(text) => Some(text.as_str()),
                _ => None,
            })
            .collect()
    }

    /// The uppermost file of this path. Links are not followed.
    fn path(&self, path: &str) -> Option<PathBuf> {
        let mut layers = self.image().layers.iter().rev().map(|layer| layer.path.join(path));
        let found = layers.find(|path| path.symlink_metadata().is_ok())?;
        let meta = found.symlink_metadata().unwrap();
        // A character device 0/0 hides what is below.
        (meta.rdev() != 0 || meta.mode() & 0o170_000 != 0o020_000).then_some(found)
    }

    fn read(&self, path: &str) -> String {
        let found = self.path(path).unwrap_or_else(|| panic!("no {path} in the image"));
        fs::read_to_string(found).unwrap()
    }
}

#[test]
fn a_dockerfile_of_several_stages_gives_the_image_it_describes() {
    let workshop = workshop!();
    workshop.write("src/app.txt", "source\n");
    workshop.write("src/skip.log", "log\n");
    workshop.write(".dockerignore", "**/*.log\nDockerfile\n");
    let outcome = workshop.build_with(
        r#"ARG BASE=base
FROM ${BASE} AS builder
ARG VERSION=1 EXTRA
WORKDIR /work
COPY src/ .
RUN cat app.txt > out && echo "v$VERSION $EXTRA $BASE" >> out && ls > list
RUN rm /etc/motd && mkdir -m 700 /private && echo err >&2

FROM builder AS unused
RUN exit 7

FROM base
ENV NAME=web DIR=/srv/${NAME:-none}
LABEL a=1 b="two words"
WORKDIR $DIR/sub
WORKDIR ../files
COPY --from=builder --chown=web:extra /work/out /work/list ./
USER web
RUN echo "$(id -u) $(id -g) $(pwd) $NAME $HOME" > /tmp/who
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD test -e /tmp/who
ENTRYPOINT ["/bin/cat"]
CMD ["/tmp/who"]
ONBUILD RUN echo triggered > /tmp/triggered
SHELL ["/bin/sh", "-ec"]
"#,
        |build| {
            build.args.insert("EXTRA".into(), Some("given".into()));
            build.labels.insert("b".into(), "label".into());
            build.tags.push("other:1".into());
        },
    );
    let image = outcome.image();
    assert_eq!(outcome.read("srv/none/files/out"), "source\nv1 given yes\n");
    assert_eq!(outcome.read("srv/none/files/list"), "app.txt\nlist\nout\n");
    assert_eq!(outcome.read("tmp/who"), "33 44 /srv/none/files web /srv\n");
    let meta = outcome.path("srv/none/files/out").unwrap().metadata().unwrap();
    assert_eq!((meta.uid(), meta.gid()), (33, 55));
    assert!(outcome.path("private").is_none() && outcome.path("etc/motd").is_some());
    assert_eq!(outcome.output(), ["err"]);
    assert!(
        !outcome.steps(false).iter().any(|step| step.contains("exit 7")),
        "an unneeded stage must not run"
    );
    assert_eq!(outcome.steps(false)[0], "[builder 2/5] WORKDIR /work");

    let config = serde_json::to_value(&image.config).unwrap();
    let inner = &config["config"];
    assert_eq!(inner["Env"], json!(["PATH=/bin", "BASE=yes", "NAME=web", "DIR=/srv/none"]));
    assert_eq!(inner["Entrypoint"], json!(["/bin/cat"]));
    assert_eq!(inner["Cmd"], json!(["/tmp/who"]));
    assert_eq!(inner["User"], json!("web"));
    assert_eq!(inner["WorkingDir"], json!("/srv/none/files"));
    assert_eq!(inner["ExposedPorts"], json!({"53/udp": {}, "80/tcp": {}}));
    assert_eq!(inner["Volumes"], json!({"/data": {}}));
    assert_eq!(inner["Labels"], json!({"a": "1", "b": "label", "from": "base"}));
    assert_eq!(inner["StopSignal"], json!("SIGINT"));
    assert_eq!(image.docker.healthcheck.as_ref().unwrap().interval, 5_000_000_000);
    assert_eq!(
        image.docker.on_build.as_deref(),
        Some(&["RUN echo triggered > /tmp/triggered".to_owned()][..])
    );
    assert_eq!(image.docker.shell.as_deref(), Some(&["/bin/sh".to_owned(), "-ec".to_owned()][..]));
    let history = config["history"].as_array().unwrap();
    let made = history.iter().filter(|entry| entry["empty_layer"] != json!(true)).count();
    assert_eq!(made, image.layers.len());
    let by: Vec<_> = history.iter().map(|entry| entry["created_by"].as_str().unwrap()).collect();
    assert_eq!(
        by[..5],
        [
            "base",
            "ENV NAME=web DIR=/srv/none",
            "LABEL a=1 b=two words",
            "WORKDIR /srv/none/sub",
            "WORKDIR /srv/none/files",
        ]
    );
    assert_eq!(by[5], "COPY --chown=web:extra /work/out /work/list ./ # buildkit");
    assert!(
        by.contains(&"RUN /bin/sh -c echo \"$(id -u) $(id -g) $(pwd) $NAME $HOME\" > /tmp/who # buildkit")
    );
    assert!(by.contains(&"CMD [\"/tmp/who\"]"));
    for name in ["built", "other:1"] {
        assert_eq!(workshop.store.find(&name.parse().unwrap()).unwrap().unwrap().id, image.id);
    }
}

/// A value that differs each time the step is really carried out.
const RANDOM: &str = "RUN head -c 9 /proc/sys/kernel/random/uuid > /random\n";

#[test]
fn a_build_of_nothing_new_runs_nothing_and_gives_the_same_image() {
    let workshop = workshop!();
    workshop.write("file", "1");
    let text = format!("FROM base\nENV A=1\nWORKDIR /w\n{RANDOM}COPY file /file\nCMD x");
    let first = workshop.build(&text);
    let second = workshop.build(&text);
    assert_eq!(first.steps(false).len(), 3);
    assert_eq!(second.steps(false), Vec::<&str>::new());
    assert_eq!(second.steps(true).len(), 3);
    assert_eq!(first.image().id, second.image().id);
    assert_eq!(first.read("random"), second.read("random"));

    let touched = fs::File::options().write(true).open(workshop.context().join("file")).unwrap();
    touched.set_modified(std::time::SystemTime::now()).unwrap();
    assert_eq!(workshop.build(&text).image().id, first.image().id, "a new time is no new content");

    let uncached = workshop.build_with(&text, |build| build.no_cache = true);
    assert_ne!(uncached.read("random"), first.read("random"));
    assert_eq!(workshop.build(&text).image().id, uncached.image().id, "and then it is remembered");
}

#[test]
fn a_change_undoes_only_what_follows_it() {
    let workshop = workshop!();
    workshop.write("early", "1");
    workshop.write("late", "1");
    let text = format!(
        "FROM base\nCOPY early /\n{RANDOM}COPY late /\n{}",
        RANDOM.replace("> /random", "> /random2")
    );
    let first = workshop.build(&text);
    workshop.write("late", "2");
    let second = workshop.build(&text);
    assert_eq!(second.read("late"), "2");
    assert_eq!(second.read("random"), first.read("random"));
    assert_ne!(second.read("random2"), first.read("random2"));
    workshop.write("early", "2");
    let third = workshop.build(&text);
    assert_ne!(third.read("random"), first.read("random"));
    // Back again: all of it is still known.
    workshop.write("early", "1");
    workshop.write("late", "1");
    let fourth = workshop.build(&text);
    assert_eq!(fourth.image().id, first.image().id);
    assert_eq!(fourth.steps(false), Vec::<&str>::new());
}

#[test]
fn an_argument_counts_only_from_where_it_is_declared() {
    let workshop = workshop!();
    let text = format!("FROM base\n{RANDOM}ARG V\nRUN echo $V > /v\n");
    let build = |value: &str| {
        workshop.build_with(&text, |build| drop(build.args.insert("V".into(), Some(value.into()))))
    };
    let (first, second) = (build("1"), build("2"));
    assert_eq!((first.read("v").as_str(), second.read("v").as_str()), ("1\n", "2\n"));
    assert_eq!(first.read("random"), second.read("random"));
    let strange = workshop.build_with(&text, |build| {
        build.args.insert("NOPE".into(), Some("1".into()));
        build.args.insert("HTTP_PROXY".into(), Some("http://p".into()));
    });
    assert!(
        strange.warnings().contains(&"one or more build-args [NOPE] were not consumed"),
        "{:?}",
        strange.warnings()
    );
    assert!(strange.warnings().iter().all(|text| !text.contains("PROXY")));
}

#[test]
fn equal_results_of_a_stage_that_was_made_again_keep_what_follows() {
    let workshop = workshop!();
    workshop.write("input", "1");
    let text = format!(
        "FROM base AS made\nCOPY input /\nRUN echo same > /result\nFROM base\nCOPY --from=made /result /\n{RANDOM}"
    );
    let first = workshop.build(&text);
    workshop.write("input", "2");
    let second = workshop.build(&text);
    assert_eq!(second.steps(false).len(), 2, "{:?}", second.events);
    assert_eq!(second.image().id, first.image().id);
}

#[test]
fn a_change_of_equal_size_and_time_is_seen() {
    let workshop = workshop!();
    workshop.write("file", "aaa");
    let path = workshop.context().join("file");
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_600_000_000);
    let set = || fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
    set();
    let text = "FROM base\nCOPY . /c/";
    assert_eq!(workshop.build(text).read("c/file"), "aaa");
    workshop.write("file", "bbb");
    workshop.write("new", "x");
    set();
    assert_eq!(workshop.build(text).read("c/file"), "bbb");
}

#[test]
fn another_path_of_the_same_stage_is_another_source() {
    let workshop = workshop!();
    let text = |path: &str, pattern: &str| {
        format!(
            "FROM base AS made\nRUN mkdir /a /b; echo a > /a/f; echo b > /b/f; echo g > /b/g\nFROM base\n\
             ARG PATTERN={pattern}\nCOPY --from=made --exclude=$PATTERN {path} /copied\n\
             RUN --mount=type=bind,from=made,source={path},target=/m cat /m/f > /mounted\n"
        )
    };
    let first = workshop.build(&text("/a", "none"));
    assert_eq!((first.read("copied/f"), first.read("mounted")), ("a\n".into(), "a\n".into()));
    let second = workshop.build(&text("/b", "none"));
    assert_eq!((second.read("copied/f"), second.read("mounted")), ("b\n".into(), "b\n".into()));
    assert!(second.path("copied/g").is_some());
    let third = workshop.build(&text("/b", "g"));
    assert!(third.path("copied/f").is_some() && third.path("copied/g").is_none());
}

#[test]
fn a_failed_step_tells_its_code_and_place_and_leaves_no_record() {
    let workshop = workshop!();
    let text = format!("FROM base\n{RANDOM}\nRUN echo before; \\\n    test -e /never || exit 42\n");
    let first = workshop.build(&text);
    let BuildError::Step { file, line, command, code, .. } = first.error() else {
        panic!("{:?}", first.error())
    };
    assert!(file.ends_with("Dockerfile"));
    assert_eq!((*line, *code), (4, 42));
    assert_eq!(command, "/bin/sh -c echo before;     test -e /never || exit 42");
    assert_eq!(first.output(), ["before"]);
    let second = workshop.build(&text);
    assert_eq!(second.steps(true).len(), 1);
    assert_eq!(second.output(), ["before"], "it must have run again");
    assert!(workshop.store.find(&"built".parse().unwrap()).unwrap().is_none());

    let missing = workshop.build("FROM base\nRUN [\"/no/such\"]");
    assert!(matches!(missing.error(), BuildError::Step { code: 127, line: 2, .. }), "{:?}", missing.error());
}

#[test]
fn mistakes_are_told_with_file_and_line() {
    let workshop = workshop!();
    workshop.write("file", "x");
    let table = [
        ("FROM base\nRUM x", 2, "unknown instruction: RUM", "did you mean RUN?"),
        ("FROM base\nCOPY fiel /", 2, "\"/fiel\": not found", "did you mean `file`?"),
        (
            "FROM base\n\nCOPY --chown=nobody file /",
            3,
            "--chown: no user `nobody` in the image's /etc/passwd",
            "",
        ),
        ("FROM base\nCOPY --from=localhost:1/nope /x /", 2, "cannot use image `localhost:1/nope`", ""),
        ("FROM base\nRUN --mount=type=secret,id=s,required x", 2, "secret s: not found", ""),
        ("FROM base\nADD http://127.0.0.1:1/x /", 2, "cannot fetch `http://127.0.0.1:1/x`", ""),
        (
            "FROM base\nCOPY file Dockerfile /x",
            2,
            "When using COPY with more than one source file",
            "write `/x/`",
        ),
        ("FROM base\nCOPY file /etc/motd/x", 2, "", ""),
        ("FROM base\nEXPOSE http", 2, "invalid port `http`", ""),
        ("FROM base\nENV A=${B", 2, "failed to process", ""),
    ];
    for (text, expected, start, help) in table {
        let outcome = workshop.build(text);
        let BuildError::Dockerfile { line, message, help: given, .. } = outcome.error() else {
            panic!("{text}: {:?}", outcome.error())
        };
        assert_eq!(*line, expected, "{text}");
        assert!(message.starts_with(start), "{text}: {message}");
        assert!(help.is_empty() || given.as_deref() == Some(help), "{text}: {given:?}");
    }
    let several = workshop.build("FROM base\nRUM x\nCOPY y\n");
    assert!(matches!(several.error(), BuildError::Mistakes(all) if all.len() == 2));
}

#[test]
fn owners_are_never_guessed() {
    let workshop = workshop!();
    workshop.write("file", "x");
    for (owner, expected) in [
        ("5", Some((5, 5))),
        ("5:6", Some((5, 6))),
        ("web", Some((33, 44))),
        ("web:0", Some((33, 0))),
        ("0:extra", Some((0, 55))),
        ("-1", None),
        ("+5", None),
        ("0x5", None),
        ("2147483648", None),
        ("4294967296", None),
        ("18446744073709551616", None),
        ("web:nobody", None),
    ] {
        let outcome = workshop.build(&format!("FROM base\nCOPY --chown={owner} file /f"));
        match expected {
            Some(ids) => {
                let meta = outcome.path("f").unwrap().metadata().unwrap();
                assert_eq!((meta.uid(), meta.gid()), ids, "{owner}");
            }
            None => assert!(matches!(outcome.error(), BuildError::Dockerfile { line: 2, .. }), "{owner}"),
        }
    }
}

#[test]
fn a_step_sees_its_own_environment_only() {
    let workshop = workshop!();
    let outcome = workshop.build_with(
        "FROM base\nARG GIVEN UNSET\nENV OWN=1\nRUN env > /env; echo $0 > /shell",
        |build| {
            build.args.insert("GIVEN".into(), Some("2".into()));
            build.args.insert("no_proxy".into(), Some("3".into()));
        },
    );
    let env = outcome.read("env");
    let mut names: Vec<_> = env.lines().map(|line| line.split('=').next().unwrap()).collect();
    names.retain(|name| !["HOSTNAME", "HOME", "PWD", "SHLVL", "_"].contains(name));
    names.sort_unstable();
    assert_eq!(names, ["BASE", "GIVEN", "OWN", "PATH", "no_proxy"]);
    let config = serde_json::to_string(&outcome.image().config).unwrap();
    assert!(!config.contains("no_proxy"), "a proxy is no part of the image");
    assert!(config.contains("RUN |2 GIVEN=2 UNSET= /bin/sh -c"));
}

#[test]
fn bases_that_only_look_alike_share_no_steps() {
    let workshop = workshop!();
    let first = workshop.build(&format!("FROM base\n{RANDOM}"));
    let config = json!({"Env": ["PATH=/bin", "BASE=yes"], "Cmd": ["sh"], "Labels": {"from": "base"}});
    fs::write(workshop.dir.path().join("base-root/etc/motd"), "other\n").unwrap();
    workshop.load_base("base", &config);
    let second = workshop.build(&format!("FROM base\n{RANDOM}"));
    assert_eq!(second.steps(false).len(), 1);
    assert_ne!(first.read("random"), second.read("random"));
}

#[test]
fn a_clean_up_of_the_store_keeps_or_ends_what_is_remembered() {
    let workshop = workshop!();
    let text = format!("FROM base AS made\n{RANDOM}FROM base\nCOPY --from=made /random /copy\n");
    let first = workshop.build(&text).read("copy");
    let again = |used: &[String]| {
        // What this process holds is not collected.
        let store = Store::open(workshop.store.root().to_owned());
        store.collect(used).unwrap();
        workshop.build(&text)
    };
    let kept: Vec<String> = build::cached_layers(&workshop.store).into_iter().collect();
    assert_eq!(kept.len(), 2);
    assert_eq!(again(&kept).steps(false), Vec::<&str>::new());
    for layer in &kept {
        let folder = workshop.store.root().join("layers").join(layer.trim_start_matches("sha256:"));
        if folder.join("fs/random").exists() {
            fs::remove_dir_all(folder).unwrap();
        }
    }
    let made_again = again(&[]);
    assert_eq!(made_again.steps(false).len(), 2, "a record without its layer counts for nothing");
    assert_ne!(made_again.read("copy"), first);
}

#[test]
fn triggers_of_a_base_run_first_and_once() {
    let workshop = workshop!();
    workshop.load_base(
        "trigger",
        &json!({"Env": ["PATH=/bin"], "OnBuild": ["COPY file /first", "RUN cat /first > /second"]}),
    );
    workshop.write("file", "x");
    let outcome = workshop.build("FROM trigger\nRUN cat /second > /third");
    assert_eq!(outcome.read("third"), "x");
    assert_eq!(outcome.image().docker.on_build, None);
    fs::remove_file(workshop.context().join("file")).unwrap();
    let failed = workshop.build("FROM base AS x\n\nFROM trigger\n");
    let BuildError::Dockerfile { line, message, .. } = failed.error() else { panic!() };
    assert_eq!(*line, 3);
    assert_eq!(message, "in `ONBUILD COPY file /first` of the base image: \"/file\": not found");
}

#[test]
fn a_step_that_changes_nothing_makes_no_layer() {
    let workshop = workshop!();
    let outcome = workshop
        .build("FROM base\nRUN true\nRUN --mount=type=tmpfs,target=/usr/share/x true\nWORKDIR /etc\n");
    assert_eq!(outcome.image().layers.len(), 1);
    let changed = workshop.build("FROM base\nRUN chmod 700 /etc\n");
    assert_eq!(changed.image().layers.len(), 2);
    assert_eq!(changed.path("etc").unwrap().metadata().unwrap().mode() & 0o777, 0o700);
    let emptied = workshop
        .build("FROM base\nRUN rm -r /usr/share && mkdir /usr/share\nCOPY Dockerfile Dockerfile /etc");
    assert_eq!(emptied.image().layers.len(), 3);
}

#[test]
fn steps_may_make_the_same_layer_twice() {
    let workshop = workshop!();
    workshop.write("file", "x");
    let outcome = workshop.build(
        "FROM base\nCOPY file /f\nRUN echo y > /f\nCOPY file /f\nRUN cat /f\nCOPY --from=base /bin/sh /s\n",
    );
    assert_eq!(outcome.output(), ["x"]);
    assert_eq!(outcome.image().layers.len(), 5);
    assert_eq!(outcome.read("f"), "x");
}

#[test]
fn heredocs_are_scripts_and_files() {
    let workshop = workshop!();
    let outcome = workshop.build(
        "FROM base\nENV NAME=me\nRUN <<EOF\necho one > /out\necho \"$NAME\" >> /out\nEOF\n\
         RUN <<'EOF' cat >> /out\n$NAME literal\nEOF\n\
         RUN <<EOF\n#!/bin/cat\nshebang\nEOF\n\
         COPY --chmod=750 <<-A <<'B' /files/\n\thello $NAME\n\tA\n$NAME\nB\n",
    );
    assert_eq!(outcome.read("out"), "one\nme\n$NAME literal\n");
    assert_eq!(outcome.output(), ["#!/bin/cat", "shebang"]);
    assert_eq!(
        (outcome.read("files/A").as_str(), outcome.read("files/B").as_str()),
        ("hello me\n", "$NAME\n")
    );
    assert_eq!(outcome.path("files/A").unwrap().metadata().unwrap().mode() & 0o777, 0o750);
    assert!(outcome.path("dev/pipes").is_none(), "mount points of scripts must not stay");
}

#[test]
fn mounts_are_there_for_the_step_only() {
    let workshop = workshop!();
    workshop.write("in/file", "bound");
    workshop.write("in/hidden", "x");
    workshop.write(".dockerignore", "in/hidden");
    let text = "FROM base AS other\nRUN echo other > /o\nFROM base\n\
        RUN --mount=type=bind,source=in,target=/b --mount=type=bind,from=other,source=/o,target=/single \
            --mount=type=cache,target=/c --mount=type=tmpfs,target=/t \
            cat /b/file /single > /out; ls /b >> /out; touch /b/new || echo read-only >> /out; \
            touch /t/x; cat /c/count >> /out; echo kept > /c/count\n";
    let first = workshop.build(text);
    assert_eq!(first.read("out"), "boundother\nfile\nread-only\n");
    for path in ["b", "c", "t", "single"] {
        assert!(first.path(path).is_none(), "{path} must not stay in the layer");
    }
    let again = workshop.build_with(text, |build| build.no_cache = true);
    assert_eq!(again.read("out"), "boundother\nfile\nread-only\nkept\n");
    assert_eq!(workshop.build(text).steps(false), Vec::<&str>::new());
    workshop.write("in/hidden", "y");
    assert_eq!(workshop.build(text).steps(false), Vec::<&str>::new(), "an ignored file must not count");
    workshop.write("in/file", "changed");
    assert_eq!(workshop.build(text).read("out"), "changedother\nfile\nread-only\nkept\n");
    let owned = workshop.build(
        "FROM base AS made\nRUN mkdir /o; chmod 2750 /o; busybox chown 33:44 /o\nFROM base\n\
         RUN --mount=from=made,source=/o,target=/m stat -c '%a %u %g' /m\nCOPY --from=made /o /o\nRUN stat -c '%a %u %g' /o\n",
    );
    owned.image();
    assert_eq!(
        owned.output(),
        ["2750 33 44", "755 0 0"],
        "a mount is the directory itself, a copy what it holds"
    );
    let in_place = workshop.build(
        "FROM base AS made\nFROM base\nRUN --mount=from=made,target=/m --mount=from=made,source=/share,target=/s \
         grep -c ' /[ms] overlay ro' /proc/mounts; ls /s/..; touch /m/x || true\n",
    );
    in_place.image();
    assert_eq!(in_place.output()[0], "2", "the layers of a stage are mounted, not copied");
    let rw = workshop.build("FROM base\nRUN --mount=from=base,target=/b,rw rm -r /b/etc\n");
    rw.image();
    let rw = workshop.build("FROM base\nRUN --mount=target=/b,rw touch /b/new && rm -r /b/in\n");
    rw.image();
    assert!(workshop.context().join("in/file").exists() && !workshop.context().join("new").exists());
}

#[test]
fn archives_are_extracted_by_add_alone() {
    let workshop = workshop!();
    let mut tar = tar::Builder::new(Vec::new());
    for (name, mode) in [("d/a", 0o640), ("b", 0o755)] {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_uid(7);
        header.set_size(2);
        tar.append_data(&mut header, name, &b"hi"[..]).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "esc", "/host").unwrap();
    let bytes = tar.into_inner().unwrap();
    fs::write(workshop.context().join("plain"), &bytes).unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&bytes).unwrap();
    fs::write(workshop.context().join("x.tar.gz"), gzip.finish().unwrap()).unwrap();
    workshop.write("text", "no archive");
    let outcome = workshop.build("FROM base\nADD plain /p\nADD x.tar.gz /z/\nADD --unpack=false plain /kept\nADD text /t\nCOPY plain /c");
    for path in ["p/d/a", "z/d/a", "p/b", "z/b"] {
        assert_eq!(outcome.read(path), "hi");
    }
    let meta = outcome.path("p/d/a").unwrap().metadata().unwrap();
    assert_eq!((meta.uid(), meta.mode() & 0o777), (7, 0o640));
    assert_eq!(outcome.read("t"), "no archive");
    for path in ["c", "kept"] {
        assert_eq!(fs::read(outcome.path(path).unwrap()).unwrap(), bytes);
    }
    // What only looks like one is a file.
    fs::write(workshop.context().join("x.tar.xz"), b"\xfd7zXZ\0rest").unwrap();
    assert!(workshop.build("FROM base\nADD x.tar.xz /d/").path("d/x.tar.xz").is_some());
    let refused = workshop.build("FROM base\nADD --unpack x.tar.xz /");
    assert!(refused.error().to_string().ends_with("`x.tar.xz` is no tar archive"), "{}", refused.error());
}

#[test]
fn linked_copies_do_not_depend_on_what_is_below() {
    let workshop = workshop!();
    workshop.write("file", "x");
    let first = workshop.build("FROM base\nRUN echo 1 > /one\nCOPY --link file /share/file");
    let second = workshop.build("FROM base\nRUN echo 2 > /one\nCOPY --link file /share/file");
    assert_eq!(second.steps(false).len(), 1);
    assert_eq!(first.image().layers.last(), second.image().layers.last());
    assert_eq!(second.read("share/file"), "x", "the destination is not followed");
}

#[test]
fn links_lead_nowhere_outside() {
    let workshop = workshop!();
    let sentinel = workshop.dir.path().join("sentinel");
    fs::create_dir(&sentinel).unwrap();
    fs::write(sentinel.join("secret"), "secret").unwrap();
    let outside = sentinel.to_str().unwrap();
    symlink(outside, workshop.context().join("out")).unwrap();
    symlink("../sentinel/secret", workshop.context().join("up")).unwrap();
    workshop.write("file", "x");
    for source in ["out/secret", "up", "../sentinel/secret", "out"] {
        let outcome = workshop.build(&format!("FROM base\nCOPY {source} /x"));
        assert!(outcome.error().to_string().contains("not found"), "{source}: {:?}", outcome.error());
    }
    let outcome = workshop.build(&format!(
        "FROM base\nRUN ln -s {outside} /out && ln -s ../../../../../../../..{outside} /up\n\
         WORKDIR /out/made\nCOPY file /out/\nCOPY file /up/file2\nADD file /out/../../file3\n\
         RUN --mount=type=cache,target=/out/cache,id=../../../x,source=../../y touch /out/cache/z\n"
    ));
    outcome.image();
    assert_eq!(fs::read_dir(&sentinel).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(sentinel.join("secret")).unwrap(), "secret");
    assert!(outcome.path(&format!("{}/file", &outside[1..])).is_some(), "it lands in the image");
}

#[test]
fn a_step_cannot_have_files_of_the_host_removed_by_moving_its_mount_point() {
    let workshop = workshop!();
    let sentinel = workshop.dir.path().join("sentinel");
    fs::create_dir_all(sentinel.join("y")).unwrap();
    fs::write(sentinel.join("hosts"), "").unwrap();
    let outside = sentinel.to_str().unwrap();
    let outcome = workshop.build(&format!(
        "FROM base\nRUN --mount=type=cache,target=/x/y mv /x /z && ln -s {outside} /x\n\
         RUN rm -rf /etc; mv /etc /moved; ln -s {outside} /etc; true\n"
    ));
    let _ = outcome.result;
    assert!(sentinel.join("y").exists() && sentinel.join("hosts").exists());
}

#[test]
fn stages_that_do_not_need_each_other_run_side_by_side() {
    let workshop = workshop!();
    // Each waits for the other's file in a cache that both share.
    let stage = |own: &str, other: &str| {
        format!(
            "FROM base AS {own}\nRUN --mount=type=cache,target=/c,id=meet touch /c/{own} && for i in 1 2 3 4 5 6 7 8 9 10; do test -e /c/{other} && exit 0; sleep 1; done; exit 1\n"
        )
    };
    let text = format!(
        "{}{}FROM base\nCOPY --from=a /etc/motd /a\nCOPY --from=b /etc/motd /b\n",
        stage("a", "b"),
        stage("b", "a")
    );
    workshop.build(&text).image();
}

#[test]
fn a_given_date_is_that_of_the_image_and_its_history() {
    let workshop = workshop!();
    let outcome = workshop.build_with("FROM base\nENV A=1\nRUN touch /x\nCMD y\n", |build| {
        build.args.insert("SOURCE_DATE_EPOCH".into(), Some("1000000000".into()));
    });
    let config = serde_json::to_value(&outcome.image().config).unwrap();
    assert_eq!(config["created"], "2001-09-09T01:46:40Z");
    let created: Vec<_> =
        config["history"].as_array().unwrap().iter().map(|entry| &entry["created"]).collect();
    let (base, own) = ("2020-01-01T00:00:00Z", "2001-09-09T01:46:40Z");
    assert_eq!(created, [base, base, own, own]);
}

#[test]
fn a_build_that_is_dropped_kills_its_program_and_remembers_nothing() {
    let workshop = workshop!();
    workshop.write("Dockerfile", "FROM base\nRUN echo ready; touch /half; sleep 601; true\n");
    let wanted = Build { context: workshop.context(), ..Build::default() };
    let (sender, ready) = std::sync::mpsc::channel();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (store, core) = (workshop.store.clone(), workshop.core.clone());
    let task = runtime.spawn(async move {
        let events = Arc::new(move |event| drop(sender.send(event)));
        build::build(&store, &core, &wanted, &[], None, events).await
    });
    assert!(ready.iter().any(|event| event == BuildEvent::Output("ready".into())));
    task.abort();
    // Waits for the threads of the build.
    drop(runtime);
    assert!(!some_process_has("sleep\x00601\x00"));
    let records = fs::read_dir(workshop.dir.path().join("data/build-cache/records")).unwrap().count();
    assert_eq!(records, 0);
}

#[test]
fn a_failing_stage_ends_the_others() {
    let workshop = workshop!();
    let started = std::time::Instant::now();
    let outcome = workshop.build(
        "FROM base AS a\nRUN --mount=type=cache,target=/c touch /c/started; sleep 602\n\
         FROM base AS b\nRUN --mount=type=cache,target=/c until test -e /c/started; do sleep 0.1; done; exit 9\n\
         FROM base\nCOPY --from=a /x /\nCOPY --from=b /x /\n",
    );
    assert!(matches!(outcome.error(), BuildError::Step { line: 4, code: 9, .. }), "{:?}", outcome.error());
    assert!(started.elapsed().as_secs() < 300);
    assert!(!some_process_has("sleep\x00602\x00"));
}

/// Run by the two tests below in a process of its own.
#[test]
fn a_build_to_be_killed() {
    let Some(root) = std::env::var_os("FICELLE_TEST_KILLED_BUILD") else { return };
    let root = PathBuf::from(root);
    ficelle::runtime::use_program(env!("CARGO_BIN_EXE_ficelle").into());
    let store = Store::open(root.join("data/images"));
    let core = Core::new(Roots::below(&root.join("state")));
    let secrets = vec![inputs::given("s", "hush")];
    let wanted = Build { context: root.join("context"), secrets, ..Build::default() };
    let events = Arc::new(|event: BuildEvent| {
        let line = match event {
            BuildEvent::Output(line) => line,
            BuildEvent::Step { step, .. } => format!("step {step}"),
            _ => return,
        };
        let _ = writeln!(std::io::stdout(), "HEARD {line}");
    });
    let result = tokio::runtime::Runtime::new().unwrap().block_on(build::build(
        &store,
        &core,
        &wanted,
        &[],
        None,
        events,
    ));
    panic!("it was to be killed, and ended: {result:?}");
}

/// Starts [`a_build_to_be_killed`], and kills it when it was heard as often as that. False when it had ended.
fn kill_a_build(workshop: &Workshop, heard: usize, later: std::time::Duration) -> bool {
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "build::a_build_to_be_killed", "--nocapture"])
        .env("FICELLE_TEST_KILLED_BUILD", workshop.dir.path())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let reached = lines.filter(|line| line.contains("HEARD")).take(heard).count() == heard;
    std::thread::sleep(later);
    let running = child.try_wait().unwrap().is_none();
    child.kill().unwrap();
    child.wait().unwrap();
    reached && running
}

#[test]
fn a_build_killed_at_any_step_is_made_good_by_the_next() {
    let workshop = workshop!();
    let own = workshop.dir.path().to_str().unwrap();
    workshop.write("d/in", "archived");
    let mut archive = tar::Builder::new(fs::File::create(workshop.context().join("a.tar")).unwrap());
    archive.append_dir_all("d", workshop.context().join("d")).unwrap();
    archive.into_inner().unwrap();
    // Nothing of an earlier round is of use to a later one.
    let text = |round: usize| {
        format!(
            "FROM base AS made\nENV ROUND={round}\nWORKDIR /w{round}\nCOPY file /from/{round}\n\
             RUN --mount=type=secret,id=s --mount=type=cache,target=/c \
             test $(cat /run/secrets/s) = hush; echo $ROUND > /c/x; echo half; sleep 0.05; cat /c/x > /ran\n\
             FROM base\nADD a.tar /added/{round}\nCOPY --from=made /ran /copied\n\
             COPY --from=made /from/{round} /file\nRUN echo $(cat /copied /file) > /both; sleep 0.05; echo done\n"
        )
    };
    let mut heard = 0;
    loop {
        workshop.write("file", &format!("content {heard}\n"));
        workshop.write("Dockerfile", &text(heard));
        let later = std::time::Duration::from_millis(heard as u64 * 13 % 40);
        let killed = kill_a_build(&workshop, heard, later);
        // Programs and mounts of the dead go with it, in all namespaces.
        wait_until(|| !some_process_mounts(own));
        workshop.write("Dockerfile", &text(heard));
        let outcome =
            workshop.build_with(&text(heard), |build| build.secrets = vec![inputs::given("s", "hush")]);
        assert_eq!(outcome.read("both"), format!("{heard} content {heard}\n"), "killed after {heard} lines");
        assert_eq!(outcome.read(&format!("added/{heard}/d/in")), "archived");
        let vaults = fs::read_dir(workshop.dir.path().join("state/run/build")).unwrap().count();
        assert_eq!(vaults, 0, "a secret was left behind");
        // All that is left is what this store itself holds.
        wait_until(|| {
            workshop.store.sweep(false).unwrap();
            fs::read_dir(workshop.dir.path().join("data/images/tmp")).unwrap().count() <= 1
        });
        if !killed {
            break;
        }
        heard += 1;
    }
    assert!(heard > 8, "it was killed {heard} times only");
}

/// Whether a process, in whatever namespace, has something mounted from below this directory.
fn some_process_mounts(directory: &str) -> bool {
    let tables = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("mountinfo"));
    tables.filter_map(|path| fs::read_to_string(path).ok()).any(|table| table.contains(directory))
}

#[test]
fn a_killed_build_leaves_a_store_that_builds() {
    let workshop = workshop!();
    let first = format!("FROM base\n{RANDOM}RUN echo ready; touch /half; sleep 600; exit 0\n");
    workshop.write("Dockerfile", &first);
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "build::a_build_to_be_killed", "--nocapture"])
        .env("FICELLE_TEST_KILLED_BUILD", workshop.dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.any(|line| line.unwrap().contains("HEARD ready"));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ready);
    // The program of the step goes with the build.
    wait_until(|| !some_process_has("sleep\x00600\x00"));
    let outcome = workshop.build(&first.replace("sleep 600; ", ""));
    assert_eq!(outcome.steps(true).len(), 1, "what was complete is kept: {:?}", outcome.events);
    assert_eq!(outcome.output(), ["ready"]);
    assert!(outcome.path("half").is_some());
    let leavings = fs::read_dir(workshop.dir.path().join("data/images/tmp")).unwrap().count();
    assert!(leavings <= 2, "scratch directories of the dead must go");
}

fn some_process_has(command: &str) -> bool {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == command.as_bytes()))
}

fn wait_until(condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !condition() {
        assert!(std::time::Instant::now() < end, "waited too long");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}
