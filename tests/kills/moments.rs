//! The kill matrix proper: at every named moment of `src/runtime/failpoint.rs` the process that gets there,
//! or another of ours meanwhile, or the machine is killed; so is anybody at any other time. What follows must
//! hold as if nothing had been.

use std::{
    collections::BTreeSet,
    fs,
    path::PathBuf,
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

/// Not a process of ours, but all there is.
const MACHINE: &str = "machine";

/// Moments that come only after the death of a keeper.
const BEREFT: [Point; 3] = [Point::KeeperAdopted, Point::Bereft, Point::TakenOver];

/// Moments of those who leave when the last container has gone, in their own time.
const LATE: [Point; 3] = [Point::KeeperDeaf, Point::KeeperLeaves, Point::AnchorRetires];

/// How long `ps` may take to be true.
const TRUTH: Duration = Duration::from_secs(1);

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
const STEPS: [&[&str]; 6] =
    [&["up", "-d", "stays"], UP, &["stop", "ends"], UP, &["up", "-d", "--force-recreate", "ends"], DOWN];

const UP: &[&str] = &["up", "-d"];
const DOWN: &[&str] = &["down", "-v"];

/// Who is killed, and when.
enum Faults {
    /// Whoever gets to one of these, once.
    Once(Vec<Point>),
    /// This one, when somebody gets to the moment; in each step.
    Each(Point, &'static str),
    /// Anybody, at any time.
    Random(Dice),
}

/// A project that all of it is done to.
struct Course<'a> {
    machine: &'a Machine,
    project: Project<'a>,
    moments: PathBuf,
    faults: Faults,
    /// What was done so far, for a failure to tell.
    done: Vec<String>,
    reached: Vec<Point>,
    /// The process of `stays`.
    stays: Option<Process>,
    ids: BTreeSet<String>,
    /// Of a random fault: how many are left in this step, and when the next is due.
    left: u64,
    due: Instant,
    load: Option<Load<'a>>,
}

/// Another project of the same state tree, which comes and goes all the time, as far as those who are killed
/// let it.
struct Load<'a> {
    project: Project<'a>,
    runs: Option<Started>,
    up: bool,
}

impl Load<'_> {
    fn go_on(&mut self) {
        if self.runs.as_mut().is_none_or(|command| !command.runs()) {
            self.up = !self.up;
            let step = if self.up { UP } else { DOWN };
            self.runs = Some(self.project.ficelle(step).start());
        }
    }

    fn end(mut self) {
        if let Some(mut command) = self.runs.take() {
            command.end();
        }
        assert_no_trace(&self.project, &[], "of the other project");
    }
}

impl<'a> Course<'a> {
    fn new(machine: &'a Machine, name: &str, faults: Faults) -> Self {
        let moments = machine.scratch(&format!("moments-{name}"));
        let project = machine.compose(name, YAML);
        let (done, reached, ids) = (Vec::new(), Vec::new(), BTreeSet::new());
        let mut course = Self {
            machine,
            project,
            moments,
            faults,
            done,
            reached,
            stays: None,
            ids,
            left: 0,
            due: Instant::now(),
            load: None,
        };
        match &course.faults {
            Faults::Once(points) => points.iter().for_each(|point| course.arm(*point)),
            Faults::Random(_) => {
                let project = machine.compose(&format!("{name}-load"), YAML);
                course.load = Some(Load { project, runs: None, up: false });
            }
            Faults::Each(..) => {}
        }
        course
    }

    fn arm(&self, point: Point) {
        fs::write(self.moments.join(point.name()), "stop").unwrap();
    }

    /// Whether one of these moments is still to come.
    fn awaits(&self, points: &[Point]) -> bool {
        points.iter().any(|point| self.moments.join(point.name()).exists())
    }

    fn run(&mut self) {
        for step in STEPS {
            self.prepare(step);
            self.make(step);
            if step == UP {
                self.assert_whole();
            }
            if step[0] == "up" && step.len() > 3 {
                self.assert_log();
            }
        }
        self.load.take().into_iter().for_each(Load::end);
        let ids: Vec<_> = self.ids.iter().cloned().collect();
        assert_no_trace(&self.project, &ids, &self.when());
    }

