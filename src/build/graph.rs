//! The stages of a Dockerfile as a graph: what each starts from and copies from, and which of them
//! the target needs. Pure.

use std::collections::HashMap;

use super::{
    dockerfile::{self, Dockerfile, Instruction, Kind, Mistake, Span, Word, nearest},
    expand::{Quotes, expand},
    mounts::from_of,
    place::Place,
    platform::Platforms,
};
use crate::model::ImageRef;

/// Stages in the order of the file.
#[derive(Debug)]
pub struct Graph {
    pub escape: char,
    /// ARG before the first FROM, with their values.
    pub globals: Vec<(String, Option<String>)>,
    pub stages: Vec<Node>,
    pub target: usize,
    /// Named contexts, by the name that stands for them.
    contexts: HashMap<String, Place>,
}

#[derive(Debug)]
pub struct Node {
    /// As in AS, in lower case.
    pub name: Option<String>,
    /// The name, or `stage-0`.
    pub label: String,
    pub base: Base,
    /// `linux/arm64`, when FROM says one.
    pub platform: Option<String>,
    pub span: Span,
    pub steps: Vec<Step>,
    /// The triggers of the base stand among the steps.
    pub triggered: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    Scratch,
    Stage(usize),
    Image(String),
}

#[derive(Clone, Debug)]
pub struct Step {
    pub instruction: Instruction,
    pub origin: Origin,
}

/// Where an instruction was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    File,
    /// ONBUILD of the base; shown at the FROM.
    Trigger,
}

/// What a `--from` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Stage(usize),
    Image(String),
    /// A named context that is files.
    Files(String),
}

impl Graph {
    /// `arguments` are those of the build; `target` is the last stage when absent.
    pub fn new(
        file: &Dockerfile,
        arguments: &dyn Fn(&str) -> Option<String>,
        platforms: &Platforms,
        target: Option<&str>,
        contexts: &[(String, Place)],
    ) -> Result<Self, Mistake> {
        let escape = file.directives.escape;
        let globals = globals(file, arguments, platforms)?;
        let contexts = contexts.iter().map(|(name, place)| (context_name(name), place.clone())).collect();
        let mut graph = Self { escape, globals, stages: Vec::new(), target: 0, contexts };
        for (index, stage) in file.stages.iter().enumerate() {
            let node = graph.node(index, stage, platforms)?;
            graph.stages.push(node);
        }
        graph.target = graph.find_target(target)?;
        // References to later stages are only known now.
        for index in 0..graph.stages.len() {
            if let Base::Stage(base) = graph.stages[index].base {
                let triggers = graph.triggers_of(base)?;
                graph.trigger(index, triggers);
            }
        }
        graph.refuse_circles()?;
        Ok(graph)
    }

    fn node(&self, index: usize, stage: &dockerfile::Stage, platforms: &Platforms) -> Result<Node, Mistake> {
        let lookup = |name: &str| value_of(&self.globals, name).or_else(|| platforms.argument(name));
        let expanded = |word: &Word| expanded(word, self.escape, &lookup);
        let image = expanded(&stage.from.image)?;
        if image.is_empty() {
            let mistake = Mistake::new(
                stage.from.image.span,
                format!("base name ({}) should not be blank", stage.from.image.text),
            );
            return Err(mistake.help("declare its variables with ARG before the first FROM, with a default"));
        }
        let platform =
            stage.from.platform.as_ref().map(expanded).transpose()?.filter(|text| !text.is_empty());
        let name = stage.from.name.as_ref().map(|name| name.text.clone());
        // A context of this name takes the place of the whole stage.
        let replaced = name.as_deref().and_then(|name| self.named(name));
        let mut steps = if replaced.is_some() { Vec::new() } else { stage.instructions.clone() };
        let base = match replaced.or_else(|| self.named(&image)) {
            _ if image == "scratch" => Base::Scratch,
            Some(Source::Files(files)) => {
                steps.insert(0, all_of(&files, stage.span));
                Base::Scratch
            }
            Some(Source::Image(image)) => Base::Image(image),
            _ => match self.stages.iter().rposition(|node| node.is_called(&image)) {
                Some(stage) => Base::Stage(stage),
                None => Base::Image(image),
            },
        };
        Ok(Node {
            label: name.clone().unwrap_or_else(|| format!("stage-{index}")),
            name,
            base,
            platform,
            span: stage.span,
            steps: steps.into_iter().map(|instruction| Step { instruction, origin: Origin::File }).collect(),
            triggered: false,
        })
    }

