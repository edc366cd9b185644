//! Makes one container out of its specification: root filesystem, volumes, network, files, then the
//! launcher. Runs in a process of its own with a single thread, since it leaves the host's mounts
//! and calls the launcher; whoever forked it hears one [`Report`].

use std::{
    collections::HashMap,
    fs,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::PermissionsExt, net::UnixListener},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{Mode, OFlags},
};
use serde_json::Value;

use super::{
    BoundPort, ContainerConfig, Error, MountKind, NetworkNamespace, PortConfig, Result, Roots, Seccomp,
    Upper,
    anchor::Anchor,
    cdi, cgroup, check, devices, dns,
    failpoint::{Point, reached},
    files, fixtures,
    launcher::{Launch, Launcher, Libcontainer, Stdio},
    links,
    network::{self, Lease},
    oci::{self, Resolved},
    ports,
    process::{self, DEFAULT_PATH, Program},
    protocol::{Report, Started, Wire, borrow, send},
    rootfs, rootless, seccomp, sharing, signal,
    state::{Identity, Place, Spec, failed, file_error, make_dir, write_file},
    terminal,
    users::{self, User},
    volumes,
    wait::Deadline,
};
use crate::model::ExtraHost;

/// One start of one container.
#[derive(Debug)]
pub struct Job {
    pub roots: Roots,
    pub place: Place,
    pub spec: Spec,
    /// Path of its control groups; `None` where this user can have none.
    pub cgroup: Option<String>,
    /// Standard input, output and error; a terminal of its own when `None`.
    pub stdio: Option<[OwnedFd; 3]>,
    /// Listeners are held already.
    pub bound: Option<Vec<BoundPort>>,
    /// For a container on networks.
    pub anchor: Option<Anchor>,
    /// Hangs up when it is decided whether the networks have a way out.
    pub way_out: Option<OwnedFd>,
}

/// Forks a worker that does `job` and answers over `socket`. The caller has one thread.
pub fn fork(socket: &OwnedFd, job: impl FnOnce() -> Result<(Report, Vec<OwnedFd>)>) -> Result<i32> {
    // SAFETY: the caller has a single thread, so the child may go on as an ordinary program.
    match unsafe { libc::fork() } {
        -1 => Err(Error::System { what: "cannot fork".into(), source: std::io::Error::last_os_error() }),
        0 => {
            process::set_name("ficelle-worker");
            let (report, descriptors) =
                job().unwrap_or_else(|error| (Report::Failed(Wire::from(&error)), Vec::new()));
            let sent = send(socket.as_fd(), &report, &borrow(&descriptors));
            if let (Err(_), Report::Started(Started { process, .. })) = (&sent, &report) {
                // The keeper is gone: nobody would know of it.
                signal::kill(process);
            }
            let code = i32::from(sent.is_err());
            // Our own end takes the kernel longer than whoever waits for the report should.
            rustix::thread::sched_yield();
            // SAFETY: leaves without running what belongs to the process it was forked from.
            unsafe { libc::_exit(code) }
        }
        pid => Ok(pid),
    }
}

/// Forks a process that does `job` and that nobody hears, also when the caller is no more. The caller has
/// one thread.
pub fn fork_apart(job: impl FnOnce() -> Result<()>) -> Result<()> {
    // SAFETY: as in `fork`.
    match unsafe { libc::fork() } {
        -1 => Err(Error::System { what: "cannot fork".into(), source: std::io::Error::last_os_error() }),
        0 => {
            process::set_name("ficelle-remover");
            let code = i32::from(job().is_err());
            // SAFETY: as in `fork`.
            unsafe { libc::_exit(code) }
        }
        _ => Ok(()),
    }
}

/// Whether the user mounts something of their own where the control groups are seen.
fn mounts_cgroups(config: &ContainerConfig) -> bool {
    config.mounts.iter().any(|mount| Path::new(&mount.target).starts_with("/sys"))
}

