//! Networks, volumes, images, ports, and who sees what.

use std::{
    net::{IpAddr, Ipv4Addr, TcpListener},
    slice::from_ref,
};

use ficelle::{
    engine::{ContainerState, CreateContainer, ErrorKind, Op},
    model::{ImageRef, Mount, MountSource, Port, PortRange, Protocol, PullPolicy, VolumeOptions, label},
};

use super::{
    Case, cases,
    field::{Field, IDLE, IMAGE, anonymous_at},
};

pub const CASES: &[Case] = cases![
    a_network_is_made_once,
    a_network_knows_its_containers_and_stays_while_they_run,
    a_network_that_is_gone_may_be_removed_again,
    a_volume_is_made_once,
    a_volume_stays_while_a_container_has_it,
    a_named_volume_outlives_its_containers,
    an_anonymous_volume_goes_with_its_container_when_asked,
    an_anonymous_volume_is_handed_on,
    a_missing_volume_is_told,
    only_the_project_and_what_was_asked_for_is_seen,
    an_image_is_there_by_name_and_id,
    an_image_in_use_stays,
    an_image_that_nobody_has_cannot_be_removed,
    a_pull_of_what_is_there_does_nothing,
    a_published_port_is_bound_while_it_runs,
    an_open_port_gets_one_of_the_hosts,
    a_port_in_use_is_found_before_anything_is_made,
    a_port_wanted_twice_is_found_before_anything_is_made,
    a_port_of_a_predecessor_is_free_for_its_successor,
    a_start_on_a_port_in_use_is_refused,
];

fn name_of(op: &Op) -> String {
    match op {
        Op::CreateNetwork { network, .. } => network.name.clone(),
        Op::CreateVolume { volume, .. } => volume.name.clone(),
        _ => panic!("{op}"),
    }
}

fn a_network_is_made_once(field: &Field<'_>) {
    let make = field.network("back");
    let Op::CreateNetwork { labels, .. } = &make else { panic!("{make}") };
    assert!(!field.ok(&make).unchanged);
    field.unchanged(&make);
    let seen = field.observe().networks;
    assert_eq!(seen.keys().collect::<Vec<_>>(), [&name_of(&make)]);
    assert_eq!((&seen[&name_of(&make)].labels, seen[&name_of(&make)].containers.len()), (labels, 0));
}

fn a_network_knows_its_containers_and_stays_while_they_run(field: &Field<'_>) {
    let make = field.network("back");
    let name = name_of(&make);
    field.ok(&make);
    let made = field.create(&field.on_network(field.wanted("web", IDLE), "back"));
    assert_eq!(field.see(&made).networks, from_ref(&name));
    assert_eq!(field.observe().networks[&name].containers, from_ref(&made.name));
    field.ok(&made.start());
    let error = field.fails(&Op::RemoveNetwork { name: name.clone() }, ErrorKind::Conflict);
    assert!(error.to_string().contains(&made.name), "{error}");
    field.ok(&made.stop_within(Some(std::time::Duration::ZERO)));
    field.ok(&made.remove());
    assert!(!field.ok(&Op::RemoveNetwork { name }).unchanged);
    assert!(field.observe().networks.is_empty());
}

fn a_network_that_is_gone_may_be_removed_again(field: &Field<'_>) {
    field.unchanged(&Op::RemoveNetwork { name: format!("{}_never", field.project) });
    field.unchanged(&Op::RemoveVolume { name: format!("{}_never", field.project) });
}

fn a_volume_is_made_once(field: &Field<'_>) {
    let make = field.volume("data");
    let Op::CreateVolume { labels, .. } = &make else { panic!("{make}") };
    assert!(!field.ok(&make).unchanged);
    field.unchanged(&make);
    let seen = field.observe().volumes;
    assert_eq!(seen.keys().collect::<Vec<_>>(), [&name_of(&make)]);
    assert_eq!(&seen[&name_of(&make)].labels, labels);
}

fn with_volume(field: &Field<'_>, service: &str, name: &str) -> CreateContainer {
    let mut wanted = field.wanted(service, IDLE);
    let source = MountSource::Volume { name: name.to_owned(), options: VolumeOptions::default() };
    wanted.spec.mounts.push(Mount { target: "/data".to_owned(), read_only: false, source });
    wanted
}

