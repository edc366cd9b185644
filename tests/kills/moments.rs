//! The kill matrix proper: at every named moment of `src/runtime/failpoint.rs` the process that gets there,
//! or another of ours meanwhile, is killed; what follows must hold as if nothing had been.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
    sync::Mutex,
    time::{Duration, Instant},
};

use ficelle::runtime::failpoint::{Point, VARIABLE};

use super::assert_no_trace;
use crate::scenarios::{
    host::{self, Process},
    stack::{Container, Machine, Project, Started, eventually},
};

/// Names under which our processes run, by the word that the names of moments begin with.
const OURS: [(&str, &str); 5] = [
    ("command", "ficelle"),
    ("keeper", "ficelle-keeper"),
    ("supervisor", "ficelle-superv"),
    ("worker", "ficelle-worker"),
    ("anchor", "ficelle-anchor"),
];

/// Machines at work side by side in the whole matrix.
const WORKERS: usize = 3;

/// Moments that come only after the death of a keeper.
const BEREFT: [Point; 3] = [Point::KeeperAdopted, Point::Bereft, Point::TakenOver];

/// `stays` numbers its lines and must never end; `ends` says 5 when it is asked to.
const YAML: &str = r#"
services:
  stays:
    image: busybox
    init: true
    command: ["sh", "-c", "i=1; while :; do seq $$i $$((i+99)); i=$$((i+100)); sleep 0.1; done"]
    logging: {driver: json-file, options: {max-size: 2k, max-file: "10000"}}
  ends:
    image: busybox
    command: ["sh", "-c", "trap 'exit 5' TERM; echo begun; while :; do sleep 0.05; done"]
    volumes: ["kept:/v", "/anonymous"]
    ports: ["${HELLO_PORT}:80"]
    stop_grace_period: 60s
volumes:
  kept:
"#;

/// What is done to the project, one after the other.
const STEPS: [&[&str]; 6] = [
    &["up", "-d", "stays"],
    &["up", "-d"],
    &["stop", "ends"],
    &["up", "-d"],
    &["up", "-d", "--force-recreate", "ends"],
    &["down", "-v"],
];

/// A project that all of it is done to, with some moments armed.
struct Course<'a> {
    machine: &'a Machine,
    project: Project<'a>,
    moments: PathBuf,
    armed: Vec<Point>,
    /// Who is killed; the process that gets there when `None`.
    victim: Option<&'static str>,
    reached: Vec<Point>,
    /// The process of `stays`.
    stays: Option<Process>,
    ids: BTreeSet<String>,
}

impl<'a> Course<'a> {
    fn new(machine: &'a Machine, name: &str, armed: &[Point], victim: Option<&'static str>) -> Self {
        let moments = machine.scratch(&format!("moments-{name}"));
        for point in armed {
            fs::write(moments.join(point.name()), "stop").unwrap();
        }
        let project = machine.compose(name, YAML);
        let (reached, ids) = (Vec::new(), BTreeSet::new());
        Self { machine, project, moments, armed: armed.to_vec(), victim, reached, stays: None, ids }
    }

    fn run(&mut self) {
        for step in STEPS {
            if step[0] == "stop" {
                self.bereave();
            }
            self.make(step);
            if step == ["up", "-d"] {
                self.assert_whole();
            }
            if step[0] == "up" && step.len() > 3 {
                self.assert_log();
            }
        }
        let ids: Vec<_> = self.ids.iter().cloned().collect();
        assert_no_trace(&self.project, &ids, &self.when());
    }

    /// One step, and once more where it was hurt.
    fn make(&mut self, step: &[&str]) {
        loop {
            let moments = self.moments.to_str().unwrap();
            let mut command = self.project.ficelle(step).env(VARIABLE, moments).start();
            let hurt = self.watch(&mut command, step);
            if !hurt {
                assert_eq!(command.end(), Some(0), "{step:?} {}\n{}", self.when(), command.rest());
            }
            if !self.look(step) && !hurt {
                return;
            }
        }
    }

