//! The only writer to stderr: a live picture on a terminal, lines or JSON elsewhere.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Palette,
    render::{Board, Plain, json_line, json_note},
};
use crate::apply::Event;

/// How progress is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A picture that is drawn over, ten times a second at most.
    Live,
    Plain,
    Json,
    /// Nothing but errors.
    Quiet,
}

/// A picture is drawn this often while something works.
const TICK: Duration = Duration::from_millis(100);

/// The screen of one command. Dropped, it leaves the last picture and the cursor in order.
#[derive(Debug)]
pub struct Screen {
    shared: Arc<Shared>,
    ticker: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug)]
struct State {
    mode: Mode,
    palette: Palette,
    start: Instant,
    plain: Plain,
    board: Board,
    /// Lines of the picture that stand on the terminal now.
    drawn: usize,
    /// The board has something that was not drawn yet.
    active: bool,
    ended: bool,
}

impl Screen {
    #[must_use]
    pub fn new(mode: Mode, palette: Palette) -> Self {
        let state = State {
            mode,
            palette,
            start: Instant::now(),
            plain: Plain::default(),
            board: Board::new(palette),
            drawn: 0,
            active: false,
            ended: false,
        };
        let shared = Arc::new(Shared { state: Mutex::new(state), ended: Condvar::new() });
        let ticker = matches!(mode, Mode::Live | Mode::Plain).then(|| {
            let shared = shared.clone();
            std::thread::spawn(move || shared.tick())
        });
        Self { shared, ticker }
    }

    #[must_use]
    pub fn mode(&self) -> Mode {
        self.shared.lock().mode
    }

    #[must_use]
    pub fn palette(&self) -> Palette {
        self.shared.lock().palette
    }

    pub fn hear(&self, event: &Event) {
        self.shared.lock().hear(event);
    }

    /// A remark that stays, above the picture: `level` is `warning` or `note`.
    pub fn say(&self, level: &str, text: &str) {
        self.shared.lock().say(level, text);
    }

    /// Lets `write` print whole lines above the picture, which is drawn again below them.
    pub fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        self.shared.lock().above(write)
    }

    /// Ends the picture: what stands on the terminal stays there, and the next event begins another.
    pub fn settle(&self) {
        self.shared.lock().settle();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        {
            let mut state = self.shared.lock();
            state.settle();
            state.ended = true;
        }
        self.shared.ended.notify_all();
        if let Some(ticker) = self.ticker.take() {
            // A ticker that panicked has nothing left to tidy up.
            let _ = ticker.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tick(&self) {
        let mut state = self.lock();
        while !state.ended {
            let (next, _) = self.ended.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner);
            state = next;
            if !state.ended {
                state.tick();
            }
        }
    }
}

impl State {
    fn hear(&mut self, event: &Event) {
        match self.mode {
            Mode::Live => {
                self.board.hear(event, self.start.elapsed());
                self.active = true;
            }
            Mode::Plain => {
                for line in self.plain.lines(event, self.start.elapsed()) {
                    write_out(&format!("{line}\n"));
                }
            }
            Mode::Json => {
                if let Some(line) = json_line(event) {
                    write_out(&format!("{line}\n"));
                }
            }
            Mode::Quiet => {}
        }
    }

    fn say(&mut self, level: &str, text: &str) {
        match self.mode {
            Mode::Live | Mode::Plain => {
                let word = match level {
                    "warning" => format!("{} ", self.palette.warn("warning:")),
                    _ => String::new(),
                };
                let above = self.erase();
                write_out(&format!("{above}{word}{text}\n"));
            }
            Mode::Json => write_out(&format!("{}\n", json_note(level, text))),
            Mode::Quiet => {}
        }
    }

    fn above<T>(&mut self, write: impl FnOnce() -> T) -> T {
        if self.drawn == 0 {
            return write();
        }
        write_out(&self.erase());
        let result = write();
        self.draw();
        result
    }

    fn tick(&mut self) {
        match self.mode {
            Mode::Live if self.active => self.draw(),
            Mode::Plain => {
                let lines = self.plain.heartbeat(self.start.elapsed());
                for line in lines {
                    write_out(&format!("{line}\n"));
                }
            }
            _ => {}
        }
    }

    fn draw(&mut self) {
        let (width, height) = size();
        // One line less than the terminal, so that nothing scrolls.
        let frame = self.board.frame(self.start.elapsed(), width, height.saturating_sub(1).max(1));
        let mut text = format!("\x1b[?25l{}", self.erase());
        for line in &frame {
            let _ = writeln!(text, "{line}");
        }
        write_out(&text);
        self.drawn = frame.len();
    }

    fn settle(&mut self) {
        if self.mode != Mode::Live || !self.active {
            return;
        }
        let (width, _) = size();
        let mut text = self.erase();
        for line in self.board.last(self.start.elapsed(), width) {
            let _ = writeln!(text, "{line}");
        }
        text.push_str("\x1b[?25h");
        write_out(&text);
        self.board = Board::new(self.palette);
        self.active = false;
    }

    /// What takes the picture off the terminal again.
    fn erase(&mut self) -> String {
        match std::mem::take(&mut self.drawn) {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }
}

/// Columns and rows of the terminal.
fn size() -> (usize, usize) {
    let (rows, columns) = console::Term::stderr().size();
    (usize::from(columns).max(20), usize::from(rows).max(2))
}

/// Talk that cannot be told is lost; the command goes on.
fn write_out(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
