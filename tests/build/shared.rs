//! Caches that travel, and what the program prints of builds.

use super::*;
use crate::{images, scenarios::stack::Machine};

/// Another machine: a store of its own, and the same context.
fn elsewhere(workshop: &Workshop) -> Workshop {
    let other = Workshop::new().unwrap();
    // The same base, file times and all.
    other.store.load(&workshop.dir.path().join("base.tar"), &|_, _, _| {}).unwrap();
    for entry in fs::read_dir(workshop.context()).unwrap().flatten() {
        fs::copy(entry.path(), other.context().join(entry.file_name())).unwrap();
    }
    other
}

fn text() -> String {
    format!("FROM base AS one\n{RANDOM}FROM base\nCOPY file /\nRUN true\nCOPY --from=one /random /copied\n")
}

#[test]
fn a_cache_in_a_directory_saves_the_work_on_another_machine() {
    let workshop = workshop!();
    workshop.write("file", "1");
    let cache = workshop.dir.path().join("shared/cache");
    let all = format!("type=local,mode=max,dest={}", cache.display());
    let first = workshop.build_with(&text(), |build| build.cache_to = vec![all.clone()]);
    assert!(cache.join("oci-layout").exists() && cache.join("index.json").exists());
    let from = format!("type=local,src={}", cache.display());
    let other = elsewhere(&workshop);
    let second = other.build_with(&text(), |build| build.cache_from = vec![from.clone()]);
    assert_eq!(second.steps(false), Vec::<&str>::new(), "{:?}", second.events);
    assert_eq!(second.image().id, first.image().id);
    // What changed is made anew, and only that.
    other.write("file", "2");
    let third = other.build_with(&text(), |build| build.cache_from = vec![from.clone()]);
    assert_eq!((third.read("file").as_str(), third.read("copied")), ("2", first.read("copied")));
    // Again into the same directory, and never over something else.
    workshop.build_with(&text(), |build| build.cache_to = vec![all.clone()]).image();
    let strange = format!("type=local,dest={}", workshop.context().display());
    let refused = workshop.build_with(&text(), |build| build.cache_to = vec![strange]);
    assert!(refused.error().to_string().contains("holds something else"), "{}", refused.error());
}

#[test]
fn a_cache_that_cannot_be_used_is_told_and_passed_by() {
    let workshop = workshop!();
    let outcome = workshop.build_with("FROM base\nRUN true\n", |build| {
        build.cache_from = vec!["type=local,src=/no/such".into(), "type=gha".into(), "base".into()];
        build.cache_to =
            vec!["type=s3,region=x".into(), "type=local,ignore-error=true,dest=/proc/x/y".into()];
    });
    outcome.image();
    let told = outcome.warnings();
    for start in [
        "`cache_from`: `type=local,src=/no/such` is not used",
        "`cache_from`: `type=gha` is not used",
        "`cache_from`: `base` is not used",
        "`cache_to`: a cache of the type `s3`",
        "`cache_to`: `type=local,ignore-error",
    ] {
        assert!(told.iter().any(|text| text.starts_with(start)), "{start}: {told:?}");
    }
}

