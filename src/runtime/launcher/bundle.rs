//! Containers out of bundles of others: a directory with a `config.json` (OCI runtime specification)
//! that was not written by us, created, started and deleted by separate processes. Only the
//! command-line face uses it; libcontainer's own files are the state here.

use std::{
    collections::HashMap,
    io::Write as _,
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::Duration,
};

use libcontainer::{
    container::{Container, ContainerStatus, builder::ContainerBuilder},
    error::LibcontainerError,
    oci_spec::runtime::Spec,
    signal::Signal,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError, default},
};
use serde::{Deserialize, Serialize};

use super::told;
use crate::runtime::{
    Error, Result, capability_name, cgroup, process, rootfs,
    seccomp::{self, Profile},
    signal,
    state::{Identity, entries, make_dir, plain_name, read_json, remove_dir, write_json},
};

/// Where the containers of one `--root` are.
#[derive(Clone, Debug)]
pub struct Bundles {
    pub root: PathBuf,
    /// Control groups through systemd, as scopes.
    pub systemd: bool,
}

/// How a container is made.
#[derive(Clone, Debug, Default)]
pub struct Making {
    pub bundle: PathBuf,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    /// Descriptors from 3 on that the program inherits.
    pub preserve_fds: i32,
    pub no_pivot: bool,
    /// A terminal need not be handed over: the caller waits for the end.
    pub foreground: bool,
}

/// A process beside the main one.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    pub args: Vec<String>,
    pub env: HashMap<String, String>,
    pub cwd: Option<PathBuf>,
    pub user: Option<(u32, Option<u32>)>,
    pub groups: Vec<u32>,
    pub capabilities: Vec<String>,
    /// A process document in place of all the above.
    pub process: Option<PathBuf>,
    pub no_new_privileges: bool,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub preserve_fds: i32,
    pub detach: bool,
    pub ignore_paused: bool,
    pub cgroup: Option<String>,
    pub process_label: Option<String>,
    pub apparmor: Option<String>,
}

