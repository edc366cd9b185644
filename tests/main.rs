//! The integration tests, in one binary.

mod build;
mod commands;
mod convergence;
mod convergence_properties;
mod images;
mod network;
mod plan_text;
mod runtime;
mod schedule;
mod simulated;
mod stage;
mod support;
mod tidy;
