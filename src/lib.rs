//! Ficelle composes containers.

pub mod apply;
pub mod build;
pub mod cli;
pub mod engine;
pub mod engines;
pub mod image;
pub mod load;
pub mod model;
pub mod plan;
pub mod runtime;
pub mod session;
pub mod ui;
