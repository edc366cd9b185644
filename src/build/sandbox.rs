//! The container of one RUN step: what is mounted into it, what it is allowed, what it says.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path, path::PathBuf};

use super::{
    BuildError, BuildEvent,
    agent::{self, Agent},
    cachemount,
    copy::has_wildcard,
    copying::{mounted_copy, opened},
    dockerfile::{Mistake, Word},
    mounts::Kind,
    running::{Network, Program},
    secret::{self, Vault},
    solve::{At, Solver, Stage, stack},
    steps::{is_proxy, variable},
    tree::Tree,
};
use crate::runtime::{
    ALL_CAPABILITIES, ContainerConfig, Core, DEFAULT_CAPABILITIES, Error, Exit, MountConfig, MountKind,
    NetworkNamespace, Rlimit, Rootfs, Seccomp, Upper,
};

const HOSTNAME: &str = "buildkitsandbox";
const SHM_SIZE: u64 = 64 << 20;
/// Lines of a failed step that its error repeats.
const LAST_LINES: usize = 20;

/// Runs it; the directory returned holds `fs`, what it wrote.
pub fn carry_out(
    solver: &Solver<'_>,
    stage: &Stage,
    at: At<'_>,
    program: &Program,
) -> Result<tempfile::TempDir, BuildError> {
    let scratch = solver.store.scratch()?;
    let own = |what: &str, error: io::Error| BuildError::Context {
        message: format!("cannot prepare {what} for `{}`: {error}", at.step.instruction.text),
        source: Some(error),
    };
    for name in ["fs", "work", "empty", "mounts"] {
        let path = scratch.path().join(name);
        fs::create_dir(&path)
            .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
            .map_err(|error| own("a directory", error))?;
    }
    let mut layers = stack(&stage.layers);
    if layers.is_empty() {
        layers.push(scratch.path().join("empty"));
    }
    let prepared = Prepared::new(solver, at, program, &scratch.path().join("mounts"))?;
    let rootfs = Rootfs { layers, upper: Upper::Dir(scratch.path().to_owned()) };
    let config = config(solver, stage, program, rootfs, &prepared);
    let mut lines = Lines {
        events: solver.events,
        parts: [Vec::new(), Vec::new()],
        last: std::collections::VecDeque::new(),
    };
    let exit =
        solver.core.run_until(&config, &mut |stderr, bytes| lines.take(stderr, bytes), solver.cancel.fd());
    lines.end();
    drop(prepared);
    solver.check()?;
    let code = match exit {
        Ok(Exit::Code(0)) => return Ok(scratch),
        Ok(Exit::Code(code)) => code,
        Ok(Exit::Unknown) => 255,
        Err(Error::Exec { message, code }) => {
            lines.say(message);
            code
        }
        Err(error) => return Err(error.into()),
    };
    Err(BuildError::Step {
        file: solver.file.name.clone(),
        line: solver.line(at),
        command: program.args.join(" "),
        code,
        snippet: solver.file.snippet(at.span()),
        output: lines.last.into(),
    })
}

fn config(
    solver: &Solver<'_>,
    stage: &Stage,
    program: &Program,
    rootfs: Rootfs,
    prepared: &Prepared,
) -> ContainerConfig {
    let build = solver.build;
    let mut env = program.env.clone();
    env.extend(prepared.env.iter().cloned());
    for (name, value) in build.args.iter().filter(|(name, _)| is_proxy(name)) {
        if let (Some(value), None) = (value, variable(stage, name)) {
            env.push(format!("{name}={value}"));
        }
    }
    let id = Core::new_id();
    let privileged = program.insecure;
    let capabilities = if privileged { grantable() } else { DEFAULT_CAPABILITIES.to_vec() };
    ContainerConfig {
        name: format!("build-{}", id.get(..12).unwrap_or(&id)),
        group: format!("build-{}", id.get(..12).unwrap_or(&id)),
        id,
        rootfs,
        args: program.args.clone(),
        env,
        cwd: stage.document.config.working_dir.clone(),
        user: stage.document.config.user.clone(),
        hostname: Some(HOSTNAME.into()),
        network: match program.network {
            Network::Host => NetworkNamespace::Host,
            Network::None => NetworkNamespace::None,
        },
        extra_hosts: build.extra_hosts.clone(),
        mounts: prepared.mounts.clone(),
        stop_signal: 15,
        privileged,
        capabilities: capabilities.iter().map(|name| format!("CAP_{name}")).collect(),
        seccomp: if privileged { Seccomp::None } else { Seccomp::Default },
        mask_paths: !privileged,
        rlimits: rlimits(solver),
        shm_size: build.shm_size.unwrap_or(SHM_SIZE),
        ..ContainerConfig::default()
    }
}

