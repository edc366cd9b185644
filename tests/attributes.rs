//! What the process inside sees of the attributes of its service, on the real engine. Each name is the
//! obligation; the container says what it sees in its log.

use crate::scenarios::stack::{Machine, Project, eventually};

/// Starts the project and gives what the service has written when it says `done`.
fn said(project: &Project<'_>, service: &str) -> String {
    project.ficelle(&["up", "-d"]).ok();
    project.wait_for_line(service, "done");
    project.logs(service)
}

/// A project of one service `it` that runs `script` with these further lines of its definition.
fn one(name: &str, script: &str, lines: &str) -> String {
    format!(
        "name: {name}\nservices:\n  it:\n    image: busybox\n    init: true\n    command: [sh, -c, '{script}; echo done; sleep 1000']\n{lines}"
    )
}

#[test]
fn secrets_and_configs_are_files_in_memory_with_their_owner_and_mode_even_in_a_read_only_container() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let script = "ls -ln /run/secrets/* /motd /etc/app.conf; cat /run/secrets/token /run/secrets/db /motd; \
                  grep -c \"^tmpfs /run/secrets/token tmpfs ro\" /proc/mounts; echo x 2>/dev/null >/run/secrets/token || echo kept";
    let lines = "    read_only: true
    user: \"1000:50\"
    secrets:
      - token
      - {source: filed, target: db, uid: \"1000\", gid: \"50\", mode: 0400}
    configs:
      - motd
      - {source: motd, target: /etc/app.conf, mode: 0440, gid: \"50\"}
secrets:
  token: {environment: CANARY}
  filed: {file: ./pw.txt}
configs:
  motd: {content: \"hi ${WHO}\\n\"}
";
    let project = machine.compose("attrsecret", &one("attrsecret", script, lines));
    std::fs::write(project.dir.join("pw.txt"), "from a file\n").unwrap();
    let run = |args: &[&str]| project.ficelle(args).env("CANARY", "canary-4711").env("WHO", "you").ok();
    let up = run(&["up", "-d"]);
    project.wait_for_line("it", "done");
    let log = project.logs("it");
    for line in [
        "-r--r--r--    1 0        0               11",
        "-r--------    1 1000     50              12",
        "-r--r-----    1 0        50               7",
        "canary-4711from a file",
        "hi you",
        "kept",
    ] {
        assert!(log.contains(line), "`{line}` is not in:\n{log}");
    }
    assert!(log.contains("\n1\n"), "the secret is not on a tmpfs that is read only:\n{log}");
    let shown = run(&["config"]).stdout + &run(&["ps", "-a", "--format", "json"]).stdout + &up.stderr;
    assert!(!shown.contains("canary-4711"), "{shown}");
    assert!(run(&["up", "-d"]).stderr.contains("Running") || project.containers().len() == 1);
    let plan =
        project.ficelle(&["up", "-d", "--dry-run"]).env("CANARY", "other-canary").env("WHO", "you").ok();
    let told = plan.stdout + &plan.stderr;
    assert!(told.contains("/run/secrets/token") && !told.contains("other-canary"), "{told}");
}

#[test]
fn a_secret_that_cannot_be_is_refused_with_its_place() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let cases = [
        ("{external: true}", "external"),
        ("{environment: NOT_SET_ANYWHERE}", "`NOT_SET_ANYWHERE`"),
        ("{file: ./missing.txt}", "missing.txt"),
    ];
    for (source, word) in cases {
        let lines = format!("    secrets: [s]\nsecrets:\n  s: {source}\n");
        let project = machine.compose(&format!("attrno{}", word.len()), &one("x", "true", &lines));
        let refused = project.ficelle(&["up", "-d"]).run();
        assert_ne!(refused.code, Some(0), "{source}");
        assert!(
            refused.stderr.contains(word) && refused.stderr.contains("compose.yaml:"),
            "{}",
            refused.stderr
        );
        assert_eq!(project.containers(), []);
    }
}

#[test]
fn memory_processes_network_and_volumes_can_be_those_of_another_service() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let yaml = "
services:
  lender:
    image: busybox
    ipc: shareable
    volumes: [\"/anonymous\", \"named:/named\"]
    command: [sh, -c, 'echo memory >/dev/shm/x; echo volume >/anonymous/y; exec sleep 1000']
    healthcheck: {test: cat /anonymous/y, interval: 100ms}
  it:
    image: busybox
    ipc: service:lender
    pid: service:lender
    network_mode: service:lender
    volumes_from: [lender:ro]
    depends_on: {lender: {condition: service_healthy}}
    command: [sh, -c, 'cat /dev/shm/x /anonymous/y; ps; touch /anonymous/z 2>/dev/null || echo read only;
      for n in ipc pid net; do [ $$(readlink /proc/1/ns/$$n) = $$(readlink /proc/self/ns/$$n) ] && echo shared; done;
      echo done; sleep 1000']
volumes: {named: }
";
    let project = machine.compose("attrlend", yaml);
    let log = said(&project, "it");
    assert!(log.starts_with("memory\nvolume\n"), "{log}");
    assert!(log.contains("sleep 1000") && log.contains("read only"), "{log}");
    assert_eq!(
        log.lines().filter(|line| *line == "shared").count(),
        3,
        "three namespaces are shared:\n{log}"
    );
    let ids: Vec<String> = project.containers().into_iter().map(|container| container.id).collect();
    project.ficelle(&["down", "-v", "-t", "0"]).ok();
    assert_eq!(project.traces(&ids), Vec::<String>::new(), "also no volume that was lent");
}

/// A directory that is a mount of its own, and whether mounts pass to and from it.
struct Passing(std::path::PathBuf);

impl Passing {
    fn at(dir: std::path::PathBuf, propagation: &str) -> Self {
        let passing = Self(dir);
        passing.mount(&["--bind", passing.0.to_str().unwrap()], "");
        passing.mount(&[propagation], "");
        passing
    }

    fn mount(&self, words: &[&str], below: &str) {
        let done = std::process::Command::new("mount").args(words).arg(self.0.join(below)).status();
        assert!(done.unwrap().success(), "{words:?}");
    }
}

impl Drop for Passing {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["--lazy", "--recursive"]).arg(&self.0).status();
    }
}

