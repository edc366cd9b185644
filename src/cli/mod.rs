//! What is typed: arguments, dispatch, exit codes. One file for each command.

mod attach;
mod attach_command;
mod bake;
mod build;
mod card;
mod commit;
mod config;
mod console;
mod context;
mod converse;
mod cp;
mod create;
mod digests;
mod doctor;
mod down;
mod events;
mod exec;
mod export;
mod failure;
mod format;
mod gc;
mod global;
mod graph;
mod image;
mod images;
mod kill;
mod lock;
mod locked;
mod login;
mod logs;
mod ls;
mod migrate;
mod output;
mod pause;
mod port;
mod ps;
mod publishers;
mod pull;
mod push;
mod restart;
mod rm;
mod run;
mod running;
mod scale;
mod schema;
mod signals;
mod start;
mod stats;
mod stop;
mod target;
mod top;
mod unpause;
mod up;
mod usage;
mod version;
mod volumes;
mod wait;
mod when;

use std::panic::{AssertUnwindSafe, catch_unwind};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::runtime;

use self::{context::Context, failure::Failure, global::Global, signals::Signals};

/// Runs linked containers from a Compose file: no daemon, the runtime is inside this program.
#[derive(Debug, Parser)]
#[command(
    name = "ficelle",
    version = concat!("v", env!("CARGO_PKG_VERSION")),
    disable_version_flag = true,
    disable_help_subcommand = false,
    propagate_version = false,
    max_term_width = 100
)]
struct Cli {
    #[command(flatten)]
    global: Global,
}

/// The commands; each is called as its variant, in lower case.
macro_rules! commands {
    ($($variant:ident($args:ty),)*) => {
        #[derive(Debug, Subcommand)]
        enum Command {
            $($variant($args),)*
        }

        impl Command {
            /// The command line with the one command of this name: the flags of all of them take longer
            /// to put together than most files to read.
            fn narrow(name: &str) -> Option<clap::Command> {
                if !name.bytes().all(|byte| byte.is_ascii_lowercase()) {
                    return None;
                }
                $(if name.eq_ignore_ascii_case(stringify!($variant)) {
                    let command = clap::Command::new(name.to_owned());
                    return Some(Cli::command().subcommand(<$args as clap::Args>::augment_args(command)));
                })*
                None
            }
        }
    };
}

commands! {
    Build(build::Args),
    Config(config::Args),
    Create(create::Args),
    Down(down::Args),
    Exec(exec::Args),
    Graph(graph::Args),
    Image(image::Args),
    Lock(lock::Args),
    Login(login::Args),
    Logout(login::LogoutArgs),
    Logs(logs::Args),
    Migrate(migrate::Args),
    Port(port::Args),
    Ps(ps::Args),
    Pull(pull::Args),
    Push(push::Args),
    Restart(restart::Args),
    Schema(schema::Args),
    Start(start::Args),
    Stop(stop::Args),
    Up(up::Args),
    Attach(attach_command::Args),
    Kill(kill::Args),
    Pause(pause::Args),
    Rm(rm::Args),
    Run(run::Args),
    Scale(scale::Args),
    Unpause(unpause::Args),
    Wait(wait::Args),
    Events(events::Args),
    Ls(ls::Args),
    Stats(stats::Args),
    Top(top::Args),
    Volumes(volumes::Args),
    Commit(commit::Args),
    Cp(cp::Args),
    Images(images::Args),
    Export(export::Args),
    Doctor(doctor::Args),
    Gc(gc::Args),
    Version(version::Args),
}

