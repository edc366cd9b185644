//! Answers to a registry's challenges: a password for it, or a token from the server that it names.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use base64::Engine as _;
use hyper::{
    Method, StatusCode, Uri,
    body::Bytes,
    header::{self, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::{
    creds::{self, Credentials},
    http::{Http, HttpError},
    settings::is_loopback,
};
use crate::image::ImageError;

const MAX_ANSWER: u64 = 1 << 20;

/// What a 401 asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Of the `WWW-Authenticate` headers, the one we know best.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(header::WWW_AUTHENTICATE);
        let known: Vec<_> = values.iter().filter_map(|value| Self::parse(value.to_str().ok()?)).collect();
        let bearer = known.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or(known.first()).cloned()
    }

    /// The registry's reason (RFC 6750 3): `invalid_token`, `insufficient_scope`.
    pub(super) fn reason(headers: &HeaderMap) -> Option<String> {
        let values = headers.get_all(header::WWW_AUTHENTICATE);
        values.iter().find_map(|value| {
            let (_, rest) = value.to_str().ok()?.trim().split_once(' ')?;
            parameters(rest).remove("error").filter(|reason| !reason.contains(char::is_control))
        })
    }

    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut fields = parameters(rest);
        Some(Self::Bearer {
            realm: fields.remove("realm")?,
            service: fields.remove("service"),
            scope: fields.remove("scope"),
        })
    }
}

/// `a="b c",d=e`, with backslashes in quotes.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text;
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let mut value = String::new();
        if let Some(quoted) = after.strip_prefix('"') {
            let mut characters = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, c)) = characters.next() {
                match c {
                    '\\' => value.extend(characters.next().map(|(_, c)| c)),
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    c => value.push(c),
                }
            }
            rest = &quoted[end..];
        } else {
            let end = after.find(',').unwrap_or(after.len());
            after[..end].trim().clone_into(&mut value);
            rest = &after[end..];
        }
        found.insert(key, value);
    }
    found
}

/// Who we are to one registry, and what it gave us for it.
#[derive(Debug)]
pub(super) struct Auth {
    http: Arc<Http>,
    /// The registry's name, as credentials are filed.
    registry: String,
    files: Vec<std::path::PathBuf>,
    credentials: OnceLock<Option<Credentials>>,
    /// The header to send, with a number that grows with each new one. Held while one is fetched, so
    /// that parallel requests fetch one token.
    current: Mutex<(u64, Option<HeaderValue>)>,
}

impl Auth {
    pub(super) fn new(http: Arc<Http>, registry: String, files: Vec<std::path::PathBuf>) -> Self {
        Self { http, registry, files, credentials: OnceLock::new(), current: Mutex::default() }
    }

    /// The header to send now, and its number.
    pub(super) async fn current(&self) -> (u64, Option<HeaderValue>) {
        self.current.lock().await.clone()
    }

    /// Answers the challenge to a request that was sent with header number `sent`. `Ok(false)`: there is
    /// nothing better to send.
    pub(super) async fn answer(
        &self,
        challenge: &Challenge,
        sent: u64,
        secure: bool,
        scope: &str,
    ) -> Result<bool, ImageError> {
        let mut current = self.current.lock().await;
        if current.0 != sent {
            // Somebody else has answered meanwhile.
            return Ok(true);
        }
        let value = match challenge {
            Challenge::Basic => match self.credentials().await? {
                Some(Credentials::Password { user, password }) if current.1.is_none() => {
                    Some(basic(user, password)?)
                }
                Some(Credentials::Token(token)) if current.1.is_none() => Some(bearer(token)?),
                _ => None,
            },
            Challenge::Bearer { realm, service, scope: asked } => {
                let scope = asked.as_deref().unwrap_or(scope);
                Some(self.token(realm, service.as_deref(), scope, secure).await?)
            }
        };
        let Some(value) = value else { return Ok(false) };
        *current = (sent + 1, Some(value));
        Ok(true)
    }

    /// Whether we are anybody in particular here; known once a challenge was answered.
    pub(super) fn is_known(&self) -> bool {
        matches!(self.credentials.get(), Some(Some(_)))
    }

