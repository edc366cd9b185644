//! `ficelle commit`.

use std::{sync::Arc, time::SystemTime};

use super::{context::Context, failure::Failure, output, target};
use crate::{
    session::{CommitRequest, ImageAct, ImageAnswer, ImageRef, SessionError, Silent},
    ui::time,
};

/// Make an image of a container as it is now
///
/// What it has changed of its image becomes a layer; what is mounted in it does not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The service
    #[arg(value_name = "SERVICE")]
    service: String,

    /// Name of the image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    image: Option<ImageRef>,

    /// Who made it
    #[arg(short, long, value_name = "AUTHOR", default_value = "")]
    author: String,

    /// Instruction of a Dockerfile to apply, such as `CMD ["true"]`; may be given several times
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,

    /// Number of the container when a service has several
    #[arg(long, value_name = "N")]
    index: Option<u32>,

    /// What the image's history says of it
    #[arg(short, long, value_name = "MESSAGE", default_value = "")]
    message: String,

    /// Freeze the container meanwhile
    #[arg(short, long, value_name = "BOOL", default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, action = clap::ArgAction::Set)]
    pause: bool,
}

impl Args {
    pub(super) async fn run(self, context: &Context) -> Result<i32, Failure> {
        let session = context.open_or_adopt().await?;
        let replicas = target::replicas(context, &session, &self.service).await?;
        let container = target::pick(replicas, &self.service, self.index, false)?;
        if context.global.dry_run {
            let name = self.image.map_or_else(|| "an image".to_owned(), |image| image.familiar());
            context.say("note", &format!("{name} would be made of container {}", container.name));
            return Ok(0);
        }
        let request = CommitRequest {
            project: container.project,
            container: container.id,
            name: container.name,
            image: self.image,
            author: self.author,
            message: self.message,
            pause: self.pause,
            changes: self.change,
            created: time::rfc3339(SystemTime::now()),
        };
        let act = ImageAct::Commit(Box::new(request));
        let made = session.engine().act_on_images(act, Arc::new(Silent)).await;
        let failure =
            |error| Failure::of_session(SessionError::Engine(error), session.project(), context.source());
        if let ImageAnswer::Id { id, .. } = made.map_err(failure)? {
            output::lines([id.as_str()])?;
        }
        Ok(0)
    }
}
