//! The integration tests, in one binary.

mod readme;
#[cfg(target_os = "linux")]
mod scenarios;
mod tidy;