#[test]
fn mounts_pass_to_and_from_what_is_bound_as_asked_and_else_not() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let dir = machine.scratch("passing");
    for name in ["early", "late", "own", "heard", "kept"] {
        std::fs::create_dir(dir.join(name)).unwrap();
    }
    let passing = Passing::at(dir.clone(), "--make-shared");
    passing.mount(&["-t", "tmpfs", "tmpfs"], "early");
    std::fs::write(dir.join("early/file"), "").unwrap();
    let bind = |target: &str, more: &str| {
        format!("      - {{type: bind, source: {}, target: {target}{more}}}\n", dir.display())
    };
    let lines = format!(
        "    cap_add: [SYS_ADMIN]\n    volumes:\n{}{}{}",
        bind("/default", ""),
        bind("/slave", ", bind: {propagation: rslave}"),
        bind("/shared", ", bind: {propagation: rshared}")
    );
    let project = machine.compose("attrpassing", &one("attrpassing", "true", &lines));
    project.ficelle(&["up", "-d"]).ok();
    passing.mount(&["-t", "tmpfs", "tmpfs"], "late");
    std::fs::write(dir.join("late/file"), "").unwrap();
    let script = "ls /default/late /slave/late /shared/late
        for at in /default/kept /slave/heard /shared/own; do mount -t tmpfs tmpfs $at; touch $at/inside; done";
    let said = project.ficelle(&["exec", "-T", "it", "sh", "-c", script]).ok().stdout;
    assert_eq!(said, "/default/late:\n\n/shared/late:\nfile\n\n/slave/late:\nfile\n");
    let reached = ["own", "heard", "kept"].map(|name| dir.join(name).join("inside").exists());
    assert_eq!(reached, [true, false, false]);
    project.ficelle(&["down", "-t", "0"]).ok();
    assert!(dir.join("early/file").exists() && dir.join("late/file").exists(), "what the host mounts stays");

    drop(passing);
    let _private = Passing::at(dir, "--make-private");
    let refused = project.ficelle(&["up", "-d"]).run();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("is not on a shared"), "{}", refused.stderr);
}