    fn find_target(&self, target: Option<&str>) -> Result<usize, Mistake> {
        let Some(wanted) = target.filter(|target| !target.is_empty()) else {
            return Ok(self.stages.len() - 1);
        };
        if let Some(found) = self.stage(wanted) {
            return Ok(found);
        }
        let labels: Vec<&str> = self.stages.iter().map(|node| node.label.as_str()).collect();
        let mistake = Mistake::new(Span::default(), format!("target stage \"{wanted}\" could not be found"));
        Err(match nearest(wanted, &labels) {
            Some(near) => mistake.help(format!("did you mean `{near}`?")),
            None => mistake.help(format!("the stages are {}", labels.join(", "))),
        })
    }

    /// By name (the last of that name) or number.
    fn stage(&self, name: &str) -> Option<usize> {
        self.stages
            .iter()
            .rposition(|node| node.is_called(name))
            .or_else(|| name.parse().ok().filter(|index| *index < self.stages.len()))
    }

    /// What `--from=name` names.
    #[must_use]
    pub fn source(&self, name: &str) -> Source {
        let named = self.named(name).or_else(|| self.stage(name).map(Source::Stage));
        named.unwrap_or_else(|| Source::Image(name.to_owned()))
    }

    /// What a named context stands for.
    fn named(&self, name: &str) -> Option<Source> {
        let name = context_name(name);
        Some(match self.contexts.get(&name)? {
            Place::Image(image) => Source::Image(image.clone()),
            _ => Source::Files(name),
        })
    }

    /// Where the files of a [`Source::Files`] are.
    #[must_use]
    pub fn place(&self, files: &str) -> Option<&Place> {
        self.contexts.get(files)
    }

    /// Puts the triggers of a base in front of the stage's own steps.
    pub fn trigger(&mut self, stage: usize, triggers: Vec<Instruction>) {
        let node = &mut self.stages[stage];
        node.triggered = true;
        let steps = triggers.into_iter().map(|instruction| Step { instruction, origin: Origin::Trigger });
        node.steps.splice(0..0, steps);
    }

    fn triggers_of(&self, stage: usize) -> Result<Vec<Instruction>, Mistake> {
        let own = self.stages[stage].steps.iter().filter(|step| step.origin == Origin::File);
        own.filter_map(|step| match &step.instruction.kind {
            Kind::OnBuild(word) => Some(
                dockerfile::parse_trigger(&word.text)
                    .map_err(|mistake| Mistake { span: word.span, ..mistake }),
            ),
            _ => None,
        })
        .collect()
    }

    /// What the steps of a stage read, beside its base and the context.
    #[must_use]
    pub fn sources(&self, stage: usize) -> Vec<(Source, Span)> {
        let mut found = Vec::new();
        for step in &self.stages[stage].steps {
            match &step.instruction.kind {
                Kind::Copy(copy) => {
                    found.extend(copy.from.iter().map(|word| (self.source(&word.text), word.span)));
                }
                Kind::Run(run) => {
                    let froms = run.mounts.iter().filter_map(|word| Some((from_of(&word.text)?, word.span)));
                    found.extend(froms.map(|(name, span)| (self.source(name), span)));
                }
                _ => {}
            }
        }
        found
    }

