//! `ficelle port`.

use super::{
    context::{Context, select},
    failure::Failure,
    output,
};
use crate::session::{Protocol, WithDependencies};

/// Print the public address of a published port
///
/// Works without a Compose file when the project is named with `--project-name`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Service
    #[arg(value_name = "SERVICE")]
    service: String,

    /// Port inside the container
    #[arg(value_name = "PRIVATE_PORT")]
    port: u16,

    /// Number of the container when the service has several
    #[arg(long, value_name = "N")]
    index: Option<u32>,

    /// Protocol of the port
    #[arg(long, value_name = "PROTOCOL", default_value = "tcp")]
    protocol: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Tcp,
    Udp,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        select(&session, std::slice::from_ref(&self.service), WithDependencies::No)?;
        let observed = session
            .observe()
            .await
            .map_err(|error| Failure::of_session(error, session.project(), context.source()))?;
        let mut containers: Vec<_> = observed
            .containers
            .iter()
            .filter(|c| c.service == self.service && self.index.is_none_or(|index| c.number == index))
            .collect();
        containers.sort_by_key(|container| container.number);
        let Some(container) = containers.first() else {
            let which = self.index.map(|index| format!(" number {index}")).unwrap_or_default();
            return Err(Failure::failed(format!("service `{}` has no container{which}", self.service))
                .help(format!("`ficelle up -d {}` starts it", self.service)));
        };
        let protocol = match self.protocol {
            Kind::Tcp => Protocol::Tcp,
            Kind::Udp => Protocol::Udp,
        };
        let found = container.ports.iter().find(|p| p.target == self.port && p.protocol == protocol);
        let Some(port) = found else {
            let failure =
                Failure::failed(format!("no port {}/{protocol} for container {}", self.port, container.name));
            let others: Vec<String> =
                container.ports.iter().map(|port| format!("{}/{}", port.target, port.protocol)).collect();
            return Err(match (container.state.is_running(), others.is_empty()) {
                (false, _) => failure.help("it does not run"),
                (true, true) => failure.help("it publishes no port"),
                (true, false) => failure.help(format!("it publishes {}", others.join(", "))),
            });
        };
        output::text(&format!("{}\n", std::net::SocketAddr::new(port.host_ip, port.host_port)))?;
        Ok(0)
    }
}
