//! Names: what a container's name server says, and whom it asks.

use std::sync::atomic::{AtomicUsize, Ordering};

use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, RCODE, TYPE, rdata::RData};

use super::*;

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

/// A loopback address for a name server of this test alone, whoever else runs tests on the machine.
fn own_address(test: u8) -> Ipv4Addr {
    let [.., a, b] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + test, a, b)
}

/// A name server of the host at `address`, port 53, that knows one address for everything and counts
/// what it is asked. Over UDP it cuts answers to names that begin with `long`.
fn upstream(address: Ipv4Addr) -> Arc<AtomicUsize> {
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
    let (udp, count) = (UdpSocket::bind((address, 53)).unwrap(), asked.clone());
    thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, asker)) = udp.recv_from(&mut buffer) {
            count.fetch_add(1, Ordering::SeqCst);
            let message = &buffer[..length];
            let long = Packet::parse(message).unwrap().questions[0].qname.to_string().starts_with("long");
            udp.send_to(&reply(message, long), asker).unwrap();
        }
    });
    let tcp = TcpListener::bind((address, 53)).unwrap();
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

fn names(stage: &Stage, servers: &[Ipv4Addr]) -> Arc<dns::Names> {
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
    let asked = upstream(own_address(1));
    let names = names(&stage, &[own_address(1)]);
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
    let asked = upstream(own_address(2));
    let names = names(&stage, &[own_address(2)]);
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
    let _asked = upstream(own_address(3));
    supervisor.serve_names(&names(&stage, &[own_address(4)]), &alone);
    assert_eq!(alone.ask("example.org", TYPE::A), (RCODE::ServerFailure, vec![]));
    let second = Stage { directory: tempfile::tempdir().unwrap(), roots: stage.roots.clone() };
    supervisor.serve_names(&names(&second, &[own_address(4), own_address(3)]), &web);
    assert_eq!(web.ask("example.org", TYPE::A).1, ["192.0.2.99"]);
}

#[test]
fn a_flood_of_questions_does_not_stop_the_answers() {
    let Some(stage) = stage() else { return };
    stage.network("a", false);
    let anchor = anchor::connect(&stage.roots).unwrap();
    let supervisor = Supervisor::start();
    let web = stage.container(&anchor, "web-1", "web", &["a"]);
    // Bound and deaf: each question forwarded waits for its time to run out.
    let _deaf = UdpSocket::bind((own_address(5), 53)).unwrap();
    supervisor.serve_names(&names(&stage, &[own_address(5)]), &web);
    let flood = web.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    let question = query("example.org", TYPE::A);
    for _ in 0..20_000 {
        flood.send_to(&question, (Ipv4Addr::new(127, 0, 0, 11), 53)).unwrap();
    }
    // What the kernel dropped from a full queue is asked again, as the C library does.
    let socket = web.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap();
    socket.connect((Ipv4Addr::new(127, 0, 0, 11), 53)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let mut buffer = [0; 512];
    eventually("an own name is answered", || {
        socket.send(&query("web", TYPE::A)).unwrap();
        socket.recv(&mut buffer).is_ok_and(|count| read(&buffer[..count]).1 == [web.address().to_string()])
    });
    let open = fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 900, "{open} descriptors");
}
