//! What a container wrote, kept: raw bytes in one file, and beside it an index that says which
//! bytes came when and from which stream.
//!
//! The bytes go from the FIFO to the file by `splice`, so there is no moment at which they are only
//! in our memory: a killed supervisor loses nothing. The index entry is written afterwards; bytes
//! that have none yet get one, with a late time, when the log is next opened. Knows nothing of
//! containers but their directory.

use std::{
    collections::VecDeque,
    fs::{self, File},
    io,
    ops::ControlFlow,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
    io::Errno,
    pipe::{SpliceFlags, splice},
};

use super::{Error, LogRecord, LogRequest, Result};

const BYTES: &str = "0.log";
const INDEX: &str = "0.idx";
const ENTRY: usize = 24;
/// A line longer than this is given out in pieces, so that memory stays bounded.
const LONGEST_LINE: usize = 1 << 20;
/// What one `splice` may move: more than the largest pipe we make.
const MOST_AT_ONCE: usize = 1 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Stdout,
    Stderr,
    /// The main process ended; its policy brings it back.
    Restarts,
    /// The main process ended for good.
    Ended,
}

/// 24 bytes in the index: offset, nanoseconds since 1970, length (or exit code), kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    offset: u64,
    nanos: u64,
    length: u32,
    kind: Kind,
}

impl Entry {
    fn to_bytes(self) -> [u8; ENTRY] {
        let mut bytes = [0; ENTRY];
        bytes[..8].copy_from_slice(&self.offset.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.nanos.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.length.to_le_bytes());
        bytes[20..].copy_from_slice(&(self.kind as u32).to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8; ENTRY]) -> Self {
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let half = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let kind = match half(20) {
            1 => Kind::Stderr,
            2 => Kind::Restarts,
            3 => Kind::Ended,
            _ => Kind::Stdout,
        };
        Self { offset: word(0), nanos: word(8), length: half(16), kind }
    }

    fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_nanos(self.nanos)
    }

    /// Length in the bytes file: notes have none.
    fn size(self) -> u64 {
        if self.is_text() { u64::from(self.length) } else { 0 }
    }

    fn is_text(self) -> bool {
        matches!(self.kind, Kind::Stdout | Kind::Stderr)
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The one writer of a container's log: its supervisor.
#[derive(Debug)]
pub struct Writer {
    bytes: File,
    index: File,
    /// Ends of the two files.
    offset: u64,
    entries: u64,
}

impl Writer {
    /// Opens or makes the log below `dir`, and gives bytes without an entry one.
    pub fn open(dir: &Path) -> Result<Self> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| Error::File { what, path, source }
        };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(failed("make log directory", dir))?;
        let open = |name: &str| {
            let path = dir.join(name);
            let file = fs::OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path);
            file.map_err(failed("open log", &path))
        };
        let (bytes, index) = (open(BYTES)?, open(INDEX)?);
        let end = |file: &File, name| {
            file.metadata().map(|m| m.len()).map_err(failed("measure log", &dir.join(name)))
        };
        let mut writer = Self { offset: 0, entries: end(&index, INDEX)? / ENTRY as u64, bytes, index };
        writer.adopt(end(&writer.bytes, BYTES)?).map_err(failed("repair log index", &dir.join(INDEX)))?;
        Ok(writer)
    }

    /// Gives the bytes after the last entry, up to `end`, an entry.
    fn adopt(&mut self, end: u64) -> io::Result<()> {
        if let Some(last) = self.entries.checked_sub(1) {
            let mut bytes = [0; ENTRY];
            self.index.read_exact_at(&mut bytes, last * ENTRY as u64)?;
            let last = Entry::from_bytes(&bytes);
            self.offset = last.offset + last.size();
        }
        while self.offset < end {
            let length = u32::try_from(end - self.offset).unwrap_or(u32::MAX);
            self.push(length, Kind::Stdout)?;
        }
        Ok(())
    }

    /// Moves what is in the FIFO to the log, without waiting; 0 when there is nothing (now). A
    /// writer that is as fast as we are does not hold up others: the rest is for the next call.
    pub fn splice(&mut self, stderr: bool, from: BorrowedFd<'_>) -> io::Result<usize> {
        let mut moved = 0;
        while moved < MOST_AT_ONCE {
            let mut offset = self.offset;
            let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
            match splice(from, None, self.bytes.as_fd(), Some(&mut offset), MOST_AT_ONCE, flags) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(moved),
                Ok(n) => {
                    moved += n;
                    let length = u32::try_from(n).unwrap_or(u32::MAX);
                    self.push(length, if stderr { Kind::Stderr } else { Kind::Stdout })?;
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(moved)
    }

    /// Notes that the main process ended with `exit` (-1: unknown).
    pub fn ended(&mut self, exit: i32, restarting: bool) -> io::Result<()> {
        self.push(exit.cast_unsigned(), if restarting { Kind::Restarts } else { Kind::Ended })
    }

    /// A line of ours among the container's, on its standard error: where its user looks.
    pub fn note(&mut self, text: &str) -> io::Result<()> {
        let line = format!("ficelle: {text}\n");
        self.bytes.write_all_at(line.as_bytes(), self.offset)?;
        self.push(u32::try_from(line.len()).unwrap_or(u32::MAX), Kind::Stderr)
    }

    fn push(&mut self, length: u32, kind: Kind) -> io::Result<()> {
        let entry = Entry { offset: self.offset, nanos: now(), length, kind };
        self.index.write_all_at(&entry.to_bytes(), self.entries * ENTRY as u64)?;
        self.entries += 1;
        self.offset += entry.size();
        Ok(())
    }
}

/// Gives out the log below `dir`. With `follow`, goes on until the container has ended for good:
/// the last note says so, or there is none and `alive` is false.
pub fn read(
    dir: &Path,
    request: &LogRequest,
    alive: &dyn Fn() -> bool,
    sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
) -> Result<()> {
    let watch = if request.follow { Some(Watch::on(dir)?) } else { None };
    let mut log = Log::at(dir);
    let mut lines = Lines::default();
    let mut next = match request.tail {
        Some(count) => {
            let end = log.entries()?;
            let start = log.start_of_tail(count, end)?;
            let mut kept = VecDeque::new();
            for at in start..end {
                if log.is_old_note(at, request)? {
                    continue;
                }
                let _ = log.decode(at, &mut lines, &mut |record| {
                    if wanted(&record, request) {
                        kept.push_back(record);
                        let line = |record: &LogRecord| matches!(record, LogRecord::Line { .. });
                        while kept.iter().filter(|r| line(r)).count() > count {
                            kept.pop_front();
                        }
                    }
                    ControlFlow::Continue(())
                })?;
            }
            if kept.into_iter().try_for_each(&mut *sink).is_break() {
                return Ok(());
            }
            end
        }
        None => 0,
    };
    loop {
        let end = log.entries()?;
        while next < end {
            if log.is_old_note(next, request)? {
                next += 1;
                continue;
            }
            let flow = log.decode(next, &mut lines, &mut |record| {
                if wanted(&record, request) { sink(record) } else { ControlFlow::Continue(()) }
            })?;
            if flow.is_break() {
                return Ok(());
            }
            next += 1;
        }
        let Some(watch) = &watch else { break };
        // The note is the last thing written; where nobody is left to write it, silence has to do.
        let over = !alive() && log.ended(next)?;
        if over || !watch.wait()? && !alive() {
            break;
        }
    }
    let _ = lines
        .flush(&mut |record| if wanted(&record, request) { sink(record) } else { ControlFlow::Continue(()) });
    Ok(())
}

/// Within the times asked for; notes only when following.
fn wanted(record: &LogRecord, request: &LogRequest) -> bool {
    match record {
        LogRecord::Line { time, .. } => {
            request.since.is_none_or(|since| *time >= since)
                && request.until.is_none_or(|until| *time <= until)
        }
        LogRecord::Exited { .. } => request.follow,
    }
}

/// Reads the two files; neither need exist yet.
#[derive(Debug)]
struct Log {
    dir: PathBuf,
    bytes: Option<File>,
    index: Option<File>,
}

impl Log {
    fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), bytes: None, index: None }
    }

    /// Number of entries there are now.
    fn entries(&mut self) -> Result<u64> {
        let dir = self.dir.clone();
        let open = |name: &str| match File::open(dir.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(Error::File { what: "open log", path: dir.join(name), source }),
        };
        if self.index.is_none() {
            self.bytes = open(BYTES)?;
            self.index = open(INDEX)?;
        }
        let Some(index) = &self.index else { return Ok(0) };
        index.metadata().map(|m| m.len() / ENTRY as u64).map_err(|error| self.unreadable(error))
    }

    fn unreadable(&self, source: io::Error) -> Error {
        Error::File { what: "read log", path: self.dir.clone(), source }
    }

    fn entry(&self, at: u64) -> Result<Entry> {
        let mut bytes = [0; ENTRY];
        let index = self.index.as_ref().ok_or_else(|| self.unreadable(io::ErrorKind::NotFound.into()))?;
        index.read_exact_at(&mut bytes, at * ENTRY as u64).map_err(|error| self.unreadable(error))?;
        Ok(Entry::from_bytes(&bytes))
    }

    fn text(&self, entry: Entry) -> Result<Vec<u8>> {
        let mut text = vec![0; entry.length as usize];
        let bytes = self.bytes.as_ref().ok_or_else(|| self.unreadable(io::ErrorKind::NotFound.into()))?;
        bytes.read_exact_at(&mut text, entry.offset).map_err(|error| self.unreadable(error))?;
        Ok(text)
    }

    fn decode(
        &self,
        at: u64,
        lines: &mut Lines,
        sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let entry = self.entry(at)?;
        if entry.is_text() {
            return Ok(lines.feed(entry.kind == Kind::Stderr, entry.time(), &self.text(entry)?, sink));
        }
        if lines.flush(sink).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        Ok(sink(LogRecord::Exited {
            exit: entry.length.cast_signed(),
            restarting: entry.kind == Kind::Restarts,
        }))
    }

    /// Whether the entry tells of an end before the times asked for.
    fn is_old_note(&self, at: u64, request: &LogRequest) -> Result<bool> {
        let entry = self.entry(at)?;
        Ok(!entry.is_text() && request.since.is_some_and(|since| entry.time() < since))
    }

    /// Whether the entry before `next` says that the container has ended for good.
    fn ended(&self, next: u64) -> Result<bool> {
        match next.checked_sub(1) {
            Some(last) => Ok(self.entry(last)?.kind == Kind::Ended),
            None => Ok(false),
        }
    }

    /// The entry to decode from so that the last `count` lines come out whole.
    fn start_of_tail(&self, count: usize, end: u64) -> Result<u64> {
        let mut start = end;
        let mut found = 0;
        while start > 0 && found <= count + 1 {
            start -= 1;
            let entry = self.entry(start)?;
            if entry.is_text() {
                found += self.text(entry)?.iter().filter(|&&byte| byte == b'\n').count();
            }
        }
        // A line of either stream may begin in an earlier chunk of that stream.
        for stream in [Kind::Stdout, Kind::Stderr] {
            let mut at = start;
            while at > 0 {
                at -= 1;
                let entry = self.entry(at)?;
                if entry.kind != stream {
                    if !entry.is_text() {
                        break;
                    }
                    continue;
                }
                if self.text(entry)?.contains(&b'\n') {
                    start = start.min(if self.text(entry)?.ends_with(b"\n") { at + 1 } else { at });
                    break;
                }
                start = at;
            }
        }
        Ok(start)
    }
}

