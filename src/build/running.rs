//! RUN as a step: the program is run by the runtime core above the layers of the stage, and what it
//! wrote becomes the next layer.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    time::Duration,
};

use indexmap::IndexMap;

use super::{
    BuildError, BuildEvent,
    copying::{files_of, mounted_copy, mounted_digest},
    dockerfile::{Command, Mistake, Run, Word},
    mounts::{self, Kind, Mount, Sharing},
    solve::{At, Change, Inputs, Keep, Solver, Stage, View, stack},
    steps::{commit, is_proxy, variable},
    tree::Tree,
};
use crate::{
    model::Limits,
    runtime::{
        ContainerConfig, Core, Error, Exit, LogConfig, MountConfig, MountKind, NetworkNamespace,
        RestartConfig, Rootfs, Upper,
    },
};

/// Docker's default set.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];
const HOSTNAME: &str = "buildkitsandbox";

/// What the step runs, everything replaced.
struct Program {
    args: Vec<String>,
    /// A script of the Dockerfile with a `#!` line: its name and content.
    script: Option<(String, String)>,
    env: Vec<String>,
    network: Network,
    mounts: Vec<(Mount, Word)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Host,
    None,
}

pub fn run(solver: &Solver<'_>, stage: &mut Stage, at: At<'_>, run: &Run) -> Result<(), BuildError> {
    let program = read(solver, stage, at, run)?;
    let mut inputs = Inputs { definition: definition(stage, &program), ..Inputs::default() };
    // Files of the context that are mounted; those of stages go into the slow key only.
    let mut before = Vec::new();
    for (mount, word) in &program.mounts {
        let Some((from, source)) = content_of(mount) else { continue };
        match from {
            None => before.push(digest(solver, at, None, source, word)?),
            Some(from) => inputs.fast.push(solver.source(&solver.graph.source(from))?.1.bytes().to_vec()),
        }
    }
    inputs.fast.extend(before.iter().map(|digest| digest.to_vec()));
    let slow = || {
        let mut digests = before.clone();
        for (mount, word) in &program.mounts {
            if let Some((Some(from), source)) = content_of(mount) {
                let view = solver.view(&solver.source(&solver.graph.source(from))?.0)?;
                digests.push(digest(solver, at, Some(&view), source, word)?);
            }
        }
        Ok(digests)
    };
    let created_by = created_by(stage, &program);
    let made = solver.layer(stage, at, &inputs, slow, |stage| {
        let scratch = carry_out(solver, stage, at, &program)?;
        forget_mount_points(solver, stage, &program, &scratch)?;
        Ok(Change { written: Some(scratch), keep: Keep::Yes })
    })?;
    commit(stage, &created_by, made);
    Ok(())
}

/// What a mount reads: from which stage (the context when `None`), and which path.
fn content_of(mount: &Mount) -> Option<(Option<&str>, &str)> {
    match &mount.kind {
        Kind::Bind { from, source, .. } => Some((from.as_deref(), source)),
        Kind::Cache { from: Some(from), source, .. } => Some((Some(from), source)),
        _ => None,
    }
}

fn digest(
    solver: &Solver<'_>,
    at: At<'_>,
    view: Option<&View>,
    source: &str,
    word: &Word,
) -> Result<[u8; 32], BuildError> {
    mounted_digest(&files_of(solver, view), source)
        .map_err(|error| solver.wrong(at, Mistake::new(word.span, error.to_string())))
}

