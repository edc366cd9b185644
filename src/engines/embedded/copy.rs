//! Copies files into and out of containers: one end packs, the other unpacks.

use std::{
    io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use super::{Embedded, error};
use crate::{
    engine::{ContainerId, CopyRequest, EngineError, ErrorKind, Source, Target},
    image::files::{self, Kind, Packing},
    runtime::Files,
};

pub(super) async fn copy(engine: &Embedded, request: CopyRequest) -> Result<(), EngineError> {
    engine
        .blocking(move |engine| {
            engine.permitted()?;
            let CopyRequest { project, from, to, follow, archive } = request;
            let source = source(engine, &project, from)?;
            match to {
                Target::Stream(mut out) => write(source, follow, None, &mut *out),
                Target::Container { id, path } => {
                    let root = container(engine, &project, &id)?;
                    let owner = (!archive).then_some((0, 0));
                    transfer(source, follow, &Place { root, shown: path.clone(), path }, owner)
                }
                Target::Host(path) => {
                    let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                    transfer(source, follow, &host(&path)?, (!archive).then_some(me))
                }
            }
        })
        .await
}

/// A path below a root.
struct Place {
    root: Files,
    path: PathBuf,
    /// As the user knows it.
    shown: PathBuf,
}

enum Opened {
    At(Place, Packing),
    Tar(Box<dyn io::Read + Send>),
}

fn source(engine: &Embedded, project: &str, from: Source) -> Result<Opened, EngineError> {
    Ok(match from {
        Source::Stream(input) => Opened::Tar(input),
        Source::Host(path) => Opened::At(host(&path)?, Packing::default()),
        Source::Container { id, path } => {
            let root = container(engine, project, &id)?;
            Opened::At(Place { root, shown: path.clone(), path }, Packing::default())
        }
        Source::Whole(id) => {
            let place =
                Place { root: container(engine, project, &id)?, path: PathBuf::new(), shown: "/.".into() };
            Opened::At(place, Packing { follow: false, one_file_system: true })
        }
    })
}

fn container(engine: &Embedded, project: &str, id: &ContainerId) -> Result<Files, EngineError> {
    let files = engine.core.files(project, &id.0);
    files.map_err(|error| error::runtime(&error, "the files of the container cannot be opened"))
}

/// The host's own links are followed as everywhere: only the last name is left to the copy.
fn host(path: &Path) -> Result<Place, EngineError> {
    let absolute = std::path::absolute(path).map_err(|error| failed(path, &error))?;
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::open(path, flags, rustix::fs::Mode::empty());
    let (directory, name) = if absolute.is_dir() {
        (absolute.clone(), PathBuf::new())
    } else {
        let name = absolute.file_name().map(PathBuf::from).unwrap_or_default();
        (absolute.parent().unwrap_or(&absolute).to_owned(), name)
    };
    let root = open(&directory).map_err(|error| failed(&directory, &error.into()))?;
    Ok(Place { root: root.into(), path: name, shown: path.to_owned() })
}

fn failed(path: &Path, error: &io::Error) -> EngineError {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Other,
    };
    EngineError::new(kind, format!("cannot copy `{}`", path.display())).caused_by(error)
}

/// What its last name is; `None` where only the content is meant (`dir/.`, `/`).
fn base_name(shown: &Path) -> Option<PathBuf> {
    let text = shown.as_os_str().to_string_lossy();
    if text.ends_with("/.") || text == "." {
        return None;
    }
    shown.file_name().map(PathBuf::from)
}

/// Packs the source, under the name it has or is given.
fn write(
    source: Opened,
    follow: bool,
    name: Option<&Path>,
    out: &mut dyn io::Write,
) -> Result<(), EngineError> {
    match source {
        Opened::Tar(mut input) => {
            io::copy(&mut input, out).map(drop).map_err(|error| failed(Path::new("-"), &error))
        }
        Opened::At(place, packing) => {
            let own = base_name(&place.shown).unwrap_or_default();
            let packing = Packing { follow: follow || packing.follow, ..packing };
            files::pack(place.root.as_fd(), inside(&place.path), name.unwrap_or(&own), packing, out)
                .map_err(|error| failed(&place.shown, &error))
        }
    }
}

/// Below the root.
fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn transfer(source: Opened, follow: bool, to: &Place, owner: Option<(u32, u32)>) -> Result<(), EngineError> {
    let told = |error: &io::Error| failed(&to.shown, error);
    let target = files::kind(to.root.as_fd(), inside(&to.path)).map_err(|error| told(&error))?;
    let Opened::At(from, packing) = source else {
        let Opened::Tar(mut input) = source else { return Ok(()) };
        if target != Kind::Directory {
            let message = format!("`{}` is no directory: a tar is unpacked into one", to.shown.display());
            return Err(EngineError::new(ErrorKind::Invalid, message));
        }
        // Owners of a tar are its own.
        let unpacked = files::unpack(to.root.as_fd(), inside(&to.path), None, &mut input);
        return unpacked.map_err(|error| told(&error));
    };
    let what =
        files::kind(from.root.as_fd(), inside(&from.path)).map_err(|error| failed(&from.shown, &error))?;
    let (directory, name) = destination(&from, what, to, target)?;
    let (mut reader, mut writer) = io::pipe().map_err(|error| told(&error))?;
    std::thread::scope(|scope| {
        let packed = scope.spawn(move || {
            let source = Opened::At(from, packing);
            write(source, follow, Some(&name), &mut writer)
        });
        let unpacked = files::unpack(to.root.as_fd(), inside(&directory), owner, &mut reader);
        // A packer that nobody reads must end.
        drop(reader);
        let packed = packed
            .join()
            .unwrap_or_else(|_| Err(EngineError::new(ErrorKind::Other, "bug while packing files")));
        match unpacked {
            Ok(()) => packed,
            // A source that cannot be read is the reason of an archive that ends too early.
            Err(error) => packed.and(Err(told(&error))),
        }
    })
}

/// The directory to unpack into, and the name there (none: the content alone).
fn destination(
    from: &Place,
    what: Kind,
    to: &Place,
    target: Kind,
) -> Result<(PathBuf, PathBuf), EngineError> {
    let invalid = |message: String| Err(EngineError::new(ErrorKind::Invalid, message));
    let shown = to.shown.display();
    let wants_directory = to.shown.as_os_str().to_string_lossy().ends_with('/');
    let beside = || {
        let parent = to.path.parent().map(Path::to_owned).unwrap_or_default();
        (parent, to.path.file_name().map(PathBuf::from).unwrap_or_default())
    };
    match (what, target) {
        (Kind::Missing, _) => Err(failed(&from.shown, &io::ErrorKind::NotFound.into())),
        (_, Kind::Directory) => Ok((to.path.clone(), base_name(&from.shown).unwrap_or_default())),
        (Kind::Directory, Kind::Other) => {
            invalid(format!("`{shown}` is a file: a directory cannot be copied over it"))
        }
        (Kind::Other, Kind::Missing) if wants_directory => {
            invalid(format!("directory `{shown}` is not there"))
        }
        (Kind::Directory, Kind::Missing) | (Kind::Other, Kind::Missing | Kind::Other) => Ok(beside()),
    }
}