/// All capabilities that we have to give: those of our own bounding set.
fn grantable() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = bounding.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).unwrap_or(u64::MAX);
    ALL_CAPABILITIES
        .iter()
        .enumerate()
        .filter(|(bit, _)| bounding >> bit & 1 == 1)
        .map(|(_, name)| *name)
        .collect()
}

/// -1 is unlimited, which is the largest number to the kernel. The runtime knows the names.
fn rlimits(solver: &Solver<'_>) -> Vec<Rlimit> {
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    let limits = solver.build.ulimits.iter();
    limits
        .map(|(name, limit)| Rlimit {
            kind: format!("RLIMIT_{}", name.to_uppercase()),
            soft: number(limit.soft),
            hard: number(limit.hard),
        })
        .collect()
}

/// Output to whole lines, each stream for itself.
struct Lines<'a> {
    events: &'a (dyn Fn(BuildEvent) + Send + Sync),
    parts: [Vec<u8>; 2],
    last: std::collections::VecDeque<String>,
}

impl Lines<'_> {
    /// A line without an end is given out when it is this long.
    const LONGEST: usize = 64 << 10;

    fn take(&mut self, stderr: bool, bytes: &[u8]) {
        let stream = usize::from(stderr);
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.parts[stream].extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.parts[stream].len() > Self::LONGEST {
                self.flush(stream);
            }
        }
    }

    fn end(&mut self) {
        for stream in 0..self.parts.len() {
            if !self.parts[stream].is_empty() {
                self.flush(stream);
            }
        }
    }

    fn flush(&mut self, stream: usize) {
        let part = std::mem::take(&mut self.parts[stream]);
        self.say(String::from_utf8_lossy(&part).trim_end_matches(['\n', '\r']).to_owned());
    }

    fn say(&mut self, line: String) {
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line.clone());
        (self.events)(BuildEvent::Output(line));
    }
}

/// Sources of the mounts, on disk or in memory until the step has ended.
struct Prepared {
    mounts: Vec<MountConfig>,
    env: Vec<String>,
    /// Held while the step runs.
    _locks: Vec<fs::File>,
    _agents: Vec<Agent>,
    vault: Option<Vault>,
}

