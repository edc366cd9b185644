//! THE attribute table: every key of a Compose file with its forms, its merge rule, its path rule and
//! whether an engine can honour it. One row is all there is to know about an attribute before its value
//! is bound to a type; `canonical`, `merge`, `paths`, `config` and `bind` only walk these rows.
//! The order of the rows is the order in which `config` prints.

/// One key of a mapping.
#[derive(Clone, Copy, Debug)]
pub struct Attribute {
    pub name: &'static str,
    pub form: Form,
    pub merge: Merge,
    pub path: PathRule,
    /// The mapping is wrong without it.
    pub required: bool,
    /// Printed even when it is false, zero or empty, since that says something.
    pub kept: bool,
    /// Never printed by `config`.
    pub hidden: bool,
    pub support: Support,
}

pub type Table = &'static [Attribute];

/// What may be written for a value, and so what its canonical form is.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// Anything, kept as written.
    Any,
    Text,
    /// A string, or null for "not set".
    TextOrNull,
    /// A boolean, canonically as text.
    TextOrFlag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A string that contains a duration or a word, as `pull_policy` has it.
    PullPolicy,
    ContainerName,
    /// A boolean, or a string that says one.
    Flag,
    StrictFlag,
    /// An integer, or a string that says one; within these bounds when it is written as a number.
    Integer(i64, i64),
    StrictInteger,
    /// A number of devices, or `all`.
    Count,
    /// A number of which the whole part counts, or a string that says an integer.
    Whole,
    StrictNumber,
    /// A number, or a string that says one.
    Number,
    /// File mode: an octal string or a number.
    Mode,
    /// A size, `64m` or a number of bytes.
    Bytes,
    /// A size of which only whole numbers of bytes may be written without quotes.
    WholeBytes,
    /// A size that must be a string.
    BytesText,
    /// `1m30s`, always a string.
    Duration,
    /// A command: words, or a string that is split as a shell does.
    Words,
    /// A health check: words, or a string for the image's shell.
    Test,
    /// `{KEY: value}` or `["KEY=value"]`.
    Pairs(Absent),
    /// The same for keys of ssh, canonically printed as a list.
    Ssh,
    /// A mapping of strings and numbers, canonically strings.
    Options(OptionValues),
    /// `["host:ip"]` or `{host: ip}`.
    Hosts,
    /// A list of strings.
    Strings,
    StringOrList,
    /// The same, but one text stays as it is where variables are left as written.
    OneOrList,
    /// A list of strings and numbers, canonically strings.
    Scalars,
    List(&'static Form),
    /// A mapping with keys of the user's own.
    Keyed(&'static Form),
    /// The same, and a list of names stands for keys with this value.
    Names(&'static Form, NameDefault),
    /// A mapping with these keys and `x-*`.
    Object(Table),
    /// The same, without `x-*`.
    Closed(Table),
    ObjectOrNull(Table),
    /// A string that stands for a mapping.
    Short(Short, Table),
    Ports,
    Gpus,
    /// `true`, or `{name: other}` of the older files.
    External,
    Include,
}

/// What a key without a value means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absent {
    /// Taken from the project's environment.
    Inherit,
    /// The empty string.
    Empty,
    /// Nothing: it is a mistake.
    Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionValues {
    Text,
    TextNumber,
    TextNumberNull,
    AnyScalar,
    ScalarOrList,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameDefault {
    Null,
    /// `condition: service_started, required: true`.
    Dependency,
}

/// How the short form of a mapping is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Short {
    Build,
    /// Config or secret: the name of its source.
    FileMount,
    Device,
    EnvFile,
    Extends,
    Ulimit,
    Volume,
}

/// How a value of a later file meets the one before. Mappings merge deeply and lists are joined unless
/// the row says otherwise; scalars are replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    Default,
    Replace,
    /// Joined; of two items with the same key the later stands in the place of the earlier.
    Unique(KeyOf),
    /// Joined; the same item twice is a mistake.
    Distinct,
    /// Joined; an item that is there already is dropped.
    Hosts,
    /// Options merge only when both name the same driver, or one names none.
    Logging,
}

/// What makes two items of a list the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyOf {
    /// The item itself.
    Item,
    /// What stands before its first `=`.
    Name,
    /// Its `target`.
    Target,
    /// Its `path`.
    Path,
    /// Its `target`, or its `source` below this directory.
    MountedAt(&'static str),
    Port,
    Subnet,
}

/// Which relative paths are resolved against the project directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathRule {
    None,
    Local,
    /// A directory, or a URL, or `service:name`.
    Context,
    /// The `source` of a mount when its type is bind.
    Mount,
    /// A key file or socket behind `id=`.
    Ssh,
    /// The `device` among the options of a local volume that is really a bind mount.
    Device,
}