    /// Until the command has ended; whether a moment was reached meanwhile.
    fn watch(&mut self, command: &mut Started, step: &[&str]) -> bool {
        let mut hurt = false;
        let patience = Instant::now() + Duration::from_secs(60);
        while command.runs() {
            hurt |= self.strike(Some(command));
            assert!(Instant::now() < patience, "{step:?} hangs {}", self.when());
            std::thread::sleep(Duration::from_millis(2));
        }
        // Keeper and anchor leave when the last container has gone, in their own time.
        let late = [Point::KeeperDeaf, Point::KeeperLeaves, Point::AnchorRetires];
        let due = late.iter().any(|point| self.armed.contains(point) && !self.reached.contains(point));
        for _ in 0..if due && step[0] == "down" { 100 } else { 1 } {
            hurt |= self.strike(None);
            if hurt {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        hurt
    }

    /// Kills who is to be killed, if a moment has come.
    fn strike(&mut self, command: Option<&Started>) -> bool {
        let here = |point: &&Point| !self.reached.contains(point) && self.moments.join(point.mark()).exists();
        let Some(point) = self.armed.iter().find(here).copied() else { return false };
        self.reached.push(point);
        let pid = fs::read_to_string(self.moments.join(point.mark())).unwrap();
        let at = Process::of(pid.parse().unwrap());
        match self.victim.filter(|victim| *victim != process_of(point)) {
            None => at.into_iter().for_each(Process::kill_if_there),
            Some(victim) => {
                let victims = match (victim, command) {
                    ("command", command) => command.map(Started::process).into_iter().collect(),
                    _ => self.ours(victim),
                };
                victims.into_iter().for_each(Process::kill_if_there);
                at.into_iter().for_each(Process::go_on);
            }
        }
        true
    }

    fn ours(&self, kind: &str) -> Vec<Process> {
        let name = OURS.iter().find(|(word, _)| *word == kind).unwrap().1;
        let root = self.machine.root().to_str().unwrap().to_owned();
        let mut all = host::processes();
        all.retain(|process| host::program(process) == name && process.describe().contains(&root));
        all
    }

    /// The death of the keeper, where a moment waits for it.
    fn bereave(&mut self) {
        let is_due = |course: &Self| {
            BEREFT.iter().any(|point| course.armed.contains(point) && !course.reached.contains(point))
        };
        for _ in 0..10 {
            if !is_due(self) {
                return;
            }
            let old = self.ours("keeper");
            old.iter().for_each(|process| process.kill_if_there());
            // Its heir comes by itself, unless the moment was reached before.
            let _ = eventually(|| {
                let heir = self.ours("keeper").into_iter().any(|process| !old.contains(&process));
                if self.strike(None) || !is_due(self) || heir { Ok(()) } else { Err(()) }
            });
            self.make(&["up", "-d"]);
            self.assert_whole();
        }
    }

    /// What holds at any time. Whether a moment was reached meanwhile.
    fn look(&mut self, step: &[&str]) -> bool {
        let mut hurt = false;
        // What was under way when its command was killed may go on for a while.
        let told = eventually(|| {
            hurt |= self.strike(None);
            let all = self.project.containers();
            let wrong = all.iter().find(|container| {
                // Of several faults in a row the second may kill the only witness of the first.
                let single = self.armed.len() == 1;
                let untold = container.exit_code == -1 && single && host::tells_ends_of_orphans();
                untold || (container.state == "running") == host::processes_of(&container.id).is_empty()
            });
            wrong.map_or_else(|| Ok(all.clone()), |wrong| Err(format!("{wrong:?}")))
        });
        let when = format!("after {step:?} {}", self.when());
        let all = told.unwrap_or_else(|wrong| panic!("`ps` is not true of {wrong} {when}"));
        self.ids.extend(all.iter().map(|container| container.id.clone()));
        let stays = all.iter().find(|container| container.service == "stays" && container.state == "running");
        let stays = stays.map(Container::main);
        if step[0] != "down" {
            assert!(self.stays.is_none() || stays == self.stays, "`stays` died {when}");
            self.stays = stays;
        }
        if step[0] == "stop" {
            let ended = all.iter().filter(|container| container.state == "exited");
            for container in ended {
                assert!([5, -1].contains(&container.exit_code), "{container:?} {when}");
            }
        }
        hurt
    }

    fn when(&self) -> String {
        let reached: Vec<_> = self.reached.iter().map(|point| point.name()).collect();
        format!("when {} was killed at {reached:?}", self.victim.unwrap_or("who got there"))
    }

    /// The same as without any fault.
    fn assert_whole(&self) {
        let all = self.project.containers();
        let states: Vec<_> = all.iter().map(|c| (c.name.clone(), c.state.as_str())).collect();
        let name = |service: &str| format!("{}-{service}-1", self.project.name);
        assert_eq!(states, [(name("ends"), "running"), (name("stays"), "running")], "{}", self.when());
        self.assert_log();
    }

    fn assert_log(&self) {
        let log = self.project.logs("stays");
        // The last may not be whole yet, and some are ours.
        let mut lines: Vec<_> = log.lines().filter(|line| !line.starts_with("ficelle: ")).collect();
        lines.pop();
        // A start that was not finished may have written before it was undone.
        let begun = lines.iter().rposition(|line| *line == "1").unwrap_or(0);
        let lines = lines.split_off(begun);
        let wrong = lines.into_iter().zip(1..).find(|(line, number)| *line != number.to_string());
        assert_eq!(wrong, None, "the log of `stays` {}", self.when());
    }
}

impl Drop for Course<'_> {
    /// Who waits at a moment when a test has failed would hold up what takes the project down.
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.moments);
        for (kind, _) in OURS {
            self.ours(kind).into_iter().for_each(Process::go_on);
        }
    }
}

