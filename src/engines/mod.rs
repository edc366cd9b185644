//! Room.

pub mod simulated;
