//! Files that a build brings from elsewhere: remote contexts, and what ADD names by address.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{cache::Cache, place::Place, tree::Tree};
use crate::{
    git::Clone,
    image::{self, ArchiveKind, Download, Store},
    model::Repository,
};

/// Files on disk, gone with this value.
#[derive(Debug)]
pub struct Fetched {
    _dir: tempfile::TempDir,
    pub tree: Tree,
    pub path: PathBuf,
    /// Of a single file.
    pub name: Option<String>,
}

/// What is remembered of an address.
#[derive(Debug, Serialize, Deserialize)]
struct Known {
    etag: Option<String>,
    last_modified: Option<String>,
    name: Option<String>,
    /// Hex of SHA-256.
    digest: String,
}

/// The files of a repository.
pub fn repository(store: &Store, wanted: &Repository, keep: bool) -> Result<Fetched, String> {
    let dir = scratch(store)?;
    let root = dir.path().join("repository");
    fs::create_dir(&root).map_err(|error| error.to_string())?;
    let clone = Clone::begin(wanted, &root)?;
    let there =
        clone.check_out(wanted.reference.as_deref().or(wanted.commit.as_deref()).unwrap_or("HEAD"))?;
    if let Some(commit) = &wanted.commit
        && (commit.len() < 7 || !there.starts_with(&commit.to_ascii_lowercase()))
    {
        return Err(format!("expected commit {commit} of `{}`, got {there}", wanted.shown_remote()));
    }
    if wanted.submodules {
        clone.submodules()?;
    }
    if wanted.keep_git_dir.unwrap_or(keep) { clone.with_history() } else { clone.without_history() }?;
    let whole = Tree::open(&root).map_err(|error| error.to_string())?;
    let below = Path::new(wanted.subdir.as_deref().unwrap_or(""));
    // A link of the repository must not lead out of it.
    let below = whole.resolve(below).map_err(|error| error.to_string())?;
    let path = root.join(&below);
    let tree = Tree::open(&path)
        .map_err(|_| format!("`{}` has no directory `{}`", wanted.shown_remote(), below.display()))?;
    Ok(Fetched { _dir: dir, tree, path, name: None })
}

/// A file of a server as ADD lays it down: mode 0600, dated as the server says. A file that did not
/// change since an earlier build is not sent again.
pub fn file(
    store: &Store,
    cache: &Cache,
    wait: &tokio::runtime::Handle,
    url: &str,
    checksum: Option<&str>,
) -> Result<Fetched, String> {
    let dir = scratch(store)?;
    let (kept, about) = (cache.download(url), cache.download(url).with_extension("json"));
    let known: Option<Known> =
        fs::read(&about).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).filter(|_| kept.exists());
    let content = dir.path().join("content");
    let known = match known {
        Some(known) if checksum == Some(known.digest.as_str()) => known,
        known => {
            let mut into = File::create(&content).map_err(|error| error.to_string())?;
            let etag = known.as_ref().and_then(|known| known.etag.as_deref());
            let told =
                wait.block_on(image::download(url, etag, &mut into)).map_err(|error| error.to_string())?;
            match known {
                Some(known) if told.unchanged => known,
                _ => remember(told, &content, &kept, &about).map_err(|error| error.to_string())?,
            }
        }
    };
    let name = known.name.clone().unwrap_or_else(|| name_of(url));
    let root = dir.path().join("file");
    let path = root.join(&name);
    let lay = || -> io::Result<Option<String>> {
        fs::create_dir(&root)?;
        fs::copy(&kept, &path)?;
        let found = hex_of(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let date = known.last_modified.as_deref().and_then(http_date).unwrap_or(UNIX_EPOCH);
        File::options().write(true).open(&path)?.set_modified(date)?;
        Ok((found != known.digest).then_some(found))
    };
    let spoiled = lay().map_err(|error| error.to_string())?;
    let found = spoiled.as_ref().unwrap_or(&known.digest);
    if let Some(wanted) = checksum.filter(|wanted| wanted != found) {
        return Err(format!("digest mismatch of `{url}`: sha256:{found}, expected sha256:{wanted}"));
    }
    if spoiled.is_some() {
        let _ = fs::remove_file(&about);
        return Err(format!("what was kept of `{url}` is damaged; the next build fetches it again"));
    }
    let tree = Tree::open(&root).map_err(|error| error.to_string())?;
    Ok(Fetched { _dir: dir, tree, path: root, name: Some(name) })
}

