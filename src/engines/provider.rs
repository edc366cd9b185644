//! Asks the program behind a `provider:` service for it, or to take it back. What is said between them is in
//! `docs/extension.md` of docker compose: `PROGRAM compose --project-name=P up|down|stop --OPTION=VALUE SERVICE`,
//! and a JSON object on each line of its standard output.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use serde::Deserialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::{
    engine::{Detail, EngineError, ErrorKind, Outcome, Progress, ProviderAct, ProviderRequest},
    model::Provider,
};

/// Where the plugins of the docker command are, beside the user's own.
const PLUGINS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// Of what it says on standard error, as much is shown with a failure.
const LAST_BYTES: usize = 2048;

/// Carries out one act, to the end of the program. It is ended when this is dropped.
///
/// # Errors
/// No such program, an error that it told, an end with another code than 0, or words that are none of the protocol.
pub async fn run(request: &ProviderRequest, progress: Arc<dyn Progress>) -> Result<Outcome, EngineError> {
    let program = find(request)?;
    let metadata = metadata(&program, request).await;
    let Some(flags) = flags(request, &metadata)? else {
        return Ok(Outcome { unchanged: true, ..Outcome::default() });
    };
    let verb = request.act.verb();
    let mut child = command(&program, request)
        .arg(format!("--project-name={}", request.project))
        .arg(verb)
        .args(flags)
        .arg(&request.service)
        .stdin(Stdio::piped())
        .spawn()
        .map_err(|error| failed(request).caused_by(&error))?;
    let stderr = child.stderr.take();
    let said = tokio::spawn(async move {
        let mut text = Vec::new();
        if let Some(mut stderr) = stderr {
            // What cannot be read is not shown; the code tells of the failure.
            let _ = stderr.read_to_end(&mut text).await;
        }
        text
    });
    let heard = hear(&mut child, request, &*progress).await;
    let variables = match heard {
        Ok(variables) => variables,
        Err(error) => {
            let _ = child.kill().await;
            return Err(error);
        }
    };
    let status = child.wait().await.map_err(|error| failed(request).caused_by(&error))?;
    if !status.success() {
        let mut error = failed(request);
        error.causes.push(format!("`{}` ended with {status}", program.display()));
        let text = said.await.unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(LAST_BYTES)..]).trim().to_owned();
        if !text.is_empty() {
            error.facts.push(format!("it said last:\n{text}"));
        }
        return Err(error);
    }
    Ok(Outcome { variables, ..Outcome::default() })
}

fn failed(request: &ProviderRequest) -> EngineError {
    let ProviderRequest { service, act, .. } = request;
    let what = match act {
        ProviderAct::Up => "created",
        ProviderAct::Down => "removed",
        ProviderAct::Stop => "stopped",
    };
    EngineError::new(ErrorKind::Dependency, format!("service `{service}` cannot be {what} by its provider"))
        .at(format!("services.{service}.provider"))
}

/// The plugin `docker-TYPE`, else the program TYPE on the search path.
fn find(request: &ProviderRequest) -> Result<PathBuf, EngineError> {
    let kind = &request.provider.kind;
    let at = format!("services.{}.provider.type", request.service);
    if kind == "compose" {
        let message = "`compose` is no provider: it would call itself";
        return Err(EngineError::new(ErrorKind::Invalid, message).at(at));
    }
    if kind.contains('/') {
        return Ok(request.root.join(kind));
    }
    let own = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from).or_else(|| {
        let home = std::env::var_os("HOME")?;
        Some(Path::new(&home).join(".docker"))
    });
    let plugins = own.map(|own| own.join("cli-plugins")).into_iter().chain(PLUGINS.map(PathBuf::from));
    let plugins = plugins.map(|directory| directory.join(format!("docker-{kind}")));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let programs = std::env::split_paths(&path).map(|directory| directory.join(kind));
    plugins.chain(programs).find(|file| is_program(file)).ok_or_else(|| {
        EngineError::new(ErrorKind::NotFound, format!("there is no provider `{kind}`"))
            .at(at)
            .help(format!("install the plugin `docker-{kind}`, or a program `{kind}` on the search path"))
    })
}

