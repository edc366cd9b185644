//! Containers' networks with real namespaces. The containers are threads that do their socket calls
//! inside a prepared namespace.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use ficelle::{
    model::Protocol,
    runtime::{
        Endpoint, Error, NetworkConfig, PortConfig, Roots,
        anchor::{self, Anchor},
        dns, netns, network,
        network::Lease,
        ports,
    },
};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, RCODE, TYPE, rdata::RData};

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
                address: None,
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

    fn within<T>(&self, work: impl FnOnce() -> T) -> T {
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

    fn publish(&self, proxy: &Arc<ports::Proxy>, port: &PortConfig, container: &Container) -> SocketAddr {
        let (fd, address) = ports::bind(port).unwrap();
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
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
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

impl Container {
    /// Asks the container's name server as its C library would.
    fn ask(&self, name: &str, kind: TYPE) -> (RCODE, Vec<String>) {
        let socket = self.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.connect((Ipv4Addr::new(127, 0, 0, 11), 53)).unwrap();
        socket.send(&query(name, kind)).unwrap();
        let mut buffer = [0; 4096];
        let count = socket.recv(&mut buffer).unwrap();
        read(&buffer[..count])
    }

    fn ask_over_tcp(&self, name: &str, kind: TYPE) -> (RCODE, Vec<String>) {
        let mut stream = self.within(|| TcpStream::connect((Ipv4Addr::new(127, 0, 0, 11), 53))).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let query = query(name, kind);
        stream.write_all(&u16::try_from(query.len()).unwrap().to_be_bytes()).unwrap();
        stream.write_all(&query).unwrap();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut reply = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut reply).unwrap();
        read(&reply)
    }
}

fn query(name: &str, kind: TYPE) -> Vec<u8> {
    let mut packet = Packet::new_query(77);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new_unchecked(name);
    packet.questions.push(simple_dns::Question::new(
        name,
        QTYPE::TYPE(kind),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet.build_bytes_vec().unwrap()
}

fn read(reply: &[u8]) -> (RCODE, Vec<String>) {
    let packet = Packet::parse(reply).unwrap();
    assert_eq!(packet.id(), 77);
    let records = packet
        .answers
        .iter()
        .map(|record| match &record.rdata {
            RData::A(a) => Ipv4Addr::from_bits(a.address).to_string(),
            RData::PTR(name) => name.to_string(),
            other => format!("{other:?}"),
        })
        .collect();
    (packet.rcode(), records)
}

/// A name server of the host at `address`, port 53, that knows one address for everything and counts
/// what it is asked. Over UDP it cuts answers to names that begin with `long`.
fn upstream(address: [u8; 4]) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let reply = |message: &[u8], cut: bool| {
        let mut packet = Packet::parse(message).unwrap().into_reply();
        let name = packet.questions[0].qname.clone();
        if cut {
            packet.set_flags(PacketFlag::TRUNCATION);
        } else {
            let a = RData::A(simple_dns::rdata::A { address: 0xc000_0263 });
            packet.answers.push(simple_dns::ResourceRecord::new(name, CLASS::IN, 60, a));
        }
        packet.build_bytes_vec().unwrap()
    };
    let (udp, count) = (UdpSocket::bind((Ipv4Addr::from(address), 53)).unwrap(), asked.clone());
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, asker)) = udp.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::SeqCst);
            let message = &buffer[..length];
            let long = Packet::parse(message).unwrap().questions[0].qname.to_string().starts_with("long");
            udp.send_to(&reply(message, long), asker).unwrap();
        }
    });
    let tcp = TcpListener::bind((Ipv4Addr::from(address), 53)).unwrap();
    thread::spawn(move || {
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut message).unwrap();
            let reply = reply(&message, false);
            stream.write_all(&u16::try_from(reply.len()).unwrap().to_be_bytes()).unwrap();
            stream.write_all(&reply).unwrap();
        }
    });
    asked
}

fn names(stage: &Stage, servers: &[&str]) -> Arc<dns::Names> {
    let path = stage.directory.path().join("resolv.conf");
    let lines: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
    fs::write(&path, lines).unwrap();
    Arc::new(dns::Names::with_resolv_conf(&stage.roots, Path::new(&path)))
}

