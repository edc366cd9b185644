//! `import`: the tar of a file system becomes an image of one layer.

use std::{fs::File, io, path::Path};

use oci_spec::image::{Arch, History, HistoryBuilder, ImageConfigurationBuilder, Os, RootFsBuilder};

use super::{
    DockerConfig, Image, ImageError, Platform, Report, Store,
    codec::{Hashing, inflate},
    ingest::Wanted,
    layout::file_error,
};
use crate::model::ImageRef;

impl Store {
    /// Takes a tar, plain or compressed (`-` is standard input). `created` is RFC 3339.
    pub fn import(
        &self,
        path: &Path,
        reference: Option<&ImageRef>,
        platform: Option<&str>,
        message: &str,
        created: &str,
        report: Report<'_>,
    ) -> Result<Image, ImageError> {
        let lease = self.begin()?;
        let opened = if path == Path::new("-") { Path::new("/dev/stdin") } else { path };
        let unreadable =
            |error: io::Error| ImageError::Invalid(format!("`{}` cannot be read: {error}", path.display()));
        let source = File::open(opened).map_err(file_error("open", path))?;
        // Its digest is the layer's name, and is known at its end.
        let spool = lease.scratch_file()?;
        let mut plain = Hashing::new(inflate(source).map_err(unreadable)?);
        io::copy(&mut plain, &mut spool.as_file()).map_err(unreadable)?;
        let (diff_id, size) = plain.finish();
        lease.hold([diff_id.as_str()])?;
        let what = path.display().to_string();
        report(&what, 0, size);
        if let Some(_claim) = self.layout.claim_layer(&diff_id)? {
            let wanted = Wanted { diff_id: &diff_id, blob: None, recipe: true, what: &what };
            let tar = spool.reopen().map_err(file_error("read", spool.path()))?;
            self.layout.ingest(&lease, &wanted, tar, |facts| {
                if !facts.replaced {
                    return Ok(None);
                }
                let tar = spool.reopen().map_err(file_error("read", spool.path()))?;
                self.layout.keep_tar(&lease, &diff_id, tar).map(Some)
            })?;
        }
        report(&what, size, size);
        let platform = platform.map_or_else(|| Ok(Platform::host()), Platform::parse)?;
        let malformed = |error: oci_spec::OciSpecError| {
            ImageError::Invalid(format!("the configuration is malformed: {error}"))
        };
        let step: History = HistoryBuilder::default()
            .created(created)
            .comment(if message.is_empty() {
                format!("Imported from {}", path.display())
            } else {
                message.into()
            })
            .build()
            .map_err(malformed)?;
        let mut config = ImageConfigurationBuilder::default()
            .created(created)
            .architecture(Arch::from(platform.architecture.as_str()))
            .os(Os::from(platform.os.as_str()))
            .rootfs(
                RootFsBuilder::default()
                    .typ("layers".to_owned())
                    .diff_ids(vec![diff_id])
                    .build()
                    .map_err(malformed)?,
            )
            .history(vec![step])
            .build()
            .map_err(malformed)?;
        config.set_variant(platform.variant);
        let references: Vec<ImageRef> = reference.cloned().into_iter().collect();
        self.commit_image_with(&config, &DockerConfig::default(), &references)
    }
}
