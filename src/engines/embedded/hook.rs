//! `pre_start`, `post_start` and `pre_stop`: a program before or beside a container's own, to its end.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    Embedded, error, observe,
    others::Others,
    perform::{DONE, UNCHANGED, configuration, newest},
};
use crate::{
    engine::{
        ContainerState, CreateContainer, Detail, EngineError, ErrorKind, HookAt, HookRequest, Outcome,
        Progress,
    },
    model::label,
    runtime::{self, Attended, ContainerRecord, Core, ExecConfig, LogRecord, LogRequest, Until},
};

/// Lines of its output that a failure shows, and their bytes at most.
const LAST_LINES: usize = 10;
const LAST_BYTES: usize = 2048;

pub(super) async fn run(
    engine: &Embedded,
    request: &HookRequest,
    progress: Arc<dyn Progress>,
) -> Result<Outcome, EngineError> {
    if let Some(create) = &request.runner {
        return run_before(engine, request, create, progress).await;
    }
    let request = request.clone();
    let begun = {
        let request = request.clone();
        engine.blocking(move |engine| begin(engine, &request)).await?
    };
    let Some((record, attended)) = begun else { return Ok(UNCHANGED) };
    let given_up = GivenUp(Arc::clone(&attended));
    let of = request.clone();
    let (code, said) = engine
        .blocking(move |engine| {
            let mut said = Said::default();
            let code = attended.follow(&mut |stderr, bytes| {
                said.stream(stderr).take(bytes, &mut |line| progress.report(Detail::Line(line)));
            });
            said.end(&mut |line| progress.report(Detail::Line(line)));
            let code = code.map_err(|error| error::runtime(&error, "the hook cannot be followed"))?;
            if code == 0 && of.at == HookAt::PostStart {
                settle(engine, &of, &record)?;
            }
            Ok((code, said))
        })
        .await?;
    drop(given_up);
    match code {
        0 => Ok(DONE),
        code => Err(failed(&request, code, said.last())),
    }
}

/// A container of its own, which is gone afterwards, however that comes about.
async fn run_before(
    engine: &Embedded,
    request: &HookRequest,
    create: &CreateContainer,
    progress: Arc<dyn Progress>,
) -> Result<Outcome, EngineError> {
    let (request, create) = (request.clone(), create.clone());
    let cancelled = Cancelled::default();
    let asked = Arc::clone(&cancelled.0);
    let ran = engine.blocking(move |engine| {
        let failed_at = |error: runtime::Error| error::runtime(&error, what(&request)).at(request.path());
        let core = &engine.core;
        // What a command that was killed left.
        for stale in core.named(&create.project, &create.name).map_err(failed_at)? {
            core.stop(&create.project, &stale.config.id, Some(Duration::ZERO), &mut |_| {})
                .map_err(failed_at)?;
            core.remove(&create.project, &stale.config.id, true).map_err(failed_at)?;
        }
        let config = configuration(engine, &create, &Others::new(core))?;
        core.create(&config).map_err(failed_at)?;
        let _attended = core.attend(&create.project, &config.id).map_err(failed_at)?;
        let ended = core.start(&create.project, &config.id).and_then(|()| {
            let asked = || asked.load(Ordering::Acquire);
            core.wait(&create.project, &config.id, Until::Exited, None, &asked)
        });
        let last = last_words(core, &create.project, &config.id, &*progress);
        if ended.is_err() {
            core.stop(&create.project, &config.id, Some(Duration::ZERO), &mut |_| {}).map_err(failed_at)?;
        }
        core.remove(&create.project, &config.id, true).map_err(failed_at)?;
        match ended {
            Ok(record) => match observe::state(record.phase) {
                ContainerState::Exited(Some(0)) => Ok(DONE),
                ContainerState::Exited(code) => Err(failed(&request, code.unwrap_or(255), last)),
                _ => Err(failed(&request, 255, last)),
            },
            Err(error @ runtime::Error::Exec { code, .. }) => {
                Err(failed(&request, code, last).caused_by(&error))
            }
            Err(error) => Err(failed_at(error)),
        }
    });
    ran.await
}

