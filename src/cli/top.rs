//! `ficelle top`.

use super::{
    context::{Context, select},
    failure::Failure,
    output,
};
use crate::{
    session::{SessionError, WithDependencies},
    ui::table::Table,
};

/// List the processes of containers
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Services; every service when none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let selection = select(&session, &self.services, WithDependencies::No)?;
        let failure = |error| Failure::of_session(error, session.project(), context.source());
        let mut containers = session.observe().await.map_err(failure)?.containers;
        containers.retain(|c| selection.contains(&c.service) && c.state.is_running());
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        let header = ["SERVICE", "#", "UID", "PID", "PPID", "C", "ELAPSED", "TTY", "TIME", "CMD"];
        let mut table = Table::new(&header);
        for container in containers {
            let processes = session.engine().processes(&container.project, &container.id).await;
            for process in processes.map_err(|error| failure(SessionError::Engine(error)))? {
                table.row(vec![
                    container.service.clone(),
                    container.number.to_string(),
                    process.user,
                    process.pid.to_string(),
                    process.parent.to_string(),
                    process.cpu.to_string(),
                    clock(process.age),
                    process.tty,
                    clock(process.busy),
                    process.command,
                ]);
            }
        }
        output::lines(table.lines().iter().map(String::as_str))?;
        Ok(0)
    }
}

/// Of seconds: `01:02:03`.
fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}