impl Command {
    /// How many signals it answers itself: the next one ends it at once.
    fn patience(&self) -> u32 {
        match self {
            Self::Up(up) if up.attached() => 2,
            // They pass signals on.
            Self::Attach(_) | Self::Exec(_) | Self::Run(_) => u32::MAX,
            Self::Build(_)
            | Self::Create(_)
            | Self::Down(_)
            | Self::Kill(_)
            | Self::Pause(_)
            | Self::Rm(_)
            | Self::Scale(_)
            | Self::Unpause(_)
            | Self::Pull(_)
            | Self::Push(_)
            | Self::Restart(_)
            | Self::Start(_)
            | Self::Stop(_)
            | Self::Up(_) => 1,
            Self::Config(_)
            | Self::Graph(_)
            | Self::Image(_)
            | Self::Lock(_)
            | Self::Login(_)
            | Self::Logout(_)
            | Self::Logs(_)
            | Self::Migrate(_)
            | Self::Port(_)
            | Self::Ps(_)
            | Self::Schema(_)
            | Self::Version(_)
            | Self::Events(_)
            | Self::Ls(_)
            | Self::Stats(_)
            | Self::Top(_)
            | Self::Volumes(_)
            | Self::Commit(_)
            | Self::Images(_)
            | Self::Cp(_)
            | Self::Export(_)
            | Self::Doctor(_)
            | Self::Gc(_)
            | Self::Wait(_) => 0,
        }
    }

    /// Whether it looks at containers or images at all.
    fn needs_engine(&self) -> bool {
        !matches!(
            self,
            Self::Config(_) | Self::Graph(_) | Self::Migrate(_) | Self::Schema(_) | Self::Version(_)
        )
    }

    async fn run(self, context: &Context) -> Result<i32, Failure> {
        match self {
            Self::Build(args) => args.run(context).await,
            Self::Config(args) => args.run(context).await,
            Self::Create(args) => args.run(context).await,
            Self::Down(args) => args.run(context).await,
            Self::Exec(args) => args.run(context).await,
            Self::Graph(args) => args.run(context),
            Self::Image(args) => args.run(context).await,
            Self::Lock(args) => args.run(context).await,
            Self::Login(args) => args.run(context).await,
            Self::Logout(args) => args.run(context).await,
            Self::Logs(args) => args.run(context).await,
            Self::Migrate(args) => args.run(context),
            Self::Port(args) => args.run(context).await,
            Self::Ps(args) => args.run(context).await,
            Self::Pull(args) => args.run(context).await,
            Self::Push(args) => args.run(context).await,
            Self::Restart(args) => args.run(context).await,
            Self::Schema(args) => args.run(),
            Self::Start(args) => args.run(context).await,
            Self::Stop(args) => args.run(context).await,
            Self::Up(args) => args.run(context).await,
            Self::Attach(args) => args.run(context).await,
            Self::Kill(args) => args.run(context).await,
            Self::Pause(args) => args.run(context).await,
            Self::Rm(args) => args.run(context).await,
            Self::Run(args) => args.run(context).await,
            Self::Scale(args) => args.run(context).await,
            Self::Unpause(args) => args.run(context).await,
            Self::Wait(args) => args.run(context).await,
            Self::Events(args) => args.run(context).await,
            Self::Ls(args) => args.run(context).await,
            Self::Stats(args) => args.run(context).await,
            Self::Top(args) => args.run(context).await,
            Self::Volumes(args) => args.run(context).await,
            Self::Commit(args) => args.run(context).await,
            Self::Images(args) => args.run(context).await,
            Self::Cp(args) => args.run(context).await,
            Self::Export(args) => args.run(context).await,
            Self::Doctor(args) => args.run(context).await,
            Self::Gc(args) => args.run(context).await,
            Self::Version(args) => args.run(),
        }
    }
}

/// The code of a program of Rust that has panicked.
const PANICKED: i32 = 101;