/// Ends the wait when nobody waits for its outcome.
#[derive(Default)]
struct Cancelled(Arc<AtomicBool>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What it wrote, told; the end of it for a failure.
fn last_words(core: &Core, project: &str, id: &str, progress: &dyn Progress) -> Option<String> {
    let mut said = Said::default();
    let request = LogRequest { tail: None, since: None, until: None, follow: false };
    // A container without a log (`logging: none`) has no last words.
    let _ = core.logs(project, id, &request, &mut |record| {
        if let LogRecord::Line { stderr, text, .. } = record {
            let line = [text.as_slice(), b"\n"].concat();
            said.stream(stderr).take(&line, &mut |line| progress.report(Detail::Line(line)));
        }
        ControlFlow::Continue(())
    });
    said.last()
}

/// Starts the program; `None` where there is nothing to run it in, and that is no mistake.
fn begin(
    engine: &Embedded,
    request: &HookRequest,
) -> Result<Option<(ContainerRecord, Arc<Attended>)>, EngineError> {
    let record = match &request.id {
        Some(id) => engine
            .core
            .named(&request.project, &request.name)
            .map_err(|error| error::runtime(&error, "containers cannot be listed"))?
            .into_iter()
            .find(|record| record.config.id == id.0),
        None => Some(newest(engine, &request.project, &request.name)?),
    };
    let Some(record) = record else { return Ok(None) };
    match engine.core.exec(&request.project, &record.config.id, &config(request)) {
        Ok(attended) => Ok(Some((record, Arc::new(attended)))),
        Err(runtime::Error::Condition(_) | runtime::Error::NoContainer(_))
            if may_have_ended(request, &record) =>
        {
            Ok(None)
        }
        Err(error @ runtime::Error::Exec { code, .. }) => Err(failed(request, code, None).caused_by(&error)),
        Err(error) => Err(error::runtime(&error, what(request)).at(request.path())),
    }
}

/// One hook less is owed to the container's start.
fn settle(engine: &Embedded, request: &HookRequest, record: &ContainerRecord) -> Result<(), EngineError> {
    let next = observe::spec(record).and_then(|spec| request.next_of(&spec.post_start));
    engine
        .core
        .owe(&request.project, &record.config.id, next)
        .map_err(|error| error::runtime(&error, what(request)).at(request.path()))
}

/// Before a stop it is as it should be, and a program of `run` is often done before its hook begins.
fn may_have_ended(request: &HookRequest, record: &ContainerRecord) -> bool {
    let one_off = observe::labels(record).get(label::ONEOFF).is_some_and(|one_off| one_off == "True");
    request.at == HookAt::PreStop || one_off
}

fn config(request: &HookRequest) -> ExecConfig {
    let hook = &request.hook;
    let set = hook.environment.iter().map(|(name, value)| match value {
        Some(value) => format!("{name}={value}"),
        None => name.clone(),
    });
    ExecConfig {
        args: hook.command.clone(),
        env: set.collect(),
        cwd: hook.working_dir.clone(),
        user: hook.user.clone(),
        privileged: hook.privileged,
        tty: false,
        size: None,
        stdin: false,
    }
}

fn what(request: &HookRequest) -> String {
    format!("`{}` of container {} failed", request.label(), request.name)
}

fn failed(request: &HookRequest, code: i32, last: Option<String>) -> EngineError {
    let mut told = EngineError::new(ErrorKind::Dependency, what(request)).at(request.path());
    told.causes.push(format!("{} hook exited with status {code}", request.service));
    told.facts.extend(last.map(|last| format!("the hook said last:\n{last}")));
    told.help(match request.at {
        HookAt::PreStart => "the container was not started; `ficelle up` runs its hooks again",
        HookAt::PostStart => "the container runs on; `ficelle up` runs the hook again",
        HookAt::PreStop => "the container is stopped all the same",
    })
}

/// Ends the program when nobody waits for it any more.
struct GivenUp(Arc<Attended>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        // One that has ended has nobody to hear it.
        let _ = self.0.signal(libc::SIGKILL);
    }
}

/// What both streams said last.
#[derive(Default)]
struct Said {
    stdout: Lines,
    stderr: Lines,
}

impl Said {
    fn stream(&mut self, stderr: bool) -> &mut Lines {
        if stderr { &mut self.stderr } else { &mut self.stdout }
    }

    /// A last line without its end is one, too.
    fn end(&mut self, tell: &mut dyn FnMut(String)) {
        for lines in [&mut self.stdout, &mut self.stderr] {
            if !lines.open.is_empty() {
                lines.take(b"\n", tell);
            }
        }
    }

    /// Of standard error where it said anything there.
    fn last(&self) -> Option<String> {
        let lines = if self.stderr.last.is_empty() { &self.stdout.last } else { &self.stderr.last };
        let text = lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        let from = text.ceil_char_boundary(text.len().saturating_sub(LAST_BYTES));
        (!lines.is_empty()).then(|| text.split_at(from).1.to_owned())
    }
}

#[derive(Default)]
struct Lines {
    open: Vec<u8>,
    last: VecDeque<String>,
}

impl Lines {
    /// A line without an end in sight is cut, so that it does not fill the memory.
    const LONGEST: usize = 16 << 10;

    fn take(&mut self, bytes: &[u8], tell: &mut dyn FnMut(String)) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.open.extend_from_slice(piece);
            if !piece.ends_with(b"\n") && self.open.len() < Self::LONGEST {
                continue;
            }
            let line = String::from_utf8_lossy(&std::mem::take(&mut self.open)).trim_end().to_owned();
            if self.last.len() == LAST_LINES {
                self.last.pop_front();
            }
            self.last.push_back(line.clone());
            tell(line);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_of_what_went_wrong_are_kept() {
        let mut said = Said::default();
        let mut told = Vec::new();
        let mut tell = |line: String| told.push(line);
        said.stream(false).take(b"one\ntw", &mut tell);
        said.stream(false).take(b"o\nend", &mut tell);
        said.end(&mut tell);
        assert_eq!(said.last().unwrap(), "one\ntwo\nend");
        for number in 0..12 {
            said.stream(true).take(format!("{number}\n").as_bytes(), &mut |_| {});
        }
        assert_eq!(said.last().unwrap(), "2\n3\n4\n5\n6\n7\n8\n9\n10\n11");
        assert_eq!(told, ["one", "two", "end"]);
        said.stream(true).take(&[b'x'; LAST_BYTES], &mut |_| {});
        said.end(&mut |_| {});
        assert_eq!(said.last().unwrap(), "x".repeat(LAST_BYTES));
    }
}
