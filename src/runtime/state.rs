//! Where everything of a group stands on disk, and how its files are read and written: a temporary
//! file renamed into place, one writer for each. Knows no process but by its identity.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    BoundPort, ContainerConfig, Error, Exit, Health, Result, Roots, cgroup,
    failpoint::{Point, reached},
};

/// What `create` decided; `spec.json` in the data tree, never changed afterwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    pub config: ContainerConfig,
    pub created: SystemTime,
    /// Target and volume name.
    pub anonymous_volumes: Vec<(String, String)>,
}

/// What became of it; `state.json` in the run tree and a copy, `last.json`, in the data tree, both
/// written by the keeper alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub phase: Stage,
    /// The main process, while it runs.
    pub process: Option<Identity>,
    pub started: Option<SystemTime>,
    pub finished: Option<SystemTime>,
    pub restarts: u32,
    pub ports: Vec<BoundPort>,
    /// The kernel ended a process of it for want of memory.
    #[serde(default)]
    pub out_of_memory: bool,
    /// It ran when the machine went down, which ended it.
    #[serde(default)]
    pub host_restarted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Running,
    Restarting { exit: Option<i32> },
    Exited { exit: Option<i32> },
}

/// How the main process ended, written the moment it is known (`exit` in the run tree).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub exit: Option<i32>,
    pub finished: SystemTime,
    #[serde(default)]
    pub out_of_memory: bool,
}

/// What the supervisor knows of a container's health (`health.json`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HealthState {
    /// Main process that it is about.
    pub pid: i32,
    pub status: Health,
    pub failing: u32,
    pub last_probe: Option<String>,
}

/// A process for ever: its number alone is reused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub pid: i32,
    /// Clock ticks from boot, field 22 of `/proc/PID/stat`.
    pub start: u64,
    pub boot: String,
}

/// In a container's run directory, below what the launcher has there: nobody watches that.
const STARTING: &str = "launch/process";
/// In a container's run directory: see [`Place::owed`].
const OWED: &str = "owed";
/// In a container's run directory: the parent that was asked for.
const CGROUP_PARENT: &str = "cgroup-parent";

/// The files of one group.
#[derive(Clone, Debug)]
pub struct Group {
    pub roots: Roots,
    pub name: String,
}

/// The files of one container.
#[derive(Clone, Debug)]
pub struct Place {
    pub run: PathBuf,
    pub data: PathBuf,
    /// Identity of the keeper that sees its end.
    pub keeper: PathBuf,
}

impl Group {
    /// Group and container names become paths: what could leave its directory is refused.
    pub fn new(roots: &Roots, name: &str) -> Result<Self> {
        plain_name("group", name)?;
        Ok(Self { roots: roots.clone(), name: name.to_owned() })
    }

    pub fn run(&self) -> PathBuf {
        self.roots.run.join("p").join(&self.name)
    }

    pub fn data(&self) -> PathBuf {
        self.roots.data.join("p").join(&self.name)
    }

    pub fn socket(&self) -> PathBuf {
        self.run().join("keeper.sock")
    }

    pub fn place(&self, id: &str) -> Result<Place> {
        plain_name("container", id)?;
        Ok(Place {
            run: self.run().join("c").join(id),
            data: self.data().join("c").join(id),
            keeper: self.run().join("keeper.json"),
        })
    }

    /// Ids of all containers; half-made ones (`.id`) are not among them.
    pub fn ids(&self) -> Result<Vec<String>> {
        entries(&self.data().join("c"))
    }

    /// Path of a container's control groups, in every hierarchy; `None` where this user can have none.
    pub fn cgroup(&self, id: &str) -> Option<String> {
        let home = cgroup::home(self)?;
        let asked = self.run().join("c").join(id).join(CGROUP_PARENT);
        match fs::read_to_string(asked) {
            Ok(parent) => Some(format!("/{}/{id}", parent.trim_matches('/'))),
            Err(_) => Some(format!("{home}/{id}")),
        }
    }

