//! The recorded outputs of the reference: every case passes but those that `exceptions.txt` names.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

/// Exceptions, ids of cases or names of outputs; each must have its reason.
fn exceptions() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/exceptions.txt");
    let text = fs::read_to_string(path).unwrap();
    let rows = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    rows.map(|row| {
        let (id, reason) = row.split_once("  ").unwrap_or_else(|| panic!("`{row}` has no reason"));
        assert!(reason.trim().len() > 10, "`{row}` has no reason");
        id.to_owned()
    })
    .collect()
}

#[test]
fn the_exceptions_are_few_and_each_has_its_reason() {
    assert!((1..20).contains(&exceptions().len()));
}

/// `CONFORMANCE` names the directory of the corpus, where `config/compare.py` is.
#[test]
fn every_recorded_project_but_the_exceptions_comes_out_as_recorded() {
    let Some(corpus) = std::env::var_os("CONFORMANCE") else {
        eprintln!("SKIPPED: CONFORMANCE does not name the directory of a corpus");
        return;
    };
    let output = Command::new("python3")
        .arg(Path::new(&corpus).join("config/compare.py"))
        .args(["--bin", env!("CARGO_BIN_EXE_ficelle"), "--failed-only", "--outputs", "all"])
        .output()
        .expect("python3 is needed");
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text.lines().last().unwrap_or_default();
    assert!(summary.contains(" passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let exceptions = exceptions();
    let excepted = |line: &str| -> Option<String> {
        let failed = line.strip_prefix("FAIL ")?.split(": ").next()?;
        let (id, output) = failed.split_once(' ').unwrap_or((failed, ""));
        let known = [output, id].into_iter().find(|name| exceptions.contains(*name));
        Some(known.unwrap_or(failed).to_owned())
    };
    let failed: BTreeSet<String> = text.lines().filter_map(excepted).collect();
    assert_eq!(failed, exceptions, "{summary}");
}
