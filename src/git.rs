//! Repositories of git, brought by the `git` of this machine. Nothing of a repository is run: hooks are off, and no
//! question is asked. Its address stands in the configuration of the copy, never among arguments: it may hold a
//! password, and arguments can be read by everybody. Knows nothing of Compose files and builds.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::model::Repository;

/// A copy in the making.
#[derive(Debug)]
pub struct Clone<'a> {
    repository: &'a Repository,
    directory: &'a Path,
}

impl<'a> Clone<'a> {
    /// Makes `directory`, which is empty and which only its owner may enter, an empty copy of the repository.
    ///
    /// # Errors
    /// Git is not there, or cannot write.
    pub fn begin(repository: &'a Repository, directory: &'a Path) -> Result<Self, String> {
        let this = Self { repository, directory };
        this.run(&["init", "--quiet"])?;
        let text = fs::read_to_string(this.config()).map_err(|error| this.failed(&error))?;
        let origin = origin(&repository.remote).ok_or_else(|| this.failed(&"its address is malformed"))?;
        fs::write(this.config(), text + &origin).map_err(|error| this.failed(&error))?;
        Ok(this)
    }

    /// The commit that a branch, a tag or `HEAD` stands for there now.
    ///
    /// # Errors
    /// There is no such name, or the repository cannot be reached.
    pub fn commit_of(&self, name: &str) -> Result<String, String> {
        let peeled = format!("{name}^{{}}");
        let listed = self.run(&["ls-remote", "--", "origin", name, &peeled])?;
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
        let is_commit = |text: &str| text.len() >= 40 && is_commit(text);
        found.map(|(commit, _)| (*commit).to_owned()).filter(|commit| is_commit(commit)).ok_or_else(|| {
            let shown = self.repository.shown_remote();
            format!("`{shown}` has no branch or tag `{name}`; a commit is named by its 40 digits")
        })
    }

    /// Lays the files of a branch, tag or commit down; returns the commit.
    ///
    /// # Errors
    /// There is no such thing, or the repository cannot be reached.
    pub fn check_out(&self, wanted: &str) -> Result<String, String> {
        let fetch = |how: &[&str], what: &str| {
            let options = [&["fetch", "--quiet", "--force"], how, &["--", "origin", what]].concat();
            self.run(&options)
        };
        // Not every server gives parts, or a commit that no branch ends with.
        let fetched = fetch(&["--depth=1", "--no-tags"], wanted)
            .or_else(|first| fetch(&["--no-tags"], wanted).map_err(|_| first))
            .map(|_| "FETCH_HEAD")
            .or_else(|first| {
                if !is_commit(wanted) {
                    return Err(first);
                }
                fetch(&[], "+refs/*:refs/remotes/origin/*").map(|_| wanted)
            });
        self.run(&["checkout", "--quiet", "--detach", fetched?])?;
        self.run(&["rev-parse", "HEAD"]).map(|commit| commit.trim().to_owned())
    }

    /// Lays down the files of the repositories that it holds, too.
    ///
    /// # Errors
    /// One of them cannot be reached.
    pub fn submodules(&self) -> Result<(), String> {
        if !self.directory.join(".gitmodules").exists() {
            return Ok(());
        }
        self.run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"]).map(drop)
    }

    /// Ends with the files alone.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn without_history(self) -> Result<(), String> {
        remove_git_dirs(self.directory).map_err(|error| self.failed(&error))
    }

    /// Ends with the files and what git knows of them, but for the password of the address.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn with_history(self) -> Result<(), String> {
        self.run(&["config", "remote.origin.url", &self.repository.shown_remote()]).map(drop)
    }

    fn config(&self) -> PathBuf {
        self.directory.join(".git/config")
    }

    fn failed(&self, why: &dyn fmt::Display) -> String {
        format!("cannot fetch `{}`: {why}", self.repository)
    }

    /// What git printed; or its first word of complaint.
    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        // Modes of what is checked out must not follow from the user's umask.
        let output = Command::new("sh")
            .args(["-c", "umask 022; exec git \"$@\"", "git"])
            .args(["-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false"])
            .args(["-c", "init.defaultBranch=main"])
            .args(arguments)
            .current_dir(self.directory)
            .stdin(Stdio::null())
            // Of the repository we stand in, as within its hooks.
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .env("GIT_CEILING_DIRECTORIES", self.directory.parent().unwrap_or(self.directory))
            .envs([
                ("GIT_ALLOW_PROTOCOL", "http:https:git:ssh"),
                ("GIT_TERMINAL_PROMPT", "0"),
                ("GIT_HTTP_LOW_SPEED_LIMIT", "1000"),
                ("GIT_HTTP_LOW_SPEED_TIME", "60"),
                ("LC_ALL", "C"),
            ])
            .output()
            .map_err(|error| self.failed(&format!("`git` does not start: {error}")))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        if output.status.code() == Some(127) {
            return Err(self.failed(&"the program `git` is not there; install it"));
        }
        let said = self.repository.without_user(&String::from_utf8_lossy(&output.stderr));
        let complaint = |line: &&str| line.starts_with("fatal:") || line.starts_with("error:");
        let line =
            said.lines().find(complaint).or_else(|| said.lines().rfind(|line| !line.trim().is_empty()));
        let line = line.unwrap_or("git did not say why");
        Err(self.failed(&line.trim_start_matches("fatal: ").trim_start_matches("error: ")))
    }
}

/// What a configuration of git says of the repository at this address; `None` when no file can hold it.
fn origin(address: &str) -> Option<String> {
    if address.chars().any(char::is_control) {
        return None;
    }
    let quoted = address.replace('\\', "\\\\").replace('"', "\\\"");
    Some(format!(
        "[remote \"origin\"]\n\turl = \"{quoted}\"\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n"
    ))
}

fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Of the repository, and the files that stand for it in submodules.
fn remove_git_dirs(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_no_option_and_no_second_line_of_the_configuration() {
        assert_eq!(origin("git://h/a\nb"), None);
        assert!(origin("git@h:a\"b\\c").unwrap().contains("url = \"git@h:a\\\"b\\\\c\"\n"));
    }
}
