//! How long loading takes, its phases apart: text to tree, tree on tree, tree to the types of the model; and
//! the whole of it. Of `n` services with what real ones have, and of a chain of `depends_on`.
//!
//!     cargo bench --bench load [-- FILTER]

use std::{collections::BTreeMap, fmt::Write as _, hint::black_box, path::Path, time::Duration};

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ficelle::load::{
    LoadOptions, Loaded,
    attributes::{Form, Merge, PROJECT},
    bind::Bind,
    config,
    diagnostic::Files,
    load,
    merge::{Written, merge},
    resolve,
    source::Memory,
    tree::{self, Map, Node},
};

const SIZES: [usize; 3] = [10, 100, 1_000];
/// Links of the chain.
const CHAIN: usize = 2_000;

/// Services as people write them, each in about twenty lines.
fn services(count: usize) -> String {
    let mut text = String::from("name: bench\nservices:\n");
    for n in 0..count {
        let port = 1_024 + n;
        let _ = write!(
            text,
            "  web{n}:
    image: registry.example/team/web:${{TAG:-1.{n}}}
    command: [serve, --port, '8080']
    environment:
      LEVEL: ${{LEVEL:-info}}
      URL: postgres://db:5432/web{n}
    labels: [team=web, number={n}]
    ports: ['{port}:8080', '127.0.0.1:{port}:8081/udp']
    volumes: [data:/data, ./conf:/etc/web:ro]
    networks: {{back: {{aliases: [web-{n}]}}}}
    healthcheck: {{test: [CMD, probe], interval: 5s, retries: 3}}
    deploy: {{resources: {{limits: {{cpus: '0.5', memory: 64M}}}}}}
"
        );
    }
    text + "volumes: {data: {}}\nnetworks: {back: {}}\n"
}

/// What an override file says of each of them.
fn overrides(count: usize) -> String {
    let mut text = String::from("services:\n");
    for n in 0..count {
        let _ = write!(
            text,
            "  web{n}:\n    environment: [LEVEL=debug, EXTRA={n}]\n    ports: ['9090']\n    labels: {{team: other}}\n"
        );
    }
    text
}

fn chain(count: usize) -> String {
    let mut text = String::from("name: chain\nservices:\n  s0: {image: a}\n");
    for n in 1..count {
        let _ = writeln!(text, "  s{n}: {{image: a, depends_on: [s{}]}}", n - 1);
    }
    text
}

fn loaded(text: &str) -> Loaded {
    let project = Memory::project(&[("compose.yaml", text)]);
    load(&LoadOptions::default(), &project).expect("the file is right")
}

/// Text to tree.
fn parse(c: &mut Criterion) {
    let mut group = c.benchmark_group("parse");
    for size in SIZES {
        let text = services(size);
        let mut files = Files::default();
        let file = files.add("compose.yaml", &text);
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| tree::parse(black_box(&files), file).expect("the file is right"));
        });
    }
}

/// An override on its base, both in canonical form.
fn merging(c: &mut Criterion) {
    let mut group = c.benchmark_group("merge");
    for size in SIZES {
        let base = loaded(&services(size)).resolved.canonical;
        // Alone, a service needs an image.
        let alone = overrides(size).replace("    labels", "    image: b\n    labels");
        let over = loaded(&format!("name: bench\n{alone}"));
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            let trees = || (base.clone(), over.resolved.canonical.clone());
            let lay = |(mut base, over): (Node, Node)| {
                merge(&mut base, over, Form::Object(PROJECT), Merge::Default, Written::Canonical);
                base
            };
            b.iter_batched(trees, lay, BatchSize::LargeInput);
        });
    }
}

/// The canonical tree to the types of the model.
fn bind(c: &mut Criterion) {
    let mut group = c.benchmark_group("bind");
    let (files, none, environment) = (Files::default(), Map::default(), BTreeMap::new());
    for size in SIZES {
        let model = loaded(&services(size)).resolved.canonical;
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter(|| {
                let mut told = Vec::new();
                let mut bind = Bind::new(&files, &mut told, None, &environment, Path::new("/project"));
                let project = bind.project(black_box(&model), &none, "bench");
                assert_eq!(project.services.len(), size);
                project
            });
        });
    }
}

/// All phases, with an override file, and what `config` prints of it.
fn whole(c: &mut Criterion) {
    let mut group = c.benchmark_group("config");
    for size in SIZES {
        let (text, over) = (services(size), overrides(size));
        let project = Memory::project(&[("compose.yaml", &text), ("compose.override.yaml", &over)]);
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |b| b.iter(|| print(&project)));
    }
    let text = chain(CHAIN);
    let project = Memory::project(&[("compose.yaml", &text)]);
    group.throughput(Throughput::Elements(CHAIN as u64));
    group.bench_function(BenchmarkId::new("depends_on", CHAIN), |b| b.iter(|| print(&project)));
}

fn print(project: &Memory) -> String {
    config::yaml(&resolve(&LoadOptions::default(), project).expect("the files are right"))
}

criterion_group! {
    name = phases;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(3));
    targets = parse, merging, bind, whole
}
criterion_main!(phases);