fn a_volume_stays_while_a_container_has_it(field: &Field<'_>) {
    let make = field.volume("data");
    let name = name_of(&make);
    field.ok(&make);
    let made = field.create(&with_volume(field, "web", &name));
    assert_eq!(field.see(&made).mounts, from_ref(&name));
    // Whether it runs or not.
    let error = field.fails(&Op::RemoveVolume { name: name.clone() }, ErrorKind::Conflict);
    assert!(error.to_string().contains(&made.name), "{error}");
    field.ok(&made.remove());
    assert!(!field.ok(&Op::RemoveVolume { name }).unchanged);
    assert!(field.observe().volumes.is_empty());
}

fn a_named_volume_outlives_its_containers(field: &Field<'_>) {
    let make = field.volume("data");
    field.ok(&make);
    let made = field.start(&with_volume(field, "web", &name_of(&make)));
    field.ok(&made.stop());
    field.ok(&made.remove_with(true));
    assert!(field.observe().volumes.contains_key(&name_of(&make)));
}

fn an_anonymous_volume_goes_with_its_container_when_asked(field: &Field<'_>) {
    for (service, volumes) in [("kept", false), ("gone", true)] {
        let mut wanted = field.wanted(service, IDLE);
        wanted.spec.mounts.push(anonymous_at("/scratch"));
        let made = field.start(&wanted);
        let mounts = field.see(&made).mounts;
        let [volume] = mounts.as_slice() else { panic!("{mounts:?}") };
        let labels = &field.observe().volumes[volume].labels;
        assert!(labels.contains_key(label::ANONYMOUS) && labels["colour"] == "red", "{labels:?}");
        field.ok(&made.stop());
        field.ok(&made.remove_with(volumes));
        assert_eq!(field.observe().volumes.contains_key(volume), !volumes, "{service}");
    }
}

fn an_anonymous_volume_is_handed_on(field: &Field<'_>) {
    let mut wanted = field.wanted("web", IDLE);
    wanted.spec.mounts.push(anonymous_at("/scratch"));
    let old = field.create(&wanted);
    wanted.replaces = Some(old.id.clone());
    let new = field.create(&wanted);
    assert_eq!(field.see(&new).mounts, field.see(&old).mounts);
    field.ok(&old.remove_with(true));
    let volume = &field.see(&new).mounts[0];
    assert!(field.observe().volumes.contains_key(volume), "its successor has it still");
}

fn a_missing_volume_is_told(field: &Field<'_>) {
    let wanted = with_volume(field, "web", &format!("{}_never", field.project));
    // At the latest when it is to be used.
    let made = field.perform(&Op::Create(Box::new(wanted.clone())));
    let error = made.and_then(|_| {
        let (project, name) = (wanted.project.clone(), wanted.name.clone());
        field.perform(&Op::Start { project, name })
    });
    assert_eq!(error.unwrap_err().kind, ErrorKind::NotFound);
}

fn only_the_project_and_what_was_asked_for_is_seen(field: &Field<'_>) {
    let (network, volume) = (field.network("back"), field.volume("data"));
    field.ok(&network);
    field.ok(&volume);
    field.made("web", IDLE);
    let other = format!("{}-other", field.project);
    let seen = field.observe_as(&other, &[]);
    assert_eq!((seen.containers.len(), seen.networks.len(), seen.volumes.len()), (0, 0, 0));
    let (network, volume) = (name_of(&network), name_of(&volume));
    let seen = field.observe_as(&other, &[&network, &volume, "never"]);
    assert_eq!(seen.networks.keys().collect::<Vec<_>>(), [&network]);
    assert_eq!(seen.volumes.keys().collect::<Vec<_>>(), [&volume]);
    assert_eq!(seen.containers, []);
}

fn an_image_is_there_by_name_and_id(field: &Field<'_>) {
    let seen = field.observe().images;
    assert_eq!(seen.keys().collect::<Vec<_>>(), [IMAGE], "what nobody has is not there");
    let image = &seen[IMAGE];
    assert!(image.id.starts_with("sha256:") && image.platform.starts_with("linux/"), "{image:?}");
    let listed = field.block(field.engine.images()).unwrap();
    let listed = listed.iter().find(|listed| listed.id == image.id).expect("it is listed");
    assert!(listed.references.contains(&"busybox:latest".to_owned()), "{listed:?}");
}