#[test]
fn memory_that_is_private_cannot_be_joined() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let yaml = "
services:
  lender: {image: busybox, command: sleep 1000}
  it: {image: busybox, command: sleep 1000, ipc: 'service:lender'}
";
    let refused = machine.compose("attrprivate", yaml).ficelle(&["up", "-d"]).run();
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("`ipc: shareable`"), "{}", refused.stderr);
}

#[test]
fn namespaces_of_the_host_are_the_hosts_and_its_name_stays() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let before = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    let script = "hostname; for n in pid ipc uts cgroup net; do readlink /proc/self/ns/$$n; done";
    let lines = "    init: false\n    pid: host\n    ipc: host\n    uts: host\n    cgroup: host\n    userns_mode: host\n    network_mode: host\n";
    let yaml = one("attrhost", script, lines).replacen("    init: true\n", "", 1);
    let project = machine.compose("attrhost", &yaml);
    let log = said(&project, "it");
    for name in ["pid", "ipc", "uts", "cgroup", "net"] {
        let own = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert!(log.contains(own.to_str().unwrap()), "{name}: {} in\n{log}", own.display());
    }
    assert!(log.starts_with(&before), "{log}");
    assert_eq!(std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), before);
    let container = project.container("it");
    project.ficelle(&["down", "-t", "0"]).ok();
    assert_eq!(project.traces(&[container.id]), Vec::<String>::new());
}

