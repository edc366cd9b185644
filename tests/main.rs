//! The integration tests, in one binary.

mod network;
mod images;
mod tidy;