impl Prepared {
    fn new(solver: &Solver<'_>, at: At<'_>, program: &Program, scratch: &Path) -> Result<Self, BuildError> {
        let mut prepared = Self {
            mounts: Vec::new(),
            env: Vec::new(),
            _locks: Vec::new(),
            _agents: Vec::new(),
            vault: None,
        };
        let wrong = |word: &Word, message: String| solver.wrong(at, Mistake::new(word.span, message));
        let mut agents = 0;
        for (number, (mount, word)) in program.mounts.iter().enumerate() {
            let (kind, read_only) = match &mount.kind {
                Kind::Bind { from, source, writable } => 'kind: {
                    if !writable && let Some(kind) = in_place(solver, from.as_deref(), source)? {
                        break 'kind (kind, true);
                    }
                    // A copy: what the step writes to it is lost, and what the user writes meanwhile is not seen.
                    let view = opened(solver, from.as_deref())?;
                    let name = number.to_string();
                    let target = Tree::open(scratch).map_err(|error| wrong(word, error.to_string()))?;
                    mounted_copy(&view.files(), source, &target, &name)
                        .map_err(|error| wrong(word, error.to_string()))?;
                    (bind(scratch.join(name)), !writable)
                }
                Kind::Cache { read_only, .. } => {
                    let (path, lock) = cachemount::directory(solver, &mount.kind)?;
                    prepared._locks.push(lock);
                    (bind(path), *read_only)
                }
                Kind::Tmpfs { size } => {
                    (MountKind::Tmpfs { size: *size, mode: None, options: vec!["exec".into()] }, false)
                }
                Kind::Secret { .. } => {
                    let path = prepared
                        .secret(solver, &mount.kind, &number.to_string())
                        .map_err(|message| wrong(word, message))?;
                    let Some(path) = path else { continue };
                    (bind(path), true)
                }
                Kind::Ssh { .. } => {
                    if agents == 0 {
                        prepared.env.push(format!("SSH_AUTH_SOCK={}", mount.target));
                    }
                    agents += 1;
                    let path = prepared
                        .agent(solver, &mount.kind, &number.to_string())
                        .map_err(|message| wrong(word, message))?;
                    let Some(path) = path else { continue };
                    (bind(path), false)
                }
            };
            prepared.mounts.push(MountConfig { target: mount.target.clone(), read_only, kind });
        }
        if let Some((name, data)) = &program.script {
            let path = scratch.join("script");
            let written = fs::write(&path, data)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)));
            written.map_err(|error| {
                wrong(&Word { span: at.step.instruction.span, ..Word::default() }, error.to_string())
            })?;
            let (target, kind) = (format!("/dev/pipes/{name}"), bind(path));
            prepared.mounts.push(MountConfig { target, read_only: true, kind });
        }
        Ok(prepared)
    }

    fn vault(&mut self, solver: &Solver<'_>) -> Result<&Vault, String> {
        if self.vault.is_none() {
            let vault = Vault::new(&solver.core.roots().run);
            self.vault = Some(vault.map_err(|error| format!("cannot keep a secret: {error}"))?);
        }
        self.vault.as_ref().ok_or_else(String::new)
    }

    /// The file to mount; `None` when it is only a variable, or not there and not needed.
    fn secret(&mut self, solver: &Solver<'_>, kind: &Kind, name: &str) -> Result<Option<PathBuf>, String> {
        let Kind::Secret { id, required, file, env, attributes } = kind else { return Ok(None) };
        let value = secret::value(solver.build, id).map_err(|why| format!("secret {id}: {why}"))?;
        let Some(value) = value else {
            return if *required { Err(format!("secret {id}: not found")) } else { Ok(None) };
        };
        if let Some(name) = env {
            let text = std::str::from_utf8(&value).ok().filter(|text| !text.contains('\0'));
            let text = text.ok_or_else(|| format!("secret {id} is no text that a variable can hold"))?;
            self.env.push(format!("{name}={text}"));
        }
        if !file {
            return Ok(None);
        }
        let written = self.vault(solver)?.file(name, &value, *attributes);
        written.map(Some).map_err(|error| format!("secret {id}: {error}"))
    }

    /// The socket to mount; `None` when there is no agent and none is needed.
    fn agent(&mut self, solver: &Solver<'_>, kind: &Kind, name: &str) -> Result<Option<PathBuf>, String> {
        let Kind::Ssh { id, required, attributes } = kind else { return Ok(None) };
        let peer = agent::peer(solver.build, id).map_err(|why| format!("ssh agent {id}: {why}"))?;
        let Some(peer) = peer else {
            return if *required { Err(format!("ssh agent {id}: not found")) } else { Ok(None) };
        };
        let dir = self.vault(solver)?.path().to_owned();
        let started = Agent::start(&peer, &dir, name, *attributes);
        let agent = started.map_err(|error| format!("ssh agent {id}: {error}"))?;
        let socket = agent.socket.clone();
        self._agents.push(agent);
        Ok(Some(socket))
    }
}

/// Files of a stage or an image need no copy: nobody writes to its layers. `None` where there is no layer, and for
/// files of a context or a pattern.
fn in_place(solver: &Solver<'_>, from: Option<&str>, source: &str) -> Result<Option<MountKind>, BuildError> {
    if solver.context_of(from).is_some() || has_wildcard(source) {
        return Ok(None);
    }
    let (layers, _) = solver.source(&solver.graph.source(from.unwrap_or_default()))?;
    let subpath = Some(source.to_owned());
    Ok((!layers.is_empty()).then(|| MountKind::Layers { layers: stack(&layers), subpath }))
}

fn bind(path: PathBuf) -> MountKind {
    MountKind::Bind { path, create: false, propagation: None, recursive: true }
}