#[test]
fn limits_and_devices_are_what_the_kernel_enforces() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let script = "cat /proc/self/oom_score_adj; ls -l /dev | grep mine; \
                  mknod /tmp/tty c 189 0 && echo made; mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg 2>&1 | head -n 1";
    let lines = "    oom_score_adj: 300
    mem_limit: 64m
    mem_swappiness: 10
    cpu_period: 50000
    cpu_quota: 25000
    pids_limit: 50
    cgroup_parent: /attrlimits-parent
    devices: [\"/dev/null:/dev/mine:rw\"]
    device_cgroup_rules: [\"c 189:* rm\"]
";
    let project = machine.compose("attrlimits", &one("attrlimits", script, lines));
    let log = said(&project, "it");
    assert!(log.starts_with("300\n"), "{log}");
    assert!(log.contains("1,   3") && log.contains("made"), "{log}");
    assert!(log.contains("Operation not permitted"), "a device that was not given:\n{log}");
    let container = project.container("it");
    let groups = crate::scenarios::host::cgroups_with(&[format!("attrlimits-parent/{}", container.id)]);
    let read = |controller: &str, file: &str| {
        let group = groups.iter().find(|group| group.to_string_lossy().contains(controller))?;
        Some(std::fs::read_to_string(group.join(file)).ok()?.trim().to_owned())
    };
    if let Some(quota) = read("/cpu", "cpu.cfs_quota_us") {
        assert_eq!(quota, "25000");
        assert_eq!(read("/cpu", "cpu.cfs_period_us").unwrap(), "50000");
        assert_eq!(read("/memory", "memory.swappiness").unwrap(), "10");
        assert!(read("/devices", "devices.list").unwrap().contains("c 189:* rm"));
    }
    project.ficelle(&["down", "-t", "0"]).ok();
    assert_eq!(crate::scenarios::host::cgroups_with(&[container.id]), Vec::<std::path::PathBuf>::new());
    // A parent that was asked for stays, as with Docker.
    for group in crate::scenarios::host::cgroups_with(&["attrlimits-parent".to_owned()]) {
        std::fs::remove_dir(&group).unwrap();
    }
}

#[test]
fn a_network_has_ipv6_ranges_hardware_addresses_and_names_as_the_file_says() {
    let Some(machine) = Machine::in_own_network(&["busybox"]) else { return };
    let yaml = "
services:
  web:
    image: busybox
    command: [sh, -c, 'sleep 1000']
    init: true
    networks:
      front: {ipv4_address: 10.230.7.20, ipv6_address: 'fd00:77::20', mac_address: '02:42:00:00:00:99'}
  it:
    image: busybox
    init: true
    depends_on: [web]
    domainname: example.test
    dns_search: [example.test]
    dns_opt: [use-vc]
    extra_hosts: ['gate:host-gateway', 'fixed:10.1.2.3']
    links: ['web:portal']
    networks:
      front: {interface_name: outer0, gw_priority: 5, priority: 10, link_local_ips: ['169.254.9.9'],
              driver_opts: {com.docker.network.endpoint.sysctls: net.ipv4.conf.IFNAME.log_martians=1}}
      back: {mac_address: '02:42:00:00:00:77'}
    command: [sh, -c, 'ip address; ip route; cat /etc/resolv.conf /etc/hosts /proc/sys/net/ipv4/conf/outer0/log_martians;
      nslookup -type=aaaa web; ping -c 1 portal; ping -6 -c 1 web; echo done; sleep 1000']
networks:
  front:
    enable_ipv6: true
    driver_opts: {com.docker.network.driver.mtu: '1400'}
    ipam: {config: [{subnet: 10.230.7.0/24, ip_range: 10.230.7.64/26, aux_addresses: {printer: 10.230.7.64}}, {subnet: 'fd00:77::/64'}]}
  back: {internal: true}
";
    let project = machine.compose("attrnet", yaml);
    let log = said(&project, "it");
    for text in [
        "outer0@",
        "mtu 1400",
        "inet 10.230.7.65/24",
        "inet6 fd00:77::41/64",
        "inet 169.254.9.9/16",
        "02:42:00:00:00:77",
        "default via 10.230.7.1 dev outer0",
        "search example.test",
        "options use-vc ndots:0",
        "10.1.2.3\tfixed",
        "169.254.24",
        ".example.test ",
        "fd00:77::20",
    ] {
        assert!(log.contains(text), "`{text}` is not in:\n{log}");
    }
    assert_eq!(log.matches("1 packets received").count(), 2, "by link, and over IPv6:\n{log}");
    assert!(log.contains("\n1\n"), "the setting of the interface:\n{log}");
}

#[test]
fn a_filter_of_the_users_own_holds_for_the_program() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let lines =
        "    security_opt: [\"seccomp=./profile.json\", \"no-new-privileges=true\", \"label=disable\"]\n";
    let script = "grep -E \"Seccomp:|NoNewPrivs\" /proc/self/status; mkdir /tmp/x 2>&1";
    let project = machine.compose("attrseccomp", &one("attrseccomp", script, lines));
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122}]}"#;
    std::fs::write(project.dir.join("profile.json"), profile).unwrap();
    let log = said(&project, "it");
    assert!(log.contains("Seccomp:\t2") && log.contains("NoNewPrivs:\t1"), "{log}");
    assert!(
        log.contains("quota exceeded") || log.contains("Disk quota") || log.contains("uota"),
        "errno 122:\n{log}"
    );
}

#[test]
fn a_volume_mounts_what_its_options_say_as_long_as_there_are_containers() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let yaml = "
services:
  a: {image: busybox, init: true, volumes: ['memory:/m'], command: [sh, -c, 'echo shared >/m/x; echo done; sleep 1000']}
  it: {image: busybox, init: true, volumes: ['memory:/m', 'bound:/b'], depends_on: [a],
       command: [sh, -c, 'until cat /m/x; do :; done; cat /b/here; grep -E \" /m | /b \" /proc/mounts; echo done; sleep 1000']}
volumes:
  memory: {driver_opts: {type: tmpfs, device: tmpfs, o: 'size=1m,uid=1000'}}
  bound: {driver_opts: {type: none, device: ./bound, o: bind}}
