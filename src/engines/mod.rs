//! The ways of running containers. Only `connect` knows them all.

pub mod connect;
pub mod embedded;
mod provider;
pub mod published;
pub mod simulated;
