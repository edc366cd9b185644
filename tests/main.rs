//! The integration tests, in one binary.

mod network;
mod images;
mod convergence;
mod convergence_properties;
mod plan_text;
mod schedule;
mod stage;
mod readme;
#[cfg(target_os = "linux")]
mod scenarios;
mod tidy;
