//! What the README claims, held against the program.

use std::{fs, path::Path, process::Command};

use ficelle::load::attributes::{
    self, CLUSTER,
    Support::{Elsewhere, Never},
    Table,
};

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

/// The text between the marks of a part, and where it is.
fn part(readme: &str, name: &str) -> (usize, usize) {
    let begin = readme.find(&format!("<!-- {name}: begin")).unwrap_or_else(|| panic!("no part {name}"));
    let start = begin + readme[begin..].find('\n').unwrap() + 1;
    let end = start + readme[start..].find(&format!("<!-- {name}: end -->")).expect("its end");
    (start, end)
}

/// Compares a generated part with what it should be, or writes it when told to by `FICELLE_GENERATE`.
fn generated(name: &str, wanted: &str) {
    let readme = fs::read_to_string(path()).unwrap();
    let (start, end) = part(&readme, name);
    if std::env::var_os("FICELLE_GENERATE").is_some() {
        fs::write(path(), format!("{}{wanted}{}", &readme[..start], &readme[end..])).unwrap();
    } else {
        let hint = "FICELLE_GENERATE=1 cargo test --test it generated";
        assert_eq!(&readme[start..end], wanted, "README.md is out of date: {hint}");
    }
}

/// Names and summaries of the commands, as `ficelle --help` lists them.
fn commands(help: &str) -> Vec<(&str, &str)> {
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    list.take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split_once(' '))
        .filter(|(name, _)| !name.is_empty() && *name != "help")
        .map(|(name, summary)| (name, summary.trim()))
        .collect()
}

#[test]
fn generated_list_of_commands_is_that_of_the_help() {
    let output = Command::new(env!("CARGO_BIN_EXE_ficelle")).arg("--help").output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let rows: String =
        commands(&help).iter().map(|(name, summary)| format!("| `{name}` | {summary} |\n")).collect();
    assert!(rows.contains("| `up` |"), "no commands in the help: {help}");
    generated("commands", &format!("\n| | |\n|---|---|\n{rows}\n"));
}

/// The parts of a Compose file whose keys the README goes through.
const PARTS: &[(&str, Table)] = &[
    ("a service", attributes::SERVICE),
    ("`build`", attributes::BUILD),
    ("`deploy`", attributes::DEPLOY),
    ("`deploy.resources.limits`", attributes::LIMITS),
    ("`deploy.resources.reservations`", attributes::RESERVATIONS),
    ("`deploy.restart_policy`", attributes::RESTART_POLICY),
    ("a service's network", attributes::SERVICE_NETWORK),
    ("a service's mount", attributes::MOUNT),
    ("`bind` of a mount", attributes::MOUNT_BIND),
    ("`volume` of a mount", attributes::MOUNT_VOLUME),
    ("a network", attributes::NETWORK),
    ("`ipam`", attributes::IPAM),
    ("`ipam.config`", attributes::IPAM_POOL),
    ("a volume", attributes::VOLUME),
];

#[test]
fn generated_list_of_keys_is_that_of_the_attribute_table() {
    let keys = |table: Table, refused: bool| -> String {
        let mut names: Vec<_> = table
            .iter()
            .filter_map(|row| match row.support {
                Never(_) if refused => Some(format!("`{}`", row.name)),
                Elsewhere(place) if !refused && place == CLUSTER => Some(format!("`{}`", row.name)),
                Elsewhere(place) if !refused => Some(format!("`{}` ({place})", row.name)),
                _ => None,
            })
            .collect();
        names.sort_unstable();
        names.join(", ")
    };
    let rows: String = PARTS
        .iter()
        .map(|(part, table)| (part, keys(table, true), keys(table, false)))
        .filter(|(_, refused, cluster)| !refused.is_empty() || !cluster.is_empty())
        .map(|(part, refused, cluster)| format!("| {part} | {refused} | {cluster} |\n"))
        .collect();
    generated(
        "keys",
        &format!(
            "\n| of | cannot be | means something on a cluster only, or where it says |\n|---|---|---|\n{rows}\n"
        ),
    );
}

#[test]
fn the_first_compose_file_is_valid() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("compose.yaml"), first_compose_file()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_ficelle"))
        .args(["config", "--services"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr, "");
    let mut services: Vec<_> = std::str::from_utf8(&output.stdout).unwrap().lines().collect();
    services.sort_unstable();
    assert_eq!(services, ["cache", "web"]);
}

/// The YAML that the README shows first.
pub fn first_compose_file() -> String {
    let readme = fs::read_to_string(path()).unwrap();
    let (start, end) = part(&readme, "first");
    readme[start..end].trim_start_matches("```yaml\n").trim_end_matches("```\n").to_owned()
}

#[test]
fn the_reader_of_help_takes_names_and_summaries() {
    let help = "About\n\nUsage: x\n\nCommands:\n  up    Create and start\n  ps    List\n  help  Print this\n\nOptions:\n";
    assert_eq!(commands(help), [("up", "Create and start"), ("ps", "List")]);
}
