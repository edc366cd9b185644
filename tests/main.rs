//! The integration tests, in one binary.

mod runtime;
mod tidy;
