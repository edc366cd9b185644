//! The house: which room may know which. Imports go downward only.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// From room (a path below `src`, longest match wins) to the rooms it may name.
const ARROWS: &[(&str, &[&str])] = &[
    ("main.rs", &["cli", "runtime"]),
    ("cli", &["watch", "session", "load", "ui"]),
    ("watch", &["session", "build::ignore", "model"]),
    ("session", &["load", "plan", "apply", "engines", "engine", "model"]),
    ("session.rs", &["load", "plan", "apply", "engines", "engine", "model"]),
    ("ui", &["apply", "engine"]),
    ("apply", &["plan", "engine"]),
    ("plan", &["engine", "model"]),
    ("engines/simulated.rs", &["engine", "model"]),
    ("engines/simulated", &["engine", "model"]),
    ("engines", &["engine", "build", "image", "runtime", "model"]),
    ("build", &["image", "runtime", "git", "model"]),
    ("load", &["git", "model"]),
    ("image", &["model"]),
    ("runtime", &["model"]),
    ("git.rs", &["model"]),
    ("engine", &["model"]),
    ("model", &[]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

fn room_of(file: &str) -> &'static (&'static str, &'static [&'static str]) {
    ARROWS
        .iter()
        .filter(|(room, _)| file == *room || file.starts_with(&format!("{room}/")))
        .max_by_key(|(room, _)| room.len())
        .unwrap_or_else(|| panic!("src/{file} stands in no room: give it one in tests/tidy.rs"))
}

/// Every `crate::a::b` (or `ficelle::a::b` in main.rs) that the text names, groups opened one level.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, marker) in text.match_indices("crate::").chain(text.match_indices("ficelle::")) {
        let rest = &text[at + marker.len()..];
        let path = |s: &str| {
            let end = s.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(s.len());
            s[..end].trim_end_matches(':').to_owned()
        };
        if let Some(group) = rest.strip_prefix('{') {
            let mut depth = 0;
            let mut start = 0;
            for (i, c) in group.char_indices() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => {
                        names.insert(path(group[start..i].trim()));
                        break;
                    }
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        names.insert(path(group[start..i].trim()));
                        start = i + 1;
                    }
                    _ => {}
                }
            }
        } else {
            names.insert(path(rest));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn imports_go_downward_only() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
        if inside == "lib.rs" {
            continue;
        }
        let (room, allowed) = room_of(&inside);
        let own = room.trim_end_matches(".rs").replace('/', "::");
        let text: String = fs::read_to_string(&file)
            .unwrap()
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .filter(|line| !line.trim_start().starts_with("//"))
            .flat_map(|line| [line, "\n"])
            .collect();
        for name in named(&text) {
            let fits = |room: &str| name == room || name.starts_with(&format!("{room}::"));
            if !fits(&own) && !allowed.iter().any(|room| fits(room)) {
                wrong.push(format!("src/{inside} names `{name}`; `{room}` may only name {allowed:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn libcontainer_stays_in_the_launcher() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let users: Vec<_> = files
        .into_iter()
        .filter(|file| fs::read_to_string(file).unwrap().contains("libcontainer::"))
        .map(|file| file.strip_prefix(&src).unwrap().to_owned())
        .collect();
    assert!(
        users
            .iter()
            .all(|file| file.starts_with("runtime/launcher.rs") || file.starts_with("runtime/launcher")),
        "{users:?}"
    );
}

#[test]
fn the_arrow_reader_sees_every_form() {
    let text =
        "use crate::{model::Project, engine::{Op, Observed}, load};\nlet x = crate::plan::Goal::Stopped;";
    assert_eq!(
        named(text).into_iter().collect::<Vec<_>>(),
        ["engine", "load", "model::Project", "plan::Goal::Stopped"]
    );
}
