//! What every engine promises to plans and commands: one list of cases, held by each engine through the trait
//! alone. A new engine is one more test at the top.

pub mod field;
mod life;
mod talk;
mod things;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use ficelle::{
    engine::Engine,
    session::{Choice, connect},
};

use field::Field;

#[test]
fn the_simulated_engine_keeps_it() {
    keep(&engine("simulated", None));
}

#[test]
#[cfg(target_os = "linux")]
fn the_embedded_engine_keeps_it() {
    let Some(machine) = crate::scenarios::stack::Machine::with(&["busybox"]) else { return };
    keep(&engine("embedded", Some(machine.root())));
}

/// Runs itself once more as this user, since a process enters a user namespace before it has a second thread.
#[test]
#[cfg(target_os = "linux")]
fn the_embedded_engine_of_an_ordinary_user_keeps_it() {
    const ROOT: &str = "TEST_CONTRACT_ROOT";
    if let Some(root) = std::env::var_os(ROOT) {
        assert!(ficelle::runtime::rootless::is_confined());
        return keep(&engine("embedded", Some(root.into())));
    }
    let Some(machine) = crate::scenarios::stack::Machine::of_user(&["busybox"]) else { return };
    let name = "contract::the_embedded_engine_of_an_ordinary_user_keeps_it";
    machine.test_in_user_namespace(name).env(ROOT, machine.root().to_str().unwrap()).ok();
}

fn engine(name: &str, root: Option<std::path::PathBuf>) -> Arc<dyn Engine> {
    #[cfg(target_os = "linux")]
    ficelle::runtime::use_program(env!("CARGO_BIN_EXE_ficelle").into());
    connect(&Choice { engine: Some(name.to_owned()), root, docker: None }).unwrap().engine
}

/// What must hold, under the name of its function.
type Case = (&'static str, fn(&Field<'_>));

macro_rules! cases {
    ($($case:ident),* $(,)?) => { &[$((stringify!($case), $case)),*] };
}
use cases;

/// Cases that wait for a program's own time keep nobody from the next.
const SIDE_BY_SIDE: usize = 4;

/// Runs each case in a project of its own; tells all that do not hold at once.
fn keep(engine: &Arc<dyn Engine>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let cases: Vec<&Case> = [life::CASES, talk::CASES, things::CASES].into_iter().flatten().collect();
    let next = AtomicUsize::new(0);
    let broken = Mutex::new(Vec::new());
    let work = || {
        while let Some((name, case)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let field = Field::new(engine, &runtime, name);
            let acts: [fn(&Field<'_>); 2] = [*case, |field| field.clear()];
            for act in acts {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| act(&field))) {
                    let said = panic.downcast_ref::<String>().cloned();
                    let said = said.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                    broken.lock().unwrap().push(format!("{name}: {}", said.unwrap_or_default()));
                }
            }
        }
    };
    std::thread::scope(|scope| (0..SIDE_BY_SIDE).for_each(|_| drop(scope.spawn(work))));
    let broken = broken.into_inner().unwrap();
    assert!(broken.is_empty(), "{} of {} cases:\n{}", broken.len(), cases.len(), broken.join("\n"));
}
