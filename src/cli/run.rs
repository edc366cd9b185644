//! `ficelle run`.

use std::fmt::Write as _;

use serde_json::json;

use super::{
    console,
    context::{Context, Quiet, select},
    converse::{End, Manner, converse},
    exec::environment,
    failure::Failure,
    locked, output,
    running::{Pull, orphans},
    signals::Signals,
};
use crate::{
    load,
    session::{
        AttachRequest, BuildMode, Container, Goal, ImageOptions, Once, OneOff, RestartPolicy, Selection,
        Session, SessionError, Wish, WithDependencies,
    },
};

/// Run a command in a new container of a service
///
/// What the service depends on is started first. The container has a name of its own, publishes no
/// ports unless asked to, and is not restarted. Its exit code is passed on; 126 is a program that cannot
/// be executed, 127 one that is missing.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag as typed")]
pub(super) struct Args {
    /// The service, then what it runs in place of its `command`
    #[arg(value_names = ["SERVICE", "COMMAND"], required = true, num_args = 1.., trailing_var_arg = true)]
    words: Vec<String>,

    /// Build the image first, even when it is there
    #[arg(long)]
    build: bool,

    /// Give it a capability; may be given several times
    #[arg(long, value_name = "CAPABILITY")]
    cap_add: Vec<String>,

    /// Take a capability from it; may be given several times
    #[arg(long, value_name = "CAPABILITY")]
    cap_drop: Vec<String>,

    /// Do not wait for its end; print its id
    #[arg(short, long)]
    detach: bool,

    /// In place of the image's and the service's entrypoint
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,

    /// Set a variable (`NAME=value`; `NAME` alone passes ours on); may be given several times
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,

    /// Set the variables of a file; may be given several times
    #[arg(long, value_name = "FILE")]
    env_from_file: Vec<std::path::PathBuf>,

    /// Pass standard input on
    #[arg(short, long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    interactive: bool,

    /// Add a label; may be given several times
    #[arg(short, long, value_name = "NAME=VALUE")]
    label: Vec<String>,

    /// Name of the container
    #[arg(long, value_name = "NAME")]
    name: Option<String>,

    /// Give it no terminal
    #[arg(short = 'T', long = "no-tty", visible_alias = "no-TTY", conflicts_with = "tty")]
    no_tty: bool,

    /// Do not start what the service depends on
    #[arg(long)]
    no_deps: bool,

    /// Publish a port, as in `ports:`; may be given several times
    #[arg(short, long, value_name = "PORT", conflicts_with = "service_ports")]
    publish: Vec<String>,

    /// When to pull the image before running
    #[arg(long, value_name = "WHEN", default_value = "policy")]
    pull: Pull,

    /// Print no progress
    #[arg(short, long)]
    quiet: bool,

    /// Do not print the output of a build
    #[arg(long)]
    quiet_build: bool,

    /// Fail with code 3 when an image is not the one in `ficelle.lock`
    #[arg(long)]
    locked: bool,

    /// Do not print the progress of pulls
    #[arg(long)]
    quiet_pull: bool,

    /// Remove containers of services that the file no longer names
    #[arg(long, env = "COMPOSE_REMOVE_ORPHANS", hide_env = true, value_parser = clap::builder::FalseyValueParser::new())]
    remove_orphans: bool,

    /// Say nothing of containers of services that the file no longer names
    #[arg(long, env = "COMPOSE_IGNORE_ORPHANS", hide = true, value_parser = clap::builder::FalseyValueParser::new())]
    ignore_orphans: bool,

    /// Remove the container, with its anonymous volumes, when it has ended
    #[arg(long)]
    rm: bool,

    /// Publish the ports of the service
    #[arg(short = 'P', long)]
    service_ports: bool,

    /// Give it a terminal
    #[arg(short, long, hide = true)]
    tty: bool,

    /// Let it answer to the names of its service, too
    #[arg(long)]
    use_aliases: bool,

