//! `ficelle cp`.

use std::path::PathBuf;

use super::{context::Context, failure::Failure, target};
use crate::session::{Container, CopyRequest, Session, SessionError, Source, Target};

/// Copy files between a container and the host
///
/// One of the two paths is `SERVICE:PATH`, the other one of the host or `-`, a tar on standard input or
/// output. As `cp -r` does: into a directory that is there, under a new name otherwise; `DIR/.` means what
/// is in it. To a service means to every container of it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `SERVICE:PATH`, a path of the host, or `-`
    #[arg(value_name = "SOURCE")]
    from: String,

    /// `SERVICE:PATH`, a path of the host, or `-`
    #[arg(value_name = "TARGET")]
    to: String,

    /// Take one-off containers of the service, too
    #[arg(long)]
    all: bool,

    /// Keep users and groups
    #[arg(short, long)]
    archive: bool,

    /// Follow a link that is the source itself
    #[arg(short = 'L', long)]
    follow_link: bool,

    /// Number of the container when a service has several
    #[arg(long, value_name = "N")]
    index: Option<u32>,
}

/// `SERVICE:PATH`; a path that begins with `/` or `.` is the host's, whatever stands in it.
fn in_service(text: &str) -> Option<(&str, PathBuf)> {
    let (service, path) = text.split_once(':')?;
    let plain = !service.is_empty() && !service.starts_with(['/', '.']) && !service.contains('/');
    let path = if path.is_empty() { "/" } else { path };
    plain.then(|| {
        (service, PathBuf::from(if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }))
    })
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let (service, path, out) = match (in_service(&self.from), in_service(&self.to)) {
            (Some(_), Some(_)) => {
                return Err(Failure::failed("files cannot be copied between services")
                    .help("copy them to the host first"));
            }
            (None, None) => {
                return Err(
                    Failure::failed("one of the paths must be in a service").help("write it as SERVICE:PATH")
                );
            }
            (Some((service, path)), None) => (service.to_owned(), path, true),
            (None, Some((service, path))) => (service.to_owned(), path, false),
        };
        let session = context.open_or_adopt().await?;
        let containers = self.containers(context, &session, &service, out).await?;
        if !out && self.from == "-" && containers.len() > 1 {
            return Err(
                Failure::failed("a tar can be read for one container only").help("`--index` names it")
            );
        }
        for container in containers {
            if context.global.dry_run {
                context.say("note", &format!("DRY-RUN MODE - would copy {} to {}", self.from, self.to));
                continue;
            }
            let (from, to) = if out {
                self.outwards(&container, path.clone())
            } else {
                self.inwards(&container, path.clone())
            };
            let (follow, archive) = (self.follow_link, self.archive);
            let request = CopyRequest { project: container.project, from, to, follow, archive };
            let failure =
                |error| Failure::of_session(SessionError::Engine(error), session.project(), context.source());
            session.engine().copy(request).await.map_err(failure)?;
        }
        Ok(0)
    }

    fn outwards(&self, container: &Container, path: PathBuf) -> (Source, Target) {
        let to = if self.to == "-" {
            Target::Stream(Box::new(std::io::stdout()))
        } else {
            Target::Host(PathBuf::from(&self.to))
        };
        (Source::Container { id: container.id.clone(), path }, to)
    }

    fn inwards(&self, container: &Container, path: PathBuf) -> (Source, Target) {
        let from = if self.from == "-" {
            Source::Stream(Box::new(std::io::stdin()))
        } else {
            Source::Host(PathBuf::from(&self.from))
        };
        (from, Target::Container { id: container.id.clone(), path })
    }

    /// The one that is meant, or all when files go in.
    async fn containers(
        &self,
        context: &Context,
        session: &Session,
        service: &str,
        out: bool,
    ) -> Result<Vec<Container>, Failure> {
        let mut replicas = target::replicas(context, session, service).await?;
        if self.all {
            let failure = |error| Failure::of_session(error, session.project(), context.source());
            let all = session.observe().await.map_err(failure)?.containers.into_iter();
            replicas.extend(all.filter(|container| container.service == service && container.is_one_off()));
        }
        if out || self.index.is_some() || replicas.is_empty() {
            return Ok(vec![target::pick(replicas, service, self.index, false)?]);
        }
        Ok(replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_services_are_told_from_those_of_the_host() {
        assert_eq!(in_service("web:/etc/x"), Some(("web", "/etc/x".into())));
        assert_eq!(in_service("web:etc"), Some(("web", "/etc".into())));
        assert_eq!(in_service("web:"), Some(("web", "/".into())));
        for host in ["/a:b", "./web:x", "-", "file", "dir/a:b", ":x"] {
            assert_eq!(in_service(host), None, "{host}");
        }
    }
}
