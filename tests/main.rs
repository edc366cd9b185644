//! The integration tests, in one binary.

mod convergence;
mod stage;
mod tidy;
