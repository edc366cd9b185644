//! Copies of git repositories, kept by commit, so that what is pinned needs no network again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};

use super::{canonical::clean, remote::Remote};
use crate::git::Clone;

/// Fetches what `remote` names into `cache`, if it is not there; the directory of the copy.
///
/// # Errors
/// Git is not there, the repository cannot be reached, or it holds a link that leads out of it.
pub fn fetch(remote: &Remote, cache: &Path) -> Result<PathBuf, String> {
    let hash: String =
        Sha256::digest(remote.shown_url()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let place = |commit: &str| cache.join(&hash).join(commit).join(remote.name());
    let pinned = remote.pinned().map(str::to_ascii_lowercase);
    if let Some(copy) = pinned.as_deref().map(place).filter(|copy| copy.is_dir()) {
        return Ok(copy);
    }
    let unwritten = |error: io::Error| format!("cannot write `{}`: {error}", cache.display());
    private_directory(cache).map_err(unwritten)?;
    let scratch = tempfile::tempdir_in(cache).map_err(unwritten)?;
    let tree = scratch.path().join(remote.name());
    fs::create_dir(&tree).map_err(unwritten)?;
    let clone = Clone::begin(remote.repository(), &tree)?;
    let commit = match pinned {
        Some(commit) => commit,
        None => clone.commit_of(remote.reference().unwrap_or("HEAD"))?,
    };
    let copy = place(&commit);
    if copy.is_dir() {
        return Ok(copy);
    }
    clone.check_out(&commit)?;
    clone.without_history()?;
    refuse_links_out(remote, &tree, &tree)?;
    fs::create_dir_all(copy.parent().unwrap_or(cache)).map_err(unwritten)?;
    match fs::rename(&tree, &copy) {
        // Somebody else was quicker: what they have is the same.
        Err(_) if copy.is_dir() => Ok(copy),
        result => result.map(|()| copy).map_err(unwritten),
    }
}

fn private_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Symbolic links may lead anywhere within the copy, and nowhere else.
fn refuse_links_out(remote: &Remote, root: &Path, directory: &Path) -> Result<(), String> {
    let unread = |error: io::Error| format!("cannot read the copy of `{remote}`: {error}");
    for entry in fs::read_dir(directory).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let kind = entry.file_type().map_err(unread)?;
        let path = entry.path();
        if kind.is_dir() {
            refuse_links_out(remote, root, &path)?;
        } else if kind.is_symlink() {
            let target = fs::read_link(&path).map_err(unread)?;
            let whole = clean(&directory.join(&target).to_string_lossy());
            if !Path::new(&whole).starts_with(root) {
                let inner = path.strip_prefix(root).unwrap_or(&path);
                return Err(format!(
                    "`{remote}` is refused: its link `{}` leads out of the repository",
                    inner.display()
                ));
            }
        }
    }
    Ok(())
}