";
    let project = machine.compose("attrvolume", yaml);
    std::fs::create_dir(project.dir.join("bound")).unwrap();
    std::fs::write(project.dir.join("bound/here"), "bound\n").unwrap();
    let log = said(&project, "it");
    assert!(log.contains("shared\nbound\n") && log.contains("size=1024k"), "{log}");
    let ids: Vec<String> = project.containers().into_iter().map(|container| container.id).collect();
    project.ficelle(&["down", "-v", "-t", "0"]).ok();
    assert_eq!(project.traces(&ids), Vec::<String>::new());
    assert!(project.dir.join("bound/here").exists(), "what a volume mounts is not removed with it");
}

#[test]
fn an_image_can_be_mounted_and_is_read_only() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let lines = "    volumes:
      - {type: image, source: busybox, target: /all}
      - {type: image, source: busybox, target: /programs, image: {subpath: bin}}
";
    let script = "ls /all/bin/sh /programs/sh; touch /all/x 2>&1";
    let project = machine.compose("attrimage", &one("attrimage", script, lines));
    let log = said(&project, "it");
    assert!(log.contains("/all/bin/sh\n/programs/sh\n"), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
}

#[test]
fn what_docker_would_refuse_is_refused_with_its_place() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let cases = [
        ("    gpus: all\n", "no device driver"),
        ("    devices: [\"acme.com/null=one\"]\n", "acme.com/null=one"),
        ("    devices: [\"/dev/nothing-here\"]\n", "/dev/nothing-here"),
        ("    ipc: pod\n", "`pod`"),
        ("    ipc: container:nobody\n", "`nobody`"),
        ("    security_opt: [\"label=level:s0\"]\n", "SELinux"),
        ("    security_opt: [\"seccomp=./nothing.json\"]\n", "nothing.json"),
        ("    hostname: a\n    uts: host\n", "uts: host"),
        ("    cgroup_parent: ../../x\n", "control groups"),
        ("    mem_swappiness: 101\n", "mem_swappiness"),
        ("    blkio_config: {device_read_bps: [{path: /dev/null, rate: 1m}]}\n", "/dev/null"),
    ];
    for (at, (lines, word)) in cases.into_iter().enumerate() {
        let name = format!("attrrefuse{at}");
        let project = machine.compose(&name, &one(&name, "true", lines));
        let refused = project.ficelle(&["up", "-d"]).run();
        assert_eq!(refused.code, Some(1), "{lines}{}", refused.stderr);
        assert!(refused.stderr.contains(word), "{lines}{}", refused.stderr);
    }
}

#[test]
fn a_published_port_can_be_of_udp_and_of_an_address_of_ipv6() {
    let Some(machine) = Machine::in_own_network(&["busybox"]) else { return };
    let lines = "    ports: [\"127.0.0.1:15353:53/udp\", \"[::1]:18080:80\"]\n";
    let script = "mkdir /www; echo page >/www/index.html; httpd -h /www";
    let project = machine.compose("attrports", &one("attrports", script, lines));
    said(&project, "it");
    let shown = project.ficelle(&["port", "--protocol", "udp", "it", "53"]).ok().stdout;
    assert_eq!(shown.trim(), "127.0.0.1:15353");
    let fetch = || {
        let output = machine.network().command("curl").args(["-sg", "http://[::1]:18080/"]).output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap())
        } else {
            Err("nobody answers")
        }
    };
    assert_eq!(eventually(fetch).unwrap(), "page\n");
}

#[test]
fn a_file_of_the_first_format_tells_its_links_by_names_and_variables() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let yaml = "
db:
  image: busybox
  command: [sleep, '1000']
  expose: ['5432']
  environment: {OWNER: app}
