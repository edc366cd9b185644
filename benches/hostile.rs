//! What `config` of each hostile project costs, as a process of its own: `cargo bench --bench hostile`.
//! Ends 1 when one took more than 200 ms or 64 MB. `FICELLE` is the binary, `target/release/ficelle`
//! when unset.

#![expect(clippy::print_stdout, reason = "it prints its measures")]

#[path = "../tests/hostile/table.rs"]
mod table;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

const LONGEST: Duration = Duration::from_millis(200);
/// Kilobytes.
const LARGEST: i64 = 64 << 10;
/// Of so many runs the quickest counts: machines are shared.
const RUNS: usize = 3;

fn main() -> ExitCode {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/release/ficelle");
    let binary = std::env::var_os("FICELLE").map_or(default, PathBuf::from);
    println!("{:>8} {:>8}  project", "ms", "MB");
    let mut over = 0;
    for hostile in table::table() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for (name, text) in &hostile.files {
            std::fs::write(directory.path().join(name), text).expect("a file in it");
        }
        let runs = (0..RUNS).map(|_| cost(&binary, directory.path()));
        let (time, memory) = runs.min().unwrap_or_default();
        let mark = if time > LONGEST || memory > LARGEST { "OVER" } else { "" };
        over += usize::from(!mark.is_empty());
        println!("{:>8} {:>8}  {} {mark}", time.as_millis(), memory >> 10, hostile.name);
    }
    println!("{over} over 200 ms or 64 MB");
    ExitCode::from(u8::from(over > 0))
}

/// Time and largest memory (kilobytes) of one run.
#[expect(clippy::zombie_processes, reason = "it is waited for by wait4, which tells what it used")]
fn cost(binary: &Path, directory: &Path) -> (Duration, i64) {
    let begun = Instant::now();
    let child = Command::new(binary)
        .args(["-p", "hostile", "config", "-q"])
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the release binary: cargo build --release");
    let pid = i32::try_from(child.id()).expect("a process number");
    let mut status = 0;
    // SAFETY: both structures live through the call; nobody else waits for this child.
    let memory = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::wait4(pid, &raw mut status, 0, &raw mut usage);
        usage.ru_maxrss
    };
    (begun.elapsed(), memory)
}
