//! The integration tests, in one binary.

mod network;
mod runtime;
mod tidy;
