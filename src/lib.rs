//! Ficelle composes containers: a Compose file goes in, linked services come out running, and the
//! container runtime is inside the program.
//!
//! # The way of an `up`
//!
//! ```text
//! cli        what was typed becomes a Goal
//! session    the corridor, in this order:
//!   load       text -> Project, every value with its place; all mistakes at once
//!   engine     observe -> Observed, a snapshot
//!   plan       (Project, Goal, Observed) -> Plan: steps, their needs, their causes; pure
//!   apply      Schedule says which steps may start; the engine performs them; Events tell of it
//! ui         Events -> lines
//! ```
//!
//! Images take the corridor once before the rest, since whether a container must be recreated
//! depends on the digest of its image.
//!
//! # The rooms
//!
//! | room | what it knows | what it does not |
//! |---|---|---|
//! | [`model`] | the nouns: project, service, container specification, graph | I/O, engines |
//! | [`load`] | files, variables, merging, every rule of the Compose language | engines |
//! | [`engine`] | the contract: [`engine::Engine`], [`engine::Op`], [`engine::Observed`] | any engine |
//! | [`plan`] | what to do and why | clocks, files, which engine it is |
//! | [`apply`] | in which order, side by side | what the operations do |
//! | [`engines`] | how each operation is done: embedded, simulated | goals |
//! | [`image`] | content: registries, archives, layers | containers |
//! | [`build`] | Dockerfiles, caches | Compose |
//! | [`runtime`] | one container, its network and its disk | Compose, images |
//! | [`git`] | bringing a repository's files, for files and for builds | what they are for |
//! | [`session`] | the order of the corridor | what is printed |
//! | [`ui`], [`cli`] | people | decisions |
//!
//! Imports go downward only; `tests/tidy.rs` holds the table and reads every file against it.
//!
//! # What always holds
//!
//! - A plan is a value. What it prints is what happens; nothing is decided while it is carried out.
//! - Killed at any instruction, the next command converges. State files are renamed into place;
//!   locks are the kernel's and die with their holder.
//! - A key of the file that the engine cannot honour is an error with its place, never ignored.
//! - Waits are events. When the last container of a project ends, no process of ours is left.
//!
//! # An ordinary user
//!
//! The command enters a user namespace of the state tree before it has a second thread
//! ([`runtime::rootless`]); keeper, workers, supervisor, layers and builds behind it are root's code
//! unchanged. Where the kernel differs, [`runtime::rootless::is_confined`] is asked: overlays keep their
//! marks in `user.` attributes, nobody comes back into the host's network namespace (a thread goes and
//! ends), and control groups are a scope of systemd's or none.
//!
//! # Absent on purpose
//!
//! A daemon, a second runtime binary, a database. The host's firewall is touched for one thing only:
//! while containers run, a table that the kernel drops with its owner lets their networks out.

pub mod apply;
pub mod build;
pub mod cli;
pub mod engine;
pub mod engines;
pub mod git;
pub mod image;
pub mod load;
pub mod model;
pub mod plan;
pub mod runtime;
pub mod session;
pub mod ui;
