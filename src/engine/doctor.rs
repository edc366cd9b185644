//! Whether a machine can do what an engine needs.

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `cgroups`, `disk`.
    pub name: &'static str,
    pub verdict: Verdict,
    /// What was found, in a few words.
    pub text: String,
    /// The command or step that mends it.
    pub fix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    Pass,
    /// Something will not work, or not well.
    Warn,
    /// Containers cannot be run.
    Fail,
}

impl Verdict {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Warn => "warn",
            Self::Fail => "fail",
        }
    }
}
