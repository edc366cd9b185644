//! That what youki's contest asks of a runtime is asked of ours: its cases by name, and where ours are.

use std::{collections::BTreeSet, fs, path::Path};

/// Of the cases that the machine of the measurement could run at all, as many must be held here as youki itself
/// held there.
const HELD_AT_LEAST: usize = 127;

#[test]
fn its_cases_are_told_in_our_words_or_why_not() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/oci");
    let table = fs::read_to_string(dir.join("contest.table")).unwrap();
    let rows = table.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let (mut names, mut held, mut wrong) = (BTreeSet::new(), 0, Vec::new());
    for row in rows {
        let fields: Vec<&str> = row.splitn(3, '|').map(str::trim).collect();
        let &[name, test, words] = fields.as_slice() else { panic!("three fields: {row}") };
        if !names.insert(name) || !name.contains("::") {
            wrong.push(format!("{name} twice, or without its group"));
        }
        if test == "-" {
            // The reason stands for itself.
            assert!(!words.is_empty(), "{row}");
            continue;
        }
        held += 1;
        let (file, function) = test.split_once("::").unwrap_or_else(|| panic!("file::test: {row}"));
        let source = fs::read_to_string(dir.join(file).with_extension("rs")).unwrap_or_default();
        let body = source.split_once(&format!("#[test]\nfn {function}()")).map(|(_, rest)| rest);
        let body = body.map(|rest| rest.split("\n#[test]\n").next().unwrap_or_default());
        match body {
            None => wrong.push(format!("{name}: there is no test {test}")),
            // What a test names outside of its body, in a table of its file, counts as well.
            Some(body) if !body.contains(words) && !source.contains(&format!("\"{words}\"")) => {
                wrong.push(format!("{name}: {test} says nothing of `{words}`"));
            }
            Some(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(held >= HELD_AT_LEAST, "{held} of {}", names.len());
}
