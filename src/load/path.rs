//! The way to a value while walking a tree: a chain on the stack, a text only when somebody asks.

use std::fmt;

/// A model path such as `services.web.ports[1]`.
#[derive(Clone, Copy, Debug)]
pub enum Path<'a> {
    Root,
    Key(&'a Self, &'a str),
    Item(&'a Self, usize),
}

impl<'a> Path<'a> {
    #[must_use]
    pub const fn key(&'a self, key: &'a str) -> Self {
        Self::Key(self, key)
    }

    #[must_use]
    pub const fn item(&'a self, at: usize) -> Self {
        Self::Item(self, at)
    }

    /// The last key of the path, `value` for the root.
    #[must_use]
    pub const fn name(&self) -> &'a str {
        match self {
            Self::Root => "value",
            Self::Key(_, key) => key,
            Self::Item(inside, _) => inside.name(),
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(inside, key) => write!(f, "{inside}.{key}"),
            Self::Item(inside, at) => write!(f, "{inside}[{at}]"),
        }
    }
}