    async fn credentials(&self) -> Result<Option<&Credentials>, ImageError> {
        if self.credentials.get().is_none() {
            let found = creds::find(&self.files, &self.registry).await?;
            let _ = self.credentials.set(found);
        }
        Ok(self.credentials.get().and_then(Option::as_ref))
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        secure: bool,
    ) -> Result<HeaderValue, ImageError> {
        let uri = realm_uri(&self.registry, realm, secure)?;
        let service = service.unwrap_or_default();
        let mut headers = HeaderMap::new();
        let credentials = self.credentials().await?;
        let (method, uri, body) = match credentials {
            Some(Credentials::Token(token)) => return bearer(token),
            Some(Credentials::Identity(token)) => {
                let form = [
                    ("grant_type", "refresh_token"),
                    ("service", service),
                    ("scope", scope),
                    ("client_id", "ficelle"),
                    ("refresh_token", token),
                ];
                headers.insert(
                    header::CONTENT_TYPE,
                    HeaderValue::from_static("application/x-www-form-urlencoded"),
                );
                (Method::POST, uri, query(&form))
            }
            other => {
                if let Some(Credentials::Password { user, password }) = other {
                    headers.insert(header::AUTHORIZATION, basic(user, password)?);
                }
                let joint = if uri.query().is_some() { '&' } else { '?' };
                let asked = format!("{uri}{joint}{}", query(&[("service", service), ("scope", scope)]));
                (Method::GET, asked.parse().map_err(|_| self.wrong(realm))?, String::new())
            }
        };
        let failed = |error: HttpError| ImageError::Unreachable {
            message: format!(
                "cannot reach `{realm}`, which registry {} names for its tokens: {}",
                self.registry,
                error.text()
            ),
            help: Vec::new(),
            source: error.text().into(),
        };
        let response = self.http.send(method, uri, &headers, Bytes::from(body)).await.map_err(failed)?;
        let status = response.status();
        let bytes = self.http.bounded(response, MAX_ANSWER).await.map_err(failed)?;
        if !status.is_success() {
            let who = if self.is_known() { "the stored login is" } else { "an anonymous request is" };
            let denied = status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN;
            return Err(ImageError::Remote {
                message: format!(
                    "{who} refused by `{realm}`, which gives tokens for registry {} ({status})",
                    self.registry
                ),
                help: denied.then(|| login_help(&self.registry)).into_iter().collect(),
            });
        }
        let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| self.wrong(realm))?;
        bearer(&answer.token().ok_or_else(|| self.wrong(realm))?)
    }

    fn wrong(&self, realm: &str) -> ImageError {
        no_token(&self.registry, realm)
    }
}

/// Headers that show who somebody is, and the identity token that stands for the password from now on.
pub(super) struct Proof {
    pub(super) headers: HeaderMap,
    pub(super) identity: Option<String>,
}

/// Shows a password that is to be tried, in the way the registry wants.
pub(super) async fn prove(
    http: &Http,
    registry: &str,
    challenge: &Challenge,
    user: &str,
    password: &str,
    secure: bool,
) -> Result<Proof, ImageError> {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, basic(user, password)?);
    let Challenge::Bearer { realm, service, .. } = challenge else {
        return Ok(Proof { headers, identity: None });
    };
    let uri = realm_uri(registry, realm, secure)?;
    let joint = if uri.query().is_some() { '&' } else { '?' };
    let fields = [
        ("account", user),
        ("client_id", "ficelle"),
        ("offline_token", "true"),
        ("service", service.as_deref().unwrap_or_default()),
    ];
    let uri = format!("{uri}{joint}{}", query(&fields)).parse().map_err(|_| no_token(registry, realm))?;
    let failed = |error: HttpError| ImageError::Unreachable {
        message: format!(
            "cannot reach `{realm}`, which registry {registry} names for its tokens: {}",
            error.text()
        ),
        help: Vec::new(),
        source: error.text().into(),
    };
    let response = http.send(Method::GET, uri, &headers, Bytes::new()).await.map_err(failed)?;
    let status = response.status();
    let bytes = http.bounded(response, MAX_ANSWER).await.map_err(failed)?;
    if !status.is_success() {
        return Err(ImageError::remote(format!(
            "`{realm}`, which gives tokens for registry {registry}, refuses the user name or password ({status})"
        )));
    }
    let answer: Answer = serde_json::from_slice(&bytes).map_err(|_| no_token(registry, realm))?;
    let identity = answer.refresh_token.clone().filter(|token| !token.is_empty());
    headers.insert(header::AUTHORIZATION, bearer(&answer.token().ok_or_else(|| no_token(registry, realm))?)?);
    Ok(Proof { headers, identity })
}