/// The state that `state` prints (OCI runtime specification, "State").
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleState {
    pub oci_version: String,
    pub id: String,
    pub status: String,
    /// 0 when there is no process.
    pub pid: i32,
    pub bundle: PathBuf,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

impl Bundles {
    fn place(&self, id: &str) -> Result<PathBuf> {
        plain_name("container", id)?;
        Ok(self.root.join(id))
    }

    fn load(&self, id: &str) -> Result<(Container, Option<Made>)> {
        let place = self.place(id)?;
        if !place.is_dir() {
            return Err(Error::NoContainer(id.to_owned()));
        }
        let mut container = with_whole_state(|| Container::load(place.clone()))
            .map_err(|e| wrong("cannot read the state", &e))?;
        let made: Option<Made> = read_json(&place.join(MADE))?;
        let process = made.as_ref().and_then(|made| made.process.as_ref());
        // Its number may be another process's by now.
        if process.is_some_and(|process| !process.lives()) {
            container.set_status(ContainerStatus::Stopped);
        }
        Ok((container, made))
    }

    /// Makes the container's process, which waits to be started; its pid.
    pub fn create(&self, id: &str, making: &Making) -> Result<i32> {
        let place = self.place(id)?;
        if place.exists() {
            return Err(Error::Conflict(format!("there is a container `{id}` already")));
        }
        let (mut spec, confined) = Confined::of(&making.bundle)?;
        let lacking = grant(&mut spec)?;
        check(&spec)?;
        make_cwd(&spec)?;
        let widen = confined.narrow.is_some();
        let bundle = if widen || lacking { self.rewritten(id, &spec, widen)? } else { making.bundle.clone() };
        let made = self
            .builder(id, confined, making.pid_file.as_deref())
            .map(|builder| {
                builder
                    .with_console_socket(making.console_socket.clone())
                    .with_preserved_fds(making.preserve_fds)
                    .as_init(&bundle)
                    .with_systemd(self.systemd)
                    .with_detach(!making.foreground)
                    .with_no_pivot(making.no_pivot)
            })
            .and_then(|builder| builder.build().map_err(|e| wrong("cannot make the container", &e)));
        let container = made.inspect_err(|_| self.forget(id, &place))?;
        let pid = container.pid().map_or(0, i32::from);
        write_json(&place.join(MADE), &Made { process: Identity::of(pid), bundle: making.bundle.clone() })?;
        let document = serde_json::to_value(&spec).unwrap_or_default();
        rootfs::propagate(pid, &rootfs::propagations(&document)).inspect_err(|_| self.forget(id, &place))?;
        // The launcher does not pass it on.
        if disables_oom_killer(&spec) {
            let path = self.cgroup(id)?;
            cgroup::disable_oom_killer(&path.to_string_lossy()).inspect_err(|_| self.forget(id, &place))?;
        }
        Ok(pid)
    }

    fn builder(&self, id: &str, confined: Confined, pid_file: Option<&Path>) -> Result<ContainerBuilder> {
        ContainerBuilder::new(id.to_owned(), SyscallType::default())
            .with_executor(confined)
            .validate_id()
            .and_then(|builder| builder.with_root_path(&self.root))
            .and_then(|builder| builder.with_pid_file(pid_file))
            .map_err(|e| wrong("cannot make the container", &e))
    }

    /// A bundle of our own with the same document but for the capabilities that the executor needs.
    fn rewritten(&self, id: &str, spec: &Spec, widen: bool) -> Result<PathBuf> {
        let mut document = serde_json::to_value(spec).unwrap_or_default();
        for set in ["bounding", "effective", "permitted"].iter().filter(|_| widen) {
            let Some(names) = document["process"]["capabilities"][set].as_array_mut() else { continue };
            for name in FOR_THE_EXECUTOR {
                if !names.iter().any(|known| known == name) {
                    names.push(name.into());
                }
            }
        }
        let bundle = self.own_bundle(id);
        make_dir(&bundle)?;
        write_json(&bundle.join("config.json"), &document)?;
        Ok(bundle)
    }

    fn own_bundle(&self, id: &str) -> PathBuf {
        self.root.join(".bundles").join(id)
    }

    /// What a failed creation left.
    fn forget(&self, id: &str, place: &Path) {
        if let Ok(mut container) = Container::load(place.to_owned()) {
            let _ = container.delete(true);
        }
        let _ = remove_dir(place);
        let _ = remove_dir(&self.own_bundle(id));
    }

    pub fn start(&self, id: &str) -> Result<()> {
        let (mut container, _) = self.load(id)?;
        container.start().map_err(|e| wrong("cannot start the container", &e))
    }

    /// Sends `signal` to the main process, or to all of them.
    pub fn kill(&self, id: &str, signal: i32, all: bool) -> Result<()> {
        let (mut container, made) = self.load(id)?;
        if all {
            let signal =
                Signal::try_from(signal).map_err(|_| Error::Invalid(format!("no signal {signal}")))?;
            return container.kill(signal, true).map_err(|e| wrong("cannot signal the container", &e));
        }
        let process = made.and_then(|made| made.process).filter(Identity::lives);
        let pidfd = process.as_ref().and_then(signal::pidfd).filter(|_| container.can_kill());
        let pidfd = pidfd.ok_or_else(|| Error::Condition(format!("container `{id}` does not run")))?;
        signal::send(&pidfd, signal)
            .map_err(|source| Error::System { what: format!("cannot signal container `{id}`"), source })?;
        // With version 1 of control groups a frozen process dies when it is thawed.
        if signal == libc::SIGKILL && container.can_resume() {
            container.resume().map_err(|e| wrong("cannot thaw the container", &e))?;
        }
        Ok(())
    }

    pub fn delete(&self, id: &str, force: bool) -> Result<()> {
        let (mut container, _) = match self.load(id) {
            Err(Error::NoContainer(_)) if force => return Ok(()),
            loaded => loaded?,
        };
        match container.delete(force) {
            Ok(()) => {}
            // The container is no more, whatever is said of its end.
            Err(error @ LibcontainerError::Hook(_)) => {
                let _ = writeln!(std::io::stderr(), "ficelle oci: {}", told("a hook failed", &error));
                remove_dir(&self.place(id)?)?;
            }
            Err(error) => return Err(wrong("cannot delete the container", &error)),
        }
        remove_dir(&self.own_bundle(id))
    }

    pub fn pause(&self, id: &str) -> Result<()> {
        self.load(id)?.0.pause().map_err(|e| wrong("cannot pause the container", &e))
    }

    pub fn resume(&self, id: &str) -> Result<()> {
        self.load(id)?.0.resume().map_err(|e| wrong("cannot resume the container", &e))
    }

    pub fn state(&self, id: &str) -> Result<BundleState> {
        let (container, made) = self.load(id)?;
        let status = container.status();
        let gone = status == ContainerStatus::Stopped;
        Ok(BundleState {
            oci_version: container.state.oci_version.clone(),
            id: id.to_owned(),
            status: status.to_string().to_lowercase(),
            pid: container.pid().filter(|_| !gone).map_or(0, i32::from),
            bundle: made.map_or_else(|| container.bundle().clone(), |made| made.bundle),
            annotations: container.state.annotations.clone().unwrap_or_default(),
            created: container.created().map(|time| time.to_rfc3339()),
        })
    }

    /// Ids of all containers.
    pub fn ids(&self) -> Result<Vec<String>> {
        entries(&self.root)
    }

    /// Path of the container's control groups.
    pub fn cgroup(&self, id: &str) -> Result<PathBuf> {
        let (container, _) = self.load(id)?;
        let spec = container.spec().map_err(|e| wrong("cannot read the container", &e))?;
        Ok(spec.cgroup_path)
    }

    /// Runs a program in a container that runs; its pid, a child of the caller's.
    pub fn exec(&self, id: &str, extra: &Extra) -> Result<i32> {
        let (container, _) = self.load(id)?;
        let (_, mut confined) = Confined::of(container.bundle())?;
        // The further process keeps what it was given: there is nothing to give up afterwards.
        confined.narrow = None;
        let (user, group) = extra.user.map_or((None, None), |(user, group)| (Some(user), group));
        let build = |extra: Extra| {
            let builder = match self.builder(id, confined.clone(), extra.pid_file.as_deref()) {
                Ok(builder) => builder,
                Err(error) => return Ok(Err(error)),
            };
            let builder = builder
                .with_console_socket(extra.console_socket)
                .with_preserved_fds(extra.preserve_fds)
                .as_tenant()
                .with_detach(extra.detach)
                .with_cwd(extra.cwd)
                .with_env(extra.env)
                .with_process(extra.process)
                .with_container_args(extra.args)
                .with_additional_gids(extra.groups)
                .with_user(user)
                .with_group(group)
                .with_capabilities(extra.capabilities)
                .with_ignore_paused(extra.ignore_paused)
                .with_sub_cgroup(extra.cgroup)
                .with_process_label(extra.process_label)
                .with_apparmor(extra.apparmor);
            let builder = if extra.no_new_privileges { builder.with_no_new_privs(true) } else { builder };
            builder.build().map(|pid| Ok(pid.as_raw()))
        };
        with_whole_state(|| build(extra.clone())).map_err(|e| wrong("cannot run in the container", &e))?
    }
}

/// The launcher writes its state in place: who reads half of it meanwhile reads it again.
fn with_whole_state<T>(
    mut attempt: impl FnMut() -> std::result::Result<T, LibcontainerError>,
) -> std::result::Result<T, LibcontainerError> {
    const MOST: usize = 50;
    for _ in 1..MOST {
        match attempt() {
            Err(LibcontainerError::State(_)) => std::thread::sleep(Duration::from_millis(2)),
            other => return other,
        }
    }
    attempt()
}

/// Our record of a container beside libcontainer's.
const MADE: &str = "made.json";

#[derive(Debug, Serialize, Deserialize)]
struct Made {
    process: Option<Identity>,
    /// As it was given; what libcontainer read can be a copy of ours.
    bundle: PathBuf,
}

/// What loading a filter takes without no_new_privs.
const FOR_THE_EXECUTOR: [&str; 2] = ["CAP_SYS_ADMIN", "CAP_SETPCAP"];

/// Executes the program under the document's filter, with signals as a program expects them.
#[derive(Clone)]
struct Confined {
    filter: Vec<libc::sock_filter>,
    /// Bounding, permitted and effective set to keep, where more was asked for to load the filter.
    narrow: Option<[u64; 3]>,
}

impl Confined {
    fn of(bundle: &Path) -> Result<(Spec, Self)> {
        let mut spec =
            Spec::load(bundle.join("config.json")).map_err(|e| wrong("cannot read config.json", &e))?;
        if let Some(root) = spec.root() {
            let what = format!("cannot find the root filesystem `{}`", root.path().display());
            spec.canonicalize_rootfs(bundle).map_err(|e| wrong(&what, &e))?;
        }
        let seccomp = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let Some(seccomp) = seccomp else {
            return Ok((spec, Self { filter: Vec::new(), narrow: None }));
        };
        let profile = Profile::parse(&serde_json::to_string(seccomp).unwrap_or_default())?;
        // Conditions on capabilities were for whoever wrote the document.
        let filter = profile.filter(&[]);
        let process = serde_json::to_value(spec.process()).unwrap_or_default();
        let set = |name: &str| -> Result<u64> {
            let names = process["capabilities"][name].as_array().cloned().unwrap_or_default();
            let names: Vec<_> = names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
            process::capability_set(&names)
        };
        let sets = [set("bounding")?, set("permitted")?, set("effective")?];
        let admin = process::capability_set(&["CAP_SYS_ADMIN".to_owned()])?;
        let may = process["noNewPrivileges"] == true || sets[2] & admin != 0;
        let narrow = (!may && process["capabilities"].is_object()).then_some(sets);
        Ok((spec, Self { filter, narrow }))
    }

    fn confine(&self) -> std::io::Result<()> {
        process::reset_signals()?;
        if !self.filter.is_empty() {
            seccomp::load(&self.filter)?;
        }
        match self.narrow {
            Some([bounding, permitted, effective]) => process::narrow(bounding, permitted, effective),
            None => Ok(()),
        }
    }
}

impl Executor for Confined {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        self.confine().map_err(|e| ExecutorError::Other(format!("cannot confine the program: {e}")))?;
        default::get_executor().exec(spec)
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        default::get_executor().validate(spec)
    }

    fn setup_envs(&self, envs: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        default::get_executor().setup_envs(envs)
    }
}