    fn prepare(&mut self, step: &[&str]) {
        match &mut self.faults {
            Faults::Once(_) => {}
            Faults::Each(point, _) => {
                let point = *point;
                self.arm(point);
            }
            Faults::Random(dice) => self.left = dice.below(4),
        }
        self.done.push(step.join(" "));
        if step[0] == "stop" {
            self.bereave();
        }
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

    /// Until the command has ended; whether anybody was hurt meanwhile.
    fn watch(&mut self, command: &mut Started, step: &[&str]) -> bool {
        let mut hurt = false;
        let patience = Instant::now() + Duration::from_secs(60);
        while command.runs() {
            hurt |= self.strike(Some(command));
            assert!(Instant::now() < patience, "{step:?} hangs {}", self.when());
            std::thread::sleep(Duration::from_millis(2));
        }
        let looks = if step[0] == "down" && self.awaits(&LATE) { 100 } else { 1 };
        for _ in 0..looks {
            hurt |= self.strike(None);
            if hurt {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        hurt
    }

    /// Kills who is to be killed, if the time has come.
    fn strike(&mut self, command: Option<&Started>) -> bool {
        self.load.iter_mut().for_each(Load::go_on);
        if let Faults::Random(dice) = &mut self.faults {
            if self.left == 0 || Instant::now() < self.due {
                return false;
            }
            self.left -= 1;
            let victim = OURS[usize::try_from(dice.below(5)).unwrap()].0;
            let which = dice.below(u64::MAX);
            self.due = Instant::now() + Duration::from_millis(dice.below(80));
            return self.kill(victim, command, Some(which));
        }
        let marks = fs::read_dir(&self.moments).unwrap().flatten();
        let mut marks = marks.filter_map(|entry| entry.file_name().into_string().ok());
        let Some((mark, (point, pid))) = marks.find_map(|name| Point::of_mark(&name).map(|it| (name, it)))
        else {
            return false;
        };
        fs::remove_file(self.moments.join(mark)).unwrap();
        self.reached.push(point);
        let at = Process::of(pid);
        match self.faults {
            Faults::Each(_, victim) if victim != process_of(point) => {
                self.kill(victim, command, None);
                at.into_iter().for_each(Process::go_on);
            }
            _ => {
                self.done.push(format!("{} killed", point.name()));
                at.into_iter().for_each(Process::kill_if_there);
            }
        }
        true
    }

    /// All of a kind, or one of them by lot; whether there was any.
    fn kill(&mut self, kind: &str, command: Option<&Started>, lot: Option<u64>) -> bool {
        if kind == MACHINE {
            self.machine.reboot();
            self.stays = None;
            self.done.push("machine down".to_owned());
            return true;
        }
        let mut victims = match (kind, command) {
            ("command", command) => command.map(Started::process).into_iter().collect(),
            _ => self.ours(kind),
        };
        if let (Some(lot), false) = (lot, victims.is_empty()) {
            victims = vec![victims[usize::try_from(lot % victims.len() as u64).unwrap()]];
        }
        self.done.extend(victims.iter().map(|victim| format!("{kind} {} killed", victim.pid)));
        victims.iter().for_each(|victim| victim.kill_if_there());
        !victims.is_empty()
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
        for _ in 0..10 {
            if !self.awaits(&BEREFT) {
                return;
            }
            let old = self.ours("keeper");
            old.iter().for_each(|process| process.kill_if_there());
            self.done.push("keeper killed".to_owned());
            // Its heir comes by itself, unless the moment was reached before.
            let _ = eventually(|| {
                let heir = self.ours("keeper").into_iter().any(|process| !old.contains(&process));
                if self.strike(None) || !self.awaits(&BEREFT) || heir { Ok(()) } else { Err(()) }
            });
            self.make(UP);
            self.assert_whole();
        }
    }

    /// What holds at any time. Whether anybody was hurt meanwhile.
    fn look(&mut self, step: &[&str]) -> bool {
        // Of several faults in a row the second may kill the only witness of the first.
        let single = matches!(self.faults, Faults::Each(_, victim) if victim != MACHINE);
        let witnessed = single && host::tells_ends_of_orphans();
        let mut hurt = false;
        let mut since = Instant::now();
        // What was under way when its command was killed may go on for a while.
        let all = loop {
            if self.strike(None) {
                (hurt, since) = (true, Instant::now());
            }
            let late = since.elapsed() > TRUTH;
            let all = self.project.containers();
            let wrong = |container: &&Container| {
                let unseen = witnessed && container.exit_code == -1;
                unseen || (container.state == "running") == host::processes_of(&container.id).is_empty()
            };
            match all.iter().find(wrong) {
                None => break all,
                Some(wrong) => assert!(
                    !late,
                    "`ps` is not true of {wrong:?} after {step:?} {}\n{}",
                    self.when(),
                    self.files(&wrong.id)
                ),
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let when = format!("after {step:?} {}", self.when());
        self.ids.extend(all.iter().map(|container| container.id.clone()));
        let stopped = all.iter().filter(|container| step[0] == "stop" && container.state == "exited");
        for container in stopped {
            assert!([5, -1].contains(&container.exit_code), "{container:?} {when}");
        }
        let stays = all.iter().find(|container| container.service == "stays" && container.state == "running");
        let stays = stays.map(Container::main);
        if step[0] != "down" {
            let same = self.stays.is_none() || stays == self.stays;
            assert!(same, "`stays`, {:?}, died, {stays:?} is there {when}: {all:?}", self.stays);
            self.stays = stays;
        }
        hurt
    }

    /// What is written down of a container, and by whom, for a failure to tell.
    fn files(&self, id: &str) -> String {
        let run = self.machine.root().join("run/p").join(&self.project.name);
        let names = ["keeper.json", "supervisor.json"].map(str::to_owned).into_iter();
        let names = names.chain(["state.json", "exit"].map(|name| format!("c/{id}/{name}")));
        let text = |name: &str| fs::read_to_string(run.join(name)).unwrap_or_default();
        let files = names.map(|name| format!("{name}: {}\n", text(&name)));
        let now = OURS[1..].iter().flat_map(|(kind, _)| self.ours(kind)).map(Process::describe);
        files.chain(now.map(|line| format!("{line}\n"))).collect()
    }

    fn when(&self) -> String {
        let done = self.done.join(", ");
        match &self.faults {
            Faults::Once(_) => format!("in the course of: {done}"),
            Faults::Each(point, victim) => format!("({victim} at {}) in the course of: {done}", point.name()),
            Faults::Random(dice) => format!("(FICELLE_SEED={}) in the course of: {done}", dice.seed),
        }
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

/// Numbers that nobody can guess, and that come again with the same seed (xorshift, Marsaglia).
struct Dice {
    seed: u64,
    state: u64,
}

impl Dice {
    fn new(seed: u64) -> Self {
        // Small seeds would begin alike, and 0 stays 0.
        Self { seed, state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % end
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
/// `name` is that of no other test: control groups go by the names of projects.
fn run_all(machine: &Machine, name: &str, courses: impl Iterator<Item = Faults>) -> Vec<Point> {
    let network = machine.network().picture();
    Course::new(machine, &format!("{name}-unhurt"), Faults::Once(Vec::new())).run();
    let left = furniture(machine);
    let mut reached = Vec::new();
    for (number, faults) in courses.enumerate() {
        let mut course = Course::new(machine, &format!("{name}-{number}"), faults);
        course.run();
        let more: Vec<_> = furniture(machine).difference(&left).cloned().collect();
        assert!(more.is_empty(), "left behind {}: {more:?}", course.when());
        // The kernel takes the interfaces of a namespace away in its own time.
        let same = eventually(|| match machine.network().picture() {
            same if same == network => Ok(()),
            other => Err(other),
        });
        assert_eq!(same, Ok(()), "the network was\n{network}\n{}", course.when());
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
    let courses = std::iter::once(Faults::Once(Point::ALL.to_vec()));
    assert_all_reached(&run_all(machine, "once", courses));
}

/// Each moment in a course of its own, and in each step of it; `FICELLE_MOMENT` asks for one alone.
fn each(machine: &Machine, victim: &'static str) {
    let asked = std::env::var("FICELLE_MOMENT").ok();
    let is_meant = |point: &&Point| asked.as_ref().is_none_or(|asked| point.name() == asked);
    let cases = Point::ALL.iter().filter(is_meant).map(|point| Faults::Each(*point, victim));
    let reached = run_all(machine, &format!("kill-{victim}"), cases);
    assert_all_reached(if asked.is_none() { &reached } else { Point::ALL });
}

/// Anybody is killed at any time, in as many courses as `FICELLE_ROUNDS` says.
fn at_random(machine: &Machine) {
    let now = || u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos());
    let seed = std::env::var("FICELLE_SEED").map_or_else(|_| now(), |seed| seed.parse().unwrap());
    let seeds = (seed..).take(super::together::rounds());
    run_all(machine, "random", seeds.map(|seed| Faults::Random(Dice::new(seed))));
}

/// Of a matrix that takes half an hour: `make test-kills` asks for it.
fn is_asked_for() -> bool {
    let asked = std::env::var("FICELLE_KILLS").is_ok_and(|asked| asked == "all");
    if !asked {
        eprintln!("SKIPPED: FICELLE_KILLS=all asks for it");
    }
    asked
}

macro_rules! for_all_moments {
    ($who:ident, $machine:expr) => {
        for_all_moments!($who, $machine, command keeper supervisor worker anchor machine);
    };
    ($who:ident, $machine:expr, $($victim:ident)*) => {
        mod $who {
            use super::Machine;

            #[test]
            fn whoever_gets_to_a_moment_may_be_killed_there() {
                let Some(machine) = $machine else { return };
                super::once(&machine);
            }

            #[test]
            fn whoever_may_be_killed_at_any_time() {
                let Some(machine) = $machine else { return };
                super::at_random(&machine);
            }

            mod at_any_moment_of_each_step_may_be_killed_the {
                use super::Machine;

                $(
                    #[test]
                    fn $victim() {
                        if !super::super::is_asked_for() {
                            return;
                        }
                        let Some(machine) = $machine else { return };
                        super::super::each(&machine, stringify!($victim));
                    }
                )*
            }
        }
    };
}

for_all_moments!(as_root, Machine::in_own_network(&["busybox"]));
for_all_moments!(as_an_ordinary_user, Machine::of_user_in_own_network(&["busybox"]));