fn is_program(file: &Path) -> bool {
    file.is_file() && rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

fn command(program: &Path, request: &ProviderRequest) -> Command {
    let mut command = Command::new(program);
    command
        .arg("compose")
        .envs(&request.provider.environment)
        .current_dir(if request.root.is_dir() { request.root.as_path() } else { Path::new("/") })
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What a provider says about its flags; nothing when it does not know the word.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Metadata {
    description: String,
    up: Flags,
    down: Flags,
    stop: Option<Flags>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Flags {
    parameters: Option<Vec<Parameter>>,
}

#[derive(Deserialize)]
struct Parameter {
    name: String,
    #[serde(default)]
    required: bool,
}

async fn metadata(program: &Path, request: &ProviderRequest) -> Metadata {
    let output = command(program, request).arg("metadata").output().await;
    let output = output.ok().filter(|output| output.status.success());
    output.and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default()
}

/// The options as flags, those alone that the provider names; `None` when it has no such act.
fn flags(request: &ProviderRequest, metadata: &Metadata) -> Result<Option<Vec<String>>, EngineError> {
    let Provider { kind, options, .. } = &request.provider;
    let of_act = match request.act {
        ProviderAct::Up => &metadata.up,
        ProviderAct::Down => &metadata.down,
        ProviderAct::Stop => match &metadata.stop {
            Some(stop) => stop,
            None => return Ok(None),
        },
    };
    let silent = metadata.description.is_empty()
        && metadata.up.parameters.is_none()
        && metadata.down.parameters.is_none();
    let known = of_act.parameters.as_deref().unwrap_or_default();
    if let Some(missing) =
        known.iter().find(|flag| flag.required && !silent && !options.contains_key(&flag.name))
    {
        let message = format!("the provider `{kind}` needs the option `{}`", missing.name);
        return Err(EngineError::new(ErrorKind::Invalid, message)
            .at(format!("services.{}.provider.options", request.service)));
    }
    let wanted = options.iter().filter(|(name, _)| silent || known.iter().any(|flag| flag.name == **name));
    Ok(Some(
        wanted
            .flat_map(|(name, values)| values.iter().map(move |value| format!("--{name}={value}")))
            .collect(),
    ))
}

/// A line of its standard output.
#[derive(Deserialize)]
struct Message {
    r#type: String,
    #[serde(default)]
    message: String,
}

/// Listens to its last word; the variables that it sets, under the names that dependents see.
async fn hear(
    child: &mut Child,
    request: &ProviderRequest,
    progress: &dyn Progress,
) -> Result<Vec<(String, String)>, EngineError> {
    let mut variables = BTreeMap::new();
    let mut stdin = child.stdin.take();
    let Some(stdout) = child.stdout.take() else { return Ok(Vec::new()) };
    let mut lines = BufReader::new(stdout).lines();
    let garbled = |line: &str| {
        let mut error = failed(request);
        error.causes.push(format!("it said `{line}`, which is no message of a provider"));
        error
    };
    while let Some(line) = lines.next_line().await.map_err(|error| failed(request).caused_by(&error))? {
        if line.trim().is_empty() {
            continue;
        }
        let Message { r#type: kind, message } = serde_json::from_str(&line).map_err(|_| garbled(&line))?;
        match kind.as_str() {
            "info" => progress.report(Detail::Doing(first_line(&message))),
            "error" => {
                let mut error = failed(request);
                error.causes.push(message);
                return Err(error);
            }
            "setenv" | "rawsetenv" => {
                let (name, value) = message.split_once('=').ok_or_else(|| garbled(&line))?;
                let name = if kind == "setenv" {
                    Provider::variable(&request.service, name)
                } else {
                    name.to_owned()
                };
                variables.insert(name, value.to_owned());
            }
            "debug" => {}
            "get-service-config" => answer(stdin.as_mut(), &request.provider.config).await,
            _ => return Err(garbled(&line)),
        }
    }
    Ok(variables.into_iter().collect())
}

/// One that does not listen any more needs no answer.
async fn answer(stdin: Option<&mut ChildStdin>, config: &str) {
    let Some(stdin) = stdin else { return };
    let _ = stdin.write_all(format!("{config}\n").as_bytes()).await;
    let _ = stdin.flush().await;
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