/// Everything from the specification to the running program.
pub fn start(job: Job) -> Result<(Report, Vec<OwnedFd>)> {
    let Job { roots, place, mut spec, cgroup, stdio, bound, anchor, way_out } = job;
    let hooks = cdi::apply(&mut spec.config)?;
    let config = &spec.config;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let (ports, mut descriptors) = match bound {
        Some(ports) => (ports, Vec::new()),
        None => bind(&config.ports)?,
    };
    reached(Point::PortsBound);

    // In the namespace that all containers come from, so that they share what a volume mounts.
    for name in volume_names(&spec) {
        volumes::ready(&roots, &name)?;
    }
    let passing = passing_sources(config)?;
    rootfs::own_mounts()?;
    if cgroup.is_none() {
        cgroup::stand_in()?;
    }
    let joined = sharing::join(&roots, config)?;
    let shared_memory = sharing::shared_memory(&roots, config, &place.run.join("shm"))?;
    let leases = leases(&roots, config)?;
    let mut slot = (config.network != NetworkNamespace::Host).then(slot).transpose()?;
    let making = Making {
        roots: &roots,
        place: &place,
        spec: &spec,
        cgroup: cgroup.as_deref(),
        anchor: anchor.as_ref(),
        leases: &leases,
        joined,
        shared_memory,
        passing,
        network: slot.as_ref().map(path_of),
    };
    // Either keeps the kernel busy for milliseconds, and neither needs the other.
    let (connected, prepared) = std::thread::scope(|scope| {
        let connecting = || connect(&roots, config, anchor.as_ref(), &leases);
        let aside = std::thread::Builder::new().spawn_scoped(scope, connecting);
        let prepared = making.prepare(hooks, stdio);
        let bug = |_| Err(Error::Helper("bug while connecting the container".to_owned()));
        let connected = aside.map_or_else(|_| connecting(), |thread| thread.join().unwrap_or_else(bug));
        (connected, prepared)
    });
    let Prepared { launch, entered, devices, console } = prepared?;
    let (network, names) = connected?;
    if let (Some(network), Some(slot)) = (&network, &mut slot) {
        rustix::io::dup3(network, slot, rustix::io::DupFlags::CLOEXEC)
            .map_err(failed("cannot hand the network over"))?;
    }
    reached(Point::Connected);
    let created = Libcontainer.create(launch)?;
    let process = created.process().clone();
    reached(Point::Created);
    // Whoever comes when neither we nor the keeper could tell of it ends it.
    place.write_starting(&process)?;
    if let Some(entered) = entered {
        entered.leave()?;
    } else if let Some(cgroup) = &cgroup {
        if !config.privileged {
            cgroup::fence(cgroup, &devices)?;
        }
        if config.limits.oom_kill_disable {
            cgroup::disable_oom_killer(cgroup)?;
        }
    }
    let (dns, terminal) = (!names.is_empty(), console.is_some());
    descriptors.extend(names);
    if let Some((listener, path)) = console {
        let master = master(&listener)?;
        if let Some(size) = config.once.as_ref().and_then(|once| once.size) {
            terminal::resize(master.as_fd(), size)?;
        }
        descriptors.push(master);
        fs::remove_file(&path).map_err(|e| file_error("cannot remove", &path, e))?;
    }
    if let Some(decided) = way_out.filter(|_| leases.iter().any(|lease| !lease.internal)) {
        let mut fds = [PollFd::new(&decided, PollFlags::empty())];
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).map_err(failed("cannot wait for the way out"))?;
    }
    created.start()?;
    reached(Point::Started);
    let address = leases.first().map(|lease| lease.address);
    let restart = config.restart;
    Ok((Report::Started(Started { process, ports, address, dns, restart, terminal }), descriptors))
}

/// A container that is being made.
struct Making<'a> {
    roots: &'a Roots,
    place: &'a Place,
    spec: &'a Spec,
    cgroup: Option<&'a str>,
    anchor: Option<&'a Anchor>,
    leases: &'a [Lease],
    joined: sharing::Joined,
    /// The /dev/shm of another.
    shared_memory: Option<PathBuf>,
    /// What is bound so that mounts pass, by its number among the mounts.
    passing: HashMap<usize, OwnedFd>,
    /// Where its network namespace will be found.
    network: Option<PathBuf>,
}

/// A container of which only the network may be missing.
struct Prepared {
    launch: Launch,
    /// This process is in the container's control groups.
    entered: Option<cgroup::Entered>,
    /// Rules, as the document has them.
    devices: Value,
    console: Option<(UnixListener, PathBuf)>,
}

