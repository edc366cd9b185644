//! The terminal of whoever types: its size, its raw mode, the keys that leave a program running.

use std::io::IsTerminal as _;

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::session::Size;

/// Whether a program that talks with us should have a terminal: both ends are one.
pub(super) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

pub(super) fn size() -> Option<Size> {
    let size = tcgetwinsize(rustix::stdio::stdout()).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some(Size { rows: size.ws_row, columns: size.ws_col })
}

/// The terminal passes every key on; dropped, it is as before.
pub(super) struct Raw(Termios);

impl Raw {
    /// `None` where standard input is no terminal.
    pub(super) fn enter() -> Option<Self> {
        let before = tcgetattr(rustix::stdio::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Drain: what the program wrote last is shown as it was meant.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Keys that, typed one after the other, leave the program running (`ctrl-p,ctrl-q`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed last.
    typed: usize,
}

impl Default for DetachKeys {
    fn default() -> Self {
        Self { keys: vec![16, 17], typed: 0 }
    }
}

impl std::str::FromStr for DetachKeys {
    type Err = String;

    /// Letters and `ctrl-` with `a`-`z`, `@`, `[`, `\\`, `]`, `^` or `_`, with commas between.
    fn from_str(text: &str) -> Result<Self, String> {
        let key = |name: &str| match name.strip_prefix("ctrl-").map(str::as_bytes) {
            Some([letter @ b'a'..=b'z']) => Ok(letter - b'a' + 1),
            Some([b'@']) => Ok(0),
            Some([sign @ b'['..=b'_']) => Ok(sign - b'[' + 27),
            None if name.len() == 1 => Ok(name.as_bytes()[0]),
            _ => Err(format!("`{name}` is no key: expected a character, or `ctrl-` and a letter")),
        };
        let keys: Vec<u8> = text.split(',').map(key).collect::<Result<_, _>>()?;
        Ok(Self { keys, typed: 0 })
    }
}

impl DetachKeys {
    /// What of the typed bytes the program gets; `true` when the keys are complete. Keys that turned
    /// out to be something else are passed on late.
    pub(super) fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let mut passed = Vec::with_capacity(typed.len());
        for &byte in typed {
            if self.keys.get(self.typed) == Some(&byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(self.keys.get(..self.typed).unwrap_or_default());
            self.typed = usize::from(self.keys.first() == Some(&byte));
            if self.typed == 0 {
                passed.push(byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_held_back_until_they_are_something_else() {
        let mut keys = DetachKeys::default();
        assert_eq!(keys.filter(b"ab"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(&[b'a', 16]), (b"a".to_vec(), false));
        assert_eq!(keys.filter(b"x"), (vec![16, b'x'], false));
        assert_eq!(keys.filter(&[16, 16, 17, b'z']), (vec![16], true));
    }

    #[test]
    fn keys_are_read_by_name() {
        let keys = |text: &str| text.parse::<DetachKeys>().map(|keys| keys.keys);
        assert_eq!(keys("ctrl-p,ctrl-q"), Ok(vec![16, 17]));
        assert_eq!(keys("a,ctrl-@,ctrl-["), Ok(vec![b'a', 0, 27]));
        assert!(keys("ctrl-").is_err());
        assert!(keys("meta-x").is_err());
    }
}
