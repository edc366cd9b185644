//! Flags that stand before the command.

use std::{io::IsTerminal, num::NonZeroUsize, path::PathBuf};

use clap::{ArgAction, Args, ValueEnum, builder::FalseyValueParser};

use crate::ui::{Palette, terminal::Mode};

#[derive(Clone, Debug, Args)]
pub(super) struct Global {
    /// Compose file; may be given several times, `-` is standard input
    #[arg(short, long, value_name = "FILE")]
    pub file: Vec<String>,

    /// Project name
    #[arg(short, long, value_name = "NAME")]
    pub project_name: Option<String>,

    /// Directory that relative paths start from; that of the first Compose file when absent
    #[arg(long, value_name = "DIR")]
    pub project_directory: Option<PathBuf>,

    /// Profile to enable; may be given several times
    #[arg(long, value_name = "NAME")]
    pub profile: Vec<String>,

    /// File of variables in place of `.env`; may be given several times
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<PathBuf>,

    /// Take in networks and volumes, too, that no service uses
    #[arg(long)]
    pub all_resources: bool,

    /// When to use colours and control sequences
    #[arg(
        long,
        value_name = "WHEN",
        env = "COMPOSE_ANSI",
        default_value = "auto",
        hide_env = true,
        global = true,
        help_heading = "Global options"
    )]
    pub ansi: Ansi,

    /// How progress is shown
    #[arg(
        long,
        value_name = "TYPE",
        env = "COMPOSE_PROGRESS",
        default_value = "auto",
        hide_env = true,
        global = true,
        help_heading = "Global options"
    )]
    pub progress: ProgressType,

    /// At most so many operations side by side; -1 for no limit
    #[arg(long, value_name = "N", env = "COMPOSE_PARALLEL_LIMIT", default_value_t = -1, hide_env = true, allow_negative_numbers = true, global = true, help_heading = "Global options")]
    pub parallel: i64,

    /// Print what would be done and why, and do nothing
    #[arg(long, global = true, help_heading = "Global options")]
    pub dry_run: bool,

    /// For scripts that name it; names are those of Compose v2 all the same
    #[arg(long, env = "COMPOSE_COMPATIBILITY", hide_env = true, value_parser = FalseyValueParser::new())]
    pub compatibility: bool,

    /// Engine that runs the containers: `embedded` (in this program)
    #[arg(
        long,
        value_name = "NAME",
        env = "FICELLE_ENGINE",
        hide_env = true,
        global = true,
        help_heading = "Global options"
    )]
    pub engine: Option<String>,

    /// Keep images, volumes and all state below this directory
    #[arg(
        long,
        value_name = "DIR",
        env = "FICELLE_ROOT",
        hide_env = true,
        global = true,
        help_heading = "Global options"
    )]
    pub root: Option<PathBuf>,

    /// Take warnings about the project for errors
    #[arg(long, env = "FICELLE_STRICT", hide_env = true, value_parser = FalseyValueParser::new(), global = true, help_heading = "Global options")]
    pub strict: bool,

    /// How mistakes and remarks about the project are told, on standard error
    #[arg(
        long,
        value_name = "FORMAT",
        default_value = "text",
        global = true,
        help_heading = "Global options"
    )]
    pub message_format: MessageFormat,

    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Ansi {
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ProgressType {
    /// A live picture on a terminal, else plain lines
    Auto,
    Tty,
    /// One line for each outcome
    Plain,
    /// One JSON object for each event, on standard error
    Json,
    /// Errors only
    Quiet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum MessageFormat {
    /// With the line and the words marked, for people
    Text,
    /// One JSON object for each
    Json,
    /// Annotations of GitHub Actions
    Github,
}

impl Global {
    pub(super) fn limit(&self) -> Option<NonZeroUsize> {
        usize::try_from(self.parallel).ok().and_then(NonZeroUsize::new)
    }

    pub(super) fn mode(&self) -> Mode {
        let live = || std::io::stderr().is_terminal() && self.ansi != Ansi::Never && !dumb();
        match self.progress {
            ProgressType::Auto if live() => Mode::Live,
            ProgressType::Auto | ProgressType::Plain => Mode::Plain,
            ProgressType::Tty => Mode::Live,
            ProgressType::Json => Mode::Json,
            ProgressType::Quiet => Mode::Quiet,
        }
    }

    /// Colours for a stream that is, or is not, a terminal: `--ansi`, then `NO_COLOR`, then
    /// `FORCE_COLOR` and `CLICOLOR_FORCE`, then the terminal.
    pub(super) fn palette(&self, terminal: bool) -> Palette {
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let colour = match self.ansi {
            Ansi::Always => true,
            Ansi::Never => false,
            Ansi::Auto if set("NO_COLOR") => false,
            Ansi::Auto if set("FORCE_COLOR") || set("CLICOLOR_FORCE") => true,
            Ansi::Auto => terminal && !dumb(),
        };
        Palette { colour }
    }
}

fn dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}
