//! The integration tests, in one binary.

mod convergence;
mod images;
mod convergence_properties;
mod plan_text;
mod schedule;
mod simulated;
mod stage;
mod network;
mod build;
mod images;
mod runtime;
mod tidy;
