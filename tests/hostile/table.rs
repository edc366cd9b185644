//! Files made to exhaust or confuse whoever reads them, and what is said of each. The test looks at the
//! messages, `benches/hostile.rs` at time and memory.

use std::fmt::Write as _;

/// One project.
#[allow(dead_code, reason = "the test reads the answers, the measure does not")]
pub struct Hostile {
    pub name: &'static str,
    /// Names and contents; the first is the Compose file.
    pub files: Vec<(String, String)>,
    /// Part of the message, or of nothing when the project is valid.
    pub told: &'static str,
    /// Where the message points.
    pub place: &'static str,
}

const SERVICE: &str = "services:\n  a:\n    image: x\n";

fn one(name: &'static str, told: &'static str, place: &'static str, text: String) -> Hostile {
    Hostile { name, files: vec![("compose.yaml".to_owned(), text)], told, place }
}

fn with(mut hostile: Hostile, files: impl IntoIterator<Item = (String, String)>) -> Hostile {
    hostile.files.extend(files);
    hostile
}

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).fold(String::new(), |mut text, at| {
        let _ = writeln!(text, "{}", line(at));
        text
    })
}

fn service(rest: &str) -> String {
    format!("{SERVICE}{rest}")
}

/// Each level refers to the one before several times.
fn aliases(levels: usize, width: usize) -> String {
    let references = |at: usize| vec![format!("*a{at}"); width].join(", ");
    "x-0: &a0 [z, z, z, z, z, z, z, z, z]\n".to_owned()
        + &lines(levels, |at| format!("x-{}: &a{} [{}]", at + 1, at + 1, references(at)))
}

fn include(name: &str) -> String {
    format!("include: [{name}]\n")
}

