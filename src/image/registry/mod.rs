//! Registries: where an image is asked for, how we show who we are, how bytes come.
//!
//! client.rs speaks the distribution protocol to one endpoint; http.rs carries single requests;
//! auth.rs answers challenges with what creds.rs finds; settings.rs says which endpoints there are.

mod auth;
mod client;
mod creds;
mod download;
mod http;
mod login;
mod patience;
mod route;
mod settings;
mod tls;
mod upload;

pub(super) use auth::login_help;
pub(super) use client::{Access, Chunk, Client, Fault, Wording};
pub use download::{Download, download};
pub use login::{LoggedIn, log_in, log_out};
pub use settings::{Endpoint, Registries};
pub(super) use upload::{Sent, Upload};
