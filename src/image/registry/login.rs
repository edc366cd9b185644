//! `login` and `logout`: a password is tried, then kept where docker and podman look for it.

use std::{path::PathBuf, sync::Arc};

use hyper::{Method, StatusCode, body::Bytes, header::HeaderMap};

use super::{
    auth::{Challenge, prove},
    client::{Access, Client, Fault},
    creds::{self, Credentials},
    settings::Registries,
};
use crate::{image::ImageError, model::ImageRef};

/// How a login was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// The file that tells of it.
    pub file: PathBuf,
    /// The credential helper that keeps the secret; none means that the file does, unencrypted.
    pub helper: Option<String>,
}

/// Tries the password at the registry (`docker.io`, `host[:port]`), and keeps it when it is right. A
/// registry that gives an identity token has that kept in its place.
pub async fn log_in(
    settings: &Registries,
    registry: &str,
    user: &str,
    password: &str,
) -> Result<LoggedIn, ImageError> {
    let file = settings.credentials.first().ok_or_else(|| {
        ImageError::Invalid("there is no place to keep a login: neither HOME nor DOCKER_CONFIG is set".into())
    })?;
    let endpoint = settings.home(registry);
    let image =
        ImageRef { registry: registry.to_owned(), repository: String::new(), tag: None, digest: None };
    let client = Client::open(settings, &endpoint, &image, Access::Pull).await;
    let client = client.map_err(|fault| unreachable(registry, fault))?;
    let mut kept = Credentials::Password { user: user.to_owned(), password: password.to_owned() };
    let uri = client.uri("/v2/").map_err(|fault| unreachable(registry, fault))?;
    let http = Arc::clone(client.http());
    let ask = |headers: HeaderMap| {
        let (http, uri) = (&http, uri.clone());
        async move { http.send(Method::GET, uri, &headers, Bytes::new()).await }
    };
    let failed = |error: super::http::HttpError| unreachable(registry, Fault::Unreachable(error.text()));
    let first = ask(HeaderMap::new()).await.map_err(failed)?;
    if first.status() == StatusCode::UNAUTHORIZED {
        let challenge = Challenge::read(first.headers()).ok_or_else(|| {
            ImageError::remote(format!("registry {registry} asks for a login of a kind that is not known"))
        })?;
        let secure = uri.scheme_str() == Some("https");
        let proof = prove(&http, registry, &challenge, user, password, secure).await?;
        let second = ask(proof.headers).await.map_err(failed)?;
        if second.status() == StatusCode::UNAUTHORIZED || second.status() == StatusCode::FORBIDDEN {
            return Err(ImageError::remote(format!(
                "registry {registry} refuses the user name or password ({})",
                second.status()
            )));
        }
        refused(registry, second.status())?;
        kept = proof.identity.map_or(kept, Credentials::Identity);
    } else {
        refused(registry, first.status())?;
    }
    let helper = creds::keep(file, registry, user, &kept).await?;
    Ok(LoggedIn { file: file.clone(), helper })
}

fn refused(registry: &str, status: StatusCode) -> Result<(), ImageError> {
    if status.is_success() {
        return Ok(());
    }
    Err(ImageError::remote(format!("registry {registry} answers {status}; it is no registry, or it is ill")))
}

/// Forgets the logins at the registry, in every file that tells of one; returns those files.
pub async fn log_out(settings: &Registries, registry: &str) -> Result<Vec<PathBuf>, ImageError> {
    let mut changed = Vec::new();
    for file in &settings.credentials {
        if creds::forget(file, registry).await? {
            changed.push(file.clone());
        }
    }
    Ok(changed)
}

fn unreachable(registry: &str, fault: Fault) -> ImageError {
    let why = match fault {
        Fault::Wrong(error) => return error,
        Fault::Unreachable(why) | Fault::Missing(why) | Fault::Denied(why) => why,
    };
    ImageError::Unreachable {
        message: format!("registry {registry} is not reachable: {why}"),
        help: vec!["check its name; a registry without TLS stands in FICELLE_INSECURE_REGISTRIES".to_owned()],
        source: why.into(),
    }
}