impl Making<'_> {
    fn prepare(&self, hooks: Value, stdio: Option<[OwnedFd; 3]>) -> Result<Prepared> {
        let (roots, place, config) = (self.roots, self.place, &self.spec.config);
        let contents = files::write(&config.files, &place.run.join("files"))?;
        let root = build_root(roots, self.spec, place, &self.passing)?;
        let hostname = hostname(roots, config)?;
        let files = etc_files(roots, config, self.anchor, self.leases, place, &hostname)?;
        let files = fixtures::mount(root.fd.as_fd(), config, files)?;
        let Root { path: root, user, sources, .. } = root;

        let mut config = config.clone();
        config.env = environment(&config, &user);
        if !config.env.iter().any(|variable| variable.starts_with("HOSTNAME=")) {
            config.env.push(format!("HOSTNAME={hostname}"));
        }
        if config.link_variables {
            let set: Vec<String> = config.env.iter().map(|variable| name_of(variable).to_owned()).collect();
            let told = links::variables(roots, &config)?;
            config.env.extend(
                told.into_iter().filter(|variable| !set.iter().any(|name| name == name_of(variable))),
            );
        }
        let resolved = Resolved {
            rootfs: root,
            sources,
            files,
            contents,
            network: self.network.clone(),
            ipc: self.joined.ipc.as_ref().map(path_of),
            pid: self.joined.pid.as_ref().map(path_of),
            shared_memory: self.shared_memory.clone(),
            devices: devices::of(&config)?,
            disks: disks(&config.limits.blkio),
            hooks,
            cgroup: self.cgroup.map(str::to_owned),
            hostname,
            user,
        };
        let console = console(place, stdio.is_none())?;
        let stdio = match (stdio, &console) {
            (Some(streams), _) => Stdio::Streams(owned_by(streams, &resolved.user)?),
            (None, Some((_, path))) => Stdio::Console(path.clone()),
            (None, None) => return Err(Error::Helper("neither streams nor a terminal".into())),
        };
        let mut document = oci::document(&config, &resolved)?;
        let protect_cgroups = !config.privileged && !mounts_cgroups(&config);
        let cgroups = match rootless::is_confined() || mounts_cgroups(&config) {
            true => cgroup::View::default(),
            false => cgroup::View::take_over(&mut document, &place.run.join("cgroup"), protect_cgroups)?,
        };
        let devices = document["linux"]["resources"]["devices"].clone();
        if let Some(cgroup) = self.cgroup {
            cgroup::prepare(cgroup)?;
            cgroup::honour(cgroup, &mut document["linux"]["resources"]);
        }
        let entered = match self.cgroup {
            Some(cgroup) if cgroups.is_complete() => {
                cgroup::enter_new(cgroup, &document["linux"]["resources"])?
            }
            _ => None,
        };
        if let (Some(linux), true) = (document["linux"].as_object_mut(), entered.is_some()) {
            linux.remove("resources");
        }
        let launch = Launch {
            id: config.id.clone(),
            document,
            scratch: place.run.join("launch"),
            program: program(&config)?,
            init: config.init,
            protect_cgroups,
            cgroups,
            settled: entered.is_some(),
            device_dirs: directories_of(&resolved.devices),
            stdio,
        };
        Ok(Prepared { launch, entered, devices, console })
    }
}

/// A root filesystem that is mounted, and what is found out in it.
struct Root {
    path: PathBuf,
    fd: OwnedFd,
    user: User,
    /// Of the mounts of the configuration, in its order.
    sources: Vec<Option<PathBuf>>,
}

fn build_root(roots: &Roots, spec: &Spec, place: &Place, passing: &HashMap<usize, OwnedFd>) -> Result<Root> {
    let config = &spec.config;
    let path = mount_root(roots, config, place)?;
    reached(Point::RootMounted);
    let fd = rootfs::open_path(&path)?;
    rootfs::refuse_links(fd.as_fd())?;
    let user = users::resolve(fd.as_fd(), &config.user, &config.groups)?;
    make_cwd(fd.as_fd(), config)?;
    check_targets(config, fd.as_fd())?;
    let sources = mount_sources(roots, spec, place, fd.as_fd(), passing)?;
    Ok(Root { path, fd, user, sources })
}

