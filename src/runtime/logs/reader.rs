//! Reading a log: from its beginning or its last lines, to its end or on as it grows.

use std::{
    collections::VecDeque,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

use super::{
    super::{LogRecord, LogRequest, RawRecord, Result},
    entry::{Entry, Kind},
    lines::Lines,
    segment::{Segment, numbers},
    watch::Watch,
};

/// A place in a log: the next entry of a segment.
#[derive(Debug)]
struct Reader {
    dir: PathBuf,
    segment: Option<Segment>,
    next: u64,
    /// Of the entry that was read last.
    last: Option<Kind>,
}

impl Reader {
    /// Before everything there is.
    fn at_start(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), segment: None, next: 0, last: None }
    }

    /// After everything there is now.
    fn at_end(dir: &Path) -> Result<Self> {
        let mut reader = Self::at_start(dir);
        if let Some(&number) = numbers(dir)?.last() {
            reader.segment = Segment::open(dir, number)?;
        }
        if let Some(segment) = &reader.segment {
            reader.next = segment.entries()?;
            if let Some(last) = reader.next.checked_sub(1) {
                reader.last = Some(segment.entry(last)?.kind);
            }
        }
        Ok(reader)
    }

    /// Where the last `count` lines begin, or before.
    fn at_tail(dir: &Path, count: usize) -> Result<Self> {
        let mut reader = Self::at_start(dir);
        let mut found = 0;
        for number in numbers(dir)?.into_iter().rev() {
            let Some(segment) = Segment::open(dir, number)? else { break };
            let (start, lines) = segment.start_of_tail(count.saturating_sub(found))?;
            found += lines;
            (reader.next, reader.segment) = (start, Some(segment));
            if start > 0 {
                break;
            }
        }
        Ok(reader)
    }

    /// The next entry there is.
    fn read(&mut self) -> Result<Option<(&Segment, Entry)>> {
        loop {
            let after = match &self.segment {
                Some(segment) if self.next < segment.entries()? => break,
                Some(segment) => segment.number + 1,
                None => 0,
            };
            let Some(number) = numbers(&self.dir)?.into_iter().find(|number| *number >= after) else {
                return Ok(None);
            };
            // It was completed before the later one began: once more.
            if let Some(segment) = &self.segment
                && self.next < segment.entries()?
            {
                break;
            }
            if let Some(segment) = Segment::open(&self.dir, number)? {
                (self.segment, self.next) = (Some(segment), 0);
            }
        }
        let Some(segment) = &self.segment else { return Ok(None) };
        let entry = segment.entry(self.next)?;
        self.next += 1;
        self.last = Some(entry.kind);
        Ok(Some((segment, entry)))
    }

    /// Passes on what there is. With `follow`, goes on until the container has ended for good: the last
    /// note says so, or there is none and `alive` is false.
    fn pass_on(
        &mut self,
        watch: Option<&Watch>,
        alive: &dyn Fn() -> bool,
        each: &mut dyn FnMut(&Segment, Entry) -> Result<ControlFlow<()>>,
    ) -> Result<ControlFlow<()>> {
        loop {
            while let Some((segment, entry)) = self.read()? {
                if each(segment, entry)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            }
            let Some(watch) = watch else { return Ok(ControlFlow::Continue(())) };
            // The note is the last thing written; where nobody is left to write it, silence has to do.
            let over = self.last == Some(Kind::Ended) && !alive();
            if over || !watch.wait()? && !alive() {
                return Ok(ControlFlow::Continue(()));
            }
        }
    }
}

/// Gives out the log below `dir`, line by line.
pub fn read(
    dir: &Path,
    request: &LogRequest,
    alive: &dyn Fn() -> bool,
    sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
) -> Result<()> {
    let watch = if request.follow { Some(Watch::on(dir)?) } else { None };
    let mut lines = Lines::default();
    let reader = match request.tail {
        None => Some(Reader::at_start(dir)),
        Some(count) => tail(dir, count, request, &mut lines, sink)?,
    };
    let Some(mut reader) = reader else { return Ok(()) };
    let mut sink = |record| if wanted(&record, request) { sink(record) } else { ControlFlow::Continue(()) };
    let flow = reader.pass_on(watch.as_ref(), alive, &mut |segment, entry| {
        decode(segment, entry, request, &mut lines, &mut sink)
    })?;
    if flow.is_continue() {
        let _ = lines.flush(&mut sink);
    }
    Ok(())
}

/// Gives out the last `count` lines there are now; the place after them, unless nobody wants more.
fn tail(
    dir: &Path,
    count: usize,
    request: &LogRequest,
    lines: &mut Lines,
    sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
) -> Result<Option<Reader>> {
    let mut reader = Reader::at_tail(dir, count)?;
    // A writer that is faster than we are must not keep us here.
    let end = Reader::at_end(dir)?;
    let end = (end.segment.map_or(0, |segment| segment.number), end.next);
    let mut kept = VecDeque::new();
    let mut held = 0;
    let mut keep = |record: LogRecord| {
        if wanted(&record, request) {
            held += usize::from(matches!(record, LogRecord::Line { .. }));
            kept.push_back(record);
            while held > count {
                held -= usize::from(matches!(kept.pop_front(), Some(LogRecord::Line { .. })));
            }
        }
        ControlFlow::Continue(())
    };
    while reader.segment.as_ref().map_or((0, 0), |segment| (segment.number, reader.next)) < end {
        let Some((segment, entry)) = reader.read()? else { break };
        let _ = decode(segment, entry, request, lines, &mut keep)?;
    }
    if !request.follow {
        let _ = lines.flush(&mut keep);
    }
    Ok(kept.into_iter().try_for_each(&mut *sink).is_continue().then_some(reader))
}

fn decode(
    segment: &Segment,
    entry: Entry,
    request: &LogRequest,
    lines: &mut Lines,
    sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
) -> Result<ControlFlow<()>> {
    if entry.is_text() {
        return Ok(lines.feed(entry.kind == Kind::Stderr, entry.time(), &segment.text(entry)?, sink));
    }
    // It tells of an end before the times asked for.
    if request.since.is_some_and(|since| entry.time() < since) {
        return Ok(ControlFlow::Continue(()));
    }
    if lines.flush(sink).is_break() {
        return Ok(ControlFlow::Break(()));
    }
    Ok(sink(LogRecord::Exited { exit: entry.length.cast_signed(), restarting: entry.kind == Kind::Restarts }))
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

/// Gives out what is written from now on (with `from_start`, from the beginning), byte by byte as it
/// was, until the container has ended for good.
pub fn follow(
    dir: &Path,
    from_start: bool,
    alive: &dyn Fn() -> bool,
    sink: &mut dyn FnMut(RawRecord) -> ControlFlow<()>,
) -> Result<()> {
    let watch = Watch::on(dir)?;
    let mut reader = if from_start { Reader::at_start(dir) } else { Reader::at_end(dir)? };
    let flow = reader.pass_on(Some(&watch), alive, &mut |segment, entry| {
        Ok(sink(if entry.is_text() {
            RawRecord::Bytes { stderr: entry.kind == Kind::Stderr, bytes: segment.text(entry)? }
        } else {
            RawRecord::Exited { exit: entry.length.cast_signed(), restarting: entry.kind == Kind::Restarts }
        }))
    });
    flow.map(drop)
}