/// Puts the chunks of each stream together to lines.
#[derive(Debug, Default)]
struct Lines {
    /// The unfinished line of stdout and of stderr, with the time of its first byte.
    pending: [Option<(SystemTime, Vec<u8>)>; 2],
}

impl Lines {
    fn feed(
        &mut self,
        stderr: bool,
        time: SystemTime,
        chunk: &[u8],
        sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for piece in chunk.split_inclusive(|&byte| byte == b'\n') {
            let (time, mut text) = self.pending[usize::from(stderr)].take().unwrap_or((time, Vec::new()));
            text.extend_from_slice(piece);
            if text.ends_with(b"\n") {
                text.pop();
                sink(LogRecord::Line { stderr, time, text })?;
            } else if text.len() >= LONGEST_LINE {
                sink(LogRecord::Line { stderr, time, text })?;
            } else {
                self.pending[usize::from(stderr)] = Some((time, text));
            }
        }
        ControlFlow::Continue(())
    }

    /// Gives out what never got its line feed.
    fn flush(&mut self, sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>) -> ControlFlow<()> {
        for stderr in [false, true] {
            if let Some((time, text)) = self.pending[usize::from(stderr)].take() {
                sink(LogRecord::Line { stderr, time, text })?;
            }
        }
        ControlFlow::Continue(())
    }
}

/// Wakes when the log grows.
#[derive(Debug)]
struct Watch {
    inotify: rustix::fd::OwnedFd,
}