/// A remote context: a repository, an archive, or a Dockerfile alone.
pub fn context(
    store: &Store,
    cache: &Cache,
    wait: &tokio::runtime::Handle,
    place: &Place,
    keep_git_dir: bool,
) -> Result<Option<Fetched>, String> {
    match place {
        Place::Directory(_) => Ok(None),
        Place::Image(name) => Err(format!("an image (`{name}`) cannot be the main context of a build")),
        Place::Git(wanted) => repository(store, wanted, keep_git_dir).map(Some),
        Place::Http(url) => {
            let fetched = file(store, cache, wait, url, None)?;
            let path = fetched.path.join(fetched.name.as_deref().unwrap_or_default());
            unpacked(store, &path).map(Some)
        }
        Place::Stdin => {
            let dir = scratch(store)?;
            let path = dir.path().join("stdin");
            let copied =
                File::create(&path).and_then(|mut file| io::copy(&mut io::stdin().lock(), &mut file));
            copied.map_err(|error| format!("cannot read standard input: {error}"))?;
            unpacked(store, &path).map(Some)
        }
    }
}

/// What an archive holds; anything else is a Dockerfile.
fn unpacked(store: &Store, path: &Path) -> Result<Fetched, String> {
    let dir = scratch(store)?;
    let open = || File::open(path).map_err(|error| error.to_string());
    let root = dir.path().join("fs");
    match image::archive_kind(&open()?).map_err(|error| error.to_string())? {
        ArchiveKind::Tar => image::extract(open()?, dir.path()).map_err(|error| error.to_string())?,
        ArchiveKind::File => {
            let lay = || fs::create_dir_all(&root).and_then(|()| fs::copy(path, root.join("Dockerfile")));
            lay().map_err(|error| error.to_string())?;
        }
    }
    let tree = Tree::open(&root).map_err(|error| error.to_string())?;
    Ok(Fetched { _dir: dir, tree, path: root, name: None })
}

fn scratch(store: &Store) -> Result<tempfile::TempDir, String> {
    store.scratch().map_err(|error| error.to_string())
}

fn remember(told: Download, content: &Path, kept: &Path, about: &Path) -> io::Result<Known> {
    let digest = hex_of(content)?;
    let known = Known { etag: told.etag, last_modified: told.last_modified, name: told.name, digest };
    // Never a note that fits another content.
    let _ = fs::remove_file(about);
    let directory = about.parent().unwrap_or(Path::new("."));
    let mut copy = tempfile::NamedTempFile::new_in(directory)?;
    io::copy(&mut File::open(content)?, &mut copy)?;
    copy.persist(kept)?;
    let mut note = tempfile::NamedTempFile::new_in(directory)?;
    serde_json::to_writer(&mut note, &known)?;
    note.persist(about)?;
    Ok(known)
}

fn hex_of(path: &Path) -> io::Result<String> {
    let (mut hash, mut file) = (Sha256::new(), File::open(path)?);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match io::Read::read(&mut file, &mut buffer)? {
            0 => break,
            length => hash.update(&buffer[..length]),
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The last part of the path, without the query.
fn name_of(url: &str) -> String {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').map_or("", |(_, path)| path.rsplit('/').next().unwrap_or_default());
    if name.is_empty() || name == "." || name == ".." { "download".to_owned() } else { name.to_owned() }
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`: the form that servers must send (RFC 9110, 5.6.7).
fn http_date(text: &str) -> Option<SystemTime> {
    let mut words = text.split_once(", ")?.1.split(' ');
    let mut word = || words.next();
    let (day, month, year, clock) = (word()?, word()?, word()?, word()?);
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|name| *name == month)? as u64 + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let mut parts = clock.split(':').map(|part| part.parse::<u64>().ok());
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1970..=9999).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Days since 1970, the year beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(UNIX_EPOCH + Duration::from_secs(days * 86_400 + hour * 3600 + minute * 60 + second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_named_after_its_address() {
        let table = [
            ("http://h/a/b.txt?x=/y", "b.txt"),
            ("http://h/a/", "download"),
            ("http://h", "download"),
            ("http://h/..", "download"),
        ];
        for (url, name) in table {
            assert_eq!(name_of(url), name, "{url}");
        }
    }

    #[test]
    fn dates_of_servers_are_read() {
        let seconds =
            |text| http_date(text).map(|date: SystemTime| date.duration_since(UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Tue, 29 Feb 2000 00:00:00 GMT"), Some(951_782_400));
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("1994-11-06"), None);
        assert_eq!(seconds("Sun, 06 Nix 1994 08:49:37 GMT"), None);
    }
}
