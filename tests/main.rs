//! The integration tests, in one binary.

mod build;
mod images;
mod runtime;
mod tidy;