/// Takes out of the document the capabilities that this machine does not have to give, and says so: a runtime
/// should not fail for them (runtime specification, "Linux Process").
fn grant(spec: &mut Spec) -> Result<bool> {
    let mut process = serde_json::to_value(spec.process()).unwrap_or_default();
    let available = process::available_capabilities();
    let mut lacking = std::collections::BTreeSet::new();
    for names in process["capabilities"].as_object_mut().into_iter().flat_map(|sets| sets.values_mut()) {
        names.as_array_mut().into_iter().for_each(|names| {
            names.retain(|name| {
                let name = name.as_str().unwrap_or_default();
                let here = available.contains(&capability_name(name));
                if !here {
                    lacking.insert(name.to_owned());
                }
                here
            });
        });
    }
    if lacking.is_empty() {
        return Ok(false);
    }
    let names: Vec<_> = lacking.into_iter().collect();
    // As a log: the container is made.
    let _ = writeln!(
        std::io::stderr(),
        "ficelle oci: warning: not given, for this machine lacks it: {}",
        names.join(", ")
    );
    let process = serde_json::from_value(process).map_err(|e| wrong("cannot read config.json", &e))?;
    spec.set_process(process);
    Ok(true)
}

/// What the launcher takes without a word, or refuses with none that helps.
fn check(spec: &Spec) -> Result<()> {
    let invalid = |message: String| Err(Error::Invalid(format!("config.json: {message}")));
    if let Some(process) = spec.process() {
        if !process.cwd().is_absolute() {
            return invalid(format!("process.cwd `{}` is not absolute", process.cwd().display()));
        }
        if let Some(score) = process.oom_score_adj().filter(|score| !(-1000..=1000).contains(score)) {
            return invalid(format!("process.oomScoreAdj {score} is not between -1000 and 1000"));
        }
    }
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let kinds: Vec<_> =
        namespaces.into_iter().flatten().map(oci_spec::runtime::LinuxNamespace::typ).collect();
    if let Some((_, twice)) = kinds.iter().enumerate().find(|(at, kind)| kinds[..*at].contains(kind)) {
        return invalid(format!("the {twice} namespace is there twice"));
    }
    let masked = spec.linux().as_ref().and_then(|linux| linux.masked_paths().as_ref());
    if let Some(path) = masked.into_iter().flatten().find(|path| !Path::new(path).is_absolute()) {
        return invalid(format!("linux.maskedPaths has `{path}`, which is not absolute"));
    }
    for mount in spec.mounts().iter().flatten() {
        let binds = |option: &String| option == "bind" || option == "rbind";
        let source = mount.source().as_ref().filter(|_| mount.options().iter().flatten().any(binds));
        if let Some(source) = source.filter(|source| source.is_absolute() && !source.exists()) {
            return invalid(format!("the source `{}` of a mount does not exist", source.display()));
        }
    }
    Ok(())
}

/// As other runtimes do, where the image has none.
fn make_cwd(spec: &Spec) -> Result<()> {
    let (Some(root), Some(process)) = (spec.root(), spec.process()) else { return Ok(()) };
    // Below a mount it would be hidden, and a root that is read-only is no place to make it.
    if root.readonly().unwrap_or(false) {
        return Ok(());
    }
    let root = rootfs::open_path(root.path())?;
    rootfs::make_dirs(root.as_fd(), &process.cwd().to_string_lossy(), 0, 0).map(drop)
}

fn disables_oom_killer(spec: &Spec) -> bool {
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().as_ref());
    let memory = resources.and_then(|resources| resources.memory().as_ref());
    memory.and_then(oci_spec::runtime::LinuxMemory::disable_oom_killer).unwrap_or(false)
}

fn wrong(what: &str, error: &dyn std::error::Error) -> Error {
    Error::Helper(told(what, error))
}
