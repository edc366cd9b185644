//! A flood of output, whoever is killed or does not listen meanwhile: no line is lost, and nobody needs
//! more memory for it.

use std::{fs, time::Duration};

use super::{assert_no_trace, helpers};
use crate::scenarios::{
    for_everybody,
    host::Process,
    stack::{Machine, eventually},
};

/// `FICELLE_LINES` asks for more: a night's work is 3,000,000.
fn lines() -> usize {
    std::env::var("FICELLE_LINES").map_or(200_000, |lines| lines.parse().expect("FICELLE_LINES is a number"))
}

/// Bytes that a command may hold, whatever it shows.
const COMMAND: u64 = 32 << 20;

/// Without what it has mapped of files, which is mostly the program itself.
fn memory(process: Process) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? << 10)
}

for_everybody!(a_flood_loses_no_line_though_supervisor_and_keeper_die_again_and_again, with(&["busybox"]));

fn a_flood_loses_no_line_though_supervisor_and_keeper_die_again_and_again(machine: &Machine) {
    let lines = lines();
    let project = machine.compose(
        "flood",
        &format!(
            "services:\n  loud:\n    image: busybox\n    command: [sh, -c, 'seq 1 {lines}; exec sleep 3600']\n    \
             init: true\n    logging: {{driver: json-file, options: {{max-size: 1m, max-file: '100000'}}}}\n"
        ),
    );
    project.ficelle(&["up", "-d"]).ok();
    let before = project.container("loud");
    let main = before.main();
    // One who has stopped listening holds nobody up.
    let deaf = project.ficelle(&["logs", "-f"]).start();
    deaf.process().stop();
    let complete = || project.ficelle(&["logs", "--tail", "1", "--no-log-prefix"]).ok().stdout;
    let end = format!("{lines}\n");
    for victim in ["__supervisor", "__supervisor", "__keeper"].iter().cycle() {
        if complete() == end {
            break;
        }
        for process in helpers(machine, victim) {
            process.kill_if_there();
        }
        assert!(main.is_alive(), "the container died with {victim}");
        // A command brings back who has nobody to bring them back.
        project.ficelle(&["up", "-d"]).ok();
        std::thread::sleep(Duration::from_millis(100));
    }
    deaf.process().go_on();
    drop(deaf);
    // To a file: a pipe that the test empties would be a slow reader.
    let path = machine.scratch("flood-log").join("log");
    let mut shown = project.ficelle(&["logs", "--no-color", "--no-log-prefix"]).into_file(&path).start();
    let mut most = 0;
    while shown.runs() {
        most = most.max(memory(shown.process()).unwrap_or(0));
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(shown.end(), Some(0));
    assert!(most < COMMAND, "`logs` held {most} bytes");
    let text = fs::read_to_string(&path).unwrap();
    let wrong = text.lines().zip(1..).find(|(line, number)| *line != number.to_string());
    assert_eq!((wrong, text.lines().count()), (None, lines));
    assert!(eventually(|| if main.is_alive() { Ok(()) } else { Err(()) }).is_ok());
    assert_no_trace(&project, &[before.id], "after the flood");
}
