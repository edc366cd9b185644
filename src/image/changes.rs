//! An image of what a container has changed: its upper directory becomes a layer on top of its image's.

use std::path::Path;

use oci_spec::image::{HistoryBuilder, ImageConfiguration};

use super::{
    DockerConfig, Image, ImageError, Store, codec::Hashing, ingest::Wanted, layout::file_error,
    tarout::write_tar,
};
use crate::model::ImageRef;

/// What an image remembers of its making.
#[derive(Clone, Debug, Default)]
pub struct Remark {
    pub author: String,
    pub message: String,
    /// RFC 3339.
    pub created: String,
    /// The command line whose changes they are.
    pub created_by: String,
}

impl Store {
    /// Copies `upper`, which may be in use: a file that is written meanwhile is as it was at some moment.
    /// `edit` changes the base's configuration.
    pub fn commit_changes(
        &self,
        base: &Image,
        upper: &Path,
        remark: &Remark,
        edit: impl FnOnce(&mut ImageConfiguration, &mut DockerConfig),
        references: &[ImageRef],
    ) -> Result<Image, ImageError> {
        let lease = self.begin()?;
        // Its digest is the layer's name, and is known at its end.
        let spool = lease.scratch_file()?;
        write_tar(upper, &mut spool.as_file()).map_err(file_error("read", upper))?;
        let reopen = || spool.reopen().map_err(file_error("read", spool.path()));
        let mut plain = Hashing::new(reopen()?);
        std::io::copy(&mut plain, &mut std::io::sink()).map_err(file_error("read", spool.path()))?;
        let (diff_id, _) = plain.finish();
        lease.hold([diff_id.as_str()])?;
        if let Some(_claim) = self.layout.claim_layer(&diff_id)? {
            let wanted = Wanted { diff_id: &diff_id, blob: None, recipe: true, what: "changes" };
            self.layout.ingest(&lease, &wanted, reopen()?, |_| Ok(None))?;
        }
        let (mut config, mut docker) = (base.config.clone(), base.docker.clone());
        let malformed = |error: oci_spec::OciSpecError| {
            ImageError::Invalid(format!("the configuration is malformed: {error}"))
        };
        let mut step = HistoryBuilder::default().created(&*remark.created).created_by(&*remark.created_by);
        if !remark.message.is_empty() {
            step = step.comment(&*remark.message);
        }
        if !remark.author.is_empty() {
            step = step.author(&*remark.author);
            config.set_author(Some(remark.author.clone()));
        }
        let mut history = config.history().clone().unwrap_or_default();
        history.push(step.build().map_err(malformed)?);
        config.set_history(Some(history));
        config.set_created(Some(remark.created.clone()));
        let mut rootfs = config.rootfs().clone();
        rootfs.diff_ids_mut().push(diff_id);
        config.set_rootfs(rootfs);
        edit(&mut config, &mut docker);
        self.commit_image_with(&config, &docker, references)
    }
}
