//! The integration tests, in one binary.

mod images;
mod runtime;
mod tidy;
