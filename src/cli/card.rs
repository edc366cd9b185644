//! The failure card: which container, how it ended, what it said last, who needs it, what to do now.

use super::failure::{Failure, Problem};
use crate::{
    load::Source,
    session::{Autopsy, ContainerState, ErrorKind, Failed, Health, Outcome, Project},
};

/// One problem for each failed step.
pub(super) fn failure(outcome: &Outcome, project: &Project, source: &dyn Source) -> Failure {
    // A program that cannot be run has a code of its own, and so has content that is not the locked one.
    let code = outcome.failed.iter().find_map(|failed| match failed.error.kind {
        ErrorKind::Program(code) => Some(code),
        ErrorKind::Drift => Some(3),
        _ => None,
    });
    Failure::of(
        code.unwrap_or(1),
        outcome.failed.iter().map(|failed| problem(failed, project, source)).collect(),
    )
}

fn problem(failed: &Failed, project: &Project, source: &dyn Source) -> Problem {
    let mut problem = Problem::of_engine(&failed.error, project, source);
    if let Some(autopsy) = &failed.autopsy {
        let service = &autopsy.container.service;
        problem.facts.extend(state(autopsy));
        problem.facts.extend(needed_by(service, project));
        problem.facts.push(last_output(autopsy));
        problem.diagnostic.help.push(format!("`ficelle logs {service}` shows all that it said"));
    }
    problem
}

fn state(autopsy: &Autopsy) -> Option<String> {
    let container = &autopsy.container;
    match container.state {
        ContainerState::Exited(Some(code)) if container.out_of_memory => Some(format!(
            "{} exited ({code}): OOMKilled, it was out of memory (see `mem_limit`)",
            container.name
        )),
        ContainerState::Exited(Some(code)) => Some(format!("{} exited: {}", container.name, decode(code))),
        ContainerState::Exited(None) if container.host_restarted => {
            Some(format!("{} ended when the host restarted", container.name))
        }
        ContainerState::Exited(None) => Some(format!("{} ended, and nobody learnt how", container.name)),
        ContainerState::Running if container.health == Some(Health::Unhealthy) => {
            Some(format!("{} runs, and is unhealthy", container.name))
        }
        ContainerState::Restarting => Some(format!(
            "{} ended and is started again by its restart policy ({} times so far)",
            container.name, container.restarts
        )),
        _ => None,
    }
}

fn needed_by(service: &str, project: &Project) -> Option<String> {
    let needing: Vec<&str> = project
        .services
        .values()
        .filter(|other| other.depends_on.contains_key(service))
        .map(|other| other.name.as_str())
        .collect();
    (!needing.is_empty()).then(|| format!("needed by: {}", needing.join(", ")))
}

fn last_output(autopsy: &Autopsy) -> String {
    if autopsy.lines.is_empty() {
        return "it printed nothing".to_owned();
    }
    let lines = autopsy.lines.iter().map(|line| format!("\n{}", visible(line)));
    std::iter::once("last output:".to_owned()).chain(lines).collect()
}

/// Text without control characters: what a container printed must not move our cursor.
fn visible(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.chars().map(|c| if c.is_control() && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// What an exit code says.
pub(super) fn decode(code: i32) -> String {
    let meaning = match code {
        0 => "it ended by itself, without error",
        126 => "the program could not be executed",
        127 => "the program, or a command in its script, was not found",
        129 => "SIGHUP",
        130 => "SIGINT",
        132 => "SIGILL: a program for another processor?",
        134 => "SIGABRT: it gave up by itself",
        135 => "SIGBUS",
        136 => "SIGFPE",
        137 => "SIGKILL: killed by force, perhaps because memory ran out",
        139 => "SIGSEGV: a bad memory access",
        141 => "SIGPIPE",
        143 => "SIGTERM: it was asked to stop",
        _ => return format!("code {code}"),
    };
    format!("code {code} ({meaning})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_said_in_words() {
        assert_eq!(decode(3), "code 3");
        assert_eq!(decode(137), "code 137 (SIGKILL: killed by force, perhaps because memory ran out)");
    }

    #[test]
    fn output_cannot_move_the_cursor() {
        assert_eq!(visible(b"a\x1b[2Jb\r"), "a\u{fffd}[2Jb\u{fffd}");
    }
}
