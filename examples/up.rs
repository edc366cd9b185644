//! Brings the project of a directory up, tells what happens, and takes it down again.
//!
//! `cargo run --example up -- DIR` runs it on the embedded engine; with `--plan` it prints what
//! would be done and needs no privileges.

#![expect(clippy::print_stdout, reason = "an example talks")]

use std::{error::Error, path::PathBuf};

use ficelle::{
    load::{self, LoadOptions, System},
    session::{self, Choice, Event, Goal, ImageOptions, Session, Wish, WithDependencies},
};
use tokio::sync::watch;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let only_plan = args.iter().position(|arg| arg == "--plan").map(|at| args.remove(at)).is_some();
    let options = LoadOptions { project_directory: args.pop().map(PathBuf::from), ..LoadOptions::default() };
    let loaded = load::load(&options, &System::default()).map_err(|mistakes| {
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        told.join("\n")
    })?;

    let engine = session::connect(&Choice::default())?.engine;
    let session = Session::new(loaded.project, engine, None)?;
    let selection = session.select(&[], WithDependencies::Yes)?;
    let up = Wish {
        command: "example",
        images: Some((selection.clone(), ImageOptions::default())),
        goal: Some(Goal::running(selection.clone())),
    };
    if only_plan {
        let preview = session.preview(&up).await?;
        println!("{}{}", preview.images, preview.rest);
        return Ok(());
    }

    // Nobody cancels this program.
    let (_keep, cancel) = watch::channel(false);
    let mut tell = |event: Event| {
        if let Event::Done { what, .. } = event {
            println!("{} ({})", what.op, what.cause);
        }
    };
    let outcome = session.pursue(&up, &cancel, &mut tell).await?;
    for container in session.observe().await?.containers {
        println!("{}: {}", container.name, container.state.word());
    }
    let goal = Goal::Removed { selection, volumes: false, remove_orphans: false, timeout: None };
    let down = Wish { command: "example", images: None, goal: Some(goal) };
    session.pursue(&down, &cancel, &mut tell).await?;
    if outcome.reached() { Ok(()) } else { Err("not everything came up".into()) }
}
