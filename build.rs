//! How the release binary is linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let is = |name: &str, value: &str| std::env::var(name).is_ok_and(|found| found == value);
    // Every helper process executes this binary, and `config` does little else than start: at a fixed address
    // the 30,000 relocations of its constants are done by the linker, once, and not at each start. Docker
    // compose and runc are linked so by Debian. Stack, heap, libraries and mappings stay where chance puts them.
    if is("PROFILE", "release") && is("CARGO_CFG_TARGET_OS", "linux") && is("CARGO_CFG_TARGET_ENV", "gnu") {
        println!("cargo::rustc-link-arg-bins=-no-pie");
    }
}