fn read(solver: &Solver<'_>, stage: &Stage, at: At<'_>, run: &Run) -> Result<Program, BuildError> {
    let mut script = None;
    let args = match &run.command {
        Command::Exec(args) => args.clone(),
        Command::Shell(line) => {
            let mut args = stage.document.shell();
            let only_heredoc = super::dockerfile::is_heredoc(line);
            match &run.heredocs[..] {
                [] => args.push(line.text.clone()),
                [one] if only_heredoc && one.data().starts_with("#!") => {
                    args = vec![format!("/dev/pipes/{}", one.name)];
                    script = Some((one.name.clone(), one.data()));
                }
                [one] if only_heredoc => args.push(one.data()),
                // The shell knows heredocs itself.
                all => args.push(
                    all.iter()
                        .fold(line.text.clone(), |text, one| format!("{text}\n{}{}", one.content, one.name)),
                ),
            }
            args
        }
    };
    if args.is_empty() {
        return Err(
            solver.wrong(at, Mistake::new(at.step.instruction.span, "RUN requires at least one argument"))
        );
    }
    let network = match run.network.as_ref().map(|word| (word, word.text.as_str())) {
        None | Some((_, "default" | "host")) => Network::Host,
        Some((_, "none")) => Network::None,
        Some((word, other)) => {
            let mistake = Mistake::new(word.span, format!("invalid network mode \"{other}\""));
            return Err(solver.wrong(at, mistake.help("it is default, none or host")));
        }
    };
    let mut mounts = Vec::new();
    for word in &run.mounts {
        let text = solver.text(stage, at, word)?;
        let word = Word { text, span: word.span };
        let mount = mounts::parse(&word).map_err(|mistake| solver.wrong(at, mistake))?;
        if let Kind::Secret { id, required: true } | Kind::Ssh { id, required: true } = &mount.kind {
            let what = if matches!(mount.kind, Kind::Ssh { .. }) { "ssh agent" } else { "secret" };
            let message = format!("{what} {id}: not found");
            return Err(solver.wrong(at, Mistake::new(word.span, message).help("this build was given none")));
        }
        mounts.push((Mount { target: stage.document.directory(&mount.target), ..mount }, word));
    }
    Ok(Program { args, script, env: environment(stage), network, mounts })
}

/// ENV, then the ARGs that no ENV hides.
fn environment(stage: &Stage) -> Vec<String> {
    let mut env = stage.document.config.env.clone();
    for (name, value) in &stage.args {
        if let (Some(value), None) = (value, stage.document.env(name)) {
            env.push(format!("{name}={value}"));
        }
    }
    env
}

fn definition(stage: &Stage, program: &Program) -> Vec<Vec<u8>> {
    let config = &stage.document.config;
    let mut parts = vec![b"run".to_vec()];
    let mut list = |name: &str, values: &mut dyn Iterator<Item = String>| {
        parts.push(name.as_bytes().to_vec());
        parts.extend(values.map(String::into_bytes));
    };
    list("args", &mut program.args.iter().cloned());
    list("script", &mut program.script.iter().map(|(name, data)| format!("{name}\n{data}")));
    // A declared proxy is of no account for the result either.
    let counts = |entry: &&String| !entry.split_once('=').is_some_and(|(name, _)| is_proxy(name));
    list("env", &mut program.env.iter().filter(counts).cloned());
    list("cwd", &mut std::iter::once(config.working_dir.clone()));
    list("user", &mut std::iter::once(config.user.clone()));
    list("platform", &mut std::iter::once(format!("{}/{}", stage.document.os, stage.document.architecture)));
    list("network", &mut std::iter::once(format!("{:?}", program.network)));
    list("mounts", &mut program.mounts.iter().map(|(mount, _)| shape(mount)));
    parts
}

/// What counts of a mount beside the content: not the id of a cache.
fn shape(mount: &Mount) -> String {
    let rest = match &mount.kind {
        Kind::Bind { writable, .. } => format!("bind {writable}"),
        Kind::Cache { read_only, .. } => format!("cache {read_only}"),
        Kind::Tmpfs { size } => format!("tmpfs {size:?}"),
        Kind::Secret { id, .. } => format!("secret {id}"),
        Kind::Ssh { id, .. } => format!("ssh {id}"),
    };
    format!("{rest} {}", mount.target)
}

/// `RUN |1 A=b /bin/sh -c make # buildkit`
fn created_by(stage: &Stage, program: &Program) -> String {
    let args: Vec<String> = stage
        .args
        .iter()
        .filter(|(name, _)| !is_proxy(name))
        .map(|(name, _)| format!("{name}={}", variable(stage, name).unwrap_or_default()))
        .collect();
    let count = if args.is_empty() { String::new() } else { format!("|{} {} ", args.len(), args.join(" ")) };
    format!("RUN {count}{} # buildkit", program.args.join(" "))
}

