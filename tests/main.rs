//! The integration tests, in one binary.

mod network;
mod tidy;
