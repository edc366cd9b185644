//! What a container wrote, kept: raw bytes in files, and beside each an index that says which bytes
//! came when and from which stream.
//!
//! The bytes go from the FIFO to the file by `splice`, so there is no moment at which they are only
//! in our memory: a killed supervisor loses nothing. The index entry is written afterwards; bytes
//! that have none yet get one, with a late time, when the log is next opened. A file that is full is
//! followed by the next, and the oldest is removed. Knows nothing of containers but their directory,
//! where it has only the files with a number for a name.

mod entry;
mod lines;
mod reader;
mod segment;
mod watch;
mod writer;

pub use self::{
    reader::{follow, read},
    writer::Writer,
};

#[cfg(test)]
mod tests {
    use std::{
        fs::{self, File},
        io::Write,
        ops::ControlFlow,
        os::fd::{AsFd, OwnedFd},
        sync::mpsc,
        thread,
    };

    use super::{
        super::{LogConfig, LogRecord, LogRequest},
        *,
    };

    struct Fixture {
        dir: tempfile::TempDir,
        writer: Writer,
        pipes: [(OwnedFd, File); 2],
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let writer = Writer::open(dir.path(), &LogConfig::default()).unwrap();
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
    fn a_container_that_is_gone_does_not_come_back_by_its_log() {
        let dir = tempfile::tempdir().unwrap();
        let gone = dir.path().join("container");
        let mut writer = Writer::open(&gone, &LogConfig::default()).unwrap();
        assert!(writer.note("late").is_err());
        assert!(!gone.exists());
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
        let bytes = fs::OpenOptions::new().append(true).open(log.dir.path().join("0.log"));
        bytes.unwrap().write_all(b"untold\n").unwrap();
        log.writer = Writer::open(log.dir.path(), &LogConfig::default()).unwrap();
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

    #[test]
    fn a_full_log_goes_on_in_a_new_file_and_the_oldest_goes() {
        let mut log = Fixture::new();
        let config = LogConfig { max_size: 100, max_files: 3, ..LogConfig::default() };
        log.writer = Writer::open(log.dir.path(), &config).unwrap();
        for i in 0..100 {
            log.write(false, &format!("line {i:02} be"));
            log.write(false, "gun and ended\n");
        }
        let size: u64 = fs::read_dir(log.dir.path())
            .unwrap()
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|e| e == "log"))
            .map(|entry| entry.metadata().unwrap().len())
            .sum();
        assert!((200..450).contains(&size), "{size}");
        let all = log.read(None);
        assert_eq!(all.last().unwrap(), "out:line 99 begun and ended");
        assert!((8..20).contains(&all.len()), "{all:?}");
        assert_eq!(log.read(Some(6)), all[all.len() - 6..], "across files, and whole");
        log.writer = Writer::open(log.dir.path(), &config).unwrap();
        log.write(false, "after\n");
        assert_eq!(log.read(Some(1)), ["out:after"]);
    }

    #[test]
    fn following_goes_on_across_rotations_and_loses_nothing() {
        let mut log = Fixture::new();
        let config = LogConfig { max_size: 50, max_files: 1000, ..LogConfig::default() };
        log.writer = Writer::open(log.dir.path(), &config).unwrap();
        let dir = log.dir.path().to_owned();
        let reader = thread::spawn(move || {
            let mut bytes = Vec::new();
            follow(&dir, true, &|| false, &mut |record| {
                match record {
                    super::super::RawRecord::Bytes { bytes: more, .. } => bytes.extend(more),
                    super::super::RawRecord::Exited { .. } => return ControlFlow::Break(()),
                }
                ControlFlow::Continue(())
            })
            .unwrap();
            bytes
        });
        let lines: Vec<String> = (0..500).map(|i| format!("line {i}\n")).collect();
        lines.iter().for_each(|line| log.write(false, line));
        log.writer.ended(0, false).unwrap();
        assert_eq!(reader.join().unwrap(), lines.concat().into_bytes());
    }
}
