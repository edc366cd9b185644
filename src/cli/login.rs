//! `ficelle login` and `ficelle logout`.

use std::{
    io::{BufRead as _, IsTerminal as _, Read as _, Write as _},
    sync::Arc,
};

use super::{context::Context, failure::Failure, output};
use crate::session::{ImageAct, ImageAnswer, Silent};

/// Log in at a registry
///
/// The login is tried, then kept in docker's `config.json` (`DOCKER_CONFIG`, else `~/.docker`), or with
/// the credential helper that it names.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The registry; Docker Hub when none is named
    #[arg(value_name = "SERVER", default_value = "docker.io")]
    server: String,

    /// User name
    #[arg(short, long, value_name = "NAME")]
    username: Option<String>,

    /// Password or token; others on this machine can see it, `--password-stdin` keeps it to itself
    #[arg(short, long, value_name = "PASSWORD", conflicts_with = "password_stdin")]
    password: Option<String>,

    /// Read the password from standard input
    #[arg(long, requires = "username")]
    password_stdin: bool,
}

/// Log out at a registry
#[derive(Debug, clap::Args)]
pub(super) struct LogoutArgs {
    /// The registry; Docker Hub when none is named
    #[arg(value_name = "SERVER", default_value = "docker.io")]
    server: String,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let registry = registry(&self.server);
        let (user, password) = self.credentials(context)?;
        let act = ImageAct::Login { registry, user, password };
        let answer = context.connect()?.act_on_images(act, Arc::new(Silent)).await;
        let answer = answer.map_err(|error| Failure::of_engine(&error, context.source()))?;
        if let ImageAnswer::LoggedIn { file, helper: None } = &answer {
            let told = format!(
                "the password is kept unencrypted in `{}`; a credential helper hides it",
                file.display()
            );
            context.say("warning", &told);
        }
        output::text("Login Succeeded\n").map(|()| 0)
    }

    fn credentials(&self, context: &Context) -> Result<(String, String), Failure> {
        if self.password_stdin {
            let mut password = String::new();
            let read = std::io::stdin().take(1 << 20).read_to_string(&mut password);
            read.map_err(|error| Failure::failed("cannot read the password").because(error.to_string()))?;
            let password = password.trim_end_matches(['\r', '\n']).to_owned();
            return Ok((self.username.clone().unwrap_or_default(), checked(password)?));
        }
        if self.password.is_some() {
            context
                .say("warning", "a password on the command line can be seen by others; use --password-stdin");
        }
        let user = match &self.username {
            Some(user) => user.clone(),
            None => asked("Username: ", Echo::On)?,
        };
        let password = match &self.password {
            Some(password) => password.clone(),
            None => asked("Password: ", Echo::Off)?,
        };
        if user.is_empty() {
            return Err(Failure::failed("the user name is empty"));
        }
        Ok((user, checked(password)?))
    }
}

impl LogoutArgs {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let registry = registry(&self.server);
        let act = ImageAct::Logout { registry: registry.clone() };
        let answer = context.connect()?.act_on_images(act, Arc::new(Silent)).await;
        match answer.map_err(|error| Failure::of_engine(&error, context.source()))? {
            ImageAnswer::LoggedOut { files } if files.is_empty() => {
                context.say("note", &format!("not logged in at {registry}"));
            }
            _ => output::text(&format!("Removed the login at {registry}\n"))?,
        }
        Ok(0)
    }
}

fn checked(password: String) -> Result<String, Failure> {
    if password.is_empty() {
        return Err(Failure::failed("the password is empty"));
    }
    Ok(password)
}

/// `https://index.docker.io/v1/` and `registry.lan:5000/` as they are filed.
fn registry(server: &str) -> String {
    let rest = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    match rest.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        host => host.to_owned(),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Echo {
    On,
    Off,
}

/// A line from the terminal.
fn asked(question: &str, echo: Echo) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Failure::failed("there is no terminal to ask for user name and password")
            .help("use `--username NAME --password-stdin`"));
    }
    let failed = |error: std::io::Error| Failure::failed("cannot ask").because(error.to_string());
    let mut out = std::io::stderr().lock();
    out.write_all(question.as_bytes()).and_then(|()| out.flush()).map_err(failed)?;
    let hidden = (echo == Echo::Off).then(Hidden::begin).transpose().map_err(failed)?;
    let mut line = String::new();
    stdin.lock().read_line(&mut line).map_err(failed)?;
    if hidden.is_some() {
        drop(hidden);
        out.write_all(b"\n").map_err(failed)?;
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// A terminal that does not show what is typed, until it is dropped.
struct Hidden(rustix::termios::Termios);

impl Hidden {
    fn begin() -> std::io::Result<Self> {
        let before = rustix::termios::tcgetattr(std::io::stdin())?;
        let mut silent = before.clone();
        silent.local_modes -= rustix::termios::LocalModes::ECHO;
        rustix::termios::tcsetattr(std::io::stdin(), rustix::termios::OptionalActions::Flush, &silent)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let now = rustix::termios::OptionalActions::Now;
        let _ = rustix::termios::tcsetattr(std::io::stdin(), now, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::registry;

    #[test]
    fn a_server_is_filed_under_its_host() {
        assert_eq!(registry("docker.io"), "docker.io");
        assert_eq!(registry("https://index.docker.io/v1/"), "docker.io");
        assert_eq!(registry("http://registry.lan:5000/"), "registry.lan:5000");
    }
}