/// Runs it; the directory returned holds `fs`, what it wrote.
fn carry_out(
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
    let mut env = program.env.clone();
    for (name, value) in solver.build.args.iter().filter(|(name, _)| is_proxy(name)) {
        if let (Some(value), None) = (value, variable(stage, name)) {
            env.push(format!("{name}={value}"));
        }
    }
    let id = Core::new_id();
    let config = ContainerConfig {
        name: format!("build-{}", id.get(..12).unwrap_or(&id)),
        group: format!("build-{}", id.get(..12).unwrap_or(&id)),
        id,
        annotations: IndexMap::new(),
        rootfs: Rootfs { layers, upper: Upper::Dir(scratch.path().to_owned()) },
        args: program.args.clone(),
        env,
        cwd: stage.document.config.working_dir.clone(),
        user: stage.document.config.user.clone(),
        groups: Vec::new(),
        hostname: Some(HOSTNAME.into()),
        domainname: None,
        network: match program.network {
            Network::Host => NetworkNamespace::Host,
            Network::None => NetworkNamespace::None,
        },
        ports: Vec::new(),
        extra_hosts: Vec::new(),
        mounts: prepared.mounts.clone(),
        devices: Vec::new(),
        health: None,
        restart: RestartConfig::No,
        stop_signal: 15,
        stop_grace: Duration::ZERO,
        init: false,
        tty: false,
        stdin_open: false,
        read_only: false,
        privileged: false,
        capabilities: CAPABILITIES.map(String::from).to_vec(),
        no_new_privileges: false,
        seccomp: true,
        mask_paths: true,
        sysctls: IndexMap::new(),
        rlimits: Vec::new(),
        limits: Limits::default(),
        shm_size: 64 << 20,
        log: LogConfig::default(),
        once: None,
        replaces: None,
    };
    let mut lines = Lines { events: solver.events, parts: [Vec::new(), Vec::new()] };
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
            (solver.events)(BuildEvent::Output(message));
            code
        }
        Err(error) => return Err(error.into()),
    };
    Err(BuildError::Step {
        file: solver.file.name.clone(),
        line: solver.line(at),
        command: program.args.join(" "),
        code,
    })
}

/// Making and removing mount points copies the directories they stand in up into the new layer. Those
/// that hold nothing new are taken out again, or every step would seem to change `/etc`.
fn forget_mount_points(
    solver: &Solver<'_>,
    stage: &Stage,
    program: &Program,
    scratch: &tempfile::TempDir,
) -> Result<(), BuildError> {
    let failed = |error: io::Error| BuildError::Context {
        message: format!("cannot examine what a step wrote: {error}"),
        source: Some(error),
    };
    let mut paths: Vec<PathBuf> = vec!["etc".into(), "dev".into()];
    for (mount, _) in &program.mounts {
        let target = Path::new(mount.target.trim_start_matches('/'));
        paths.extend(target.ancestors().filter(|path| !path.as_os_str().is_empty()).map(Path::to_path_buf));
    }
    // The deepest first.
    paths.sort_by_key(|path| std::cmp::Reverse(path.components().count()));
    let upper = Tree::open(&scratch.path().join("fs")).map_err(failed)?;
    let mut below = None;
    for path in paths {
        if !upper.is_empty_directory(&path).map_err(failed)? {
            continue;
        }
        let below = match &mut below {
            Some(view) => view,
            none => none.insert(solver.view(&stage.layers)?),
        };
        if upper.same_directory(&below.tree, &path).map_err(failed)? {
            upper.remove_directory(&path).map_err(failed)?;
        }
    }
    Ok(())
}

/// Output to whole lines, each stream for itself.
struct Lines<'a> {
    events: &'a (dyn Fn(BuildEvent) + Send + Sync),
    parts: [Vec<u8>; 2],
}

impl Lines<'_> {
    /// A line without an end is given out when it is this long.
    const LONGEST: usize = 64 << 10;

    fn take(&mut self, stderr: bool, bytes: &[u8]) {
        let part = &mut self.parts[usize::from(stderr)];
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            part.extend_from_slice(piece);
            if piece.ends_with(b"\n") || part.len() > Self::LONGEST {
                say(self.events, part);
            }
        }
    }

    fn end(&mut self) {
        for part in &mut self.parts {
            if !part.is_empty() {
                say(self.events, part);
            }
        }
    }
}

fn say(events: &(dyn Fn(BuildEvent) + Send + Sync), part: &mut Vec<u8>) {
    let text = String::from_utf8_lossy(part);
    events(BuildEvent::Output(text.trim_end_matches(['\n', '\r']).to_owned()));
    part.clear();
}