    /// Run as this user
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Mount a volume or path, as in `volumes:`; may be given several times
    #[arg(short, long, value_name = "VOLUME")]
    volume: Vec<String>,

    /// Directory it starts in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let Some((service, _)) = self.words.split_first() else { return Ok(2) };
        let tty = !self.detach && !self.no_tty && (self.tty || console::is_interactive());
        let overlay = self.overlay(tty)?;
        let mut project = context.load_overlaid(std::slice::from_ref(service), Some(overlay))?;
        if let Some(found) = project.services.get_mut(service.as_str()) {
            found.container.restart = RestartPolicy::No;
            found.container.container_name = None;
        }
        let session = context.open(project)?;
        let (wish, name) = self.wish(&session, service, tty)?;
        let quiet = Quiet { transfer: self.quiet_pull || self.quiet, build: self.quiet_build || self.quiet };
        let cancel = context.signals.cancel.clone();
        let begun = tokio::select! {
            begun = context.pursue(&session, &wish, quiet, &cancel) => begun,
            signal = context.signals.beyond(1) => return Err(Failure::interrupted(signal)),
        };
        let begun = match begun {
            Ok(begun) => begun,
            Err(failure) => {
                // What never ran is of no use to anybody.
                self.remove(context, &session, &name).await;
                return Err(failure);
            }
        };
        if begun.is_none() {
            return Ok(0);
        }
        let container = self.container(context, &session, &name).await?;
        if self.detach {
            output::lines([container.id.0.as_str()])?;
            return Ok(0);
        }
        let end = self.talk(context, &session, container, tty).await;
        // Whoever detached wants it to run on; at its end it goes by itself.
        if self.rm && !matches!(end, Ok(End::Detached)) {
            self.remove(context, &session, &name).await;
        }
        Ok(end?.code())
    }

    async fn talk(
        &self,
        context: &Context,
        session: &Session,
        container: Container,
        tty: bool,
    ) -> Result<End, Failure> {
        let request = AttachRequest {
            project: container.project,
            container: container.id,
            name: container.name,
            stdin: self.interactive,
            from_start: true,
        };
        let failure =
            |error| Failure::of_session(SessionError::Engine(error), session.project(), context.source());
        let conversation = session.engine().attach(&request).await.map_err(failure)?;
        let detach = tty.then(console::DetachKeys::default);
        converse(context, conversation, Manner { tty, detach, signals: true }).await
    }

    fn wish(&self, session: &Session, service: &str, tty: bool) -> Result<(Wish, String), Failure> {
        let with = if self.no_deps { WithDependencies::No } else { WithDependencies::Yes };
        let selection = select(session, &[service.to_owned()], with)?;
        let dependencies =
            Selection { named: selection.needed.clone(), partial: true, ..Selection::default() };
        let slug = slug();
        let name = self.name.clone();
        let name = name.unwrap_or_else(|| format!("{}-{service}-run-{slug}", session.project().name));
        let one_off = OneOff {
            aliases: self.use_aliases,
            close_stdin: self.interactive && !self.detach && !tty,
            size: console::size().filter(|_| tty),
            remove: self.rm,
            attended: !self.detach,
        };
        let build = if self.build { BuildMode::Always } else { BuildMode::Missing };
        let locked = locked::wanted(self.locked, session.project())?;
        let once = Once {
            service: service.to_owned(),
            name: name.clone(),
            slug,
            dependencies,
            orphans: orphans(self.remove_orphans, self.ignore_orphans),
            one_off,
        };
        let images = Some((selection, ImageOptions { build, pull: self.pull.policy(), locked }));
        Ok((Wish { command: "run", images, goal: Some(Goal::Once(Box::new(once))) }, name))
    }

    async fn container(
        &self,
        context: &Context,
        session: &Session,
        name: &str,
    ) -> Result<Container, Failure> {
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let observed = session.observe().await.map_err(failure)?;
        let found = observed.containers.into_iter().find(|container| container.name == name);
        // One that removes itself may be gone already.
        found.ok_or_else(|| {
            if self.detach {
                Failure::silent(0)
            } else {
                Failure::failed(format!("container {name} is gone"))
            }
        })
    }

    /// As far as it can be: what failed before is told, not this.
    async fn remove(&self, context: &Context, session: &Session, name: &str) {
        let goal = Goal::Gone { container: name.to_owned() };
        let wish = Wish { command: "run", images: None, goal: Some(goal) };
        if let Err(error) = session.pursue(&wish, &Signals::never(), &mut |_| {}).await {
            context.report(&Failure::of_session(error, session.project(), context.source()));
        }
    }

    /// A Compose file that says what the flags say, so that they mean what they mean there.
    fn overlay(&self, tty: bool) -> Result<String, Failure> {
        let Some((service, command)) = self.words.split_first() else { return Ok(String::new()) };
        let mut fields: Vec<String> =
            vec![format!("tty: {tty}"), format!("stdin_open: {}", self.interactive && !self.detach)];
        let mut set =
            |key: &str, value: serde_json::Value| fields.push(format!("{key}: {}", literal(&value)));
        if let Some(entrypoint) = &self.entrypoint {
            set("entrypoint", json!(entrypoint));
        }
        if self.entrypoint.is_some() || !command.is_empty() {
            set("command", json!(command));
        }
        let variables = self.variables()?;
        if !variables.is_empty() {
            set("environment", json!(variables));
        }
        for (key, value) in [("user", &self.user), ("working_dir", &self.workdir)] {
            if let Some(value) = value {
                set(key, json!(value));
            }
        }
        let lists = [
            ("labels", &self.label),
            ("cap_add", &self.cap_add),
            ("cap_drop", &self.cap_drop),
            ("volumes", &self.volume),
        ];
        for (key, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            set(key, json!(list));
        }
        if !self.service_ports {
            fields.push(format!("ports: !override {}", literal(&json!(self.publish))));
        }
        Ok(format!("{{services: {{{}: {{{}}}}}}}", json!(service), fields.join(", ")))
    }

    /// Those of the files, then those of the flags.
    fn variables(&self) -> Result<Vec<String>, Failure> {
        let mut all = Vec::new();
        let ours = |name: &str| std::env::var(name).ok();
        for file in &self.env_from_file {
            let failed = |why: String| Failure::failed(format!("cannot read `{}`: {why}", file.display()));
            let text = std::fs::read_to_string(file).map_err(|error| failed(error.to_string()))?;
            let found = load::variables(&text, &ours).map_err(|fault| failed(fault.to_string()))?;
            all.extend(found.into_iter().map(|(name, value)| format!("{name}={value}")));
        }
        all.extend(environment(&self.env));
        Ok(all)
    }
}

/// JSON whose texts mean themselves: the shell has put its variables in already.
fn literal(value: &serde_json::Value) -> String {
    value.to_string().replace('$', "$$")
}

/// 12 digits that no other run has.
fn slug() -> String {
    use std::hash::{BuildHasher as _, Hasher as _};

    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    let mut text = String::new();
    let _ = write!(text, "{random:016x}");
    text.truncate(12);
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_become_a_compose_file_in_which_nothing_is_a_variable() {
        let line = ["run", "-e", "A=$x", "-p", "80:80", "--entrypoint", "", "web", "sh", "-c", "echo $HOME"];
        let args = Line::parse_from(line).args;
        assert_eq!(
            args.overlay(false).ok().unwrap(),
            r#"{services: {"web": {tty: false, stdin_open: true, entrypoint: "", command: ["sh","-c","echo $$HOME"], environment: ["A=$$x"], ports: !override ["80:80"]}}}"#
        );
    }

    #[test]
    fn what_stands_behind_the_service_is_the_command() {
        let args = Line::parse_from(["run", "--rm", "web", "-d", "--rm"]).args;
        assert!(args.rm && !args.detach);
        assert_eq!(args.words, ["web", "-d", "--rm"]);
    }
}
