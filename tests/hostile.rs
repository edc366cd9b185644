//! Hostile projects: each is answered with its mistake and its place, whatever its size.

mod table;

use std::path::PathBuf;

use ficelle::load::{LoadOptions, load, source::System};

#[test]
fn every_hostile_project_is_answered_with_its_mistake_and_its_place() {
    let table = table::table();
    assert_eq!(table.len(), 34);
    let mut wrong = Vec::new();
    for hostile in table {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in &hostile.files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        let options = LoadOptions {
            project_directory: Some(PathBuf::from(directory.path())),
            project_name: Some("hostile".to_owned()),
            ..LoadOptions::default()
        };
        let told = load(&options, &System::default()).err().unwrap_or_default();
        let first = told.iter().find(|told| told.severity == ficelle::load::Severity::Error);
        let (message, place) = first.map_or(Default::default(), |first| {
            let help = first.help.join(" ");
            (format!("{} {help}", first.message), first.place().map(ToString::to_string).unwrap_or_default())
        });
        let located = hostile.place.is_empty() || place.contains(hostile.place);
        if !(message.contains(hostile.told) && located && (message.is_empty() == hostile.told.is_empty())) {
            wrong.push(format!("{}: {place}: {message:.200}", hostile.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
