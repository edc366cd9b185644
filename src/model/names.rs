//! Names and labels, exactly those of docker compose, so that scripts and either tool find them.

/// The name of a replica: `project-service-number`.
#[must_use]
pub fn container_name(project: &str, service: &str, number: u32) -> String {
    format!("{project}-{service}-{number}")
}

/// The image of a service that names none: the one it builds.
#[must_use]
pub fn image_name(project: &str, service: &str) -> String {
    format!("{project}-{service}")
}

/// Labels on containers, networks and volumes (`com.docker.compose.*`).
pub mod label {
    pub const PROJECT: &str = "com.docker.compose.project";
    pub const SERVICE: &str = "com.docker.compose.service";
    pub const CONTAINER_NUMBER: &str = "com.docker.compose.container-number";
    pub const CONFIG_HASH: &str = "com.docker.compose.config-hash";
    pub const IMAGE: &str = "com.docker.compose.image";
    pub const ONEOFF: &str = "com.docker.compose.oneoff";
    pub const DEPENDS_ON: &str = "com.docker.compose.depends_on";
    pub const WORKING_DIR: &str = "com.docker.compose.project.working_dir";
    pub const CONFIG_FILES: &str = "com.docker.compose.project.config_files";
    pub const VERSION: &str = "com.docker.compose.version";
    pub const NETWORK: &str = "com.docker.compose.network";
    pub const VOLUME: &str = "com.docker.compose.volume";
    /// On a volume without a name of its own; its value is empty.
    pub const ANONYMOUS: &str = "com.docker.volume.anonymous";
    pub const HOOK: &str = "com.docker.compose.hook";
    pub const SLUG: &str = "com.docker.compose.slug";
    pub const REPLACE: &str = "com.docker.compose.replace";
}
