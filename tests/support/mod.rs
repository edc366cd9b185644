//! A project in a directory of its own, and the binary run in it on the simulated engine. What is
//! expected unless said otherwise: success.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

/// A temporary project directory and the state of its engine.
pub struct Place {
    dir: tempfile::TempDir,
    environment: Vec<(String, String)>,
}

/// What a run of the binary said.
#[derive(Debug)]
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Place {
    /// A directory `demo` with this `compose.yaml`.
    pub fn new(compose: &str) -> Self {
        let place = Self::empty();
        place.write("compose.yaml", compose);
        place
    }

    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("demo")).unwrap();
        Self { dir, environment: Vec::new() }
    }

    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).unwrap();
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("demo")
    }

    pub fn root(&self) -> std::path::PathBuf {
        self.dir.path().join("root")
    }

    /// The command, ready to run in `dir`, with nothing of our own environment but the path.
    fn command(&self, dir: &Path, args: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ficelle"));
        command
            .args(args.split_whitespace())
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("FICELLE_ENGINE", "simulated")
            .env("FICELLE_ROOT", self.root())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs in the project directory, whatever comes of it.
    pub fn try_run(&self, args: &str) -> Said {
        said(self.command(&self.path(), args).output().unwrap())
    }

    /// Runs in a directory without any Compose file.
    pub fn try_run_elsewhere(&self, args: &str) -> Said {
        said(self.command(Path::new("/"), args).output().unwrap())
    }

    /// Runs in the project directory; must succeed.
    pub fn run(&self, args: &str) -> Said {
        let said = self.try_run(args);
        assert_eq!(said.code, Some(0), "ficelle {args}: {said:#?}");
        said
    }

    /// Runs in the project directory; must fail with this code.
    pub fn fail(&self, code: i32, args: &str) -> Said {
        let said = self.try_run(args);
        assert_eq!(said.code, Some(code), "ficelle {args}: {said:#?}");
        said
    }

    /// Starts it, with its output in pipes.
    pub fn spawn(&self, args: &str) -> Child {
        let mut command = self.command(&self.path(), args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Names and states of all containers, as `ps` has them in JSON.
    pub fn states(&self) -> Vec<(String, String)> {
        let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        self.containers().iter().map(|c| (text(&c["Name"]), text(&c["State"]))).collect()
    }

    pub fn containers(&self) -> Vec<serde_json::Value> {
        let said = self.run("ps -a --no-trunc --format json");
        said.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub fn said(output: Output) -> Said {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

impl Said {
    /// Standard error, with times filtered: `0.2s` becomes `TIME`.
    pub fn talk(&self) -> String {
        self.stderr.split_inclusive('\n').map(without_time).collect()
    }

    /// Nothing on standard error.
    pub fn quietly(self) -> Self {
        assert_eq!(self.stderr, "");
        self
    }
}

fn without_time(line: &str) -> String {
    let kept = line.trim_end_matches('\n');
    match kept.rsplit_once("  ") {
        Some((before, time)) if time.ends_with('s') && time.starts_with(|c: char| c.is_ascii_digit()) => {
            format!("{before}  TIME\n")
        }
        _ => line.to_owned(),
    }
}
