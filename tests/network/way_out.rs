//! The way out, on a host of our own: a namespace with two neighbours, so that this machine's routes
//! and rules are left alone.

use super::*;

/// A host with `eth0` and `eth1`, at each of which there is a neighbour.
struct Host {
    netns: OwnedFd,
    near: Container,
    far: Container,
}

const NEAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
const FAR: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);

impl Host {
    fn new() -> Self {
        let neighbour = || Container { leases: Vec::new(), netns: network::loopback_only().unwrap() };
        let this = Self { netns: network::loopback_only().unwrap(), near: neighbour(), far: neighbour() };
        for (link, neighbour, net) in [("eth0", &this.near, "198.51.100"), ("eth1", &this.far, "203.0.113")] {
            let netns = format!("/proc/{}/fd/{}", std::process::id(), neighbour.netns.as_raw_fd());
            let host = this.netns.as_fd();
            tool(host, "ip", &["link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", &netns]);
            for (end, netns, number) in [(link, host, 1), ("eth0", neighbour.netns.as_fd(), 2)] {
                tool(netns, "ip", &["address", "add", &format!("{net}.{number}/24"), "dev", end]);
                tool(netns, "ip", &["link", "set", end, "up"]);
            }
            let gateway = format!("{net}.1");
            tool(neighbour.netns.as_fd(), "ip", &["route", "add", "default", "via", &gateway]);
        }
        // A new namespace starts with what this machine has, and another test may have turned it on.
        this.within(|| fs::write("/proc/sys/net/ipv4/ip_forward", "0")).unwrap();
        this
    }

    fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(self.netns.as_fd(), work).unwrap()
    }

    fn forwards(&self) -> bool {
        self.within(|| fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim() == "1")
    }

    fn rules(&self) -> String {
        tool(self.netns.as_fd(), "nft", &["list", "ruleset"])
    }

    fn links(&self) -> String {
        tool(self.netns.as_fd(), "ip", &["-o", "link"])
    }
}

/// Tells everybody who connects where they seem to come from.
fn mirror(container: &Container, port: u16) {
    let listener = container.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, peer)) = listener.accept() {
            let _ = write!(stream, "{}", peer.ip());
        }
    });
}

#[test]
fn the_way_out_leads_where_the_host_goes_and_nothing_stays_of_it() {
    let Some(stage) = stage() else { return };
    let host = Host::new();
    mirror(&host.near, 80);
    stage.network("open", false);
    stage.network("other", false);
    stage.network("closed", true);
    let anchor = host.within(|| anchor::connect(&stage.roots)).unwrap();
    let web = stage.container(&anchor, "web-1", "web", &["open"]);
    let other = stage.container(&anchor, "other-1", "other", &["other"]);
    let vault = stage.container(&anchor, "vault-1", "vault", &["closed"]);
    other.serve(80, "other");
    let before = (host.rules(), host.links());
    assert!(web.cannot_reach(NEAR, 80));
    assert!(!host.forwards());

    anchor.open_way_out().unwrap();
    anchor.open_way_out().unwrap();
    assert_eq!(web.fetch(NEAR, 80).unwrap(), "198.51.100.1");
    assert_eq!(other.fetch(NEAR, 80).unwrap(), "198.51.100.1");
    // Datagrams too.
    let echo = host.near.within(|| UdpSocket::bind("0.0.0.0:90")).unwrap();
    let asker = web.within(|| UdpSocket::bind("0.0.0.0:0")).unwrap();
    asker.send_to(b"hello", (NEAR, 90)).unwrap();
    let mut buffer = [0; 10];
    echo.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(echo.recv(&mut buffer).unwrap(), 5);

    // It opens no way between networks, none for an internal one, none in, and makes no router.
    assert!(web.cannot_reach(other.address(), 80));
    assert!(vault.cannot_reach(NEAR, 80));
    assert!(host.near.cannot_reach(web.address(), 80));
    mirror(&host.far, 80);
    assert_eq!(web.fetch(FAR, 80).unwrap(), "203.0.113.1");
    assert!(host.near.cannot_reach(FAR, 80));

    drop(anchor);
    eventually("the anchor ends", || stage.processes().is_empty());
    assert_eq!((host.rules(), host.links()), before);
    assert!(!host.forwards());
}