#[test]
fn names_lead_to_containers_of_the_own_networks_and_the_rest_to_the_host() {
    let Some(stage) = stage() else { return };
    stage.network("front", false);
    stage.network("back", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let supervisor = Supervisor::start();
    let asked = upstream([127, 77, 0, 1]);
    let names = names(&stage, &["127.77.0.1"]);
    let web = stage.container(&anchor, "web-1", "web", &["front", "back"]);
    let db = stage.container(&anchor, "db-1", "db", &["back"]);
    supervisor.serve_names(&names, &web);
    supervisor.serve_names(&names, &db);
    db.serve(5432, "rows");

    let (code, addresses) = web.ask("DB", TYPE::A);
    assert_eq!((code, &addresses), (RCODE::NoError, &vec![db.address().to_string()]));
    assert_eq!(web.fetch(addresses[0].parse().unwrap(), 5432).unwrap(), "rows");
    assert_eq!(web.ask_over_tcp("db-1", TYPE::A).1, addresses);
    assert_eq!(web.ask("db", TYPE::AAAA), (RCODE::NoError, vec![]));
    // On the network that they share, not on the other.
    assert_eq!(db.ask("web", TYPE::A).1, [web.leases[1].address.to_string()]);
    let [a, b, c, d] = db.address().octets();
    assert_eq!(web.ask(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), TYPE::PTR).1, ["db-1.back"]);
    assert_eq!(asked.load(Ordering::SeqCst), 0);

    assert_eq!(web.ask("example.org", TYPE::A).1, ["192.0.2.99"]);
    assert_eq!(web.ask("long.example.org", TYPE::A).1, ["192.0.2.99"]);
    assert_eq!(web.ask_over_tcp("example.org", TYPE::A).1, ["192.0.2.99"]);
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    // A change is known at once: another replica, and an end.
    let second = stage.container(&anchor, "db-2", "db", &["back"]);
    let mut both = web.ask("db", TYPE::A).1;
    both.sort();
    let mut expected = [db.address().to_string(), second.address().to_string()];
    expected.sort();
    assert_eq!(both, expected);
    network::set_up(&stage.roots, "db-2", false).unwrap();
    assert_eq!(web.ask("db", TYPE::A).1, [db.address().to_string()]);
    assert_eq!(web.ask("db-2", TYPE::A), (RCODE::NameError, vec![]));
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[test]
fn an_internal_network_leaks_no_question() {
    let Some(stage) = stage() else { return };
    stage.network("inner", true);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let supervisor = Supervisor::start();
    let asked = upstream([127, 77, 0, 2]);
    let names = names(&stage, &["127.77.0.2"]);
    let vault = stage.container(&anchor, "vault-1", "vault", &["inner"]);
    supervisor.serve_names(&names, &vault);
    assert_eq!(vault.ask("vault", TYPE::A).1, [vault.address().to_string()]);
    assert_eq!(vault.ask("example.org", TYPE::A), (RCODE::NameError, vec![]));
    assert_eq!(vault.ask_over_tcp("secret.example.org", TYPE::TXT), (RCODE::NameError, vec![]));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[test]
fn without_a_name_server_the_answer_is_a_failure_and_a_deaf_one_is_passed_over() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let supervisor = Supervisor::start();
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    let alone = stage.container(&anchor, "alone-1", "alone", &["a"]);
    let _asked = upstream([127, 77, 0, 3]);
    supervisor.serve_names(&names(&stage, &["127.77.0.4"]), &alone);
    assert_eq!(alone.ask("example.org", TYPE::A), (RCODE::ServerFailure, vec![]));
    let second = Stage { directory: tempfile::tempdir().unwrap(), roots: stage.roots.clone() };
    supervisor.serve_names(&names(&second, &["127.77.0.4", "127.77.0.3"]), &web);
    assert_eq!(web.ask("example.org", TYPE::A).1, ["192.0.2.99"]);
}

fn published(host_ip: Option<IpAddr>, target: u16, protocol: Protocol) -> PortConfig {
    PortConfig { target, published: None, host_ip, protocol }
}

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// An address of the host other than loopback.
fn host_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((Ipv4Addr::new(192, 0, 2, 200), 9)).ok()?;
    match socket.local_addr().unwrap().ip() {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn proxy(anchor: &Anchor, limit: usize) -> (Arc<ports::Proxy>, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let netns = anchor.netns().try_clone_to_owned().unwrap();
    let note = move |text: &str| drop(tell.send(text.to_owned()));
    (Arc::new(ports::Proxy::with_limit(netns, limit, note)), told)
}

#[test]
fn a_published_port_answers_on_every_address_of_the_host_even_from_an_internal_network() {
    let Some(stage) = stage() else { return };
    let anchor = anchor::connect(&stage.roots).unwrap();
    let supervisor = Supervisor::start();
    let (proxy, _) = proxy(&anchor, 100);
    for (network, internal) in [("outer", false), ("inner", true)] {
        stage.network(network, internal);
        let web = stage.container(&anchor, &format!("web-{network}"), "web", &[network]);
        web.serve(8000, "hello");
        let port = published(None, 8000, Protocol::Tcp).target;
        let address = supervisor.publish(&proxy, &published(None, port, Protocol::Tcp), &web);
        let mut addresses = vec![LOCAL];
        addresses.extend(host_address().map(IpAddr::V4));
        if UdpSocket::bind("[::1]:0").is_ok() {
            addresses.push("::1".parse().unwrap());
        }
        for host in addresses {
            let mut text = String::new();
            TcpStream::connect((host, address.port())).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello", "{host} {network}");
        }
    }
}

#[test]
fn each_half_of_a_connection_closes_by_itself_and_nothing_is_lost() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let supervisor = Supervisor::start();
    let (proxy, _) = proxy(&anchor, 100);
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    // Answers only after the client has said all that it has to say.
    let listener = web.within(|| TcpListener::bind("0.0.0.0:8000")).unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all.reverse();
        stream.write_all(&all).unwrap();
    });
    let address = supervisor.publish(&proxy, &published(Some(LOCAL), 8000, Protocol::Tcp), &web);
    let sent: Vec<u8> = (0..8_000_000_u32).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&sent).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut received = Vec::new();
    stream.read_to_end(&mut received).unwrap();
    received.reverse();
    assert!(received == sent, "{} bytes of {} came back", received.len(), sent.len());
}

