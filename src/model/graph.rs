//! Which service needs which: the dependency graph.

use std::{collections::BTreeMap, fmt};

use petgraph::{
    Direction,
    algo::tarjan_scc,
    graph::{DiGraph, NodeIndex},
    visit::{Dfs, Reversed},
};

use super::Project;

/// The dependency graph of a project's enabled services: an edge from dependent to dependency.
#[derive(Clone, Debug)]
pub struct Graph {
    graph: DiGraph<String, ()>,
    nodes: BTreeMap<String, NodeIndex>,
}

/// A way round from a service back to itself: `[a, b, a]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle(pub Vec<String>);

impl fmt::Display for Cycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" -> "))
    }
}

impl Graph {
    /// # Errors
    /// The first cycle found, as the path that closes it.
    pub fn of(project: &Project) -> Result<Self, Cycle> {
        let mut graph = DiGraph::new();
        let nodes: BTreeMap<_, _> =
            project.services.keys().map(|name| (name.clone(), graph.add_node(name.clone()))).collect();
        for (name, service) in &project.services {
            for dependency in service.depends_on.keys() {
                if let Some(&to) = nodes.get(dependency) {
                    graph.update_edge(nodes[name], to, ());
                }
            }
        }
        let this = Self { graph, nodes };
        match this.cycle() {
            Some(cycle) => Err(cycle),
            None => Ok(this),
        }
    }

    /// Services that `service` needs directly.
    pub fn dependencies<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a str> {
        self.neighbours(service, Direction::Outgoing)
    }

    /// Services that need `service` directly.
    pub fn dependents<'a>(&'a self, service: &str) -> impl Iterator<Item = &'a str> {
        self.neighbours(service, Direction::Incoming)
    }

    /// `service` and all it needs, however far.
    #[must_use]
    pub fn with_dependencies(&self, service: &str) -> Vec<&str> {
        let Some(&start) = self.nodes.get(service) else { return Vec::new() };
        let mut dfs = Dfs::new(&self.graph, start);
        std::iter::from_fn(|| dfs.next(&self.graph)).map(|node| self.graph[node].as_str()).collect()
    }

    /// `service` and all that need it, however far.
    #[must_use]
    pub fn with_dependents(&self, service: &str) -> Vec<&str> {
        let Some(&start) = self.nodes.get(service) else { return Vec::new() };
        let reversed = Reversed(&self.graph);
        let mut dfs = Dfs::new(reversed, start);
        std::iter::from_fn(|| dfs.next(reversed)).map(|node| self.graph[node].as_str()).collect()
    }

    fn neighbours<'a>(&'a self, service: &str, direction: Direction) -> impl Iterator<Item = &'a str> {
        let node = self.nodes.get(service).copied();
        node.into_iter()
            .flat_map(move |node| self.graph.neighbors_directed(node, direction))
            .map(|node| self.graph[node].as_str())
    }

    fn cycle(&self) -> Option<Cycle> {
        let knot = tarjan_scc(&self.graph)
            .into_iter()
            .find(|nodes| nodes.len() > 1 || self.graph.contains_edge(nodes[0], nodes[0]))?;
        // Inside a strongly connected component every walk that stays in it comes round again.
        let start = *knot.iter().min_by_key(|&&node| &self.graph[node])?;
        let mut path = vec![start];
        loop {
            let here = *path.last()?;
            let next = self.graph.neighbors(here).find(|node| knot.contains(node))?;
            let seen = path.iter().position(|&node| node == next);
            path.push(next);
            if let Some(first) = seen {
                return Some(Cycle(path[first..].iter().map(|&node| self.graph[node].clone()).collect()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Condition, Dependency, Service};

    fn project(edges: &[(&str, &[&str])]) -> Project {
        let mut project = Project::default();
        for (name, needs) in edges {
            let dependency =
                Dependency { condition: Condition::ServiceStarted, restart: false, required: true };
            let depends_on = needs.iter().map(|n| ((*n).to_owned(), dependency.clone())).collect();
            let service = Service { name: (*name).to_owned(), depends_on, scale: 1, ..Service::default() };
            project.services.insert((*name).to_owned(), service);
        }
        project
    }

    #[test]
    fn a_cycle_is_told_with_its_whole_path() {
        let cycle =
            Graph::of(&project(&[("d", &["a"]), ("a", &["b"]), ("b", &["c"]), ("c", &["a"])])).unwrap_err();
        assert_eq!(cycle.to_string(), "a -> b -> c -> a");
        assert_eq!(Graph::of(&project(&[("a", &["a"])])).unwrap_err().to_string(), "a -> a");
    }

    #[test]
    fn walks_both_ways() {
        let graph =
            Graph::of(&project(&[("web", &["db", "cache"]), ("db", &[]), ("cache", &[]), ("job", &["db"])]))
                .unwrap();
        let sorted = |mut names: Vec<&str>| {
            names.sort_unstable();
            names.join(" ")
        };
        assert_eq!(sorted(graph.with_dependencies("web")), "cache db web");
        assert_eq!(sorted(graph.with_dependents("db")), "db job web");
        assert_eq!(sorted(graph.dependents("cache").collect()), "web");
    }
}
