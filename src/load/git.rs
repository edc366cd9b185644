//! Copies of git repositories, made by the `git` of this machine and kept by commit, so that what is pinned
//! needs no network again. URLs go to it through its environment: they may hold passwords, and arguments can
//! be read by everybody.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use sha2::{Digest, Sha256};

use super::{canonical::clean, remote::Remote};

/// Fetches what `remote` names into `cache`, if it is not there; the directory of the copy.
///
/// # Errors
/// Git is not there, the repository cannot be reached, or it holds a link that leads out of it.
pub fn fetch(remote: &Remote, cache: &Path) -> Result<PathBuf, String> {
    let commit = match remote.pinned() {
        Some(commit) => commit.to_ascii_lowercase(),
        None => current(remote)?,
    };
    let hash: String =
        Sha256::digest(remote.shown_url()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let home = cache.join(hash).join(&commit);
    let copy = home.join(remote.name());
    if copy.is_dir() {
        return Ok(copy);
    }
    let unwritten = |error: io::Error| format!("cannot write `{}`: {error}", cache.display());
    private_directory(cache).map_err(unwritten)?;
    let scratch = tempfile::tempdir_in(cache).map_err(unwritten)?;
    let tree = scratch.path().join(remote.name());
    fs::create_dir(&tree).map_err(unwritten)?;
    check_out(remote, &commit, &tree)?;
    fs::remove_dir_all(tree.join(".git")).map_err(unwritten)?;
    refuse_links_out(remote, &tree, &tree)?;
    fs::create_dir_all(&home).map_err(unwritten)?;
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

/// The commit that a branch, a tag or nothing stands for now.
fn current(remote: &Remote) -> Result<String, String> {
    let name = remote.reference().unwrap_or("HEAD");
    let peeled = format!("{name}^{{}}");
    let listed = git(remote, Path::new("/"), &["ls-remote", "origin", name, &peeled])?;
    let rows: Vec<(&str, &str)> = listed.lines().filter_map(|line| line.split_once('\t')).collect();
    // An annotated tag stands for the commit it was put on.
    let wanted = [
        peeled.clone(),
        format!("refs/tags/{peeled}"),
        format!("refs/heads/{name}"),
        format!("refs/tags/{name}"),
        name.to_owned(),
    ];
    let found = wanted.iter().find_map(|wanted| rows.iter().find(|(_, row)| row == wanted));
    let is_commit = |text: &str| text.len() >= 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
    found.map(|(commit, _)| (*commit).to_owned()).filter(|commit| is_commit(commit)).ok_or_else(|| {
        format!("`{}` has no branch or tag `{name}`; a commit is named by its 40 digits", remote.shown_url())
    })
}

fn check_out(remote: &Remote, commit: &str, tree: &Path) -> Result<(), String> {
    git(remote, tree, &["init", "--quiet"])?;
    // Some servers give a commit by its name, others only what a branch or a tag leads to.
    let shallow = git(remote, tree, &["fetch", "--quiet", "--depth=1", "origin", commit]);
    if shallow.is_err() {
        git(remote, tree, &["fetch", "--quiet", "origin", "+refs/*:refs/origin/*"])?;
    }
    git(remote, tree, &["checkout", "--quiet", "--detach", commit]).map(drop)
}

/// Runs git with `origin` being the repository; what it prints.
fn git(remote: &Remote, directory: &Path, arguments: &[&str]) -> Result<String, String> {
    let failed = |why: &str| format!("cannot fetch `{remote}`: {why}");
    let output = Command::new("git")
        .current_dir(directory)
        .args(arguments)
        .stdin(Stdio::null())
        // Of the repository we stand in, as within its hooks.
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env_remove("GIT_INDEX_FILE")
        .envs([
            ("GIT_CONFIG_COUNT", "2"),
            ("GIT_CONFIG_KEY_0", "remote.origin.url"),
            ("GIT_CONFIG_VALUE_0", remote.url()),
            ("GIT_CONFIG_KEY_1", "core.hooksPath"),
            ("GIT_CONFIG_VALUE_1", "/dev/null"),
            ("GIT_ALLOW_PROTOCOL", "http:https:git:ssh"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_HTTP_LOW_SPEED_LIMIT", "1000"),
            ("GIT_HTTP_LOW_SPEED_TIME", "60"),
            ("LC_ALL", "C"),
        ])
        .output()
        .map_err(|error| failed(&format!("`git` does not start: {error}; install git")))?;
    if !output.status.success() {
        let said = remote.without_user(&String::from_utf8_lossy(&output.stderr));
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("git failed");
        return Err(failed(last.trim_start_matches("fatal: ")));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
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
