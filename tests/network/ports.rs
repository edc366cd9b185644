//! Published ports: where they answer and how connections end.

use super::*;

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

fn proxy(anchor: &Anchor, limit: usize) -> (Arc<Proxy>, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let netns = anchor.netns().try_clone_to_owned().unwrap();
    let note = move |text: &str| drop(tell.send(text.to_owned()));
    (Arc::new(Proxy::with_limit(netns, limit, note)), told)
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
    let clients: Vec<UdpSocket> =
        (0..3).map(|_| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap()).collect();
    for (number, client) in clients.iter().enumerate() {
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        // Connected, it hears only the address that it asked.
        let host = Ipv4Addr::new(127, 0, 0, u8::try_from(number).unwrap() + 1);
        client.connect((host, address.port())).unwrap();
        client.send(format!("ab{number}").as_bytes()).unwrap();
    }
    for (number, client) in clients.iter().enumerate() {
        let mut buffer = [0; 100];
        let count = client.recv(&mut buffer).unwrap();
        assert_eq!(buffer[..count], *format!("{number}ba").as_bytes());
    }
}
