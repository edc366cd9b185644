//! The integration tests, in one binary.

#![expect(clippy::print_stderr, reason = "a test that cannot run says so aloud")]

mod build;
mod commands;
mod conformance;
mod convergence;
mod convergence_properties;
mod images;
#[cfg(target_os = "linux")]
mod kills;
mod life;
mod network;
#[cfg(target_os = "linux")]
mod oci;
mod plan_text;
mod readme;
mod runtime;
#[cfg(target_os = "linux")]
mod scenarios;
mod schedule;
mod schema;
mod simulated;
mod stage;
mod support;
mod tidy;
mod yaml;