    /// The stages that this one needs directly.
    #[must_use]
    pub fn needs(&self, stage: usize) -> Vec<usize> {
        let mut needs: Vec<usize> = self
            .sources(stage)
            .into_iter()
            .filter_map(|(source, _)| match source {
                Source::Stage(index) => Some(index),
                Source::Image(_) | Source::Files(_) => None,
            })
            .collect();
        if let Base::Stage(base) = self.stages[stage].base {
            needs.push(base);
        }
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    /// The stages that the target needs, itself included, in the order of the file.
    #[must_use]
    pub fn reachable(&self) -> Vec<usize> {
        let mut seen = vec![false; self.stages.len()];
        let mut todo = vec![self.target];
        while let Some(stage) = todo.pop() {
            if !std::mem::replace(&mut seen[stage], true) {
                todo.extend(self.needs(stage));
            }
        }
        (0..seen.len()).filter(|stage| seen[*stage]).collect()
    }

    /// Must be asked again after triggers of an image came in.
    pub fn refuse_circles(&self) -> Result<(), Mistake> {
        let mut left: Vec<usize> = self.reachable();
        loop {
            let free: Vec<usize> = left
                .iter()
                .copied()
                .filter(|stage| self.needs(*stage).iter().all(|need| !left.contains(need)))
                .collect();
            if left.is_empty() {
                return Ok(());
            }
            if free.is_empty() {
                let names: Vec<&str> = left.iter().map(|stage| self.stages[*stage].label.as_str()).collect();
                let node = &self.stages[left[0]];
                let message = format!("circular dependency detected on stage: {}", node.label);
                return Err(Mistake::new(node.span, message)
                    .help(format!("these stages need each other: {}", names.join(", "))));
            }
            left.retain(|stage| !free.contains(stage));
        }
    }
}

impl Node {
    fn is_called(&self, name: &str) -> bool {
        self.name.as_ref().is_some_and(|own| *own == name.to_ascii_lowercase())
    }
}

/// As it is compared: `alpine`, `alpine:latest` and `docker.io/library/alpine` are one.
fn context_name(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    let familiar = name.parse::<ImageRef>().map_or_else(|_| name.clone(), |image| image.familiar());
    familiar.strip_suffix(":latest").map_or_else(|| familiar.clone(), str::to_owned)
}

/// `FROM` of files: a stage of nothing that holds them.
fn all_of(files: &str, span: Span) -> Instruction {
    let word = |text: &str| Word { text: text.to_owned(), span };
    Instruction {
        keyword: word("COPY"),
        kind: Kind::Copy(Box::new(dockerfile::Copy::all_from(word(files), word("/"), word("/")))),
        span,
        text: format!("COPY --from={files} / /"),
    }
}

fn globals(
    file: &Dockerfile,
    arguments: &dyn Fn(&str) -> Option<String>,
    platforms: &Platforms,
) -> Result<Vec<(String, Option<String>)>, Mistake> {
    let mut globals: Vec<(String, Option<String>)> = Vec::new();
    for instruction in &file.arguments {
        let Kind::Arg(declared) = &instruction.kind else { continue };
        for (name, default) in declared {
            let lookup = |name: &str| value_of(&globals, name).or_else(|| platforms.argument(name));
            let value = match (arguments(&name.text), default) {
                (Some(given), _) => Some(given),
                (None, Some(word)) => Some(expanded(word, file.directives.escape, &lookup)?),
                (None, None) => platforms.argument(&name.text),
            };
            globals.push((name.text.clone(), value));
        }
    }
    Ok(globals)
}

/// The value declared last.
#[must_use]
pub fn value_of(values: &[(String, Option<String>)], name: &str) -> Option<String> {
    values.iter().rev().find(|(known, _)| known == name).and_then(|(_, value)| value.clone())
}

fn expanded(word: &Word, escape: char, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Mistake> {
    let lookup = |name: &str| lookup(name);
    expand(&word.text, escape, Quotes::Removed, &lookup)
        .map(|expanded| expanded.text)
        .map_err(|message| Mistake::new(word.span, format!("failed to process \"{}\": {message}", word.text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(text: &str, target: Option<&str>) -> Result<Graph, Mistake> {
        let arguments = |name: &str| (name == "GIVEN").then(|| "given".to_owned());
        Graph::new(
            &dockerfile::parse(text).unwrap(),
            &arguments,
            &Platforms::native(crate::image::Platform::parse("linux/amd64").unwrap()),
            target,
            &[
                ("files".into(), Place::Directory("/files".into())),
                ("swapped".into(), Place::Image("other:2".into())),
            ],
        )
    }

    fn message(text: &str, target: Option<&str>) -> String {
        let mistake = graph(text, target).unwrap_err();
        format!("{}; {}", mistake.message, mistake.help.unwrap_or_default())
    }

    #[test]
    fn bases_are_stages_images_or_nothing() {
        let graph = graph(
            "ARG V=1\nARG GIVEN=x\nARG W=${V}b\nFROM base:$W AS One\nFROM one\nFROM scratch AS s\nFROM $GIVEN\n\
             FROM --platform=$BUILDPLATFORM go:$TARGETARCH",
            None,
        )
        .unwrap();
        let bases: Vec<_> = graph.stages.iter().map(|node| node.base.clone()).collect();
        assert_eq!(
            bases,
            [
                Base::Image("base:1b".into()),
                Base::Stage(0),
                Base::Scratch,
                Base::Image("given".into()),
                Base::Image("go:amd64".into())
            ]
        );
        assert_eq!(graph.stages[4].platform.as_deref(), Some("linux/amd64"));
        assert_eq!((graph.stages[0].label.as_str(), graph.stages[1].label.as_str()), ("one", "stage-1"));
    }

    #[test]
    fn a_named_context_stands_for_an_image_a_stage_or_files() {
        let text = "FROM docker.io/library/swapped:latest AS one\nFROM x AS swapped\nRUN never\n\
                    FROM files\nCOPY --from=files a b\nCOPY --from=swapped a b\nCOPY --from=one a b";
        let graph = graph(text, None).unwrap();
        assert_eq!(graph.stages[0].base, Base::Image("other:2".into()));
        assert_eq!((&graph.stages[1].base, graph.stages[1].steps.len()), (&Base::Image("other:2".into()), 0));
        assert_eq!((&graph.stages[2].base, graph.stages[2].steps.len()), (&Base::Scratch, 4));
        let sources: Vec<_> = graph.sources(2).into_iter().map(|(source, _)| source).collect();
        let files = Source::Files("files".into());
        assert_eq!(sources, [files.clone(), files, Source::Image("other:2".into()), Source::Stage(0)]);
    }

    #[test]
    fn only_what_the_target_needs_is_reachable() {
        let text = "FROM a AS a\nFROM b AS unused\nFROM c AS mounted\nFROM d AS d\nCOPY --from=a x y\n\
                    RUN --mount=type=bind,from=mounted,target=/m x\nFROM e AS later\nCOPY --from=busybox x y";
        assert_eq!(graph(text, Some("D")).unwrap().reachable(), [0, 2, 3]);
        assert_eq!(graph(text, None).unwrap().reachable(), [4]);
        assert_eq!(graph(text, Some("1")).unwrap().reachable(), [1]);
        assert_eq!(graph(text, None).unwrap().sources(4)[0].0, Source::Image("busybox".into()));
    }

    #[test]
    fn triggers_of_a_stage_run_in_those_that_start_from_it() {
        let graph =
            graph("FROM a AS base\nONBUILD COPY --from=other x y\nFROM b AS other\nFROM base\nRUN z", None)
                .unwrap();
        let steps: Vec<_> =
            graph.stages[2].steps.iter().map(|step| (&*step.instruction.text, &step.origin)).collect();
        assert_eq!(steps, [("COPY x y", &Origin::Trigger), ("RUN z", &Origin::File)]);
        assert_eq!(graph.reachable(), [0, 1, 2]);
    }

    #[test]
    fn mistakes_of_the_graph_are_told() {
        assert_eq!(
            message("FROM a AS build", Some("biuld")),
            "target stage \"biuld\" could not be found; did you mean `build`?"
        );
        assert_eq!(
            message("FROM a\nFROM b", Some("zzz")),
            "target stage \"zzz\" could not be found; the stages are stage-0, stage-1"
        );
        assert_eq!(
            message("FROM a AS x\nCOPY --from=y f f\nFROM b AS y\nCOPY --from=x f f", None),
            "circular dependency detected on stage: x; these stages need each other: x, y"
        );
        assert!(message("FROM a AS x\nCOPY --from=x f f", None).starts_with("circular dependency"));
        assert!(message("FROM $NOPE", None).starts_with("base name ($NOPE) should not be blank"));
        assert!(
            message("FROM ${a", None).starts_with("failed to process \"${a\": syntax error: missing '}'")
        );
    }
}
