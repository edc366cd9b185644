//! Containers' networks with real namespaces. The containers are threads that do their socket calls
//! inside a prepared namespace.

mod names;
mod ports;
mod way_out;

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use ficelle::{
    model::Protocol,
    runtime::{
        Core, Endpoint, Error, NetworkConfig, PortConfig, Roots,
        anchor::{self, Anchor},
        dns, netns, network,
        network::Lease,
        ports::{Proxy, bind},
    },
};

/// For what must come: long, since the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(10);

struct Stage {
    directory: tempfile::TempDir,
    roots: Roots,
}

impl Stage {
    fn network(&self, name: &str, internal: bool) {
        let config = NetworkConfig {
            name: name.to_owned(),
            group: "demo".to_owned(),
            internal,
            ..NetworkConfig::default()
        };
        network::create(&self.roots, &config).unwrap();
    }

    /// A container called `id`, also by `service`, joined to `networks` and running.
    fn container(&self, anchor: &Anchor, id: &str, service: &str, networks: &[&str]) -> Container {
        let endpoints: Vec<Endpoint> = networks
            .iter()
            .map(|network| Endpoint {
                network: (*network).to_owned(),
                names: vec![service.to_owned(), id.to_owned()],
                ..Endpoint::default()
            })
            .collect();
        let leases = network::lease(&self.roots, "demo", id, &endpoints, None).unwrap();
        let netns = network::prepare(anchor, &leases).unwrap();
        network::set_up(&self.roots, id, true).unwrap();
        Container { leases, netns }
    }

    /// Processes whose command line names this state tree.
    fn processes(&self) -> Vec<String> {
        let marker = self.directory.path().to_str().unwrap().to_owned();
        fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| fs::read_to_string(entry.unwrap().path().join("cmdline")).ok())
            .filter(|line| line.contains(&marker))
            .collect()
    }
}

struct Container {
    leases: Vec<Lease>,
    netns: OwnedFd,
}

impl Container {
    fn address(&self) -> Ipv4Addr {
        self.leases[0].address
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(self.netns.as_fd(), work).unwrap()
    }

    /// Serves `text` to whoever connects to the port, as long as the test runs.
    fn serve(&self, port: u16, text: &'static str) {
        let listener = self.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                thread::spawn(move || stream.write_all(text.as_bytes()));
            }
        });
    }

    fn connect(&self, address: Ipv4Addr, port: u16, limit: Duration) -> io::Result<TcpStream> {
        self.within(|| TcpStream::connect_timeout(&SocketAddr::from((address, port)), limit))
    }

    /// Long enough for what would come to have come: elsewhere it takes a millisecond.
    fn cannot_reach(&self, address: Ipv4Addr, port: u16) -> bool {
        self.connect(address, port, Duration::from_millis(500)).is_err()
    }

    fn fetch(&self, address: Ipv4Addr, port: u16) -> io::Result<String> {
        let mut stream = self.connect(address, port, PATIENCE)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    }
}

/// What serves names and ports, in a thread of its own; it ends when dropped.
struct Supervisor {
    tasks: Option<tokio::runtime::Handle>,
    end: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Supervisor {
    fn start() -> Self {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let (told, handle) = mpsc::channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            told.send(runtime.handle().clone()).unwrap();
            let _ = runtime.block_on(ended);
        });
        Self { tasks: Some(handle.recv().unwrap()), end: Some(end), thread: Some(thread) }
    }

    fn serve(&self, work: impl Future<Output = ficelle::runtime::Result<()>> + Send + 'static) {
        self.tasks.as_ref().unwrap().spawn(async move { work.await.unwrap() });
    }

    fn serve_names(&self, names: &Arc<dns::Names>, container: &Container) {
        let sockets = dns::Sockets::open(container.netns.as_fd()).unwrap();
        self.serve(dns::serve(sockets, names.clone(), container.leases[0].container.clone()));
    }

    fn publish(&self, proxy: &Arc<Proxy>, port: &PortConfig, container: &Container) -> SocketAddr {
        let (fd, address) = bind(port).unwrap();
        let target = SocketAddr::from((container.address(), port.target));
        self.serve(proxy.clone().serve(fd, port.protocol, target));
        address
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.tasks.take());
        drop(self.end.take());
        self.thread.take().unwrap().join().unwrap();
    }
}