#[test]
fn the_way_out_does_not_lead_into_networks_of_docker() {
    let Some(stage) = stage() else { return };
    let host = Host::new();
    mirror(&host.far, 80);
    stage.network("open", false);
    let anchor = host.within(|| anchor::connect(&stage.roots)).unwrap();
    let web = stage.container(&anchor, "web-1", "web", &["open"]);
    anchor.open_way_out().unwrap();
    let mut before = "eth1";
    for (name, reached) in
        [("docker0", false), ("br-0123456789ab", false), ("br-lan", true), ("docker_gwbridge", false)]
    {
        for args in [&["set", before, "down"][..], &["set", before, "name", name], &["set", name, "up"]] {
            tool(host.netns.as_fd(), "ip", &[&["link"], args].concat());
        }
        if reached {
            assert_eq!(web.fetch(FAR, 80).unwrap(), "203.0.113.1");
        } else {
            assert!(web.cannot_reach(FAR, 80), "{name}");
        }
        before = name;
    }
    // What Docker publishes it redirects itself, and that passes.
    let rules = "add table ip d; add chain ip d in { type nat hook prerouting priority -100; }; \
                 add rule ip d in ip daddr 198.51.100.1 tcp dport 8080 dnat to 203.0.113.2:80";
    tool(host.netns.as_fd(), "nft", &[rules]);
    assert_eq!(web.fetch(Ipv4Addr::new(198, 51, 100, 1), 8080).unwrap(), "203.0.113.1");
    tool(host.netns.as_fd(), "nft", &["delete table ip d"]);
}

#[test]
fn forwarding_that_was_on_or_that_somebody_came_to_need_stays_on() {
    let Some(stage) = stage() else { return };
    let host = Host::new();
    for already in [false, true] {
        let anchor = host.within(|| anchor::connect(&stage.roots)).unwrap();
        anchor.open_way_out().unwrap();
        if !already {
            tool(host.netns.as_fd(), "ip", &["link", "add", "docker0", "type", "bridge"]);
        }
        drop(anchor);
        eventually("the anchor ends", || stage.processes().is_empty());
        assert!(host.forwards());
    }
}

#[test]
fn a_host_that_forwards_nothing_by_itself_lets_us_pass() {
    let Some(stage) = stage() else { return };
    if Command::new("iptables-nft").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no iptables-nft");
        return;
    }
    for docker in [true, false] {
        let host = Host::new();
        mirror(&host.near, 80);
        let iptables =
            |args: &str| tool(host.netns.as_fd(), "iptables-nft", &args.split(' ').collect::<Vec<_>>());
        iptables("-P FORWARD DROP");
        if docker {
            iptables("-N DOCKER-USER");
            iptables("-I FORWARD -j DOCKER-USER");
            iptables("-A DOCKER-USER -j RETURN");
        }
        let before = iptables("-S");
        let anchor = host.within(|| anchor::connect(&stage.roots)).unwrap();
        stage.network("open", false);
        let web = stage.container(&anchor, "web-1", "web", &["open"]);
        anchor.open_way_out().unwrap();
        assert_eq!(web.fetch(NEAR, 80).unwrap(), "198.51.100.1");
        // iptables can read what we wrote.
        let chain = if docker { "DOCKER-USER" } else { "FORWARD" };
        let during = iptables("-S");
        assert!(during.contains(&format!("-A {chain} -i ficup")), "{during}");
        assert!(during.contains(&format!("-A {chain} -o ficup")), "{during}");
        drop(anchor);
        eventually("the anchor ends", || stage.processes().is_empty());
        assert_eq!(iptables("-S"), before);
    }
}

#[test]
fn a_killed_anchor_leaves_neither_rule_nor_link_on_the_host() {
    let Some(stage) = stage() else { return };
    let host = Host::new();
    let before = (host.rules(), host.links());
    let anchor = host.within(|| anchor::connect(&stage.roots)).unwrap();
    anchor.open_way_out().unwrap();
    assert!(host.rules().contains("masquerade") && host.links().contains("ficup"));
    kill_anchor(&stage);
    eventually("the rules go", || host.rules() == before.0);
    // Whoever still holds the namespace gets a new way out with the new anchor.
    mirror(&host.near, 80);
    stage.network("open", false);
    let anchor = host.within(|| anchor.revive(&stage.roots)).unwrap();
    let web = stage.container(&anchor, "web-1", "web", &["open"]);
    anchor.open_way_out().unwrap();
    assert_eq!(web.fetch(NEAR, 80).unwrap(), "198.51.100.1");
    kill_anchor(&stage);
    drop((anchor, web));
    eventually("the link goes with the namespace", || (host.rules(), host.links()) == before);
}