fn process_of(point: Point) -> &'static str {
    let word = point.name().split('-').next().unwrap();
    OURS.iter().find(|(name, _)| *name == word).unwrap_or_else(|| panic!("whose is {}?", point.name())).0
}

/// Paths of the state tree that are there when no project is: locks and the like.
fn furniture(machine: &Machine) -> BTreeSet<PathBuf> {
    let root = machine.root();
    let mut found = BTreeSet::new();
    host::walk(&root, &mut |path, _| {
        let below = path.strip_prefix(&root).unwrap();
        if !below.starts_with("data/images") {
            found.insert(below.to_owned());
        }
    });
    found
}

/// Courses one after the other on one machine; what the first, unhurt one leaves is what may be left.
fn run_all(
    machine: &Machine,
    courses: impl Iterator<Item = (String, Vec<Point>, Option<&'static str>)>,
) -> Vec<Point> {
    Course::new(machine, "unhurt", &[], None).run();
    let left = furniture(machine);
    let mut reached = Vec::new();
    for (name, armed, victim) in courses {
        let mut course = Course::new(machine, &name, &armed, victim);
        course.run();
        let more: Vec<_> = furniture(machine).difference(&left).cloned().collect();
        assert!(more.is_empty(), "left behind {}: {more:?}", course.when());
        reached.append(&mut course.reached);
    }
    reached
}

fn assert_all_reached(reached: &[Point]) {
    let missing: Vec<_> = Point::ALL.iter().filter(|point| !reached.contains(point)).collect();
    assert!(missing.is_empty(), "nobody got to {missing:?}");
}

/// At each moment in turn, in one course, whoever gets there is killed.
fn once(machine: &Machine) {
    let courses = [("each".to_owned(), Point::ALL.to_vec(), None)];
    assert_all_reached(&run_all(machine, courses.into_iter()));
}

/// Each moment in a course of its own, for each of our processes.
fn whole(machine: impl Fn() -> Option<Machine> + Sync) {
    let cases: Vec<_> =
        Point::ALL.iter().flat_map(|point| OURS.map(|(victim, _)| (*point, victim))).collect();
    let next = Mutex::new(cases.into_iter().enumerate());
    let worker = || {
        let Some(machine) = machine() else { return Point::ALL.to_vec() };
        let cases = std::iter::from_fn(|| next.lock().unwrap().next());
        run_all(
            &machine,
            cases.map(|(number, (point, victim))| (format!("m{number}"), vec![point], Some(victim))),
        )
    };
    let reached: Vec<Point> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_all_reached(&reached);
}

/// Both take minutes on a machine that is busy: `make test-kills` asks for them.
fn asked_for(words: &[&str]) -> bool {
    let asked = std::env::var("FICELLE_KILLS").is_ok_and(|asked| words.contains(&asked.as_str()));
    if !asked {
        eprintln!("SKIPPED: FICELLE_KILLS={} asks for it", words.join("|"));
    }
    asked
}

macro_rules! for_all_moments {
    ($who:ident, $machine:expr) => {
        mod $who {
            use super::Machine;

            #[test]
            fn whoever_gets_to_a_moment_may_be_killed_there() {
                if !super::asked_for(&["each", "all"]) {
                    return;
                }
                let Some(machine) = $machine else { return };
                super::once(&machine);
            }

            #[test]
            fn whoever_may_be_killed_at_any_moment() {
                if super::asked_for(&["all"]) {
                    super::whole(|| $machine);
                }
            }
        }
    };
}

for_all_moments!(as_root, Machine::with(&["busybox"]));
for_all_moments!(as_an_ordinary_user, Machine::of_user(&["busybox"]));