    /// From here on the container's control groups are below `parent`, or below our own when `None`.
    pub fn place_cgroup(&self, id: &str, parent: Option<&str>) -> Result<()> {
        let file = self.run().join("c").join(id).join(CGROUP_PARENT);
        match parent.map(|parent| parent.trim_matches('/')).filter(|parent| !parent.is_empty()) {
            Some(parent) => write_file(&file, parent.as_bytes(), 0o600),
            None => remove_file(&file),
        }
    }
}

impl Place {
    pub fn spec(&self) -> Result<Spec> {
        let path = self.data.join("spec.json");
        match read_json(&path)? {
            Some(spec) => Ok(spec),
            None => {
                Err(Error::NoContainer(self.data.file_name().unwrap_or_default().to_string_lossy().into()))
            }
        }
    }

    /// Where the files of what it writes are: what cannot be read later goes with the machine.
    pub fn log(&self, spec: &Spec) -> PathBuf {
        if spec.config.log.kept { self.data.clone() } else { self.run.clone() }
    }

    /// The process that will be the container's, before it executes its program and the keeper hears of it.
    pub fn write_starting(&self, process: &Identity) -> Result<()> {
        write_json(&self.run.join(STARTING), process)
    }

    /// The process that was last started, whether or not the keeper heard of it.
    pub fn starting(&self) -> Option<Identity> {
        read_json(&self.run.join(STARTING)).ok().flatten()
    }

    /// How its main process ended, while that is not in its state yet.
    pub fn ended(&self) -> Option<Ended> {
        read_json(&self.run.join("exit")).ok().flatten()
    }

    pub fn write_ended(&self, ended: &Ended) -> Result<()> {
        write_json(&self.run.join("exit"), ended)
    }

    /// The lock of those who have still to learn how a one-off container ended.
    pub fn attended(&self) -> PathBuf {
        self.run.join("attended")
    }

    /// What everybody sees from now on.
    pub fn write_state(&self, state: &State) -> Result<()> {
        write_json(&self.run.join("state.json"), state)
    }

    /// The copy that is there after the machine was down. A container that is gone has none.
    pub fn write_last(&self, state: &State) -> Result<()> {
        if !self.data.exists() {
            return Ok(());
        }
        write_json(&self.data.join("last.json"), state)
    }

    /// The state as the files tell it, checked against the kernel: a process that is gone without a
    /// known end, or that ran before the machine started, has ended with an unknown code.
    pub fn state(&self) -> Result<Option<State>> {
        let live: Option<State> = read_json(&self.run.join("state.json"))?;
        let is_live = live.is_some();
        let Some(mut state) = (match live {
            Some(state) => Some(state),
            None => read_json(&self.data.join("last.json"))?,
        }) else {
            return Ok(None);
        };
        let lives = match &state.process {
            Some(process) => process.lives(),
            None => false,
        };
        match state.phase {
            // Who lives to see it is about to tell, unless that is of another time than the state.
            Stage::Running if !(lives || is_live && self.is_kept()) => self.settle(&mut state),
            Stage::Restarting { exit } if !is_live => {
                state.phase = Stage::Exited { exit };
            }
            _ => {}
        }
        Ok(Some(state))
    }

    /// Somebody sees to it that its end is known: the keeper, or the supervisor that brings the next.
    fn is_kept(&self) -> bool {
        let lives = |path: &Path| read_json::<Identity>(path).ok().flatten().is_some_and(|it| it.lives());
        lives(&self.keeper) || self.ended().is_none() && lives(&self.keeper.with_file_name("supervisor.json"))
    }