/// Whether the engine in this binary honours an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Yes,
    /// Means something only there: on a cluster, on Windows, with SELinux.
    Elsewhere(&'static str),
    /// Cannot be here, and a container without it would not be what was asked for; with the reason.
    Never(&'static str),
}

pub const CLUSTER: &str = "on a cluster";

const fn row(name: &'static str, form: Form) -> Attribute {
    Attribute {
        name,
        form,
        merge: Merge::Default,
        path: PathRule::None,
        required: false,
        kept: false,
        hidden: false,
        support: Support::Yes,
    }
}

impl Attribute {
    const fn merge(mut self, merge: Merge) -> Self {
        self.merge = merge;
        self
    }

    const fn unique(self, key: KeyOf) -> Self {
        self.merge(Merge::Unique(key))
    }

    const fn path(mut self, path: PathRule) -> Self {
        self.path = path;
        self
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn kept(mut self) -> Self {
        self.kept = true;
        self
    }

    const fn hidden(mut self) -> Self {
        self.hidden = true;
        self
    }

    const fn never(mut self, why: &'static str) -> Self {
        self.support = Support::Never(why);
        self
    }

    const fn elsewhere(mut self, place: &'static str) -> Self {
        self.support = Support::Elsewhere(place);
        self
    }

    const fn cluster(mut self) -> Self {
        self.support = Support::Elsewhere(CLUSTER);
        self
    }

    const fn windows(mut self) -> Self {
        self.support = Support::Elsewhere("on Windows");
        self
    }

    const fn selinux(mut self) -> Self {
        self.support = Support::Elsewhere("with SELinux");
        self
    }
}

/// A plain row: no rule but its form.
#[must_use]
pub const fn row_of(name: &'static str, form: Form) -> Attribute {
    row(name, form)
}

/// The row of a key.
#[must_use]
pub fn find(table: Table, name: &str) -> Option<&'static Attribute> {
    table.iter().find(|row| row.name == name)
}

use Form::*;

const ANY_INTEGER: Form = Integer(i64::MIN, i64::MAX);
const ENVIRONMENT: Form = Pairs(Absent::Inherit);
const LABELS: Form = Pairs(Absent::Empty);
const DRIVER_OPTIONS: Form = Options(OptionValues::TextNumber);

pub static PROJECT: Table = &[
    row("version", Text),
    row("name", Text),
    row("include", Include),
    row("services", Keyed(&SERVICE_FORM)).kept(),
    row("networks", Keyed(&ObjectOrNull(NETWORK))),
    row("volumes", Keyed(&ObjectOrNull(VOLUME))),
    row("secrets", Keyed(&Object(SECRET))),
    row("configs", Keyed(&Object(CONFIG))),
    row("models", Keyed(&Object(MODEL))),
];

pub static SERVICE_FORM: Form = Object(SERVICE);

pub static SERVICE: Table = &[
    row("profiles", Strings).unique(KeyOf::Item),
    row("annotations", LABELS),
    row("attach", Flag).kept(),
    row("build", Short(Short::Build, BUILD)),
    row("develop", ObjectOrNull(DEVELOP)).kept(),
    row("blkio_config", Closed(BLKIO)).kept(),
    row("cap_add", Strings).unique(KeyOf::Item),
    row("cap_drop", Strings).unique(KeyOf::Item),
    row("cgroup_parent", Text),
    row("cgroup", Choice(&["host", "private"])),
    row("cpu_count", Integer(0, i64::MAX)).windows(),
    row("cpu_percent", Integer(0, 100)).windows(),
    row("cpu_period", Whole),
    row("cpu_quota", Whole),
    row("cpu_rt_period", Whole),
    row("cpu_rt_runtime", Whole),
    row("cpus", Number),
    row("cpuset", Text),
    row("cpu_shares", Whole),
    row("command", Words).merge(Merge::Replace).kept(),
    row("configs", List(&Short(Short::FileMount, FILE_MOUNT))).unique(KeyOf::MountedAt("")),
    row("container_name", ContainerName),
    row("credential_spec", Object(CREDENTIAL_SPEC)).windows(),
    row("depends_on", Names(&Object(DEPENDENCY), NameDefault::Dependency)),
    row("deploy", ObjectOrNull(DEPLOY)).kept(),
    row("device_cgroup_rules", Strings).merge(Merge::Distinct),
    row("devices", List(&Short(Short::Device, DEVICE))).unique(KeyOf::Target),
    row("dns", StringOrList).unique(KeyOf::Item),
    row("dns_opt", Strings).unique(KeyOf::Item),
    row("dns_search", OneOrList).unique(KeyOf::Item),
    row("domainname", Text),
    row("entrypoint", Words).merge(Merge::Replace).kept(),
    row("provider", Object(PROVIDER)),
    row("environment", ENVIRONMENT),
    row("env_file", List(&Short(Short::EnvFile, ENV_FILE))).unique(KeyOf::Path),
    row("expose", Scalars).unique(KeyOf::Item),
    row("extends", Short(Short::Extends, EXTENDS)),
    row("external_links", Strings).merge(Merge::Distinct),
    row("extra_hosts", Hosts).merge(Merge::Hosts),
    row("group_add", Scalars).merge(Merge::Distinct),
    row("gpus", Gpus),
    row("hostname", Text),
    row("healthcheck", Object(HEALTHCHECK)).kept(),
    row("image", Text),
    row("init", Flag).kept(),
    row("ipc", Text),
    row("isolation", Text),
    row("labels", LABELS),
    row("label_file", StringOrList).path(PathRule::Local),
    row("links", Strings).unique(KeyOf::Item),
    row("logging", Object(LOGGING)).merge(Merge::Logging).kept(),
    row("mem_limit", Bytes),
    row("mem_reservation", WholeBytes),
    row("memswap_limit", Bytes),
    row("mem_swappiness", WholeBytes),
    row("mac_address", Text),
    row("models", Names(&ObjectOrNull(SERVICE_MODEL), NameDefault::Null))
        .never("there is no model runner; a service with a `provider` can bring one"),
    row("network_mode", Text),
    row("networks", Names(&ObjectOrNull(SERVICE_NETWORK), NameDefault::Null)),
    row("oom_kill_disable", Flag),
    row("oom_score_adj", Integer(-1000, 1000)),
    row("pid", TextOrNull),
    row("pids_limit", Whole),
    row("platform", Text),
    row("ports", Ports).unique(KeyOf::Port),
    row("privileged", Flag),
    row("pull_policy", PullPolicy),
    row("pull_refresh_after", Text).hidden(),
    row("read_only", Flag),
    row("restart", Text),
    row("runtime", Text),
    row("scale", ANY_INTEGER).kept(),
    row("secrets", List(&Short(Short::FileMount, FILE_MOUNT))).unique(KeyOf::MountedAt("/run/secrets")),
    row("security_opt", Strings).merge(Merge::Distinct),
    row("shm_size", Bytes),
    row("stdin_open", Flag),
    row("stop_grace_period", Duration).kept(),
    row("stop_signal", Text),
    row("storage_opt", Options(OptionValues::AnyScalar)).elsewhere("with a storage driver that has quotas"),
    row("sysctls", LABELS),
    row("tmpfs", OneOrList).unique(KeyOf::Item),
    row("tty", Flag),
    row("ulimits", Keyed(&Short(Short::Ulimit, ULIMIT))),
    row("use_api_socket", StrictFlag).never("there is no daemon, and so no socket to talk to it"),
    row("user", Text),
    row("userns_mode", Text),
    row("uts", Text),
    row("volumes", List(&Short(Short::Volume, MOUNT))).unique(KeyOf::Target),
    row("volumes_from", Strings).merge(Merge::Distinct),
    row("working_dir", Text),
    row("pre_start", List(&Object(HOOK))),
    row("post_start", List(&Object(HOOK))),
    row("pre_stop", List(&Object(HOOK))),
];

pub static BUILD: Table = &[
    row("context", Text).path(PathRule::Context),
    row("dockerfile", Text),
    row("dockerfile_inline", Text),
    row("entitlements", Strings),
    row("args", ENVIRONMENT),
    row("provenance", TextOrFlag),
    row("sbom", TextOrFlag),
    row("ssh", Ssh).path(PathRule::Ssh),
    row("labels", LABELS),
    row("cache_from", Strings),
    row("cache_to", Strings),
    row("no_cache", Flag),
    row("no_cache_filter", StringOrList),
    row("additional_contexts", Pairs(Absent::Wrong)).path(PathRule::Context),
    row("pull", Flag),
    row("extra_hosts", Hosts).merge(Merge::Hosts),
    row("isolation", Text),
    row("network", Text),
    row("target", Text),
    row("secrets", List(&Short(Short::FileMount, FILE_MOUNT))),
    row("shm_size", WholeBytes),
    row("tags", Strings).unique(KeyOf::Item),
    row("ulimits", Keyed(&Short(Short::Ulimit, ULIMIT))),
    row("platforms", Strings),
    row("privileged", Flag),
];

pub static DEPLOY: Table = &[
    row("mode", Text).cluster(),
    row("replicas", ANY_INTEGER).kept(),
    row("labels", LABELS).cluster(),
    row("update_config", Object(UPDATE)).kept().cluster(),
    row("rollback_config", Object(UPDATE)).kept().cluster(),
    row("resources", Object(RESOURCES)).kept(),
    row("restart_policy", Object(RESTART_POLICY)).kept(),
    row("placement", Object(PLACEMENT)).kept().cluster(),
    row("endpoint_mode", Text).cluster(),
];

pub static UPDATE: Table = &[
    row("parallelism", ANY_INTEGER).kept(),
    row("delay", Duration),
    row("failure_action", Text),
    row("monitor", Duration),
    row("max_failure_ratio", Number),
    row("order", Choice(&["start-first", "stop-first"])),
];

pub static RESOURCES: Table =
    &[row("limits", Object(LIMITS)).kept(), row("reservations", Object(RESERVATIONS)).kept()];

pub static LIMITS: Table = &[row("cpus", Number), row("memory", BytesText), row("pids", ANY_INTEGER)];

pub static RESERVATIONS: Table = &[
    row("cpus", Number).cluster(),
    row("memory", BytesText),
    row("devices", List(&Object(DEVICE_REQUEST))),
    row("generic_resources", List(&Object(GENERIC_RESOURCE))).cluster(),
];

pub static GENERIC_RESOURCE: Table = &[row("discrete_resource_spec", Object(DISCRETE))];

pub static DISCRETE: Table = &[row("kind", Text).kept(), row("value", Whole).kept()];

pub static DEVICE_REQUEST: Table = &[
    row("capabilities", Strings),
    row("driver", Text),
    row("count", Count),
    row("device_ids", Strings),
    row("options", LABELS),
];

pub static RESTART_POLICY: Table = &[
    row("condition", Text),
    row("delay", Duration).kept().cluster(),
    row("max_attempts", ANY_INTEGER).kept(),
    row("window", Duration).kept().cluster(),
];

pub static PLACEMENT: Table = &[
    row("constraints", Strings),
    row("preferences", List(&Object(&[row("spread", Text)]))),
    row("max_replicas_per_node", ANY_INTEGER),
];

pub static DEVELOP: Table = &[row("watch", List(&Object(WATCH)))];

pub static WATCH: Table = &[
    row("path", Text).path(PathRule::Local).required(),
    row("action", Choice(&["rebuild", "sync", "restart", "sync+restart", "sync+exec"])).required(),
    row("target", Text),
    row("exec", Object(HOOK)),
    row("include", StringOrList),
    row("ignore", StringOrList),
    row("initial_sync", Flag),
];

pub static HOOK: Table = &[
    row("command", Words).merge(Merge::Replace).required(),
    row("user", Text),
    row("privileged", Flag),
    row("working_dir", Text),
    row("environment", ENVIRONMENT),
];

pub static BLKIO: Table = &[
    row("weight", ANY_INTEGER),
    row("weight_device", List(&Closed(WEIGHT_DEVICE))),
    row("device_read_bps", List(&Closed(THROTTLE))),
    row("device_read_iops", List(&Closed(THROTTLE))),
    row("device_write_bps", List(&Closed(THROTTLE))),
    row("device_write_iops", List(&Closed(THROTTLE))),
];

pub static WEIGHT_DEVICE: Table = &[row("path", Text).kept(), row("weight", ANY_INTEGER).kept()];

pub static THROTTLE: Table = &[row("path", Text).kept(), row("rate", WholeBytes).kept()];

pub static CREDENTIAL_SPEC: Table = &[row("config", Text), row("file", Text), row("registry", Text)];

pub static DEPENDENCY: Table = &[
    row("condition", Choice(&["service_started", "service_healthy", "service_completed_successfully"]))
        .required(),
    row("restart", Flag),
    row("required", StrictFlag).kept(),
];

pub static DEVICE: Table = &[row("source", Text).required(), row("target", Text), row("permissions", Text)];

pub static PROVIDER: Table =
    &[row("type", Text).required(), row("options", Options(OptionValues::ScalarOrList))];

pub static ENV_FILE: Table =
    &[row("path", Text).path(PathRule::Local).required(), row("required", Flag).kept(), row("format", Text)];

pub static EXTENDS: Table = &[row("service", Text).required(), row("file", Text)];

pub static HEALTHCHECK: Table = &[
    row("test", Test).merge(Merge::Replace),
    row("timeout", Duration).kept(),
    row("interval", Duration).kept(),
    row("retries", Whole).kept(),
    row("start_period", Duration).kept(),
    row("start_interval", Duration).kept(),
    row("disable", Flag),
];

pub static LOGGING: Table = &[row("driver", Text), row("options", Options(OptionValues::TextNumberNull))];

pub static SERVICE_MODEL: Table = &[row("endpoint_var", Text), row("model_var", Text)];

pub static SERVICE_NETWORK: Table = &[
    row("aliases", Strings).unique(KeyOf::Item),
    row("driver_opts", DRIVER_OPTIONS),
    row("gw_priority", StrictNumber),
    row("interface_name", Text),
    row("ipv4_address", Text),
    row("ipv6_address", Text),
    row("link_local_ips", Strings).unique(KeyOf::Item),
    row("mac_address", Text),
    row("priority", StrictNumber),
];

pub static PORT: Table = &[
    row("name", Text),
    row("mode", Text),
    row("host_ip", Text),
    row("target", ANY_INTEGER),
    row("published", Any),
    row("protocol", Text),
    row("app_protocol", Text),
];

pub static ULIMIT: Table = &[row("soft", ANY_INTEGER).required(), row("hard", ANY_INTEGER).required()];

pub static MOUNT: Table = &[
    row("type", Choice(&["bind", "volume", "tmpfs", "cluster", "npipe", "image"])).required(),
    row("source", Text).path(PathRule::Mount),
    row("target", Text),
    row("read_only", Flag),
    row("consistency", Text),
    row("bind", Object(MOUNT_BIND)).kept(),
    row("volume", Object(MOUNT_VOLUME)).kept(),
    row("tmpfs", Object(MOUNT_TMPFS)).kept(),
    row("image", Object(MOUNT_IMAGE)).kept(),
];

pub static MOUNT_BIND: Table = &[
    row("selinux", Choice(&["z", "Z"])).selinux(),
    row("propagation", Text),
    row("create_host_path", Flag),
    row("recursive", Choice(&["enabled", "disabled", "writable", "readonly"])),
];

pub static MOUNT_VOLUME: Table = &[row("labels", LABELS), row("nocopy", Flag), row("subpath", Text)];

pub static MOUNT_TMPFS: Table = &[row("size", WholeBytes), row("mode", Whole)];

pub static MOUNT_IMAGE: Table = &[row("subpath", Text)];

pub static FILE_MOUNT: Table =
    &[row("source", Text), row("target", Text), row("uid", Text), row("gid", Text), row("mode", Mode).kept()];

pub static NETWORK: Table = &[
    row("name", Text),
    row("driver", Text),
    row("driver_opts", DRIVER_OPTIONS),
    row("ipam", Object(IPAM)).kept(),
    row("external", External),
    row("internal", Flag),
    row("attachable", Flag),
    row("labels", LABELS),
    row("enable_ipv4", Flag).kept(),
    row("enable_ipv6", Flag).kept(),
];

pub static IPAM: Table = &[
    row("driver", Text),
    row("config", List(&Object(IPAM_POOL))).unique(KeyOf::Subnet),
    row("options", Options(OptionValues::Text)).hidden().elsewhere("with another address driver"),
];

pub static IPAM_POOL: Table = &[
    row("subnet", Text),
    row("gateway", Text),
    row("ip_range", Text),
    row("aux_addresses", Options(OptionValues::Text)),
];

pub static VOLUME: Table = &[
    row("name", Text),
    row("driver", Text),
    row("driver_opts", DRIVER_OPTIONS).path(PathRule::Device),
    row("external", External),
    row("labels", LABELS),
];

pub static SECRET: Table = &[
    row("name", Text),
    row("file", Text).path(PathRule::Local),
    row("environment", Text),
    row("external", External),
    row("labels", LABELS),
    row("driver", Text),
    row("driver_opts", DRIVER_OPTIONS),
    row("template_driver", Text),
];

pub static CONFIG: Table = &[
    row("name", Text),
    row("file", Text).path(PathRule::Local),
    row("environment", Text),
    row("content", Text),
    row("external", External),
    row("labels", LABELS),
    row("template_driver", Text),
];

pub static MODEL: Table = &[
    row("name", Text),
    row("model", Text).required(),
    row("context_size", StrictInteger),
    row("runtime_flags", Strings),
];

/// Keys that older formats had here, or that belong elsewhere, with what to write today.
pub static FORMER: &[(Table, &str, &str)] = &[
    (SERVICE, "dockerfile", "write it below `build:`"),
    (SERVICE, "log_driver", "write `logging: {driver: ...}`"),
    (SERVICE, "log_opt", "write `logging: {options: ...}`"),
    (SERVICE, "net", "write `network_mode:` or `networks:`"),
    (SERVICE, "volume_driver", "write `driver:` below the top-level `volumes:`"),
    (SERVICE, "network", "did you mean `networks`? A mode such as `host` is `network_mode:`"),
    (SERVICE, "name", "write `container_name:`; the name of a service is its key"),
    (SERVICE, "env", "write `environment:`, or `env_file:` for a file"),
    (SERVICE, "envs", "write `environment:`, or `env_file:` for a file"),
    (SERVICE, "cmd", "write `command:`"),
    (SERVICE, "run", "write `command:`"),
    (SERVICE, "args", "the arguments of a build stand below `build:`, those of a container in `command:`"),
    (SERVICE, "memory", "write `mem_limit:`, or `deploy: {resources: {limits: {memory: ...}}}`"),
    (SERVICE, "limits", "write it below `deploy: {resources: ...}`"),
    (SERVICE, "restart_policy", "write it below `deploy:`, or use `restart:`"),
    (SERVICE, "driver", "this belongs to a network, a volume or `logging:`"),
    (SERVICE, "external", "this belongs to a network or a volume at the top level"),
    (SERVICE, "depends", "write `depends_on:`"),
    (SERVICE, "requires", "write `depends_on:`"),
    (SERVICE, "replicas", "write it below `deploy:`, or `scale:`"),
    (SERVICE, "constraints", "write it below `deploy: {placement: ...}`"),
    (SERVICE, "entry_point", "write `entrypoint:`"),
    (SERVICE, "health_check", "write `healthcheck:`"),
    (BUILD, "path", "write `context:`"),
    (BUILD, "dir", "write `context:`"),
    (BUILD, "file", "write `dockerfile:`"),
    (BUILD, "image", "`image` stands beside `build:`, and names what is built"),
    (BUILD, "buildargs", "write `args:`"),
    (BUILD, "build_args", "write `args:`"),
    (DEPLOY, "restart", "write `restart_policy:`, or `restart:` beside `deploy:`"),
    (DEPLOY, "limits", "write it below `resources:`"),
    (DEPLOY, "reservations", "write it below `resources:`"),
    (DEPLOY, "constraints", "write it below `placement:`"),
    (LIMITS, "mem_limit", "write `memory:`"),
    (LIMITS, "mem", "write `memory:`"),
    (LIMITS, "cpu", "write `cpus:`"),
    (HEALTHCHECK, "command", "write `test:`"),
    (HEALTHCHECK, "cmd", "write `test:`"),
    (HEALTHCHECK, "start-period", "write `start_period:`"),
    (
        PROJECT,
        "environment",
        "this belongs to a service; variables of all services stand in a file for `env_file:`",
    ),
    (
        PROJECT,
        "env_file",
        "this belongs to a service; the variables of `${...}` come from `.env` or `--env-file`",
    ),
    (PROJECT, "project_name", "write `name:`"),
    (PROJECT, "project", "write `name:`"),
    (PROJECT, "containers", "services stand below `services:`; `ficelle migrate` rewrites a group file"),
    (PROJECT, "extends", "this belongs to a service; whole files are taken in by `include:`"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_has_two_rows() {
        for table in [PROJECT, SERVICE, BUILD, DEPLOY, MOUNT, NETWORK, VOLUME, SECRET, CONFIG, PORT] {
            for (at, row) in table.iter().enumerate() {
                assert!(table[at + 1..].iter().all(|other| other.name != row.name), "{}", row.name);
            }
        }
    }

    #[test]
    fn the_table_knows_every_service_attribute_of_the_specification() {
        assert_eq!(SERVICE.len(), 93);
    }
}
