//! The integration tests, in one binary.

mod images;
mod tidy;
