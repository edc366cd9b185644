//! Who we are to a registry: docker's `config.json`, podman's `auth.json`, credential helpers.

use std::{
    collections::BTreeMap,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use base64::Engine as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::image::{ImageError, layout::read_bounded};

const MAX_FILE: u64 = 4 << 20;
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);

/// What to show to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Password {
        user: String,
        password: String,
    },
    /// Handed to the token server, which gives tokens for it.
    Identity(String),
    /// Shown to the registry as it is.
    Token(String),
}

/// Never shows a secret.
impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::Identity(_) => f.write_str("Identity"),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    creds_store: Option<String>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

/// Looks through the files in order; `None` means anonymous.
pub(super) async fn find(files: &[PathBuf], registry: &str) -> Result<Option<Credentials>, ImageError> {
    for path in files {
        let bytes = match read_bounded(path, MAX_FILE) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(source) => return Err(ImageError::File { what: "read", path: path.clone(), source }),
            Ok(bytes) => bytes,
        };
        let file: File = serde_json::from_slice(&bytes)
            .map_err(|error| ImageError::Invalid(format!("`{}` is malformed: {error}", path.display())))?;
        let entry = file.auths.iter().find(|(key, _)| host_of(key) == registry);
        let helper =
            file.cred_helpers.iter().find(|(key, _)| host_of(key) == registry).map(|(_, helper)| helper);
        if let Some(helper) = helper.or(file.creds_store.as_ref()) {
            // Helpers know a registry by the key it was stored under.
            let key = entry.map_or_else(|| default_key(registry), |(key, _)| key.as_str());
            if let Some(found) = ask_helper(helper, key, path).await? {
                return Ok(Some(found));
            }
        }
        if let Some((key, entry)) = entry
            && let Some(found) = entry.credentials(key, path)?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

impl Entry {
    fn credentials(&self, key: &str, path: &Path) -> Result<Option<Credentials>, ImageError> {
        let set = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = set(&self.registrytoken) {
            return Ok(Some(Credentials::Token(token)));
        }
        if let Some(token) = set(&self.identitytoken) {
            return Ok(Some(Credentials::Identity(token)));
        }
        if let (Some(user), Some(password)) = (set(&self.username), set(&self.password)) {
            return Ok(Some(Credentials::Password { user, password }));
        }
        let Some(auth) = set(&self.auth) else { return Ok(None) };
        let wrong = || {
            ImageError::Invalid(format!(
                "`auth` of `{key}` in `{}` is not `user:password` in base 64",
                path.display()
            ))
        };
        let text = base64::engine::general_purpose::STANDARD.decode(auth.trim()).map_err(|_| wrong())?;
        let text = String::from_utf8(text).map_err(|_| wrong())?;
        let (user, password) = text.trim_end_matches('\0').split_once(':').ok_or_else(wrong)?;
        Ok(Some(Credentials::Password { user: user.to_owned(), password: password.to_owned() }))
    }
}

/// `https://index.docker.io/v1/` is docker.io.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    match rest.split('/').next().unwrap_or_default() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        host => host,
    }
}

fn default_key(registry: &str) -> &str {
    if registry == "docker.io" { "https://index.docker.io/v1/" } else { registry }
}

/// Keeps a login in `file`, or with the helper that it names; returns the helper.
pub(super) async fn keep(
    file: &Path,
    registry: &str,
    user: &str,
    credentials: &Credentials,
) -> Result<Option<String>, ImageError> {
    let mut document = Document::open(file)?;
    let key = document.key(registry);
    let helper = document.helper(registry);
    let encode = |text: String| base64::engine::general_purpose::STANDARD.encode(text);
    let (name, secret) = match credentials {
        Credentials::Password { user, password } => (user.as_str(), password),
        Credentials::Identity(token) | Credentials::Token(token) => ("<token>", token),
    };
    let entry = match (&helper, credentials) {
        // Its key says that the helper is to be asked.
        (Some(_), _) => json!({}),
        (None, Credentials::Identity(token)) => {
            json!({"auth": encode(format!("{user}:")), "identitytoken": token})
        }
        (None, _) => json!({"auth": encode(format!("{user}:{secret}"))}),
    };
    if let Some(helper) = &helper {
        let told = json!({"ServerURL": key, "Username": name, "Secret": secret});
        run_helper(helper, "store", &told.to_string(), file).await?;
    }
    document.set(&key, entry);
    document.write()?;
    Ok(helper)
}

