//! Registries: where an image is asked for, how we show who we are, how bytes come.
//!
//! client.rs speaks the distribution protocol to one endpoint; http.rs carries single requests;
//! auth.rs answers challenges with what creds.rs finds; settings.rs says which endpoints there are.

mod auth;
mod client;
mod creds;
mod download;
mod http;
mod route;
mod settings;
mod tls;

pub(super) use client::{Chunk, Client, Fault};
pub use download::{Download, download};
pub use settings::{Endpoint, Registries};
