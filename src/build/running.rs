//! RUN as a step: the program is run by the runtime core above the layers of the stage, and what it
//! wrote becomes the next layer.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::{
    BuildError,
    content::Source as Files,
    copying::{mounted_digest, stage_files},
    dockerfile::{Command, Mistake, Run, Word},
    mounts::{self, Kind, Mount},
    platform, sandbox,
    solve::{At, Change, Inputs, Keep, Solver, Stage},
    steps::{commit, is_proxy, variable},
    tree::Tree,
};

/// What the step runs, everything replaced.
pub struct Program {
    pub args: Vec<String>,
    /// A script of the Dockerfile with a `#!` line: its name and content.
    pub script: Option<(String, String)>,
    pub env: Vec<String>,
    pub network: Network,
    /// With all rights of the machine's root.
    pub insecure: bool,
    pub mounts: Vec<(Mount, Word)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
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
        match solver.context_of(from) {
            Some(context) => before.push(digest(solver, at, &context.source(), source, word)?),
            None => {
                let origin = solver.graph.source(from.unwrap_or_default());
                inputs.fast.push(solver.source(&origin)?.1.bytes().to_vec());
                inputs.fast.push(source.as_bytes().to_vec());
            }
        }
    }
    inputs.fast.extend(before.iter().map(|digest| digest.to_vec()));
    let slow = || {
        let mut digests = before.clone();
        for (mount, word) in &program.mounts {
            let Some((from, source)) = content_of(mount) else { continue };
            if solver.context_of(from).is_none() {
                let view = solver.view(&solver.source(&solver.graph.source(from.unwrap_or_default()))?.0)?;
                digests.push(digest(solver, at, &stage_files(&view.tree), source, word)?);
            }
        }
        Ok(digests)
    };
    let created_by = created_by(stage, &program);
    let made = solver.layer(stage, at, &inputs, slow, |stage| {
        refuse_foreign(solver, stage, at)?;
        let scratch = sandbox::carry_out(solver, stage, at, &program)?;
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
    files: &Files<'_>,
    source: &str,
    word: &Word,
) -> Result<[u8; 32], BuildError> {
    mounted_digest(files, source)
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
        None | Some((_, "default")) if solver.build.network.as_deref() == Some("none") => Network::None,
        None | Some((_, "default" | "host")) => Network::Host,
        Some((_, "none")) => Network::None,
        Some((word, other)) => {
            let mistake = Mistake::new(word.span, format!("invalid network mode \"{other}\""));
            return Err(solver.wrong(at, mistake.help("it is default, none or host")));
        }
    };
    let granted = |what: &str| solver.build.entitlements.iter().any(|granted| granted == what);
    if let Some(span) = run.insecure.filter(|_| !solver.build.privileged && !granted("security.insecure")) {
        let mistake = Mistake::new(span, "security.insecure is not allowed");
        let help = "grant it in the Compose file: `build.privileged: true`, or `build.entitlements: [security.insecure]`";
        return Err(solver.wrong(at, mistake.help(help)));
    }
    let mut mounts = Vec::new();
    for word in &run.mounts {
        let text = solver.text(stage, at, word)?;
        let word = Word { text, span: word.span };
        let mount = mounts::parse(&word).map_err(|mistake| solver.wrong(at, mistake))?;
        let target = match &mount.kind {
            Kind::Ssh { .. } if mount.target.is_empty() => {
                let earlier = mounts.iter().filter(|(mount, _): &&(Mount, Word)| is_ssh(mount)).count();
                format!("/run/buildkit/ssh_agent.{earlier}")
            }
            _ => stage.document.directory(&mount.target),
        };
        mounts.push((Mount { target, ..mount }, word));
    }
    let insecure = run.insecure.is_some();
    Ok(Program { args, script, env: environment(stage), network, insecure, mounts })
}

/// A secret may be a variable only.
fn is_mounted(mount: &Mount) -> bool {
    !matches!(mount.kind, Kind::Secret { file: false, .. })
}

fn is_ssh(mount: &Mount) -> bool {
    matches!(mount.kind, Kind::Ssh { .. })
}

/// A program of another architecture needs an emulator that the kernel knows.
fn refuse_foreign(solver: &Solver<'_>, stage: &Stage, at: At<'_>) -> Result<(), BuildError> {
    let wanted = &stage.document.architecture;
    let machine = &solver.platforms.build.architecture;
    if platform::runs_on(wanted, machine, Path::new("/proc/sys/fs/binfmt_misc")) {
        return Ok(());
    }
    let message = format!("RUN cannot be carried out for linux/{wanted}: this machine is linux/{machine}");
    let mistake = Mistake::new(at.step.instruction.span, message);
    let help = "install an emulator (qemu-user-static with binfmt support), or run the step in a stage \
                `FROM --platform=$BUILDPLATFORM`";
    Err(solver.wrong(at, mistake.help(help)))
}

/// ENV, and the ARGs that no later ENV hides.
fn environment(stage: &Stage) -> Vec<String> {
    let mut env = stage.document.config.env.clone();
    for (name, value) in stage.args.iter().filter_map(|(name, value)| Some((name, value.as_ref()?))) {
        env.retain(|entry| entry.split('=').next() != Some(name));
        env.push(format!("{name}={value}"));
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
    list("network", &mut std::iter::once(format!("{:?} {}", program.network, program.insecure)));
    list("mounts", &mut program.mounts.iter().map(|(mount, _)| shape(mount)));
    parts
}

/// What counts of a mount beside the content: not the id of a cache.
fn shape(mount: &Mount) -> String {
    let rest = match &mount.kind {
        Kind::Bind { writable, .. } => format!("bind {writable}"),
        Kind::Cache { read_only, .. } => format!("cache {read_only}"),
        Kind::Tmpfs { size } => format!("tmpfs {size:?}"),
        Kind::Secret { id, file, env, .. } => format!("secret {id} {file} {env:?}"),
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
    for (mount, _) in program.mounts.iter().filter(|(mount, _)| is_mounted(mount)) {
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