    /// A running container whose process is gone: its end was written but not yet taken over, or
    /// nobody saw it.
    fn settle(&self, state: &mut State) {
        let ended = self.ended();
        state.host_restarted = ended.is_none() && state.is_of_another_boot();
        state.phase = Stage::Exited { exit: ended.and_then(|e| e.exit) };
        // Not later than that, as far as is known.
        let down = || state.host_restarted.then(boot_time).flatten();
        state.finished = ended.map(|e| e.finished).or_else(down);
        state.out_of_memory = ended.is_some_and(|e| e.out_of_memory);
        state.process = None;
        state.ports.clear();
    }

    pub fn health(&self) -> Option<HealthState> {
        read_json(&self.run.join("health.json")).ok().flatten()
    }

    /// Every process of it is frozen.
    pub fn is_paused(&self) -> bool {
        self.run.join("paused").exists()
    }

    /// Held by who freezes it, and by who enters it and cannot wait until it is thawed.
    pub fn entrance(&self) -> PathBuf {
        self.run.join("entrance.lock")
    }

    /// How much is done of what a command does after a start, until it is all done.
    pub fn owed(&self) -> Option<usize> {
        read_json(&self.run.join(OWED)).ok().flatten()
    }

    pub fn write_owed(&self, done: Option<usize>) -> Result<()> {
        let file = self.run.join(OWED);
        done.map_or_else(|| remove_file(&file), |done| write_json(&file, &done))
    }

    /// The user asked it to stop: no policy brings it back.
    pub fn is_stopped(&self) -> bool {
        self.run.join("stopped").exists()
    }
}

impl State {
    /// What it tells of a process was so before the machine started.
    pub fn is_of_another_boot(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.boot != boot_id())
    }
}

impl Identity {
    /// Of a process that exists now.
    pub fn of(pid: i32) -> Option<Self> {
        Some(Self { pid, start: start_time(pid)?, boot: boot_id() })
    }

    /// It has ended, and nobody has collected it.
    pub fn has_just_ended(&self) -> bool {
        self.boot == boot_id() && status(self.pid) == Some((true, self.start))
    }

    /// It exists and is not a zombie.
    pub fn lives(&self) -> bool {
        self.boot == boot_id() && start_time(self.pid) == Some(self.start)
    }
}

/// Field 22 of the process's stat; `None` when it is gone or has ended.
fn start_time(pid: i32) -> Option<u64> {
    status(pid).filter(|(ended, _)| !ended).map(|(_, start)| start)
}

/// Whether the process has ended and is only not collected yet, and field 22 of its stat.
fn status(pid: i32) -> Option<(bool, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    Some((ended, fields.nth(18)?.parse().ok()?))
}

/// Identifies one run of the machine; read once, since no process lives through two.
pub fn boot_id() -> String {
    static BOOT: OnceLock<String> = OnceLock::new();
    let read = || fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    BOOT.get_or_init(read).clone()
}

/// When the machine was started.
fn boot_time() -> Option<SystemTime> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let seconds = stat.lines().find_map(|line| line.strip_prefix("btime "))?.parse().ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

impl From<Option<i32>> for Exit {
    fn from(code: Option<i32>) -> Self {
        code.map_or(Self::Unknown, Self::Code)
    }
}

pub fn plain_name(what: &str, name: &str) -> Result<()> {
    let fits = !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if fits { Ok(()) } else { Err(Error::Invalid(format!("`{name}` cannot be the name of a {what}"))) }
}

/// Names below a directory but hidden ones; none when it is missing.
pub fn entries(dir: &Path) -> Result<Vec<String>> {
    let listing = match fs::read_dir(dir) {
        Ok(listing) => listing,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(file_error("cannot list", dir, e)),
    };
    let mut names: Vec<String> = listing
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    Ok(names)
}

/// Makes a directory and its parents, for us alone.
pub fn make_dir(path: &Path) -> Result<()> {
    /// Another group's end may take a parent away that was empty at that moment.
    const ATTEMPTS: usize = 100;
    let mut attempts = 0;
    loop {
        attempts += 1;
        match fs::DirBuilder::new().recursive(true).mode(0o700).create(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound && attempts < ATTEMPTS => {}
            Err(e) => return Err(file_error("cannot make directory", path, e)),
        }
    }
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(file_error("cannot read", path, e)),
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|e| file_error("not understood (written by another version?):", path, e.into()))
}

pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|e| file_error("cannot write", path, e.into()))?;
    write_file(path, &text, 0o600)
}

/// Writes a file whole or not at all.
pub fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let write = || {
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        if name == "state.json" {
            reached(Point::StateAside);
        }
        fs::rename(&temporary, path)
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        file_error("cannot write", path, e)
    })
}

/// Removes a file; one that is missing already is no error.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file_error("cannot remove", path, e)),
        _ => Ok(()),
    }
}

pub fn remove_dir(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(file_error("cannot remove", path, e)),
        _ => Ok(()),
    }
}

pub fn file_error(what: &'static str, path: &Path, source: io::Error) -> Error {
    Error::File { what, path: path.to_owned(), source }
}

/// A failed call, with what was being done.
pub fn failed(what: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Error {
    let what = what.into();
    move |errno| Error::System { what, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &Path) -> Place {
        let roots = Roots::below(dir);
        let place = Group::new(&roots, "g").unwrap().place("0123").unwrap();
        make_dir(&place.run).unwrap();
        make_dir(&place.data).unwrap();
        place
    }

    fn running(process: Option<Identity>) -> State {
        State {
            phase: Stage::Running,
            process,
            started: Some(SystemTime::now()),
            finished: None,
            restarts: 0,
            ports: Vec::new(),
            out_of_memory: false,
            host_restarted: false,
        }
    }

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for name in ["", ".", "..", "a/b", "../x", ".hidden", "a\0b", "ä", &"x".repeat(129)] {
            assert!(plain_name("group", name).is_err(), "{name:?}");
        }
        for name in ["a", "my-project_1", "a.b", "0f"] {
            plain_name("group", name).unwrap();
        }
    }

    #[test]
    fn a_live_process_is_told_from_one_that_has_its_number() {
        let me = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.lives());
        assert!(!Identity { start: me.start + 1, ..me.clone() }.lives());
        assert!(!Identity { boot: "another".into(), ..me }.lives());
    }

    #[test]
    fn a_container_from_before_the_machine_started_has_ended_with_an_unknown_code() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        let me = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        let before = running(Some(Identity { boot: "before".into(), ..me.clone() }));
        place.write_state(&before).unwrap();
        let state = place.state().unwrap().unwrap();
        assert_eq!((state.phase, state.host_restarted), (Stage::Exited { exit: None }, true));

        let gone = running(Some(Identity { start: me.start + 1, ..me.clone() }));
        place.write_state(&gone).unwrap();
        let state = place.state().unwrap().unwrap();
        assert_eq!((state.phase, state.host_restarted), (Stage::Exited { exit: None }, false));

        place.write_state(&running(Some(me.clone()))).unwrap();
        place.write_last(&running(Some(me))).unwrap();
        assert_eq!(place.state().unwrap().unwrap().phase, Stage::Running);
        fs::remove_dir_all(&place.run).unwrap();
        assert_eq!(place.state().unwrap().unwrap().phase, Stage::Running, "the same boot, the same process");
    }

    #[test]
    fn an_end_that_was_written_but_not_taken_over_is_not_lost() {
        let dir = tempfile::tempdir().unwrap();
        let place = place(dir.path());
        place.write_state(&running(None)).unwrap();
        write_json(
            &place.run.join("exit"),
            &Ended { exit: Some(7), finished: SystemTime::now(), out_of_memory: false },
        )
        .unwrap();
        assert_eq!(place.state().unwrap().unwrap().phase, Stage::Exited { exit: Some(7) });
    }

    #[test]
    fn a_state_file_cut_at_any_byte_is_an_error_and_never_a_guess() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let whole = serde_json::to_vec(&running(None)).unwrap();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(read_json::<State>(&path).is_err(), "{length}");
        }
    }
}