/// `None`, said aloud, where namespaces cannot be made.
fn stage() -> Option<Stage> {
    ficelle::runtime::use_program(PathBuf::from(env!("CARGO_BIN_EXE_ficelle")));
    if let Err(error) = netns::create() {
        eprintln!("SKIPPED: making a network namespace: {error}");
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let roots = Roots::below(directory.path());
    Some(Stage { directory, roots })
}

fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn inode(fd: BorrowedFd<'_>) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_ino
}

/// What a tool prints when run inside a namespace.
fn tool(netns: BorrowedFd<'_>, program: &str, args: &[&str]) -> String {
    let output = Command::new("nsenter")
        .arg(format!("--net=/proc/{}/fd/{}", std::process::id(), netns.as_raw_fd()))
        .arg(program)
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn containers_of_one_network_reach_each_other_and_nobody_else_does() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    stage.network("b", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    let db = stage.container(&anchor, "db-1", "db", &["a", "b"]);
    let stranger = stage.container(&anchor, "stranger-1", "stranger", &["b"]);
    db.serve(80, "rows");
    stranger.serve(80, "strange");

    assert_eq!(web.fetch(db.address(), 80).unwrap(), "rows");
    assert_eq!(stranger.fetch(db.leases[1].address, 80).unwrap(), "rows");
    assert_eq!(db.fetch(stranger.address(), 80).unwrap(), "strange");
    // Across the bridges there is no way, neither to a stranger nor to the far side of a friend.
    assert!(web.cannot_reach(stranger.address(), 80));
    assert!(stranger.cannot_reach(db.address(), 80));
    assert!(stranger.cannot_reach(web.address(), 80));
}

#[test]
fn a_prepared_namespace_holds_what_the_lease_says() {
    let Some(stage) = stage() else { return };
    stage.network("inner", true);
    stage.network("outer", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let web = stage.container(&anchor, "web-1", "web", &["inner", "outer"]);
    let both = web.netns.as_fd();
    let addresses = tool(both, "ip", &["-o", "address"]);
    for (interface, lease) in ["eth0", "eth1"].iter().zip(&web.leases) {
        let expected = format!("{interface}    inet {}/{}", lease.address, lease.prefix);
        assert!(addresses.contains(&expected), "{expected} in {addresses}");
    }
    assert!(!addresses.contains("inet6 fe80"), "{addresses}");
    // The default route goes through the network that has a way out, though it comes second.
    let routes = tool(both, "ip", &["route"]);
    assert!(routes.contains(&format!("default via {} dev eth1", web.leases[1].gateway)), "{routes}");

    let alone = stage.container(&anchor, "alone-1", "alone", &["inner"]);
    assert!(!tool(alone.netns.as_fd(), "ip", &["route"]).contains("default"));
    let nothing = network::loopback_only().unwrap();
    let links = tool(nothing.as_fd(), "ip", &["-o", "link", "show", "up"]);
    assert!(links.contains("lo:") && links.lines().count() == 1, "{links}");
}

#[test]
fn the_rules_in_the_kernel_are_those_that_were_meant() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    let bridge = &web.leases[0].bridge;
    let rules = tool(anchor.netns(), "nft", &["list", "ruleset"]);
    for expected in [
        "type filter hook forward priority filter; policy drop;",
        "iifname . oifname @within accept",
        &format!("elements = {{ \"{bridge}\" . \"{bridge}\" }}"),
    ] {
        assert!(rules.contains(expected), "{expected} in {rules}");
    }
    let rules = tool(web.netns.as_fd(), "nft", &["list", "ruleset"]);
    for protocol in ["udp", "tcp"] {
        let expected = format!("ip daddr 127.0.0.11 {protocol} dport 53 dnat to 127.0.0.11:65353");
        assert!(rules.contains(&expected), "{expected} in {rules}");
    }
}

#[test]
fn all_who_look_for_the_anchor_at_once_find_the_same_and_it_ends_with_the_last() {
    let Some(stage) = stage() else { return };
    let anchors: Vec<Anchor> = thread::scope(|scope| {
        let seekers: Vec<_> =
            (0..16).map(|_| scope.spawn(|| anchor::connect(&stage.roots).unwrap())).collect();
        seekers.into_iter().map(|seeker| seeker.join().unwrap()).collect()
    });
    assert!(anchors.windows(2).all(|pair| inode(pair[0].netns()) == inode(pair[1].netns())));
    assert_eq!(stage.processes().len(), 1, "{:?}", stage.processes());
    assert_ne!(inode(anchors[0].netns()), inode(netns::current().unwrap().as_fd()));

    let last = anchors.into_iter().next().unwrap();
    assert_eq!(inode(last.netns()), inode(anchor::existing(&stage.roots).unwrap().unwrap().netns()));
    drop(last);
    eventually("the anchor ends", || stage.processes().is_empty());
    assert!(!stage.roots.run.join("anchor.sock").exists());
    assert!(anchor::existing(&stage.roots).unwrap().is_none());
}

#[test]
fn coming_and_going_at_the_same_time_never_fails() {
    let Some(stage) = stage() else { return };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..25).for_each(|_| drop(anchor::connect(&stage.roots).unwrap())));
        }
    });
    eventually("the anchor ends", || stage.processes().is_empty());
}