it:
  image: busybox
  links: [db, 'db:store']
  environment: {DB_NAME: mine}
  command: [sh, -c, 'for n in db db_1 attrlink_db_1 store; do ping -c 1 -w 5 $$n >/dev/null && echo reaches $$n; done;
    env | grep -E \"^(DB|STORE|DB_1|ATTRLINK_DB_1)_(NAME|PORT_5432_TCP_PORT|PORT_5432_TCP_PROTO|ENV_OWNER)=\" | sort;
    [ $$DB_PORT = tcp://$$STORE_PORT_5432_TCP_ADDR:5432 ] && echo same; echo done; sleep 1000']
";
    let project = machine.compose("attrlink", yaml);
    let log = said(&project, "it");
    for name in ["db", "db_1", "attrlink_db_1", "store"] {
        assert!(log.lines().any(|line| line == format!("reaches {name}")), "{name}: {log}");
        let prefix = name.to_uppercase();
        for line in ["PORT_5432_TCP_PORT=5432", "PORT_5432_TCP_PROTO=tcp", "ENV_OWNER=app"] {
            assert!(log.lines().any(|said| said == format!("{prefix}_{line}")), "{prefix}_{line}: {log}");
        }
    }
    assert!(log.contains("\nDB_NAME=mine\n"), "the file's own variables stay: {log}");
    assert!(log.contains("\nsame\n"), "{log}");
}

#[test]
fn all_rights_are_those_that_the_machine_has() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let own = std::fs::read_to_string("/proc/self/status").unwrap();
    let bounds = own.lines().find(|line| line.starts_with("CapBnd:")).unwrap();
    let script =
        "grep CapBnd /proc/self/status; stat -c \"%a %n\" /dev/deep; grep -c ip6-allrouters /etc/hosts";
    for (at, lines) in ["    privileged: true\n", "    cap_add: [ALL]\n"].into_iter().enumerate() {
        let name = format!("attrall{at}");
        let lines = format!("{lines}    user: '1000'\n    devices: ['/dev/null:/dev/deep/null']\n");
        let log = said(&machine.compose(&name, &one(&name, script, &lines)), "it");
        assert!(log.contains(bounds), "{lines}: {bounds} is not in:\n{log}");
        assert!(log.contains("755 /dev/deep\n1\n"), "{log}");
    }
}

#[test]
fn what_is_run_later_is_run_as_the_first_was() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let lines =
        "    read_only: true\n    oom_score_adj: 300\n    hostname: here.example.test\n    tty: true\n";
    let project = machine.compose("attrlater", &one("attrlater", "true", lines));
    said(&project, "it");
    let look = "cat /proc/self/oom_score_adj; echo $HOSTNAME ${TERM-none}; touch /etc/hosts 2>&1 | grep -o Read-only; \
                grep -o 'here.*' /etc/hosts; tr '\\0' ' ' </proc/1/cmdline";
    let seen = project.ficelle(&["exec", "-T", "it", "sh", "-c", look]).ok().stdout;
    assert_eq!(
        seen.trim_end(),
        "300\nhere.example.test none\nRead-only\nhere.example.test here\nficelle-init",
        "{seen:?}"
    );
    let shared =
        machine.compose("attrhosts", &one("attrhosts", "cat /etc/hosts", "    network_mode: host\n"));
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
    assert!(said(&shared, "it").starts_with(hosts.trim_end()), "the machine's own");
}

#[test]
fn keys_of_the_host_stay_outside() {
    let Some(machine) = Machine::with(&["python"]) else { return };
    // Which session keyring a program has: keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING).
    let yaml = "
x-it: &it
  image: python:3-slim
  init: true
  security_opt: ['seccomp:unconfined']
  command:
    - python3
    - -c
    - |
      import ctypes, platform, time
      number = {'x86_64': 250, 'aarch64': 219}[platform.machine()]
      print('session', ctypes.CDLL(None).syscall(number, 0, -3, 0), flush=True)
      time.sleep(1000)
services: {one: *it, two: *it}
";
    let project = machine.compose("attrkeys", yaml);
    project.ficelle(&["up", "-d"]).ok();
    let [one, two] = ["one", "two"].map(|service| project.wait_for_line(service, "session"));
    assert!(!one.contains('-'), "{one}");
    assert_ne!(one, two, "each has its own, so neither has the machine's");
}