fn an_image_in_use_stays(field: &Field<'_>) {
    let made = field.made("web", IDLE);
    let image: ImageRef = IMAGE.parse().unwrap();
    let error = field.block(field.engine.remove_image(&image, false)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert_eq!(field.observe().images[IMAGE].id, field.see(&made).image_id);
}

fn an_image_that_nobody_has_cannot_be_removed(field: &Field<'_>) {
    let image: ImageRef = "nobody/has:this".parse().unwrap();
    let error = field.block(field.engine.remove_image(&image, false)).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
}

fn a_pull_of_what_is_there_does_nothing(field: &Field<'_>) {
    let (image, service, platform, locked) = (IMAGE.to_owned(), "it".to_owned(), None, None);
    let policy = PullPolicy::Missing;
    let pull = Op::Pull(ficelle::engine::PullRequest { image, platform, policy, locked, service });
    let outcome = field.ok(&pull);
    assert!(outcome.unchanged);
    assert_eq!(outcome.id.as_ref(), Some(&field.observe().images[IMAGE].id));
}

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Publishes this port of 127.0.0.1, or any.
fn publishing(field: &Field<'_>, service: &str, port: Option<u16>) -> CreateContainer {
    let mut wanted = field.on_network(field.wanted(service, IDLE), "back");
    let published = port.map(|port| PortRange { first: port, last: port });
    wanted.spec.ports.push(Port { target: 80, published, host_ip: Some(HERE), protocol: Protocol::Tcp });
    wanted
}

/// One that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind((HERE, 0)).unwrap().local_addr().unwrap().port()
}

fn a_published_port_is_bound_while_it_runs(field: &Field<'_>) {
    field.ok(&field.network("back"));
    let port = free_port();
    let made = field.create(&publishing(field, "web", Some(port)));
    assert_eq!(field.see(&made).ports, []);
    field.ok(&made.start());
    let bound = field.see(&made).ports;
    let [bound] = bound.as_slice() else { panic!("{bound:?}") };
    assert_eq!(
        (bound.host_ip, bound.host_port, bound.target, bound.protocol),
        (HERE, port, 80, Protocol::Tcp)
    );
    field.ok(&made.stop());
    assert_eq!(field.see(&made).ports, []);
}

fn an_open_port_gets_one_of_the_hosts(field: &Field<'_>) {
    field.ok(&field.network("back"));
    let port = |service: &str| field.see(&field.start(&publishing(field, service, None))).ports[0].host_port;
    let (first, second) = (port("one"), port("two"));
    assert!(first != 0 && second != 0 && first != second, "{first} {second}");
}

fn found(field: &Field<'_>, ops: &[Op]) -> Vec<(ErrorKind, Option<String>)> {
    let found = field.block(field.engine.check(&ops.iter().collect::<Vec<_>>()));
    found.into_iter().map(|error| (error.kind, error.path.map(String::from))).collect()
}

fn of_ports(service: &str) -> Vec<(ErrorKind, Option<String>)> {
    vec![(ErrorKind::Conflict, Some(format!("services.{service}.ports[0]")))]
}

fn a_port_in_use_is_found_before_anything_is_made(field: &Field<'_>) {
    field.ok(&field.network("back"));
    let port = free_port();
    let made = field.start(&publishing(field, "web", Some(port)));
    let other = Op::Create(Box::new(publishing(field, "other", Some(port))));
    assert_eq!(found(field, from_ref(&other)), of_ports("other"));
    assert_eq!(field.observe().containers.len(), 1, "nothing was made");
    field.ok(&made.stop());
    assert_eq!(found(field, &[other]), []);
}

fn a_port_wanted_twice_is_found_before_anything_is_made(field: &Field<'_>) {
    field.ok(&field.network("back"));
    let port = Some(free_port());
    let both = ["one", "two"].map(|service| Op::Create(Box::new(publishing(field, service, port))));
    assert_eq!(found(field, &both), of_ports("two"));
}

fn a_port_of_a_predecessor_is_free_for_its_successor(field: &Field<'_>) {
    field.ok(&field.network("back"));
    let port = Some(free_port());
    let old = field.start(&publishing(field, "web", port));
    let mut wanted = publishing(field, "web", port);
    wanted.replaces = Some(old.id.clone());
    wanted.config_hash = "another".to_owned();
    let create = Op::Create(Box::new(wanted));
    assert_eq!(found(field, &[create, old.stop()]), []);
}

fn a_start_on_a_port_in_use_is_refused(field: &Field<'_>) {
    field.ok(&field.network("back"));
    let port = free_port();
    let first = field.start(&publishing(field, "one", Some(port)));
    let second = field.create(&publishing(field, "two", Some(port)));
    field.fails(&second.start(), ErrorKind::Conflict);
    assert!(!field.state(&second).is_running(), "{:?}", field.state(&second));
    field.ok(&first.stop());
    field.ok(&second.start());
    assert_eq!(field.state(&second), ContainerState::Running);
}
