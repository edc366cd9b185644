//! A plan: steps, what each needs, and why each is there.

use std::fmt;

use crate::{
    engine::{HookAt, Op},
    model::Place,
};

/// The number of a step in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepId(pub usize);

/// Steps in an order that respects their needs. Empty: nothing to do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// What the user should know and nothing is done about (orphans kept, a shared volume).
    pub notes: Vec<String>,
    /// Containers that are already as they should be, by name.
    pub unchanged: Vec<String>,
}

/// One operation, when it may begin and why it is there.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub op: Op,
    /// Steps that must be done before; all come earlier in the plan.
    pub needs: Vec<StepId>,
    pub cause: Cause,
    /// When it fails this is told, and those that need it go on all the same
    /// (`depends_on.required: false`).
    pub optional: bool,
}

impl Step {
    /// Whether the command has failed when this step has: what a `pre_stop` fails at keeps nothing from
    /// ending, and is told all the same.
    #[must_use]
    pub fn must_succeed(&self) -> bool {
        !self.optional || matches!(self.op, Op::Hook(_))
    }
}

/// Why a step is there.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// It should exist and does not.
    Missing,
    /// The configuration differs from what the container was made with.
    Changed(Vec<FieldChange>),
    /// The image's content differs from what the container was made from.
    ImageChanged { image: String },
    /// The user asked for it (`--force-recreate`, `--build`, `restart`, `pull`, ...).
    Asked(&'static str),
    /// A service or network it depends on is replaced or restarted.
    Dependency { on: String },
    /// These services start only after it.
    Needed { by: Vec<String> },
    /// The container asks for it when it has been started, or before it is stopped.
    Hook(HookAt),
    /// A step before it made the container.
    New,
    /// It is there, and does not run.
    NotRunning,
    /// More replicas than wanted.
    Surplus,
    /// Its service is no longer in the files.
    Orphan,
    /// A step before it took its place.
    Replaced,
    /// The goal is that it is gone, or stops.
    Goal,
    /// What an interrupted command left half done.
    Interrupted,
}

/// One difference between the container that is there and the one the file asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    /// Model path of the value: `services.web.environment.DEBUG`.
    pub path: String,
    /// As short text; absent when it was not there.
    pub from: Option<String>,
    pub to: Option<String>,
    /// Where the new value (or what contains it) is written.
    pub place: Option<Place>,
}

/// One line for each step, `operation (cause)`, in an order in which they could be done one by one;
/// the fields that changed stand indented below; then what stays as it is, then notes.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            writeln!(f, "nothing to do")?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))?;
        self.unchanged.iter().try_for_each(|name| writeln!(f, "unchanged: container {name}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let optional = if self.optional { ", may fail" } else { "" };
        write!(f, "{} ({}{optional})", self.op, self.cause)?;
        match &self.cause {
            Cause::Changed(fields) => fields.iter().try_for_each(|field| write!(f, "\n    {field}")),
            _ => Ok(()),
        }
    }
}

/// A few words that fit in brackets after the operation.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("missing"),
            Self::Changed(_) => f.write_str("changed"),
            Self::ImageChanged { image } => write!(f, "image {image} changed"),
            Self::Asked(what) => write!(f, "asked by {what}"),
            Self::Dependency { on } => write!(f, "because of {on}"),
            Self::Needed { by } => write!(f, "needed by {}", by.join(", ")),
            Self::Hook(HookAt::PreStart) => f.write_str("before its start"),
            Self::Hook(HookAt::PostStart) => f.write_str("after its start"),
            Self::Hook(HookAt::PreStop) => f.write_str("before its stop"),
            Self::New => f.write_str("new"),
            Self::NotRunning => f.write_str("not running"),
            Self::Surplus => f.write_str("more than wanted"),
            Self::Orphan => f.write_str("its service is not in the files"),
            Self::Replaced => f.write_str("replaced"),
            Self::Goal => f.write_str("asked for"),
            Self::Interrupted => f.write_str("left by an interrupted command"),
        }
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = "(none)";
        let from = self.from.as_deref().unwrap_or(none);
        let to = self.to.as_deref().unwrap_or(none);
        write!(f, "{}: {from} -> {to}", self.path)?;
        self.place.as_ref().map_or(Ok(()), |place| write!(f, " ({place})"))
    }
}
