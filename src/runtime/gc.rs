//! What killed processes have left, found by locks: what nobody holds is nobody's. Names say nothing, since a
//! project of any name may be at work.

use std::{
    fmt,
    fs::{self, File},
    os::unix::fs::MetadataExt,
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use super::{
    Core, Result, anchor, cgroup, client,
    core::is_aside,
    lock::GroupLock,
    state::{Group, Stage, State, entries, file_error, make_dir, read_json, remove_dir, remove_file},
    uplink,
};

/// One thing that was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debris {
    /// The project, or what else it was part of.
    pub of: String,
    pub what: String,
}

impl fmt::Display for Debris {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.of, self.what)
    }
}

impl Core {
    /// Finds what nobody holds any more, and removes it unless `dry`. Groups at work are left alone: each
    /// command puts its own right.
    ///
    /// # Errors
    /// What cannot be read or removed; what was found before is gone.
    pub fn sweep(&self, dry: bool) -> Result<Vec<Debris>> {
        let roots = self.roots();
        let mut groups = entries(&roots.data.join("p"))?;
        groups.extend(entries(&roots.run.join("p"))?);
        groups.sort_unstable();
        groups.dedup();
        let mut found = Vec::new();
        for name in groups {
            let group = Group::new(roots, &name)?;
            let Some(_lock) = GroupLock::try_take(group.clone(), "gc")? else { continue };
            let left = of_group(&group)?;
            if !dry && !left.is_empty() {
                self.repair(&name)?;
                remove_idle(&group)?;
            }
            found.extend(left.into_iter().map(|what| Debris { of: name.clone(), what }));
        }
        let of_builds = self.runs(dry)?;
        found.extend(of_builds.into_iter().map(|what| Debris { of: "builds".to_owned(), what }));
        let of_networks = anchor::leavings(roots, dry)?;
        found.extend(of_networks.into_iter().map(|what| Debris { of: "networks".to_owned(), what }));
        let of_host = uplink::mend(&roots.run, dry)?;
        found.extend(of_host.into_iter().map(|what| Debris { of: "host".to_owned(), what }));
        Ok(found)
    }

    /// Containers of builds whose attendant was killed.
    fn runs(&self, dry: bool) -> Result<Vec<String>> {
        let all = self.roots().run.join("once");
        let mut found = Vec::new();
        for id in entries(&all)? {
            let dir = all.join(&id);
            let Ok(file) = File::open(&dir) else { continue };
            if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            found.push(format!("container {id}"));
            if dry {
                continue;
            }
            if let Ok(group) = fs::read_to_string(dir.join(GROUP)) {
                let cgroup = Group::new(self.roots(), &group)?.cgroup(&id);
                cgroup.as_deref().into_iter().for_each(cgroup::kill);
                cgroup.as_deref().map_or(Ok(()), cgroup::remove)?;
            }
            remove_dir(&dir)?;
        }
        if !dry {
            // Not empty while others build.
            let _ = fs::remove_dir(&all);
        }
        Ok(found)
    }
}

/// In the directory of a foreground run: the group of its container.
const GROUP: &str = "group";

/// Makes the directory of a foreground run, which is its own as long as the file is open.
pub fn hold_run(dir: &Path, group: &str) -> Result<File> {
    loop {
        make_dir(dir)?;
        let Ok(file) = File::open(dir) else { continue };
        flock(&file, FlockOperation::LockExclusive).map_err(|e| file_error("cannot lock", dir, e.into()))?;
        // A sweeper may have been faster.
        let ours = file.metadata().map_err(|e| file_error("cannot examine", dir, e))?;
        if fs::metadata(dir).is_ok_and(|there| there.ino() == ours.ino()) {
            super::state::write_file(&dir.join(GROUP), group.as_bytes(), 0o600)?;
            return Ok(file);
        }
    }
}

/// What commands, keepers and workers of a group have left. Its lock is held.
fn of_group(group: &Group) -> Result<Vec<String>> {
    let ids = group.ids()?;
    let attended = client::lives(group);
    let mut found = Vec::new();
    for entry in fs::read_dir(group.data().join("c")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(id) = is_aside(&name) {
            found.push(format!("half-made container {id}"));
        }
    }
    for id in entries(&group.run().join("c"))? {
        let state: Option<State> = read_json(&group.run().join("c").join(&id).join("state.json"))?;
        let runs = state.is_some_and(|state| !matches!(state.phase, Stage::Exited { .. }));
        if !ids.contains(&id) {
            found.push(format!("run directory and control groups of container {id}"));
        } else if runs && !attended {
            found.push(format!("container {id} without a keeper"));
        }
    }
    if !attended && group.socket().exists() {
        found.push("socket of a keeper".to_owned());
    }
    if ids.is_empty() && !attended {
        let rest = [group.run(), group.data()].into_iter().filter(|dir| dir.exists());
        found.extend(rest.map(|dir| format!("directory {}", dir.display())));
    }
    Ok(found)
}

/// A group without containers and keeper.
fn remove_idle(group: &Group) -> Result<()> {
    if client::lives(group) {
        return Ok(());
    }
    remove_file(&group.socket())?;
    if group.ids()?.is_empty() {
        remove_dir(&group.run())?;
        remove_dir(&group.data())?;
    }
    Ok(())
}