#[test]
fn a_refused_connection_is_reset_and_the_port_stays() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let supervisor = Supervisor::start();
    let (proxy, _) = proxy(&anchor, 100);
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    let address = supervisor.publish(&proxy, &published(Some(LOCAL), 8000, Protocol::Tcp), &web);
    let mut stream = TcpStream::connect(address).unwrap();
    let error = stream.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    web.serve(8000, "now");
    let mut text = String::new();
    TcpStream::connect(address).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "now");
}

#[test]
fn connections_beyond_the_limit_wait_and_are_told_once() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let supervisor = Supervisor::start();
    let (proxy, told) = proxy(&anchor, 2);
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    let listener = web.within(|| TcpListener::bind("0.0.0.0:8000")).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || {
                let mut stream = stream.unwrap();
                let _ = stream.write_all(b"x");
                let _ = io::copy(&mut stream, &mut io::sink());
            });
        }
    });
    let address = supervisor.publish(&proxy, &published(Some(LOCAL), 8000, Protocol::Tcp), &web);
    let connect = |patience| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(patience)).unwrap();
        let served = stream.read_exact(&mut [0]).is_ok();
        (stream, served)
    };
    let (first, served) = connect(PATIENCE);
    assert!(served);
    let (_second, served) = connect(PATIENCE);
    assert!(served);
    let (mut third, served) = connect(Duration::from_millis(300));
    assert!(!served);
    assert!(told.recv().unwrap().contains("all 2 connections to published ports"));
    drop(first);
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    third.read_exact(&mut [0]).unwrap();
}

#[test]
fn udp_clients_are_kept_apart() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let supervisor = Supervisor::start();
    let (proxy, _) = proxy(&anchor, 100);
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    let echo = web.within(|| UdpSocket::bind("0.0.0.0:9000")).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((count, client)) = echo.recv_from(&mut buffer) {
            buffer[..count].reverse();
            echo.send_to(&buffer[..count], client).unwrap();
        }
    });
    let address = supervisor.publish(&proxy, &published(None, 9000, Protocol::Udp), &web);
    let clients: Vec<UdpSocket> = (0..3).map(|_| UdpSocket::bind((LOCAL, 0)).unwrap()).collect();
    for (number, client) in clients.iter().enumerate() {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.connect((LOCAL, address.port())).unwrap();
        client.send(format!("ab{number}").as_bytes()).unwrap();
    }
    for (number, client) in clients.iter().enumerate() {
        let mut buffer = [0; 100];
        let count = client.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..count], *format!("{number}ba").as_bytes());
    }
}
