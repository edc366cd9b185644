//! A git repository's files, brought by the `git` program. Nothing of the repository is run: hooks are
//! off, and no question is asked.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use crate::model::Repository;

/// Checks the repository out into `dir`, which is empty; with `.git` only when that is kept.
pub fn fetch(git: &Repository, keep_git_dir: bool, dir: &Path) -> Result<(), String> {
    let run = |args: &[&str]| run(dir, args);
    run(&["init", "--quiet"])?;
    run(&["remote", "add", "origin", &git.remote])?;
    let wanted = git.reference.as_deref().or(git.commit.as_deref()).unwrap_or("HEAD");
    // Not every server gives parts, or a commit that no branch ends with.
    let all = "+refs/heads/*:refs/remotes/origin/*";
    let fetched = run(&["fetch", "--quiet", "--depth=1", "--no-tags", "--force", "origin", wanted])
        .or_else(|first| {
            run(&["fetch", "--quiet", "--no-tags", "--force", "origin", wanted]).map_err(|_| first)
        })
        .map(|_| "FETCH_HEAD")
        .or_else(|first| match is_commit(wanted) {
            true => run(&["fetch", "--quiet", "--tags", "--force", "origin", all]).map(|_| wanted),
            false => Err(first),
        });
    run(&["checkout", "--quiet", "--detach", fetched?])?;
    if let Some(commit) = &git.commit {
        let there = run(&["rev-parse", "HEAD"])?;
        if commit.len() < 7 || !there.trim().starts_with(&commit.to_ascii_lowercase()) {
            return Err(format!(
                "expected commit {commit} of `{}`, got {}",
                git.shown_remote(),
                there.trim()
            ));
        }
    }
    if git.submodules && dir.join(".gitmodules").exists() {
        run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"])?;
    }
    if !keep_git_dir {
        remove_git_dirs(dir).map_err(|error| format!("cannot remove `.git`: {error}"))?;
    }
    Ok(())
}

/// Of the repository, and the files that stand for it in submodules.
fn remove_git_dirs(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let is_dir = entry.file_type()?.is_dir();
        if entry.file_name() == ".git" {
            if is_dir {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        } else if is_dir {
            remove_git_dirs(&entry.path())?;
        }
    }
    Ok(())
}

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// What it printed; or its last line of complaint.
fn run(dir: &Path, args: &[&str]) -> Result<String, String> {
    // Modes of what is checked out must not follow from the user's umask.
    let output = Command::new("sh")
        .args(["-c", "umask 022; exec git \"$@\"", "git"])
        .args(["-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false"])
        .args(["-c", "init.defaultBranch=main", "-c", "protocol.ext.allow=never"])
        .args(args)
        .current_dir(dir)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap_or(dir))
        .env_remove("GIT_DIR")
        .env_remove("GIT_WORK_TREE")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("a git repository needs the program `git`: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = said.lines().find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    Err(format!("git {} failed: {}", args[0], said.unwrap_or("it did not say why")))
}