/// What a token server gives.
#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    refresh_token: Option<String>,
}

impl Answer {
    fn token(self) -> Option<String> {
        self.token.filter(|token| !token.is_empty()).or(self.access_token)
    }
}

/// A registry that we reach with TLS must not have our password sent without.
fn realm_uri(registry: &str, realm: &str, secure: bool) -> Result<Uri, ImageError> {
    let uri: Uri = realm.parse().map_err(|_| no_token(registry, realm))?;
    let host = uri.authority().map(ToString::to_string).unwrap_or_default();
    match uri.scheme_str() {
        Some("https") if !host.is_empty() => Ok(uri),
        Some("http") if !secure || is_loopback(&host) => Ok(uri),
        _ => Err(ImageError::remote(format!(
            "registry {registry} wants its token from `{realm}`; nothing is sent there without TLS"
        ))),
    }
}

fn no_token(registry: &str, realm: &str) -> ImageError {
    ImageError::remote(format!("`{realm}` gave no token for registry {registry}"))
}

/// The next move of somebody whose login is not good.
pub(in crate::image) fn login_help(registry: &str) -> String {
    if registry == "docker.io" {
        "log in with `ficelle login`".to_owned()
    } else {
        format!("log in with `ficelle login {registry}`")
    }
}

fn basic(user: &str, password: &str) -> Result<HeaderValue, ImageError> {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    secret(&format!("Basic {text}"))
}

fn bearer(token: &str) -> Result<HeaderValue, ImageError> {
    secret(&format!("Bearer {token}"))
}

fn secret(text: &str) -> Result<HeaderValue, ImageError> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| ImageError::remote("a token holds characters that no header can"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn query(fields: &[(&str, &str)]) -> String {
    let filled = fields.iter().filter(|(_, value)| !value.is_empty());
    filled.map(|(key, value)| format!("{key}={}", escape(value))).collect::<Vec<_>>().join("&")
}

fn escape(text: &str) -> String {
    use std::fmt::Write as _;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |text: &str| match Challenge::parse(text) {
            Some(Challenge::Bearer { realm, service, scope }) => (realm, service, scope),
            other => panic!("{other:?}"),
        };
        assert_eq!(
            bearer(
                r#"Bearer realm="https://auth.test/token",service="registry.test",scope="repository:a/b:pull,push""#
            ),
            (
                "https://auth.test/token".into(),
                Some("registry.test".into()),
                Some("repository:a/b:pull,push".into())
            )
        );
        assert_eq!(
            bearer(r#"bearer  Realm=https://x/t , error="a \"b\"""#),
            ("https://x/t".into(), None, None)
        );
        assert_eq!(Challenge::parse("Basic realm=\"x\""), Some(Challenge::Basic));
        let mut headers = HeaderMap::new();
        assert_eq!(Challenge::reason(&headers), None);
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"x\""));
        let expired = "Bearer realm=\"https://x/t\",error=\"invalid_token\"";
        headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(expired));
        assert_eq!(Challenge::reason(&headers).as_deref(), Some("invalid_token"));
        for bad in ["Bearer", "Bearer service=x", "Digest realm=x", "", "Bearer realm"] {
            assert_eq!(Challenge::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_realm_without_tls_is_refused_for_a_registry_with_it() {
        assert!(realm_uri("r.test", "https://other.test/token", true).is_ok());
        assert!(realm_uri("r.test", "http://other.test/token", false).is_ok());
        let error = realm_uri("r.test", "http://other.test/token", true).unwrap_err().to_string();
        assert!(error.contains("r.test") && error.contains("without TLS"), "{error}");
        assert!(realm_uri("r.test", "/token", true).is_err());
    }
}
