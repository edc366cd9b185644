//! `ficelle graph`: which service needs which, as text or as a picture.

mod svg;

use std::collections::BTreeSet;

use super::{context::Context, failure::Failure, output};
use crate::{
    load::LoadOptions,
    session::{Condition, Project},
};

/// Print which service needs which
///
/// Needs no engine and no privileges.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print only these services and what they need
    #[arg(value_name = "SERVICE")]
    names: Vec<String>,

    /// How to print them
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// A tree, dependents above what they need
    Text,
    /// The language of Graphviz
    Dot,
    /// A Mermaid flowchart
    Mermaid,
    Svg,
}

/// One arrow: `from` needs `to`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Need<'a> {
    from: &'a str,
    to: &'a str,
    /// What must be true of `to` when that is more than having started.
    label: &'static str,
    required: bool,
}

impl Args {
    pub(super) fn run(self, context: &Context) -> Result<i32, Failure> {
        let options = LoadOptions { services: self.names.clone(), ..context.load_options() };
        let project = context.load_with(&options)?.project;
        output::text(&match self.format {
            Format::Text => tree(&project),
            Format::Dot => dot(&project),
            Format::Mermaid => mermaid(&project),
            Format::Svg => svg::svg(&services(&project), &needs(&project)),
        })?;
        Ok(0)
    }
}

fn services(project: &Project) -> Vec<&str> {
    project.services.keys().map(String::as_str).collect()
}

/// The arrows between enabled services, in the order of the files.
fn needs(project: &Project) -> Vec<Need<'_>> {
    let mut needs = Vec::new();
    for (from, service) in &project.services {
        for (to, dependency) in &service.depends_on {
            if project.services.contains_key(to) {
                let label = label(dependency.condition);
                needs.push(Need { from, to, label, required: dependency.required });
            }
        }
    }
    needs
}

const fn label(condition: Condition) -> &'static str {
    match condition {
        Condition::ServiceStarted => "",
        Condition::ServiceHealthy => "healthy",
        Condition::ServiceCompletedSuccessfully => "completed",
    }
}

/// A tree for each service that nothing needs. What a service needs is shown below it once; where it comes
/// again, `...` stands for it.
fn tree(project: &Project) -> String {
    let needs = needs(project);
    let roots = services(project).into_iter().filter(|name| needs.iter().all(|need| need.to != *name));
    let mut text = String::new();
    let mut shown = BTreeSet::new();
    for root in roots {
        text.push_str(root);
        text.push('\n');
        shown.insert(root);
        branches(root, "", &needs, &mut shown, &mut text);
    }
    text
}

/// Without recursion: a chain of dependencies may be as long as it likes.
fn branches<'a>(
    root: &'a str,
    indent: &str,
    needs: &[Need<'a>],
    shown: &mut BTreeSet<&'a str>,
    text: &mut String,
) {
    let below =
        |name: &str| -> Vec<usize> { (0..needs.len()).rev().filter(|&at| needs[at].from == name).collect() };
    let mut open: Vec<(usize, String, bool)> = Vec::new();
    let push = |name: &str, indent: &str, open: &mut Vec<(usize, String, bool)>| {
        let items = below(name);
        let last = items.first().copied();
        open.extend(items.into_iter().map(|at| (at, indent.to_owned(), Some(at) == last)));
    };
    push(root, indent, &mut open);
    while let Some((at, indent, last)) = open.pop() {
        let need = &needs[at];
        let known = !shown.insert(need.to);
        let again = known && needs.iter().any(|other| other.from == need.to);
        let remarks: Vec<&str> = [need.label, if need.required { "" } else { "optional" }]
            .into_iter()
            .filter(|remark| !remark.is_empty())
            .collect();
        let remark = if remarks.is_empty() { String::new() } else { format!(" ({})", remarks.join(", ")) };
        let (branch, rest) = if last { ("└── ", "    ") } else { ("├── ", "│   ") };
        text.push_str(&format!("{indent}{branch}{}{remark}{}\n", need.to, if again { " ..." } else { "" }));
        if !known {
            push(need.to, &format!("{indent}{rest}"), &mut open);
        }
    }
}

fn dot(project: &Project) -> String {
    let mut text = String::from("digraph project {\n  node [shape=box];\n");
    text.extend(services(project).iter().map(|name| format!("  \"{name}\";\n")));
    for Need { from, to, label, required } in needs(project) {
        let label = if label.is_empty() { String::new() } else { format!("label=\"{label}\"") };
        let style = if required { "" } else { "style=dashed" };
        let parts: Vec<_> = [label.as_str(), style].into_iter().filter(|part| !part.is_empty()).collect();
        let attributes = if parts.is_empty() { String::new() } else { format!(" [{}]", parts.join(", ")) };
        text.push_str(&format!("  \"{from}\" -> \"{to}\"{attributes};\n"));
    }
    text + "}\n"
}

/// Names of services may be words of Mermaid: its nodes are numbered and carry the names as texts.
fn mermaid(project: &Project) -> String {
    let names = services(project);
    let number = |name: &str| names.iter().position(|other| *other == name).unwrap_or_default();
    let mut text = String::from("flowchart TD\n");
    text.extend(names.iter().enumerate().map(|(at, name)| format!("  s{at}[\"{name}\"]\n")));
    for Need { from, to, label, required } in needs(project) {
        let arrow = if required { "-->" } else { "-.->" };
        let label = if label.is_empty() { String::new() } else { format!("|{label}|") };
        text.push_str(&format!("  s{} {arrow}{label} s{}\n", number(from), number(to)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::{self, source::Memory};

    fn project() -> Project {
        let file = "services:
  web: {image: i, depends_on: {api: {condition: service_healthy}, cache: {condition: service_started, required: false}}}
  api: {image: i, healthcheck: {test: a}, depends_on: [db, cache]}
  job: {image: i, depends_on: {api: {condition: service_completed_successfully}}}
  cache: {image: i}
  db: {image: i}
";
        load::load(&LoadOptions::default(), &Memory::project(&[("compose.yaml", file)])).unwrap().project
    }

    #[test]
    fn the_tree_shows_what_a_service_needs_once() {
        insta::assert_snapshot!(tree(&project()), @r"
        web
        ├── api (healthy)
        │   ├── db
        │   └── cache
        └── cache (optional)
        job
        └── api (completed) ...
        ");
    }

    #[test]
    fn dot_and_mermaid_show_every_arrow_with_its_condition() {
        insta::assert_snapshot!(dot(&project()), @r#"
        digraph project {
          node [shape=box];
          "web";
          "api";
          "job";
          "cache";
          "db";
          "web" -> "api" [label="healthy"];
          "web" -> "cache" [style=dashed];
          "api" -> "db";
          "api" -> "cache";
          "job" -> "api" [label="completed"];
        }
        "#);
        insta::assert_snapshot!(mermaid(&project()), @r#"
        flowchart TD
          s0["web"]
          s1["api"]
          s2["job"]
          s3["cache"]
          s4["db"]
          s0 -->|healthy| s1
          s0 -.-> s3
          s1 --> s4
          s1 --> s3
          s2 -->|completed| s1
        "#);
    }

    #[test]
    fn the_picture_has_a_box_for_each_service_and_arrows_that_lead_down() {
        let project = project();
        let picture = svg::svg(&services(&project), &needs(&project));
        assert_eq!(picture.matches("<rect").count(), 5);
        assert_eq!(picture.matches("<path class=\"need").count(), 5);
        let rows = svg::rows(&services(&project), &needs(&project));
        assert_eq!(rows, [0, 1, 0, 2, 2]);
    }
}
