//! The integration tests, in one binary.

#![expect(clippy::print_stderr, reason = "a test that cannot run says so aloud")]

#[cfg(target_os = "linux")]
mod attributes;
mod build;
mod commands;
mod conformance;
mod contract;
mod convergence;
mod convergence_properties;
#[cfg(target_os = "linux")]
mod cve;
mod faults;
mod hooks;
mod hostile;
mod images;
#[cfg(target_os = "linux")]
mod kills;
mod life;
mod network;
#[cfg(target_os = "linux")]
mod oci;
mod plan_text;
#[cfg(target_os = "linux")]
mod providers;
mod readme;
#[cfg(target_os = "linux")]
mod remote;
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