/// Takes a login out of `file`, and of the helper that it names; `false` when there was none.
pub(super) async fn forget(file: &Path, registry: &str) -> Result<bool, ImageError> {
    if !file.exists() {
        return Ok(false);
    }
    let mut document = Document::open(file)?;
    let key = document.key(registry);
    let mut found = false;
    if let Some(helper) = document.helper(registry)
        && ask_helper(&helper, &key, file).await?.is_some()
    {
        run_helper(&helper, "erase", &key, file).await?;
        found = true;
    }
    if document.remove(&key) {
        document.write()?;
        found = true;
    }
    Ok(found)
}

/// A file of logins with all that others keep in it.
struct Document {
    path: PathBuf,
    whole: Value,
}

impl Document {
    fn open(path: &Path) -> Result<Self, ImageError> {
        // It may be a link to where it is really kept.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let whole = match read_bounded(&path, MAX_FILE) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(source) => return Err(ImageError::File { what: "read", path, source }),
            Ok(bytes) if bytes.iter().all(u8::is_ascii_whitespace) => json!({}),
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| malformed(&path, &error))?,
        };
        if !whole.is_object() {
            return Err(malformed(&path, &"it is no object"));
        }
        Ok(Self { path, whole })
    }

    /// As the registry is called here already, or as docker calls it.
    fn key(&self, registry: &str) -> String {
        let known = self.whole.get("auths").and_then(Value::as_object);
        let known = known.and_then(|auths| auths.keys().find(|key| host_of(key) == registry));
        known.cloned().unwrap_or_else(|| default_key(registry).to_owned())
    }

    fn helper(&self, registry: &str) -> Option<String> {
        let helpers = self.whole.get("credHelpers").and_then(Value::as_object);
        let own = helpers.and_then(|helpers| helpers.iter().find(|(key, _)| host_of(key) == registry));
        let helper = own.map(|(_, helper)| helper).or_else(|| self.whole.get("credsStore"));
        helper.and_then(Value::as_str).filter(|helper| !helper.is_empty()).map(str::to_owned)
    }

    fn set(&mut self, key: &str, entry: Value) {
        if !self.whole.get("auths").is_some_and(Value::is_object) {
            self.whole["auths"] = json!({});
        }
        self.whole["auths"][key] = entry;
    }

    fn remove(&mut self, key: &str) -> bool {
        let auths = self.whole.get_mut("auths").and_then(Value::as_object_mut);
        auths.is_some_and(|auths| auths.shift_remove(key).is_some())
    }

    /// Whole or not at all, and for nobody else to read.
    fn write(&self) -> Result<(), ImageError> {
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let write = || -> std::io::Result<()> {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
            // Made with mode 0600.
            let mut file = tempfile::Builder::new().prefix(".config-").tempfile_in(directory)?;
            serde_json::to_writer_pretty(&mut file, &self.whole)?;
            std::io::Write::write_all(&mut file, b"\n")?;
            file.as_file().sync_data()?;
            file.persist(&self.path)?;
            Ok(())
        };
        write().map_err(|source| ImageError::File { what: "write", path: self.path.clone(), source })
    }
}

