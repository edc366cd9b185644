//! One instruction on a stage: what it writes into the configuration; those that touch files are
//! handed on.

use super::{
    BuildError,
    config::{self, Healthcheck, Made, Nothing},
    copying,
    dockerfile::{Command, Health, Kind, Mistake, Word},
    expand::{Quotes, expand},
    graph::{Origin, value_of},
    running,
    solve::{At, Inputs, Solver, Stage},
};

/// Usable in RUN without ARG, and never part of a key or of the history.
const PROXIES: &[&str] = &[
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

#[must_use]
pub fn is_proxy(name: &str) -> bool {
    PROXIES.contains(&name)
}

impl Solver<'_> {
    pub fn step(&self, stage: &mut Stage, at: At<'_>) -> Result<(), BuildError> {
        match &at.step.instruction.kind {
            Kind::From(_) => {}
            Kind::Run(run) => running::run(self, stage, at, run)?,
            Kind::Copy(copy) => copying::copy(self, stage, at, copy)?,
            Kind::Workdir(path) => self.workdir(stage, at, path)?,
            Kind::Cmd(command) => {
                let args = command_args(stage, command);
                record(stage, &format!("CMD {}", quoted(&args)));
                stage.document.config.cmd = Some(args);
                stage.cmd_is_own = true;
            }
            Kind::Entrypoint(command) => {
                let args = command_args(stage, command);
                record(stage, &format!("ENTRYPOINT {}", quoted(&args)));
                stage.document.set_entrypoint(args, stage.cmd_is_own);
            }
            Kind::Label(pairs) => {
                let pairs = self.pairs(stage, at, pairs)?;
                record(stage, &format!("LABEL {}", joined(&pairs)));
                stage.document.config.labels.extend(pairs);
            }
            Kind::Env(pairs) => {
                let pairs = self.pairs(stage, at, pairs)?;
                record(stage, &format!("ENV {}", joined(&pairs)));
                for (name, value) in pairs {
                    stage.document.set_env(&name, &value);
                    // What was declared before it is hidden; an ARG behind it hides it.
                    for (_, hidden) in stage.args.iter_mut().filter(|(known, _)| *known == name) {
                        *hidden = None;
                    }
                }
            }
            Kind::Maintainer(word) => {
                record(stage, &format!("MAINTAINER {}", word.text));
                stage.document.author = Some(word.text.clone());
            }
            Kind::Expose(words) => self.expose(stage, at, words)?,
            Kind::Volume(words) => {
                let volumes =
                    words.iter().map(|word| self.text(stage, at, word)).collect::<Result<Vec<_>, _>>()?;
                record(stage, &format!("VOLUME [{}]", volumes.join(" ")));
                stage.document.config.volumes.extend(volumes.into_iter().map(|path| (path, Nothing {})));
            }
            Kind::User(word) => {
                let user = self.text(stage, at, word)?;
                record(stage, &format!("USER {user}"));
                stage.document.config.user = user;
            }
            Kind::Arg(declared) => self.arg(stage, at, declared)?,
            Kind::OnBuild(word) => stage.document.config.on_build.push(word.text.clone()),
            Kind::StopSignal(word) => {
                let signal = self.text(stage, at, word)?;
                if !is_signal(&signal) {
                    let mistake = Mistake::new(word.span, format!("invalid signal: {signal}"));
                    return Err(self.wrong(at, mistake.help("write a name such as SIGTERM, or a number")));
                }
                record(stage, &format!("STOPSIGNAL {signal}"));
                stage.document.config.stop_signal = Some(signal);
            }
            Kind::Health(health) => {
                record(stage, &at.step.instruction.text);
                stage.document.config.healthcheck = Some(healthcheck(health));
            }
            Kind::Shell(shell) => {
                record(stage, &format!("SHELL [{}]", shell.join(" ")));
                stage.document.config.shell.clone_from(shell);
            }
        }
        Ok(())
    }

    /// A word with its variables replaced and its quotes gone.
    pub fn text(&self, stage: &Stage, at: At<'_>, word: &Word) -> Result<String, BuildError> {
        self.expanded(stage, at, word, Quotes::Removed).map(|expanded| expanded.text)
    }

    pub fn expanded(
        &self,
        stage: &Stage,
        at: At<'_>,
        word: &Word,
        quotes: Quotes,
    ) -> Result<super::expand::Expanded, BuildError> {
        let escape = if at.step.origin == Origin::File { self.graph.escape } else { '\\' };
        let lookup = |name: &str| variable(stage, name);
        expand(&word.text, escape, quotes, &lookup).map_err(|message| {
            self.wrong(at, Mistake::new(word.span, format!("failed to process \"{}\": {message}", word.text)))
        })
    }

    /// All are expanded with what was set before the instruction.
    fn pairs(
        &self,
        stage: &Stage,
        at: At<'_>,
        pairs: &[(Word, Word)],
    ) -> Result<Vec<(String, String)>, BuildError> {
        pairs
            .iter()
            .map(|(name, value)| Ok((self.text(stage, at, name)?, self.text(stage, at, value)?)))
            .collect()
    }

    fn expose(&self, stage: &mut Stage, at: At<'_>, words: &[Word]) -> Result<(), BuildError> {
        let mut ports = Vec::new();
        for word in words {
            for text in self.expanded(stage, at, word, Quotes::Removed)?.words {
                let read = config::ports(&text);
                ports.extend(read.map_err(|message| self.wrong(at, Mistake::new(word.span, message)))?);
            }
        }
        record(stage, &format!("EXPOSE [{}]", ports.join(" ")));
        stage.document.config.exposed_ports.extend(ports.into_iter().map(|port| (port, Nothing {})));
        Ok(())
    }

    fn arg(
        &self,
        stage: &mut Stage,
        at: At<'_>,
        declared: &[(Word, Option<Word>)],
    ) -> Result<(), BuildError> {
        let mut shown = Vec::new();
        // As with ENV: what one declares the others of the instruction do not see.
        let defaults = declared
            .iter()
            .map(|(_, default)| default.as_ref().map(|word| self.text(stage, at, word)).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        for ((name, _), default) in declared.iter().zip(defaults) {
            let name = self.text(stage, at, name)?;
            let given = self.build.args.get(&name).cloned().flatten();
            let value = match (given, default) {
                (Some(given), _) => Some(given),
                (None, Some(default)) => Some(default),
                (None, None) => value_of(&self.graph.globals, &name)
                    .or_else(|| self.platforms.argument(&name))
                    .or_else(|| (name == "TARGETSTAGE").then(|| self.target_name())),
            };
            shown.push(value.as_ref().map_or_else(|| name.clone(), |value| format!("{name}={value}")));
            // Declared again without a value, it keeps the one it has.
            let value = value.or_else(|| value_of(&stage.args, &name));
            stage.args.retain(|(known, _)| *known != name);
            stage.args.push((name, value));
        }
        record(stage, &format!("ARG {}", shown.join(" ")));
        Ok(())
    }

    fn target_name(&self) -> String {
        self.build.target.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into())
    }

    fn workdir(&self, stage: &mut Stage, at: At<'_>, word: &Word) -> Result<(), BuildError> {
        let path = self.text(stage, at, word)?;
        if path.is_empty() {
            return Err(self.wrong(at, Mistake::new(word.span, "WORKDIR requires exactly one argument")));
        }
        let path = stage.document.directory(&path);
        stage.document.config.working_dir.clone_from(&path);
        let user = stage.document.config.user.clone().into_bytes();
        let definition = vec![b"workdir".to_vec(), path.clone().into_bytes(), user];
        let inputs = Inputs { definition, ..Inputs::default() };
        let made = self.layer(
            stage,
            at,
            &inputs,
            || Ok(Vec::new()),
            |stage| copying::make_directory(self, stage, at, &path),
        )?;
        commit(stage, &format!("WORKDIR {path}"), made);
        Ok(())
    }
}

