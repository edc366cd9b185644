//! Where memory of a program comes from (set_mempolicy(2)).

use serde_json::json;

use super::{Bundle, hold, refused};

const POLICY: &str = "head -n 1 /proc/self/numa_maps | cut -d' ' -f2";

fn policy(bundle: &mut Bundle, mode: &str, nodes: &str, flags: &[&str]) {
    let mut policy = json!({"mode": mode, "flags": flags});
    if !nodes.is_empty() {
        policy["nodes"] = json!(nodes);
    }
    bundle.set("/linux/memoryPolicy", policy);
}

#[test]
fn memory_comes_from_where_the_document_says() {
    if !std::path::Path::new("/proc/self/numa_maps").exists() {
        eprintln!("SKIPPED: this kernel has no policies of memory");
        return;
    }
    hold(&[
        ("interleaved", |b| policy(b, "MPOL_INTERLEAVE", "0", &[]), POLICY, "interleave:0"),
        ("bound", |b| policy(b, "MPOL_BIND", "0", &["MPOL_F_STATIC_NODES"]), POLICY, "bind=static:0"),
        (
            "preferred",
            |b| policy(b, "MPOL_PREFERRED", "0", &["MPOL_F_RELATIVE_NODES"]),
            POLICY,
            "prefer=relative:0",
        ),
        ("the kernel's own", |b| policy(b, "MPOL_DEFAULT", "", &[]), POLICY, "default"),
    ]);
    refused(&[
        ("a mode of nobody", |b| policy(b, "INTERLEAVE", "0", &[]), "INTERLEAVE"),
        (
            "a flag of nobody",
            |b| policy(b, "MPOL_PREFERRED", "0", &["MPOL_F_RELATIVE_NODES", "badflag"]),
            "badflag",
        ),
        ("nodes without a mode", |b| _ = b.set("/linux/memoryPolicy", json!({"nodes": "0-7"})), "mode"),
        (
            "flags that exclude each other",
            |b| {
                let flags = ["MPOL_F_NUMA_BALANCING", "MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"];
                policy(b, "MPOL_DEFAULT", "0-7", &flags);
            },
            "",
        ),
        ("nodes that no machine has", |b| policy(b, "MPOL_BIND", "0-9876543210", &[]), ""),
    ]);
}