/// The 34 files.
#[must_use]
pub fn table() -> Vec<Hostile> {
    let [deep, row] = ["nested deeper than 64 levels", "compose.yaml:"];
    let below = |from: usize, to: usize, each: &dyn Fn(usize) -> String| -> Vec<(String, String)> {
        (from..to).map(|at| (format!("f{at}.yaml"), each(at))).collect()
    };
    let extended = |count: usize| {
        "services:\n  s0: {image: x}\n".to_owned()
            + &lines(count, |at| format!("  s{}: {{extends: s{at}}}", at + 1))
    };
    vec![
        // Depth.
        one("flow lists", "recursion limit", "compose.yaml:1:", "[".repeat(100_000)),
        one("flow mappings", "recursion limit", "compose.yaml:1:", "{a: ".repeat(20_000)),
        one("explicit keys", deep, "compose.yaml:1:", "? ".repeat(10_000)),
        one("dashes", deep, "compose.yaml:1:", "- ".repeat(100_000)),
        one("indentation", deep, "compose.yaml:65:", lines(200, |depth| format!("{:depth$}a:", ""))),
        // Aliases.
        one("nine to the ninth aliases", "100000 values, aliases expanded", row, aliases(9, 9)),
        one("doubled sixty times", "100000 values, aliases expanded", row, aliases(60, 2)),
        one("a million aliases", "more than 50000 aliases", "compose.yaml:2:", {
            format!("x: &x 1\ny: [{}]\n", "*x, ".repeat(1_000_000))
        }),
        one("a long text, often", "16 MiB of text, aliases expanded", "compose.yaml:2:", {
            format!("x: &x {}\ny: [{}]\n", "a".repeat(1 << 20), "*x, ".repeat(200))
        }),
        one("an alias within itself", "inside the value it refers to", "compose.yaml:1:8", {
            "x: &a [*a]\n".to_owned()
        }),
        one("a merge key of itself", "inside the value it refers to", "compose.yaml:2:7", {
            "x: &a\n  <<: *a\n".to_owned()
        }),
        one("merge keys upon merge keys", "values, aliases expanded", row, {
            "x-0: &m0 {k: 1}\n".to_owned()
                + &lines(400, |at| format!("x-{0}: &m{0} {{<<: [*m{at}, *m{at}], k{at}: *m{at}}}", at + 1))
        }),
        // Size.
        one("half a million keys", "more than 100000 values", row, {
            "x:\n".to_owned() + &lines(500_000, |at| format!("  k{at}: 1"))
        }),
        one("a file too large", "larger than 8 MiB", "", "#".repeat(9 << 20)),
        one("a key too long", "a key of more than 4096 bytes", "compose.yaml:1:3", {
            format!("? {}\n: 1\n", "a".repeat(1 << 20))
        }),
        one("40,000 unknown keys", "unknown key `k0`", "compose.yaml:4:5", {
            service(&lines(40_000, |at| format!("    k{at}: 1")))
        }),
        one("a key 100,000 times", "`image` is written twice", "compose.yaml:4:5", {
            service(&lines(100_000, |_| "    image: y".to_owned()))
        }),
        one("a key 100,000 times in a line", "`a` is written twice", "compose.yaml:1:11", {
            format!("x: {{{}}}\n", "a: 1, ".repeat(100_000))
        }),
        one("50,000 numbers for texts", "must be a string", "compose.yaml:4:11", {
            service(&format!("    dns: [{}]\n", "1, ".repeat(50_000)))
        }),
        one("brackets at the margin", "unknown key `k0`", row, {
            service(&lines(60, |at| format!("    k{at}: [\n      a,\n    ]")))
        }),
        // Variables.
        one("nested variables", "invalid interpolation format", "compose.yaml:4:", {
            service(&format!("    command: \"{}{}\"\n", "${A:-".repeat(20_000), "}".repeat(20_000)))
        }),
        one("variables without end", "invalid interpolation format `${`", "compose.yaml:5:", {
            service("    environment:\n") + &lines(40_000, |at| format!("      K{at:05}: ${{"))
        }),
        with(
            one("a variable that doubles", "longer than 4 MiB", ".env:", SERVICE.to_owned()),
            [(".env".to_owned(), {
                "A0=xxxxxxxxxx\n".to_owned()
                    + &lines(40, |at| format!("A{}=\"${{A{at}}}${{A{at}}}\"", at + 1))
            })],
        ),
        with(
            one("a long variable, often", "4 MiB of text, variables replaced", row, {
                service("    environment:\n")
                    + &lines(1_000, |at| format!("      K{at}: {}", "$BIG".repeat(10)))
            }),
            [(".env".to_owned(), format!("BIG={}\n", "x".repeat(100_000)))],
        ),
        // Files.
        with(
            one("200 files deep", "more than 32 files include one another", "f31.yaml:1:11", {
                include("f0.yaml") + SERVICE
            }),
            below(0, 200, &|at| include(&format!("f{}.yaml", at + 1))),
        ),
        with(
            one("two to the thirtieth files", "at most 1000 files", ".yaml:1:", include("f0.yaml") + SERVICE),
            below(0, 31, &|at| match at {
                30 => "services: {z: {image: x}}\n".to_owned(),
                _ => include(&format!("f{0}.yaml, f{0}.yaml", at + 1)),
            }),
        ),
        one("a file that includes itself", "include one another in a circle", "compose.yaml:4:11", {
            service(&include("compose.yaml"))
        }),
        // Graphs.
        one("services that extend one another", "extend one another in a circle", "compose.yaml:2:26", {
            "services:\n  a: {image: x, extends: b}\n  b: {image: y, extends: a}\n".to_owned()
        }),
        one("2,000 services that extend", "", "", extended(2_000)),
        one("2,000 services in a circle", "cycle", row, {
            "services:\n".to_owned()
                + &lines(2_000, |at| format!("  s{at}: {{image: x, depends_on: [s{}]}}", (at + 1) % 2_000))
        }),
        one("50,000 unknown dependencies", "more than 10000 names in one list", "compose.yaml:4:17", {
            let names: Vec<_> = (0..50_000).map(|at| format!("u{at}")).collect();
            service(&format!("    depends_on: [{}]\n", names.join(", ")))
        }),
        // Rubbish.
        one("zero bytes", "invalid YAML", "compose.yaml:3:", "services:\n  a:\n    image: \0x\n".to_owned()),
        // Data as any other: no reader of ours makes objects of it.
        one("a program's object", "", "", {
            service("    command: !!python/object/apply:os.system [x]\n    x-a: !ruby/object:X {}\n")
        }),
        one("tabs", "tab", "compose.yaml:2:", "services:\n\ta:\n\t\timage: x\n".to_owned()),
    ]
}