#[test]
fn what_the_last_anchor_left_when_it_was_killed_is_taken_back_by_the_next_command() {
    let Some(stage) = stage() else { return };
    let host = Host::new();
    let iptables = |args: &str| {
        let args: Vec<&str> = args.split(' ').collect();
        host.within(|| Command::new("iptables-nft").args(args).output())
            .map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
    };
    iptables("-P FORWARD DROP");
    let before = iptables("-S");
    let anchor = host.within(|| anchor::connect(&stage.roots)).unwrap();
    anchor.open_way_out().unwrap();
    kill_anchor(&stage);
    drop(anchor);
    eventually("the link goes with the namespace", || !host.links().contains("ficup"));
    assert!(host.forwards());
    let core = Core::new(stage.roots.clone());
    let told = host.within(|| core.sweep(true)).unwrap();
    assert!(told.iter().any(|left| left.what.contains("ip_forward")), "{told:?}");
    assert!(host.forwards(), "a dry run only tells");
    host.within(|| core.sweep(false)).unwrap();
    assert!(!host.forwards());
    assert_eq!(iptables("-S"), before);
    assert_eq!(host.within(|| core.sweep(true)).unwrap(), []);
}

#[test]
fn two_anchors_have_ways_out_side_by_side() {
    let (Some(one), Some(two)) = (stage(), stage()) else { return };
    let host = Host::new();
    mirror(&host.near, 80);
    let first = host.within(|| anchor::connect(&one.roots)).unwrap();
    let second = host.within(|| anchor::connect(&two.roots)).unwrap();
    first.open_way_out().unwrap();
    second.open_way_out().unwrap();
    for (stage, anchor) in [(&one, &first), (&two, &second)] {
        stage.network("open", false);
        let web = stage.container(anchor, "web-1", "web", &["open"]);
        assert_eq!(web.fetch(NEAR, 80).unwrap(), "198.51.100.1");
    }
    // The first to come is the first to go; the second still leads out.
    drop(first);
    eventually("the first anchor ends", || one.processes().is_empty());
    let web = two.container(&second, "web-2", "web", &["open"]);
    assert_eq!(web.fetch(NEAR, 80).unwrap(), "198.51.100.1");
    // And what the first found, the last puts back.
    assert!(host.forwards());
    drop(second);
    eventually("the second anchor ends", || two.processes().is_empty());
    assert!(!host.forwards());
}

#[test]
fn what_a_killed_anchor_found_is_put_back_by_the_last_of_all() {
    let (Some(one), Some(two)) = (stage(), stage()) else { return };
    let host = Host::new();
    let first = host.within(|| anchor::connect(&one.roots)).unwrap();
    first.open_way_out().unwrap();
    kill_anchor(&one);
    drop(first);
    eventually("the link goes with the namespace", || !host.links().contains("ficup"));
    // When the second comes nothing on the host tells that forwarding was off.
    let second = host.within(|| anchor::connect(&two.roots)).unwrap();
    second.open_way_out().unwrap();
    let core = Core::new(one.roots.clone());
    host.within(|| core.sweep(false)).unwrap();
    assert!(host.forwards(), "the second needs it");
    drop(second);
    eventually("the second anchor ends", || two.processes().is_empty());
    assert!(!host.forwards());
}

#[test]
fn ways_out_that_come_and_go_at_once_leave_the_host_as_it_was() {
    let Some(stages) = (0..4).map(|_| stage()).collect::<Option<Vec<_>>>() else { return };
    let host = Host::new();
    thread::scope(|scope| {
        for stage in &stages {
            scope.spawn(|| {
                for _ in 0..10 {
                    let anchor = host.within(|| anchor::connect(&stage.roots)).unwrap();
                    anchor.open_way_out().unwrap();
                    drop(anchor);
                    eventually("the anchor ends", || stage.processes().is_empty());
                }
            });
        }
    });
    assert!(!host.forwards());
}