fn malformed(path: &Path, error: &dyn std::fmt::Display) -> ImageError {
    ImageError::Invalid(format!("`{}` is malformed: {error}", path.display()))
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

async fn ask_helper(name: &str, key: &str, config: &Path) -> Result<Option<Credentials>, ImageError> {
    let Some(said) = run_helper(name, "get", key, config).await? else { return Ok(None) };
    let answer: Answer = serde_json::from_str(&said)
        .map_err(|error| helper_error(name, config, &format!("gave a malformed answer: {error}")))?;
    Ok(Some(if answer.username == "<token>" {
        Credentials::Identity(answer.secret)
    } else {
        Credentials::Password { user: answer.username, password: answer.secret }
    }))
}

fn helper_error(name: &str, config: &Path, what: &str) -> ImageError {
    ImageError::Invalid(format!("credential helper `{name}` (named in `{}`) {what}", config.display()))
}

/// What a helper answers to `action`; `None` when it knows nothing.
async fn run_helper(
    name: &str,
    action: &str,
    told: &str,
    config: &Path,
) -> Result<Option<String>, ImageError> {
    let wrong = |what: String| helper_error(name, config, &what);
    let program = find_helper(name)
        .ok_or_else(|| wrong(format!("is not installed: no docker-credential-{name} in PATH")))?;
    let run = async {
        let mut child = tokio::process::Command::new(&program)
            .arg(action)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            // A helper that does not read has an answer of its own.
            let _ = stdin.write_all(told.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let done = tokio::time::timeout(HELPER_TIMEOUT, run)
        .await
        .map_err(|_| wrong("gave no answer within 30 s".into()))?
        .map_err(|error| wrong(format!("does not start: {error}")))?;
    let said = String::from_utf8_lossy(&done.stdout);
    if done.status.success() {
        return Ok(Some(said.into_owned()));
    }
    if said.contains("credentials not found") {
        return Ok(None);
    }
    let also = String::from_utf8_lossy(&done.stderr);
    Err(wrong(format!("failed: {}{}", said.trim(), also.trim())))
}

/// In PATH, but neither relative to where we are nor where anybody could have put it.
fn find_helper(name: &str) -> Option<PathBuf> {
    if name.is_empty() || name.contains('/') {
        return None;
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|directory| directory.is_absolute())
        .filter(|directory| std::fs::metadata(directory).is_ok_and(|found| found.mode() & 0o002 == 0))
        .map(|directory| directory.join(format!("docker-credential-{name}")))
        .find(|program| {
            std::fs::metadata(program).is_ok_and(|found| found.is_file() && found.mode() & 0o111 != 0)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(config: &str, registry: &str) -> Result<Option<Credentials>, ImageError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, config).unwrap();
        find(&[dir.path().join("missing.json"), path], registry).await
    }

    #[tokio::test]
    async fn every_form_of_an_entry_is_read() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "bWU6c2U6Y3JldA=="},
            "a.test:5000": {"username": "u", "password": "p"},
            "b.test": {"identitytoken": "i", "auth": "PHRva2VuPjo="},
            "http://c.test/v2/": {"registrytoken": "t"},
            "d.test": {}, "e.test": {"auth": "%%%"}}}"#;
        let password = |user: &str, password: &str| {
            Some(Credentials::Password { user: user.into(), password: password.into() })
        };
        assert_eq!(of(config, "docker.io").await.unwrap(), password("me", "se:cret"));
        assert_eq!(of(config, "a.test:5000").await.unwrap(), password("u", "p"));
        assert_eq!(of(config, "b.test").await.unwrap(), Some(Credentials::Identity("i".into())));
        assert_eq!(of(config, "c.test").await.unwrap(), Some(Credentials::Token("t".into())));
        for unknown in ["d.test", "a.test", "index.docker.io.evil"] {
            assert_eq!(of(config, unknown).await.unwrap(), None, "{unknown}");
        }
        let error = of(config, "e.test").await.unwrap_err().to_string();
        assert!(error.contains("e.test") && error.contains("base 64"), "{error}");
    }

    #[tokio::test]
    async fn a_helper_that_is_missing_is_told() {
        let error = of(r#"{"credHelpers": {"a.test": "no-such-helper"}}"#, "a.test").await.unwrap_err();
        assert!(error.to_string().contains("docker-credential-no-such-helper"), "{error}");
        assert_eq!(of(r#"{"credHelpers": {"a.test": "no-such-helper"}}"#, "b.test").await.unwrap(), None);
        assert!(find_helper("../evil").is_none());
    }

    #[test]
    fn secrets_are_not_shown() {
        let shown = format!("{:?}", Credentials::Password { user: "u".into(), password: "hunter2".into() });
        assert!(!shown.contains("hunter2"));
    }
}
