//! What a pull shows on a real terminal, while it is resized, and through a pipe.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};

use super::{
    Fixture,
    fake::{FakeRegistry, Then, part},
    faults::noise,
    make::{Made, digest, gzip, layer},
};

const ROWS: u16 = 12;

/// Both ends of a terminal of this many columns.
fn terminal(columns: u16) -> (File, OwnedFd) {
    let (mut master, mut slave, size) = (0, 0, size(columns));
    let (name, mode) = (std::ptr::null_mut(), std::ptr::null());
    // SAFETY: the numbers and the size outlive the call; name and mode may be null.
    let made = unsafe { libc::openpty(&raw mut master, &raw mut slave, name, mode, &raw const size) };
    assert_eq!(made, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the call has opened both, and nobody else knows of them.
    unsafe { (File::from_raw_fd(master), OwnedFd::from_raw_fd(slave)) }
}

fn size(columns: u16) -> libc::winsize {
    libc::winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn resize(terminal: &File, columns: u16) {
    let size = size(columns);
    // SAFETY: the size outlives the call.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(done, 0);
}

/// What stands on a terminal without an end that was sent `text`, and whether its cursor is to be seen.
fn screen(text: &str) -> (Vec<String>, bool) {
    let (mut lines, mut row, mut column, mut shown) = (vec![Vec::new()], 0, 0, true);
    let mut left = text.chars();
    while let Some(char) = left.next() {
        match char {
            '\n' => {
                row += 1;
                lines.resize_with(lines.len().max(row + 1), Vec::new);
            }
            '\r' => column = 0,
            '\x1b' => {
                assert_eq!(left.next(), Some('['));
                let length = left.as_str().find(|c: char| c.is_ascii_alphabetic()).unwrap() + 1;
                let sequence: String = left.by_ref().take(length).collect();
                let (number, act) = sequence.split_at(sequence.len() - 1);
                match act {
                    "A" => row -= number.parse::<usize>().unwrap(),
                    "J" => {
                        lines.truncate(row + 1);
                        lines[row].truncate(column);
                    }
                    "h" | "l" => shown = act == "h",
                    "m" => {}
                    other => panic!("unknown sequence {number}{other}"),
                }
            }
            char => {
                let line: &mut Vec<char> = &mut lines[row];
                line.resize(line.len().max(column + 1), ' ');
                line[column] = char;
                column += 1;
            }
        }
    }
    (lines.iter().map(|line| line.iter().collect()).collect(), shown)
}

/// A registry that takes its time for the layer of `web:1`.
fn slow() -> FakeRegistry {
    let made = Made::new(vec![layer(&[("noise", &noise(400_000))])]);
    let blob = gzip(&made.layers[0]);
    let name = digest(&blob);
    let hook = move |request: &super::fake::Request| {
        let pieces = Then::Pieces(12_000, Duration::from_millis(40));
        request.path.ends_with(&name).then(|| part(request, &blob).then(pieces))
    };
    FakeRegistry::start(&made, Box::new(hook))
}

fn pull(f: &Fixture, registry: &FakeRegistry) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ficelle"));
    command.arg("--root").arg(f.dir.path()).args(["image", "pull", &format!("{}/web:1", registry.host())]);
    command.env("TERM", "xterm-256color").env_remove("NO_COLOR").env_remove("CI");
    command
}

/// A pull on a terminal: what it wrote. `act` is done when bytes are shown first.
fn on_terminal(mut command: Command, act: impl FnOnce(&File, &Child, usize)) -> (String, ExitStatus) {
    let (mut master, slave) = terminal(100);
    let (input, out) = (slave.try_clone().unwrap(), slave.try_clone().unwrap());
    let mut child = command.stdin(input).stdout(out).stderr(slave).spawn().unwrap();
    // Its copies of the other end would keep that open.
    drop(command);
    let (mut text, mut act) = (String::new(), Some(act));
    let mut buffer = [0; 4096];
    // At the end of the program nobody holds the other end any more, and that is an error.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        text.push_str(&String::from_utf8_lossy(&buffer[..length]));
        if text.contains("kB/")
            && let Some(act) = act.take()
        {
            act(&master, &child, text.len());
        }
    }
    assert!(act.is_none(), "bytes are shown: {text}");
    let status = child.wait().unwrap();
    (text, status)
}

#[test]
fn a_pull_draws_over_its_own_lines_and_keeps_within_the_terminal() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the store of the engine needs root");
        return;
    }
    let (f, registry) = (Fixture::new(), slow());
    let mut narrow = 0;
    let (text, status) = on_terminal(pull(&f, &registry), |terminal, _, at| {
        resize(terminal, 40);
        narrow = at;
    });
    assert!(status.success(), "{text}");
    let (lines, shown) = screen(&text);
    assert!(shown, "the cursor is back");
    assert!(lines.iter().any(|line| line.starts_with("Pulled 127.0.0.1:")), "{lines:#?}");
    let marks = |mark: char| lines.iter().filter(|line| line.contains(mark)).count();
    assert_eq!((marks('✔'), marks('⣾')), (1, 0), "{lines:#?}");
    assert_eq!(lines.iter().filter(|line| line.starts_with("[+] ")).count(), 1, "{lines:#?}");
    // The picture that was being drawn meanwhile may still be wide.
    let frames: Vec<&str> = text[narrow..].split("\x1b[?25l").skip(2).collect();
    assert!(frames.len() > 3, "it is drawn ten times a second: {text:?}");
    let (last, before) = frames.split_last().unwrap();
    let last = last.split("\x1b[?25h").next().unwrap();
    for frame in before.iter().chain([&last]) {
        let (lines, _) = screen(&format!("{}{frame}", "\n".repeat(ROWS.into())));
        let widest = lines.iter().map(|line| line.chars().count()).max().unwrap();
        assert!(widest <= 40 && lines.len() <= usize::from(ROWS) * 2, "{lines:#?}");
    }
}

#[test]
fn an_interrupted_pull_gives_the_terminal_back_and_goes_on_where_it_ended() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the store of the engine needs root");
        return;
    }
    let (f, registry) = (Fixture::new(), slow());
    let (text, status) = on_terminal(pull(&f, &registry), |_, child, _| {
        rustix::process::kill_process(Pid::from_child(child), Signal::INT).unwrap();
    });
    assert_eq!(status.code(), Some(130), "{text}");
    let (lines, shown) = screen(&text);
    assert!(shown && !lines.iter().any(|line| line.contains("Pulled")), "{lines:#?}");
    assert_eq!(registry.asked(|request| request.start() > 0), 0);
    let again = pull(&f, &registry).stdin(Stdio::null()).output().unwrap();
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(registry.asked(|request| request.start() > 0), 1, "what came is not sent again");
}

#[test]
fn a_pull_through_a_pipe_has_lines_and_no_picture() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: the store of the engine needs root");
        return;
    }
    let (f, registry) = (Fixture::new(), slow());
    let done = pull(&f, &registry).stdin(Stdio::null()).output().unwrap();
    let (out, talk) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success() && out.starts_with("Pulled 127.0.0.1:"), "{out}{talk}");
    assert!(!out.contains('\x1b') && !talk.contains('\x1b') && !talk.contains('\r'), "{talk:?}");
    assert!(talk.lines().count() <= 2, "a line for each outcome: {talk}");
}