#[test]
fn an_image_of_a_registry_carries_its_own_cache() {
    let workshop = workshop!();
    let Some(registry) = images::registry::RealRegistry::start("", "") else { return };
    workshop.write("file", "1");
    let (name, apart) = (format!("{}/app:1", registry.host), format!("{}/cache:max", registry.host));
    let first = workshop.build_with(&text(), |build| {
        build.tags = vec![name.clone()];
        build.cache_to = vec!["type=inline".into(), format!("type=registry,mode=max,ref={apart}")];
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    first.image();
    runtime.block_on(workshop.store.push(&name.parse().unwrap(), &|_, _, _| {})).unwrap();

    let other = elsewhere(&workshop);
    let second = other.build_with(&text(), |build| build.cache_from = vec![apart.clone()]);
    assert_eq!(second.steps(false), Vec::<&str>::new(), "{:?}", second.events);
    // Of its own image only what that image holds.
    let third = elsewhere(&workshop);
    let inline = third.build_with(&text(), |build| build.cache_from = vec![name.clone()]);
    let made = inline.steps(false);
    assert!(made.len() < 4 && made.iter().any(|step| step.contains("/random")), "{made:?}");
}

#[test]
fn checks_and_bake_files_are_printed_and_nothing_is_built() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose(
        "checks",
        "services:\n  web:\n    build: {context: ., args: {A: '1'}, secrets: [s]}\n  clean:\n    build:\n      \
         dockerfile_inline: FROM busybox\nsecrets:\n  s: {environment: S}\n",
    );
    let dockerfile = project.dir.join("Dockerfile");
    fs::write(&dockerfile, "FROM busybox as x\nENV B=$NOPE\nCMD top\n").unwrap();
    let checked = project.ficelle(&["build", "--check", "web"]).run();
    assert_eq!(checked.code, Some(1), "{}", checked.stderr);
    for part in [
        "Check complete, 3 warnings have been found!",
        "WARNING: FromAsCasing - https://docs.docker.com/go/dockerfile/rule/from-as-casing/",
        "Usage of undefined variable '$NOPE'",
        "Dockerfile:3\n--------------------\n   1     FROM busybox as x",
    ] {
        assert!(checked.stdout.contains(part), "{part}: {}", checked.stdout);
    }
    let clean = project.ficelle(&["build", "--check", "clean"]).ok();
    assert_eq!(clean.stdout, "Check complete, no warnings found.\n");

    let printed = project.ficelle(&["build", "--print", "web"]).env("S", "hush").ok();
    assert!(!printed.stdout.contains("hush"), "{}", printed.stdout);
    let bake: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    let web = &bake["target"]["web"];
    assert_eq!(web["secret"], json!(["id=s,type=env,env=S"]));
    assert_eq!((&web["args"], &web["tags"]), (&json!({"A": "1"}), &json!(["checks-web"])));
    assert_eq!(bake["group"]["default"]["targets"], json!(["web"]));

    fs::write(&dockerfile, "# check=error=true\nFROM busybox as x\n").unwrap();
    let failed = project.ficelle(&["build", "web"]).fails();
    assert!(failed.stderr.contains("lint violation found for rules: FromAsCasing"), "{}", failed.stderr);
    fs::write(&dockerfile, "FROM busybox\nRUN echo said; exit 9\n").unwrap();
    let failed = project.ficelle(&["build", "web"]).fails();
    for part in ["exited with code 9", "   2 >>> RUN echo said; exit 9", "the step said last:", "| said"] {
        assert!(failed.stderr.contains(part), "{part}: {}", failed.stderr);
    }
    fs::write(&dockerfile, "# syntax=example.com/other:1\nFROM busybox\n").unwrap();
    let foreign = project.ficelle(&["build", "web"]).fails();
    assert!(
        foreign.stderr.contains("the frontend `example.com/other:1` is not run here"),
        "{}",
        foreign.stderr
    );
    let named = project.ficelle(&["build", "--builder", "other", "web"]).fails();
    assert!(named.stderr.contains("there is no builder `other`"), "{}", named.stderr);
}

#[test]
fn the_language_samples_build_and_run() {
    let Some(machine) = Machine::with(&["python", "debian"]) else { return };
    let python = machine.sample("python-onbuild", "words");
    python.ficelle(&["build"]).ok();
    let perl = machine.sample("perl-stages", "report");
    let said = perl.ficelle(&["up", "--build", "--no-log-prefix"]).ok();
    assert!(
        said.stdout.contains("Paris        2103\nMarseille     877\nLyon          522\n"),
        "{}",
        said.stdout
    );
    let again = python.ficelle(&["build", "wordcount"]).ok();
    assert!(again.stderr.contains("CACHED"), "{}", again.stderr);
}

#[test]
fn the_ruby_sample_tests_and_runs_its_application() {
    let Some(machine) = Machine::with(&["ruby"]) else { return };
    let ruby = machine.sample("ruby-onbuild", "late");
    let said = ruby.ficelle(&["up", "--build", "--no-log-prefix"]).ok();
    assert!(
        said.stdout.contains(" 21 days: The Periodic Table\n 16 days: The Leopard\n"),
        "{}{}",
        said.stdout,
        said.stderr
    );
    // A test that fails is a build that fails, with its place and what it said.
    fs::write(ruby.dir.join("test/wrong.rb"), "raise 'not today'\n").unwrap();
    let failed = ruby.ficelle(&["build", "late"]).fails();
    assert!(
        failed.stderr.contains("not today") && failed.stderr.contains("exited with code 1"),
        "{}",
        failed.stderr
    );
}

#[test]
fn the_php_sample_is_checked_tested_and_served() {
    let Some(machine) = Machine::with(&["php"]) else { return };
    let php = machine.sample("php-stages", "page");
    php.ficelle(&["up", "--build", "--detach", "--wait"]).ok();
    let ask = |degrees: &str| {
        let address = format!("http://localhost:8080/?c={degrees}");
        let code = format!(
            "echo file_get_contents('{address}', false, stream_context_create(['http' => ['ignore_errors' => true]]));"
        );
        php.ficelle(&["exec", "-T", "page", "php", "-r", &code]).ok().stdout
    };
    assert_eq!(ask("100"), "212\n");
    assert_eq!(ask("-300"), "colder than can be\n");
    let left = php.ficelle(&["exec", "-T", "page", "ls", "/srv", "/var/log/build"]).ok().stdout;
    assert_eq!(left, "/srv:\nindex.php\ntemperature.php\n\n/var/log/build:\nchecked\ntested\n");
    php.ficelle(&["down"]).ok();
}
