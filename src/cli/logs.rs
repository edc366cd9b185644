//! `ficelle logs`.

use std::time::SystemTime;

use tokio::sync::mpsc;

use super::{
    context::{Context, select},
    failure::Failure,
    output, when,
};
use crate::{
    session::{LogRange, WithDependencies},
    ui::{
        Palette,
        logs::{LogLines, LogStyle},
    },
};

/// Print what containers wrote
///
/// Works without a Compose file when the project is named with `--project-name`.
#[derive(Debug, clap::Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag as typed")]
pub(super) struct Args {
    /// Services whose output is printed; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,

    /// Go on as they write
    #[arg(short, long)]
    follow: bool,

    /// Lines to print from the end of each container's output, or `all`
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = tail)]
    tail: Tail,

    /// Print only what was written since this date or for this long (`10m`)
    #[arg(long, value_name = "TIME")]
    since: Option<String>,

    /// Print only what was written before this date or longer ago than this
    #[arg(long, value_name = "TIME")]
    until: Option<String>,

    /// Print when each line was written
    #[arg(short, long)]
    timestamps: bool,

    /// Number of the container when a service has several
    #[arg(long, value_name = "N")]
    index: Option<u32>,

    /// Print no colours
    #[arg(long)]
    no_color: bool,

    /// Do not print which container a line is from
    #[arg(long)]
    no_log_prefix: bool,
}

#[derive(Clone, Copy, Debug)]
struct Tail(Option<usize>);

fn tail(text: &str) -> Result<Tail, String> {
    match text {
        "all" | "-1" => Ok(Tail(None)),
        _ => text.parse().map(|lines| Tail(Some(lines))).map_err(|_| "expected a number or `all`".into()),
    }
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let range = self.range(SystemTime::now())?;
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let observed = session.observe().await.map_err(failure)?;
        let chosen = observed.containers.iter().filter(|container| {
            let service = selection.contains(&container.service) || !selection.partial;
            service && self.index.is_none_or(|index| container.number == index)
        });
        let mut names: Vec<String> = chosen.map(|container| container.name.clone()).collect();
        names.sort();
        names.dedup();
        if names.is_empty() {
            return Ok(0);
        }
        let palette = Palette { colour: !self.no_color && context.out_palette().colour };
        let style = LogStyle { prefix: !self.no_log_prefix, timestamps: self.timestamps, palette };
        let project = &session.project().name;
        let mut lines = LogLines::new(style, project, names.iter().map(String::as_str));
        let (sink, mut items) = mpsc::channel(256);
        let print = async {
            while let Some(item) = items.recv().await {
                let (_, bytes) = lines.item(&item);
                output::bytes(&bytes)?;
            }
            Ok(0)
        };
        let logs = session.logs(names, range, sink);
        tokio::pin!(logs, print);
        tokio::select! {
            printed = &mut print => printed,
            read = &mut logs => {
                read.map_err(failure)?;
                print.await
            }
        }
    }

    fn range(&self, now: SystemTime) -> Result<LogRange, Failure> {
        let point = |text: &Option<String>| {
            text.as_deref().map(|text| when::point(text, now)).transpose().map_err(Failure::failed)
        };
        let (since, until) = (point(&self.since)?, point(&self.until)?);
        Ok(LogRange { tail: self.tail.0, since, until, follow: self.follow })
    }
}
