//! `ficelle lock`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{context::Context, digests, failure::Failure, locked, output};
use crate::session::{ImageAct, ImageAnswer, ImageRef, Service, Session, Silent};

/// Write down which content the project's images have now
///
/// `ficelle.lock` in the project's directory gets the digest that each image has at its registry: those
/// of services, and those that their Dockerfiles start from. `up`, `create` and `pull` with `--locked`
/// then end with code 3 when an image is another one.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only say what has changed since; ends with code 3 when anything has
    #[arg(long)]
    check: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open(context.load_to_run(&[])?)?;
        let before = locked::read(session.project())?.unwrap_or_default();
        let mut now = BTreeMap::new();
        for name in names(context, &session).await? {
            let digest = digest(context, &session, &name).await?;
            now.insert(name, digest);
        }
        let changes = changes(&before, &now);
        output::lines(changes.iter().map(String::as_str))?;
        if self.check {
            return Ok(if changes.is_empty() { 0 } else { 3 });
        }
        if context.global.dry_run {
            return Ok(0);
        }
        locked::write(session.project(), now)?;
        let path = locked::path(session.project());
        context.say("note", &format!("`{}` is written", path.display()));
        Ok(0)
    }
}

/// Images that come from registries, each once.
async fn names(context: &Context, session: &Session) -> Result<BTreeSet<String>, Failure> {
    let mut names = BTreeSet::new();
    let services = session.project().services.values();
    for service in services.filter(|service| service.provider.is_none()) {
        let Some(build) = &service.build else {
            names.insert(service.image().to_owned());
            continue;
        };
        let act = ImageAct::Bases { build: Box::new(build.clone()) };
        let found = session.engine().act_on_images(act, Arc::new(Silent)).await;
        if let ImageAnswer::Names(found) =
            found.map_err(|error| Failure::of_engine(&error, context.source()))?
        {
            names.extend(found);
        }
    }
    let built: BTreeSet<&str> = session
        .project()
        .services
        .values()
        .filter(|service| service.build.is_some())
        .map(Service::image)
        .collect();
    names.retain(|name| !built.contains(name.as_str()));
    Ok(names)
}

async fn digest(context: &Context, session: &Session, name: &str) -> Result<String, Failure> {
    let image: ImageRef = name.parse().map_err(|error| Failure::failed(format!("{error}")))?;
    let digest = digests::of(session.engine(), image).await;
    digest.map_err(|error| Failure::of_engine(&error, context.source()))
}

/// A line for each image that is new, gone or another one.
fn changes(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    let change = |name: &String| match (before.get(name), now.get(name)) {
        (Some(old), Some(new)) if old == new => None,
        (Some(old), Some(new)) => Some(format!("{name}: {old} -> {new}")),
        (None, Some(new)) => Some(format!("{name}: {new}")),
        (Some(old), None) => Some(format!("{name}: {old} -> not used")),
        (None, None) => None,
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changed_is_told_with_both_digests() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect()
        };
        let before = map(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let now = map(&[("a", "1"), ("b", "9"), ("d", "4")]);
        assert_eq!(changes(&before, &now), ["b: 2 -> 9", "c: 3 -> not used", "d: 4"]);
    }
}
