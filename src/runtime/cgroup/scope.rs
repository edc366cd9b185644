//! A scope of systemd for the containers of a keeper: the part of the unified hierarchy that systemd gives
//! away (`Delegate=yes`, systemd.resource-control(5)). The keeper stands in a group of its own below, since
//! a group that limits others may hold no process.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{
    super::{
        Error, Result,
        dbus::{Body, Connection, Failure, Reader},
        rootless,
    },
    ROOT,
};

/// Where the keeper is, below the scope.
const OWN: &str = "sup";

/// The private socket of the manager that may give us a scope: root's is the system's, a user's that of
/// the user's session. `None` where no systemd runs, or not for this user.
pub fn manager() -> Option<(PathBuf, u32)> {
    let uid = outer_uid()?;
    let socket = if rootless::is_confined() {
        Path::new("/run/user").join(uid.to_string()).join("systemd/private")
    } else {
        PathBuf::from("/run/systemd/private")
    };
    (Path::new("/run/systemd/system").is_dir() && socket.exists()).then_some((socket, uid))
}

/// Root of this user namespace, as the machine counts.
fn outer_uid() -> Option<u32> {
    fs::read_to_string("/proc/self/uid_map").ok()?.split_whitespace().nth(1)?.parse().ok()
}

/// Moves this process into the scope that belongs to `run` and `name`, made when there is none, and returns
/// the scope's path in the hierarchy.
pub fn enter(socket: &Path, uid: u32, run: &Path, name: &str) -> Result<String> {
    let unit = unit(run, name);
    ask(socket, uid, &unit).map_err(|failure| match failure {
        Failure::Io(source) => Error::System { what: format!("cannot ask systemd for `{unit}`"), source },
        Failure::Refused { name, text } => {
            Error::Helper(format!("systemd gives no `{unit}`: {text} ({name})"))
        }
    })?;
    let own = own_path()?;
    // A keeper that took over was put into its place right away.
    let scope = own.strip_suffix(&format!("/{OWN}")).unwrap_or(&own).to_owned();
    if scope == own {
        let directory = Path::new(ROOT).join(own.trim_start_matches('/')).join(OWN);
        fs::create_dir_all(&directory).map_err(|e| super::file_error("cannot make", &directory, e))?;
        super::enter(&[directory], 0)?;
    }
    Ok(scope)
}

/// Other state trees may have groups of that name.
fn unit(run: &Path, name: &str) -> String {
    let tree = fs::metadata(run).map_or(0, |meta| meta.ino());
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' }).collect();
    format!("ficelle-{plain}-{tree:x}.scope")
}

fn ask(socket: &Path, uid: u32, unit: &str) -> Result<(), Failure> {
    let mut systemd = Connection::open(socket, uid)?;
    match systemd.call("StartTransientUnit", &start(unit)) {
        Ok(_) => {
            // Uncounted number, job, unit, result.
            loop {
                let done = systemd.signal("JobRemoved")?;
                let mut reader = Reader::new(&done.body);
                let (_, _) = (reader.number(), reader.text());
                if reader.text().as_deref() == Some(unit) {
                    return match reader.text().as_deref() {
                        Some("done") => Ok(()),
                        other => Err(Failure::Refused {
                            name: "JobRemoved".to_owned(),
                            text: other.unwrap_or("no result").to_owned(),
                        }),
                    };
                }
            }
        }
        // Of a keeper that was killed: its containers are in it.
        Err(Failure::Refused { name, .. }) if name.ends_with(".UnitExists") => {
            let mut body = Body::new("ssau");
            body.text(unit);
            body.text(&format!("/{OWN}"));
            body.array(4, |body| body.number(std::process::id()));
            systemd.call("AttachProcessesToUnit", &body).map(drop)
        }
        Err(other) => Err(other),
    }
}

/// `StartTransientUnit(name, mode, properties, further units)`.
fn start(unit: &str) -> Body {
    let mut body = Body::new("ssa(sv)a(sa(sv))");
    body.text(unit);
    body.text("fail");
    body.array(8, |body| {
        let mut property = |name: &str, signature: &str, value: &dyn Fn(&mut Body)| {
            body.align(8);
            body.text(name);
            body.text_of_signature(signature);
            value(body);
        };
        property("Description", "s", &|body| body.text("containers of ficelle"));
        property("PIDs", "au", &|body| body.array(4, |body| body.number(std::process::id())));
        property("Delegate", "b", &|body| body.number(1));
        property("CollectMode", "s", &|body| body.text("inactive-or-failed"));
    });
    body.array(8, |_| {});
    body
}

/// The group of this process in the unified hierarchy.
fn own_path() -> Result<String> {
    let path = Path::new("/proc/self/cgroup");
    let text = fs::read_to_string(path).map_err(|e| super::file_error("cannot read", path, e))?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::"));
    own.map(str::to_owned)
        .ok_or_else(|| Error::Helper("there is no unified hierarchy of control groups".to_owned()))
}
