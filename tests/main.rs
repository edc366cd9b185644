//! The integration tests, in one binary.

mod convergence;
mod images;
mod stage;
mod tidy;