/// Runs the command line; returns the exit code.
#[must_use]
pub fn main() -> i32 {
    let (global, command) = match parse(std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(code) => return code,
    };
    let Some(mut command) = command else {
        return output::text(&whole().render_help().to_string())
            .map_or_else(|failure| failure.code(), |()| 0);
    };
    // An ordinary user enters a user namespace, which a process with threads cannot.
    if command.needs_engine()
        && let Err(error) = context::prepare(&global)
    {
        match &mut command {
            // It is there to tell of this.
            Command::Doctor(doctor) => doctor.refused = Some(error),
            _ => {
                let failure = context::unprepared(&error);
                failure.report_plain();
                return failure.code();
            }
        }
    }
    // What only reads files and prints needs no threads.
    let mut runtime = match command.needs_engine() {
        true => runtime::Builder::new_multi_thread(),
        false => runtime::Builder::new_current_thread(),
    };
    let runtime = match runtime.worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            Failure::failed(format!("cannot start: {error}")).report_plain();
            return 1;
        }
    };
    let work = AssertUnwindSafe(|| runtime.block_on(dispatch(global, command)));
    let code = catch_unwind(work).unwrap_or_else(|_| {
        let told = "this is a mistake in ficelle; what was said above helps to find it".to_owned();
        Failure::failed(told).report_plain();
        PANICKED
    });
    // What still blocks in a thread (a stop that was overtaken by a kill) ends with the process.
    runtime.shutdown_background();
    code
}

/// The command line with every command.
fn whole() -> clap::Command {
    Command::augment_subcommands(Cli::command())
}

/// Reads it with the one command that it seems to be about. Should that not be so, or anything be wrong
/// with it, the whole tells.
fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<(Global, Option<Command>), i32> {
    let args: Vec<_> = args.into_iter().collect();
    let read = |cli: clap::Command| -> Result<_, clap::Error> {
        let matches = cli.try_get_matches_from(&args)?;
        let command = match matches.subcommand_name() {
            Some(_) => Some(Command::from_arg_matches(&matches)?),
            None => None,
        };
        Ok((Cli::from_arg_matches(&matches)?.global, command))
    };
    let narrow = args.iter().skip(1).find_map(|arg| Command::narrow(arg.to_str()?));
    match narrow.map(read) {
        Some(Ok(parsed)) => Ok(parsed),
        _ => read(whole()).map_err(|error| usage::tell(&error, &args)),
    }
}

async fn dispatch(global: Global, command: Command) -> i32 {
    // Without an engine there is nothing to put right: a signal ends the process, whatever it is at.
    let signals = if command.needs_engine() { Signals::listen() } else { Signals::none() };
    let patience = command.patience();
    let context = Context::new(global, signals.clone());
    if context.global.compatibility {
        context.say(
            "warning",
            "--compatibility (COMPOSE_COMPATIBILITY) has no effect: names are those of Compose v2",
        );
    }
    let result = tokio::select! {
        result = command.run(&context) => result,
        signal = signals.beyond(patience) => Err(Failure::interrupted(signal)),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            context.report(&failure);
            if failure.machine {
                for line in doctor::short(&context).await {
                    context.say("doctor", &line);
                }
            }
            failure.code()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        whole().debug_assert();
    }

    #[test]
    fn a_command_is_read_alone_as_among_all() {
        for whole in whole().get_subcommands() {
            let mut alone = Command::narrow(whole.get_name()).unwrap();
            let alone = alone.find_subcommand_mut(whole.get_name()).unwrap();
            assert_eq!(alone.render_long_help().to_string(), whole.clone().render_long_help().to_string());
        }
        assert!(Command::narrow("UP").is_none());
        assert!(Command::narrow("web").is_none());
    }

    #[test]
    fn a_value_that_is_called_as_a_command_is_no_command() {
        let read = |words: &[&str]| parse(words.iter().map(std::ffi::OsString::from)).unwrap();
        let (global, command) = read(&["ficelle", "-p", "up", "ps"]);
        assert_eq!(global.project_name.as_deref(), Some("up"));
        assert!(matches!(command, Some(Command::Ps(_))));
        assert!(matches!(read(&["ficelle", "logs", "up"]).1, Some(Command::Logs(_))));
        assert!(read(&["ficelle"]).1.is_none());
    }

    #[test]
    fn every_command_and_flag_is_explained() {
        for command in whole().get_subcommands() {
            assert!(command.get_about().is_some(), "{} has no text", command.get_name());
            for flag in command.get_arguments() {
                assert!(flag.get_help().is_some(), "{} {} has no text", command.get_name(), flag.get_id());
            }
        }
    }
}