/// Sources of the mounts, on disk until the step has ended.
struct Prepared {
    mounts: Vec<MountConfig>,
    /// Held while the step runs.
    _locks: Vec<fs::File>,
}

impl Prepared {
    fn new(solver: &Solver<'_>, at: At<'_>, program: &Program, scratch: &Path) -> Result<Self, BuildError> {
        let mut prepared = Self { mounts: Vec::new(), _locks: Vec::new() };
        let wrong = |word: &Word, message: String| solver.wrong(at, Mistake::new(word.span, message));
        for (number, (mount, word)) in program.mounts.iter().enumerate() {
            let bind = |path: PathBuf| MountKind::Bind { path, create: false, propagation: None };
            let (kind, read_only) = match &mount.kind {
                Kind::Bind { from, source, writable } => {
                    // A copy: what the step writes to it is lost, and what the user writes meanwhile is not seen.
                    let view = match from {
                        Some(from) => Some(solver.view(&solver.source(&solver.graph.source(from))?.0)?),
                        None => None,
                    };
                    let name = number.to_string();
                    let target = Tree::open(scratch).map_err(|error| wrong(word, error.to_string()))?;
                    mounted_copy(&files_of(solver, view.as_ref()), source, &target, &name)
                        .map_err(|error| wrong(word, error.to_string()))?;
                    (bind(scratch.join(name)), !writable)
                }
                Kind::Cache { read_only, .. } => {
                    let (path, lock) = cache_directory(solver, &mount.kind)?;
                    prepared._locks.push(lock);
                    (bind(path), *read_only)
                }
                Kind::Tmpfs { size } => {
                    (MountKind::Tmpfs { size: *size, mode: None, options: vec!["exec".into()] }, false)
                }
                Kind::Secret { .. } | Kind::Ssh { .. } => continue,
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
            prepared.mounts.push(MountConfig {
                target: format!("/dev/pipes/{name}"),
                read_only: true,
                kind: MountKind::Bind { path, create: false, propagation: None },
            });
        }
        Ok(prepared)
    }
}

/// The directory of a cache mount, and the lock that says it is in use.
fn cache_directory(solver: &Solver<'_>, kind: &Kind) -> Result<(PathBuf, fs::File), BuildError> {
    let Kind::Cache { id, from, source, sharing, attributes, .. } = kind else {
        return Err(BuildError::Cancelled);
    };
    let failed = |error: io::Error| BuildError::Context {
        message: format!("cannot use the build cache `{id}`: {error}"),
        source: Some(error),
    };
    // A part of a cache is a cache of its own: then no link in it can lead a mount elsewhere.
    let full = match (from, source.as_str()) {
        (None, "/") => id.clone(),
        (from, source) => format!("{id}\0{}\0{source}", from.as_deref().unwrap_or_default()),
    };
    for number in 0.. {
        let name = if number == 0 { full.clone() } else { format!("{full}\0private {number}") };
        let path = solver.cache.mount(&name);
        let lock = fs::File::create(path.with_extension("lock")).map_err(failed)?;
        use rustix::fs::{FlockOperation, flock};
        match sharing {
            Sharing::Locked => flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?,
            Sharing::Shared => flock(&lock, FlockOperation::LockShared).map_err(|e| failed(e.into()))?,
            Sharing::Private => match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => continue,
                other => other.map_err(|e| failed(e.into()))?,
            },
        }
        if !path.exists() {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let fresh = tempfile::tempdir_in(parent).map_err(failed)?;
            if let Some(from) = from {
                let view = solver.view(&solver.source(&solver.graph.source(from))?.0)?;
                let target = Tree::open(fresh.path()).map_err(failed)?;
                mounted_copy(&files_of(solver, Some(&view)), source, &target, "/")
                    .map_err(|error| failed(io::Error::other(error)))?;
            }
            chown(fresh.path(), Some(attributes.uid), Some(attributes.gid)).map_err(failed)?;
            fs::set_permissions(fresh.path(), fs::Permissions::from_mode(attributes.mode)).map_err(failed)?;
            match fs::rename(fresh.path(), &path) {
                Ok(()) => drop(fresh.keep()),
                // Another step was first.
                Err(_) if path.exists() => {}
                Err(error) => return Err(failed(error)),
            }
        }
        return Ok((path, lock));
    }
    Err(BuildError::Cancelled)
}
