//! The `ficelle` command: hidden entries of the runtime first, else the command line.

fn main() {
    if let Some(code) = ficelle::runtime::entry() {
        std::process::exit(code);
    }
    std::process::exit(ficelle::cli::main());
}