/// The namespace to join, `None` being the host's, and the sockets of its name server.
fn connect(
    roots: &Roots,
    config: &ContainerConfig,
    anchor: Option<&Anchor>,
    leases: &[Lease],
) -> Result<(Option<OwnedFd>, Vec<OwnedFd>)> {
    let namespace = network(roots, config, anchor, leases)?;
    let names = match &namespace {
        Some(namespace) if !leases.is_empty() => {
            dns::Sockets::open(namespace.as_fd())?.into_descriptors().into()
        }
        _ => Vec::new(),
    };
    Ok((namespace, names))
}

/// A descriptor whose number the document can name before there is what it will stand for.
fn slot() -> Result<OwnedFd> {
    rootfs::open_path(Path::new("/"))
}

fn path_of(descriptor: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()))
}

fn volume_names(spec: &Spec) -> Vec<String> {
    let named = spec.config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { name, .. } => Some(name.clone()),
        _ => None,
    });
    named.chain(spec.anonymous_volumes.iter().map(|(_, name)| name.clone())).collect()
}

/// Its own name, or that of whom it shares the network or the name with.
fn hostname(roots: &Roots, config: &ContainerConfig) -> Result<String> {
    let own = || config.hostname.clone().unwrap_or_else(|| short_id(&config.id));
    Ok(match &config.network {
        _ if config.host_uts => host_name(),
        NetworkNamespace::Host if config.hostname.is_none() => host_name(),
        NetworkNamespace::Container(id) if config.hostname.is_none() => {
            let lender = sharing::lender(roots, id, "network")?.config;
            lender.hostname.unwrap_or_else(|| short_id(&lender.id))
        }
        _ => own(),
    })
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A link of the image must not lead a mount into /proc.
fn check_targets(config: &ContainerConfig, root: BorrowedFd<'_>) -> Result<()> {
    for mount in &config.mounts {
        let led = rootfs::led_to(root, &mount.target)?;
        check::leaves_the_kernel_in_sight(&mount.target, &led, &mount.kind)?;
    }
    for file in &config.files {
        let kind = MountKind::Tmpfs { size: None, mode: None, options: Vec::new() };
        check::leaves_the_kernel_in_sight(&file.target, &rootfs::led_to(root, &file.target)?, &kind)?;
    }
    Ok(())
}

/// Those below /dev in which these devices are.
fn directories_of(devices: &[oci::DeviceNode]) -> Vec<PathBuf> {
    let parents = devices.iter().flat_map(|device| device.path.ancestors().skip(1));
    let mut all: Vec<_> =
        parents.filter(|dir| dir.parent().is_some_and(|up| up.starts_with("/dev"))).collect();
    all.sort_unstable();
    all.dedup();
    all.into_iter().map(Path::to_path_buf).collect()
}

/// Numbers of the block devices that limits name.
fn disks(blkio: &crate::model::Blkio) -> std::collections::BTreeMap<String, (u32, u32)> {
    let rates = [&blkio.read_bps, &blkio.write_bps, &blkio.read_iops, &blkio.write_iops];
    let paths = rates.into_iter().flatten().map(|(path, _)| path);
    let paths = paths.chain(blkio.weight_device.iter().map(|(path, _)| path));
    paths
        .filter_map(|path| {
            let node = devices::node(path.as_ref(), path.as_ref(), "r").filter(|node| node.block)?;
            Some((path.clone(), (node.major, node.minor)))
        })
        .collect()
}

/// What a keeper that took over from a dead one must hold for a container that runs on.
/// Its ports stay the same.
pub fn take_over(
    roots: &Roots,
    spec: &Spec,
    process: &Identity,
    had: &[BoundPort],
    anchor: Option<&Anchor>,
) -> Result<(Report, Vec<OwnedFd>)> {
    let same =
        spec.config.ports.iter().zip(had).map(|(port, had)| PortConfig {
            published: Some((had.host_port, had.host_port)),
            ..port.clone()
        });
    let same: Vec<_> = same.collect();
    let (ports, mut descriptors) = when_free(|| bind(&same))?;
    let leases = leases(roots, &spec.config)?;
    if !leases.is_empty() {
        let namespace = sharing::namespace_of(process, "net")?;
        if let Some(anchor) = anchor {
            network::reconnect(anchor, namespace.as_fd(), &leases)?;
        }
        let sockets = when_free(|| dns::Sockets::open(namespace.as_fd()))?;
        descriptors.extend(sockets.into_descriptors());
    }
    let address = leases.first().map(|lease| lease.address);
    reached(Point::TakenOver);
    Ok((Report::TakenOver { ports, address, dns: !leases.is_empty() }, descriptors))
}

/// What processes of the dead that are just being executed had open is free in a moment.
fn when_free<T>(take: impl Fn() -> Result<T>) -> Result<T> {
    const LONGEST: Duration = Duration::from_secs(2);
    let deadline = Deadline::new(Some(LONGEST));
    loop {
        let taken = take();
        let in_use = match &taken {
            Err(Error::Conflict(_)) => true,
            Err(Error::System { source, .. }) => source.kind() == std::io::ErrorKind::AddrInUse,
            _ => false,
        };
        match deadline.left(Duration::from_millis(2)) {
            Ok(pause) if in_use => std::thread::sleep(pause),
            _ => return taken,
        }
    }
}

/// Listeners for the published ports, in the host's network.
fn bind(ports: &[PortConfig]) -> Result<(Vec<BoundPort>, Vec<OwnedFd>)> {
    let bound = ports.iter().map(|port| {
        let (fd, address) = ports::bind(port)?;
        let (target, protocol) = (port.target, port.protocol);
        Ok((BoundPort { host_ip: address.ip(), host_port: address.port(), target, protocol }, fd))
    });
    bound.collect::<Result<Vec<_>>>().map(|bound| bound.into_iter().unzip())
}

fn mount_root(roots: &Roots, config: &ContainerConfig, place: &Place) -> Result<PathBuf> {
    let (upper, work) = rootfs::upper_dirs(&config.rootfs.upper, &place.data)?;
    let target = place.run.join("rootfs");
    make_dir(&target)?;
    let mut layers = config.rootfs.layers.clone();
    match &config.rootfs.upper {
        Upper::Own => layers.insert(0, mount_points(&roots.data.join("bottom"))?),
        // An overlay needs something below; what is in the layers of a build is told from them.
        _ if layers.is_empty() => layers.push(open_dir(&place.run.join("empty"))?),
        _ => {}
    }
    rootfs::mount(&layers, &upper, &work, &target)?;
    Ok(target)
}

/// The lowest layer of all containers: what every container has something mounted at. A file
/// that is made in a container's own writable layer instead costs far more. On the file system of the
/// disks: else files of the layers would seem to be on different devices.
fn mount_points(bottom: &Path) -> Result<PathBuf> {
    const DIRS: [&str; 5] = ["", "dev", "etc", "proc", "sys"];
    let last = bottom.join("etc/resolv.conf");
    if last.exists() {
        return Ok(bottom.to_owned());
    }
    for name in DIRS {
        open_dir(&bottom.join(name))?;
    }
    for path in [bottom.join("etc/hostname"), bottom.join("etc/hosts"), last] {
        write_file(&path, b"", 0o644)?;
    }
    Ok(bottom.to_owned())
}

/// A directory that everybody may look into.
fn open_dir(path: &Path) -> Result<PathBuf> {
    make_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .map_err(|e| file_error("cannot open to all", path, e))?;
    Ok(path.to_owned())
}

fn make_cwd(root: BorrowedFd<'_>, config: &ContainerConfig) -> Result<()> {
    check_cwd(&config.cwd)?;
    rootfs::make_dirs(root, &config.cwd, 0, 0).map(drop)
}

/// A working directory below /proc could be a way out of the container (CVE-2024-21626).
pub fn check_cwd(cwd: &str) -> Result<()> {
    let path = Path::new(cwd);
    let parent = path.components().any(|part| matches!(part, std::path::Component::ParentDir));
    if !path.is_absolute() || parent || path.starts_with("/proc") {
        return Err(Error::Invalid(format!("`{cwd}` cannot be the working directory")));
    }
    Ok(())
}

/// Puts what the container mounts where the launcher can take it by a path nobody else can change.
fn mount_sources(
    roots: &Roots,
    spec: &Spec,
    place: &Place,
    root: BorrowedFd<'_>,
    passing: &HashMap<usize, OwnedFd>,
) -> Result<Vec<Option<PathBuf>>> {
    let staging = place.run.join("mounts");
    make_dir(&staging)?;
    let mut sources = Vec::new();
    for (number, mount) in spec.config.mounts.iter().enumerate() {
        if let Some(tree) = passing.get(&number) {
            let at = staging.join(number.to_string());
            make_as(tree, &at)?;
            rootfs::attach_tree(tree.as_fd(), &at)?;
            sources.push(Some(at));
            continue;
        }
        let source = match &mount.kind {
            MountKind::Tmpfs { .. } => None,
            MountKind::Volume { .. } | MountKind::Anonymous { .. } => volume_of(roots, spec, mount, root)?,
            MountKind::Bind { path, create, .. } => Some(bind_source(path, *create)?),
            MountKind::Layers { layers, subpath } => {
                let at = place.run.join("images").join(number.to_string());
                Some(rootfs::view(layers, &at, subpath.as_deref())?)
            }
        };
        sources.push(match source {
            Some(source) => Some(stage(&source, &staging.join(number.to_string()))?),
            None => None,
        });
    }
    Ok(sources)
}

/// What lies in the volume that is mounted, filled from the image when new; `None` where it mounts none.
pub fn volume_of(
    roots: &Roots,
    spec: &Spec,
    mount: &super::MountConfig,
    root: BorrowedFd<'_>,
) -> Result<Option<OwnedFd>> {
    match &mount.kind {
        MountKind::Volume { name, nocopy, subpath } => {
            volume(roots, name, &mount.target, *nocopy, subpath.as_deref(), root).map(Some)
        }
        MountKind::Anonymous { nocopy, .. } => {
            let name = spec.anonymous_volumes.iter().find(|(target, _)| target == &mount.target);
            let (_, name) = name.ok_or_else(|| Error::NoVolume(mount.target.clone()))?;
            volume(roots, name, &mount.target, *nocopy, None, root).map(Some)
        }
        MountKind::Bind { .. } | MountKind::Layers { .. } | MountKind::Tmpfs { .. } => Ok(None),
    }
}

/// The directory (or what lies at `subpath` in it) of a volume, filled from the image when new.
fn volume(
    roots: &Roots,
    name: &str,
    target: &str,
    nocopy: bool,
    subpath: Option<&str>,
    root: BorrowedFd<'_>,
) -> Result<OwnedFd> {
    let data = volumes::data_dir(roots, name);
    if !data.exists() {
        return Err(Error::NoVolume(name.to_owned()));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    if !nocopy && let Ok(source) = rootfs::open_inside(root, target, flags) {
        volumes::seed(&data, source.as_fd())?;
    }
    // Only now: seeding puts another directory in its place.
    let fd = rootfs::open_path(&data)?;
    match subpath {
        None => Ok(fd),
        Some(path) => rootfs::open_inside(fd.as_fd(), path, OFlags::PATH)
            .map_err(failed(format!("cannot open `{path}` in volume `{name}`"))),
    }
}

fn bind_source(path: &Path, create: bool) -> Result<OwnedFd> {
    if create && !path.exists() {
        fs::create_dir_all(path).map_err(|e| file_error("cannot make directory", path, e))?;
    }
    rootfs::open_path(path)
}

/// What is bound so that mounts pass to or from the host, by its number among the mounts.
fn passing_sources(config: &ContainerConfig) -> Result<HashMap<usize, OwnedFd>> {
    let mut passing = HashMap::new();
    for (number, mount) in config.mounts.iter().enumerate() {
        let MountKind::Bind { path, create, propagation: Some(asked), .. } = &mount.kind else { continue };
        if let Some(wanted) = rootfs::propagation(asked).filter(|wanted| rootfs::passes(*wanted)) {
            drop(bind_source(path, *create)?);
            passing.insert(number, rootfs::passing(path, wanted)?);
        }
    }
    Ok(passing)
}

/// Mounts what is open at `target`.
fn stage(source: &OwnedFd, target: &Path) -> Result<PathBuf> {
    make_as(source, target)?;
    rootfs::attach(source.as_fd(), target)?;
    Ok(target.to_owned())
}

/// A directory or file, as what is open.
fn make_as(source: &OwnedFd, target: &Path) -> Result<()> {
    let stat = rustix::fs::fstat(source).map_err(failed("cannot examine a mount source"))?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        if target.is_file() {
            fs::remove_file(target).map_err(|e| file_error("cannot remove", target, e))?;
        }
        make_dir(target)
    } else {
        if target.is_dir() {
            fs::remove_dir(target).map_err(|e| file_error("cannot remove", target, e))?;
        }
        write_file(target, b"", 0o600)
    }
}

/// The container's places on its networks: those it was given when it was made, or new ones after
/// the machine was down. From here on its names are answered: the program may ask for its own at once.
fn leases(roots: &Roots, config: &ContainerConfig) -> Result<Vec<Lease>> {
    match &config.network {
        NetworkNamespace::Own(endpoints) if !endpoints.is_empty() => {
            network::occupy(roots, &config.group, &config.id, endpoints, config.replaces.as_deref())
        }
        _ => Ok(Vec::new()),
    }
}

/// The namespace to join; `None` is the host's.
fn network(
    roots: &Roots,
    config: &ContainerConfig,
    anchor: Option<&Anchor>,
    leases: &[Lease],
) -> Result<Option<OwnedFd>> {
    match (&config.network, anchor) {
        (NetworkNamespace::Host, _) => Ok(None),
        (NetworkNamespace::Own(_), Some(anchor)) => network::prepare(anchor, leases).map(Some),
        (NetworkNamespace::Own(_) | NetworkNamespace::None, _) => network::loopback_only().map(Some),
        (NetworkNamespace::Container(id), _) => {
            sharing::lender(roots, id, "network")?.namespace("net").map(Some)
        }
    }
}

const FILES: [(&str, &str); 3] =
    [("/etc/resolv.conf", "resolv.conf"), ("/etc/hosts", "hosts"), ("/etc/hostname", "hostname")];

/// Our own resolv.conf, hosts and hostname, or those of the container whose network is shared.
fn etc_files(
    roots: &Roots,
    config: &ContainerConfig,
    anchor: Option<&Anchor>,
    leases: &[Lease],
    place: &Place,
    hostname: &str,
) -> Result<Vec<(&'static str, PathBuf)>> {
    if let NetworkNamespace::Container(id) = &config.network {
        let other = sharing::lender(roots, id, "network")?.place;
        return Ok(FILES.map(|(target, name)| (target, other.run.join(name))).to_vec());
    }
    let host = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let resolver = dns::resolv_conf(&host, &config.dns, !leases.is_empty());
    let mut hosts = match &config.network {
        // Docker gives the host's own as long as nothing is to be added to it.
        NetworkNamespace::Host if config.extra_hosts.is_empty() => {
            fs::read_to_string("/etc/hosts").unwrap_or_default()
        }
        _ => LOCAL_HOSTS.to_owned(),
    };
    for (name, behind) in &config.extra_hosts {
        let address = match behind {
            ExtraHost::Address(address) => *address,
            ExtraHost::HostGateway => network::host_gateway(anchor)?.into(),
        };
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    let names = match &config.domainname {
        Some(domain) => format!("{hostname}.{domain} {hostname}"),
        None => match hostname.split_once('.') {
            Some((short, _)) => format!("{hostname} {short}"),
            None => hostname.to_owned(),
        },
    };
    for lease in leases {
        hosts.push_str(&format!("{}\t{names}\n", lease.address));
        if let Some(v6) = &lease.v6 {
            hosts.push_str(&format!("{}\t{names}\n", v6.address));
        }
    }
    let contents = [resolver, hosts, format!("{hostname}\n")];
    FILES
        .into_iter()
        .zip(contents)
        .map(|((target, name), content)| {
            let path = place.run.join(name);
            write_file(&path, content.as_bytes(), 0o644)?;
            Ok((target, path))
        })
        .collect()
}

/// What every /etc/hosts begins with, as Docker writes it.
const LOCAL_HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\n\
     ff00::\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// The name of a variable, `NAME=value`.
pub fn name_of(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

/// What a program expects and the image does not say, but for HOSTNAME.
pub fn environment(config: &ContainerConfig, user: &User) -> Vec<String> {
    let mut env = config.env.clone();
    let mut add = |name: &str, value: &str| {
        if !env.iter().any(|variable| name_of(variable) == name) {
            env.push(format!("{name}={value}"));
        }
    };
    add("PATH", DEFAULT_PATH);
    add("HOME", &user.home);
    if config.tty {
        add("TERM", "xterm");
    }
    env
}

fn program(config: &ContainerConfig) -> Result<Program> {
    let mut program = Program::new(&config.args, &config.env)?;
    program.capabilities = process::capability_set(&config.capabilities)?;
    program.no_new_privileges = config.no_new_privileges;
    program.filter = filter(config)?;
    Ok(program)
}

/// The system call filter of everything that runs in the container.
pub fn filter(config: &ContainerConfig) -> Result<Vec<libc::sock_filter>> {
    match &config.seccomp {
        Seccomp::Default => Ok(seccomp::default_filter(&config.capabilities)),
        Seccomp::None => Ok(Vec::new()),
        Seccomp::Profile(text) => Ok(seccomp::Profile::parse(text)?.filter(&config.capabilities)),
    }
}

pub fn short_id(id: &str) -> String {
    id.get(..12).unwrap_or(id).to_owned()
}

/// A program may open its streams again by name, so they belong to its user.
fn owned_by(streams: [OwnedFd; 3], user: &User) -> Result<[OwnedFd; 3]> {
    for stream in &streams {
        let stat = rustix::fs::fstat(stream).map_err(failed("cannot examine a stream"))?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Fifo {
            let (uid, gid) = (rustix::fs::Uid::from_raw(user.uid), rustix::fs::Gid::from_raw(user.gid));
            rustix::fs::fchown(stream, Some(uid), Some(gid)).map_err(failed("cannot hand over a stream"))?;
        }
    }
    Ok(streams)
}

/// Where the launcher sends the master of the container's terminal.
fn console(place: &Place, wanted: bool) -> Result<Option<(UnixListener, PathBuf)>> {
    if !wanted {
        return Ok(None);
    }
    let path = place.run.join("console");
    super::state::remove_file(&path)?;
    // Paths of sockets are short: through the directory's descriptor any path fits.
    let dir = rootfs::open_path(&place.run)?;
    let listener = UnixListener::bind(format!("/proc/self/fd/{}/console", dir.as_raw_fd()))
        .map_err(|e| file_error("cannot listen at", &path, e))?;
    // Only the worker hears it, and libcontainer takes paths of any length itself.
    Ok(Some((listener, path)))
}

fn master(listener: &UnixListener) -> Result<OwnedFd> {
    let gone = |e: std::io::Error| Error::System { what: "cannot take over the terminal".into(), source: e };
    let (stream, _) = listener.accept().map_err(gone)?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(gone)?;
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 64];
    rustix::net::recvmsg(
        &stream,
        &mut [std::io::IoSliceMut::new(&mut text)],
        &mut control,
        rustix::net::RecvFlags::CMSG_CLOEXEC,
    )
    .map_err(|e| gone(e.into()))?;
    let mut descriptors = control.drain().filter_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptors.next().ok_or_else(|| Error::Helper("the launcher sent no terminal".into()))
}

#[cfg(test)]
mod tests {
    use super::{super::oci::tests::config, *};

    #[test]
    fn a_working_directory_that_could_lead_out_is_refused() {
        for cwd in ["/proc/self/fd/7", "/proc", "relative", "/a/../../b", ""] {
            assert!(check_cwd(cwd).is_err(), "{cwd}");
        }
        check_cwd("/srv/app").unwrap();
        check_cwd("/").unwrap();
    }

    #[test]
    fn the_environment_is_completed_and_never_overruled() {
        let user = User { uid: 1, gid: 1, groups: Vec::new(), home: "/home/u".into() };
        let mut config = config();
        config.env = vec!["B=2".into(), "HOME=/mine".into(), "A=1".into(), "PATHS=x".into()];
        let env = environment(&config, &user);
        assert_eq!(env, ["B=2", "HOME=/mine", "A=1", "PATHS=x", &format!("PATH={DEFAULT_PATH}")]);
    }
}
