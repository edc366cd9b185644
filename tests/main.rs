//! The integration tests, in one binary.

mod convergence;
mod convergence_properties;
mod images;
mod network;
mod plan_text;
mod readme;
#[cfg(target_os = "linux")]
mod scenarios;
mod schedule;
mod stage;
mod runtime;
mod tidy;