impl Watch {
    fn on(dir: &Path) -> Result<Self> {
        let watch = || {
            let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&inotify, dir, inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE)?;
            Ok(Self { inotify })
        };
        watch().map_err(|error: Errno| Error::File {
            what: "watch log",
            path: dir.to_owned(),
            source: error.into(),
        })
    }

    /// True when something was written; false after a second of silence, since a writer that was
    /// killed wakes nobody.
    fn wait(&self) -> Result<bool> {
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        let woken = match poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })) {
            Ok(ready) => ready > 0,
            Err(Errno::INTR) => true,
            Err(error) => return Err(Error::System { what: "wait for log".into(), source: error.into() }),
        };
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.inotify, &mut buffer).is_ok_and(|n| n > 0) {}
        Ok(woken)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::fd::OwnedFd, sync::mpsc, thread};

    use super::*;

    struct Fixture {
        dir: tempfile::TempDir,
        writer: Writer,
        pipes: [(OwnedFd, File); 2],
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let writer = Writer::open(dir.path()).unwrap();
            let pipe = || {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
                (read, File::from(write))
            };
            Self { writer, pipes: [pipe(), pipe()], dir }
        }

        fn write(&mut self, stderr: bool, text: &str) {
            let (read, write) = &mut self.pipes[usize::from(stderr)];
            write.write_all(text.as_bytes()).unwrap();
            assert_eq!(self.writer.splice(stderr, read.as_fd()).unwrap(), text.len());
        }

        fn read(&self, tail: Option<usize>) -> Vec<String> {
            let request = LogRequest { tail, since: None, until: None, follow: false };
            let mut seen = Vec::new();
            read(self.dir.path(), &request, &|| false, &mut |record| {
                seen.push(show(&record));
                ControlFlow::Continue(())
            })
            .unwrap();
            seen
        }
    }

    fn show(record: &LogRecord) -> String {
        match record {
            LogRecord::Line { stderr, text, .. } => {
                format!("{}:{}", if *stderr { "err" } else { "out" }, String::from_utf8_lossy(text))
            }
            LogRecord::Exited { exit, restarting } => format!("exited {exit} {restarting}"),
        }
    }

    #[test]
    fn lines_of_two_streams_are_whole_though_their_chunks_mix() {
        let mut log = Fixture::new();
        log.write(false, "one\ntw");
        log.write(true, "warn");
        log.write(false, "o\n");
        log.write(true, "ing\nlast");
        assert_eq!(log.read(None), ["out:one", "out:two", "err:warning", "err:last"]);
    }

    #[test]
    fn the_tail_has_exactly_the_last_lines_and_none_is_cut() {
        let mut log = Fixture::new();
        log.write(true, "begun long ago");
        for i in 0..50 {
            log.write(false, &format!("line {i} "));
            log.write(false, "end\n");
        }
        log.write(true, ", ended now\n");
        assert_eq!(log.read(Some(2)), ["out:line 49 end", "err:begun long ago, ended now"]);
        assert_eq!(log.read(Some(1)), ["err:begun long ago, ended now"]);
        assert_eq!(log.read(Some(0)), [] as [&str; 0]);
        assert_eq!(log.read(Some(1000)).len(), 51);
    }

    #[test]
    fn bytes_without_an_entry_are_found_again_after_a_kill() {
        let mut log = Fixture::new();
        log.write(false, "told\n");
        // What a supervisor killed between splice and index leaves.
        let bytes = fs::OpenOptions::new().append(true).open(log.dir.path().join(BYTES));
        bytes.unwrap().write_all(b"untold\n").unwrap();
        log.writer = Writer::open(log.dir.path()).unwrap();
        log.write(false, "after\n");
        assert_eq!(log.read(None), ["out:told", "out:untold", "out:after"]);
    }

    #[test]
    fn following_goes_on_across_a_restart_and_ends_with_the_container() {
        let mut log = Fixture::new();
        let dir = log.dir.path().to_owned();
        let alive = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (send, seen) = mpsc::channel();
        let life = alive.clone();
        let reader = thread::spawn(move || {
            let request = LogRequest { tail: None, since: None, until: None, follow: true };
            read(&dir, &request, &|| life.load(std::sync::atomic::Ordering::SeqCst), &mut |record| {
                send.send(show(&record)).unwrap();
                ControlFlow::Continue(())
            })
        });
        log.write(false, "first\n");
        log.writer.ended(1, true).unwrap();
        log.write(false, "second");
        assert_eq!(seen.recv().unwrap(), "out:first");
        assert_eq!(seen.recv().unwrap(), "exited 1 true");
        alive.store(false, std::sync::atomic::Ordering::SeqCst);
        log.writer.ended(137, false).unwrap();
        assert_eq!(seen.recv().unwrap(), "out:second");
        assert_eq!(seen.recv().unwrap(), "exited 137 false");
        reader.join().unwrap().unwrap();
    }

    #[test]
    fn a_container_that_never_wrote_has_an_empty_log() {
        let dir = tempfile::tempdir().unwrap();
        let request = LogRequest { tail: None, since: None, until: None, follow: true };
        read(dir.path(), &request, &|| false, &mut |_| panic!("nothing was written")).unwrap();
    }
}
