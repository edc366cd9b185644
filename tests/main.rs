//! The integration tests, in one binary.

mod build;
mod images;
mod network;
mod runtime;
mod tidy;