#[test]
fn a_killed_anchor_is_replaced_without_losing_the_network() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    let db = stage.container(&anchor, "db-1", "db", &["a"]);
    db.serve(80, "rows");
    let before = inode(anchor.netns());
    kill_anchor(&stage);
    let anchor = anchor.revive(&stage.roots).unwrap();
    assert_eq!(inode(anchor.netns()), before);
    assert_eq!(inode(anchor::connect(&stage.roots).unwrap().netns()), before);
    assert_eq!(web.fetch(db.address(), 80).unwrap(), "rows");
}

fn kill_anchor(stage: &Stage) {
    let marker = stage.directory.path().to_str().unwrap();
    for entry in fs::read_dir("/proc").unwrap() {
        let path = entry.unwrap().path();
        if fs::read_to_string(path.join("cmdline")).is_ok_and(|line| line.contains(marker)) {
            let pid: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            rustix::process::kill_process(
                rustix::process::Pid::from_raw(pid).unwrap(),
                rustix::process::Signal::KILL,
            )
            .unwrap();
        }
    }
    eventually("the anchor dies", || stage.processes().is_empty());
}

#[test]
fn a_removed_network_takes_its_bridge_along() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    let bridge = web.leases[0].bridge.clone();
    assert!(tool(anchor.netns(), "ip", &["-o", "link"]).contains(&bridge));
    assert!(matches!(network::remove(&stage.roots, "a"), Err(Error::Conflict(_))));
    drop(web);
    network::release(&stage.roots, "web-1").unwrap();
    network::remove(&stage.roots, "a").unwrap();
    assert!(!tool(anchor.netns(), "ip", &["-o", "link"]).contains(&bridge));
}

#[test]
fn a_container_that_comes_back_at_once_is_reached_at_once() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    let mut db = stage.container(&anchor, "db-1", "db", &["a"]);
    db.serve(80, "rows");
    assert_eq!(web.fetch(db.address(), 80).unwrap(), "rows");
    let address = db.address();
    // Its former namespace is still held by the listening thread: the worst case.
    db = stage.container(&anchor, "db-1", "db", &["a"]);
    db.serve(80, "new rows");
    assert_eq!(db.address(), address);
    assert_eq!(web.fetch(address, 80).unwrap(), "new rows");
}