/// Of ENV and ARG the later one wins.
#[must_use]
pub fn variable(stage: &Stage, name: &str) -> Option<String> {
    value_of(&stage.args, name).or_else(|| stage.document.env(name).map(str::to_owned))
}

fn record(stage: &mut Stage, created_by: &str) {
    commit(stage, created_by, Made::Nothing);
}

/// The time of an entry is that of the newest layer, so that a build of nothing new gives the same image.
pub fn commit(stage: &mut Stage, created_by: &str, made: Made) {
    let created = stage.created.clone().unwrap_or_else(|| config::rfc3339(0, 0));
    stage.document.record(created_by, &created, made);
}

fn command_args(stage: &Stage, command: &Command) -> Vec<String> {
    match command {
        Command::Exec(args) => args.clone(),
        Command::Shell(line) if line.text.is_empty() => Vec::new(),
        Command::Shell(line) => {
            let mut args = stage.document.shell();
            args.push(line.text.clone());
            args
        }
    }
}

fn healthcheck(health: &Health) -> Healthcheck {
    match health {
        Health::None => Healthcheck { test: vec!["NONE".into()], ..Healthcheck::default() },
        Health::Check { command, interval, timeout, start_period, start_interval, retries } => Healthcheck {
            test: match command {
                Command::Exec(args) => {
                    std::iter::once("CMD".to_owned()).chain(args.iter().cloned()).collect()
                }
                Command::Shell(line) => vec!["CMD-SHELL".into(), line.text.clone()],
            },
            interval: *interval,
            timeout: *timeout,
            start_period: *start_period,
            start_interval: *start_interval,
            retries: *retries,
        },
    }
}

fn is_signal(text: &str) -> bool {
    let name = text.strip_prefix("SIG").unwrap_or(text);
    text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number))
        || (!name.is_empty()
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || "+-".contains(c)))
}

/// `["a" "b"]`
fn quoted(args: &[String]) -> String {
    let words: Vec<String> =
        args.iter().map(|word| serde_json::Value::from(word.as_str()).to_string()).collect();
    format!("[{}]", words.join(" "))
}

fn joined(pairs: &[(String, String)]) -> String {
    pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}
