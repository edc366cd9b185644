//! A file of an older format in today's form (`ficelle migrate`): the text is edited where something changed,
//! so that comments, order and style of all the rest stay. What comes out is read again and held against what
//! loading makes of the old file; a file that cannot be rewritten line by line is refused, never changed in
//! its meaning.

use super::{
    diagnostic::{Diagnostic, FileId, Files},
    legacy, ports,
    tree::{self, Key, Map, Node, Span, Value},
};
use crate::model::Place;

/// A file in today's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migrated {
    pub text: String,
    /// What changed, in the order of the old file; none when it is of today's form already.
    pub changes: Vec<Change>,
}

/// One change, with its place in the old file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub place: Option<Place>,
    pub text: String,
}

/// Rewrites the text of the file `name`.
///
/// # Errors
/// What is wrong with its syntax, or that it is written in a way that cannot be edited.
pub fn migrate(name: &str, text: &str) -> Result<Migrated, Vec<Diagnostic>> {
    let mut files = Files::default();
    let file = files.add(name, text);
    let documents = tree::parse(&files, file)?;
    let mut page = Page::new(text, &files);
    for (at, document) in documents.iter().enumerate() {
        let end = documents.get(at + 1).and_then(first_line).unwrap_or(page.lines.len() + 1);
        page.document(document, end);
    }
    page.changes.sort_by_key(|change| change.place.as_ref().map(|place| (place.line, place.column)));
    let migrated = Migrated { text: page.text(), changes: std::mem::take(&mut page.changes) };
    verify(&files, documents, &migrated, file)?;
    Ok(migrated)
}

/// What comes out must say what loading understands of the old file.
fn verify(
    files: &Files,
    documents: Vec<Node>,
    migrated: &Migrated,
    file: FileId,
) -> Result<(), Vec<Diagnostic>> {
    let mut again = Files::default();
    let written = again.add("migrated", &migrated.text);
    let found = tree::parse(&again, written).unwrap_or_default();
    let wanted = documents.into_iter().map(|mut document| {
        legacy::modernise(&mut document, files, &mut Vec::new());
        today(&mut document);
        document
    });
    let wanted: Vec<Node> = wanted.collect();
    if found.len() == wanted.len() && found.iter().zip(&wanted).all(|(found, wanted)| same(found, wanted)) {
        return Ok(());
    }
    let place = migrated.changes.iter().find_map(|change| change.place.clone());
    let (line, column) = place.map_or((1, 1), |place| (place.line, place.column));
    let mark = files.mark(Span { file, line, column, length: 1 }, "the first that would change");
    Err(vec![
        Diagnostic::error("this file is written in a way that cannot be edited line by line")
            .mark(mark)
            .help("write its services one key a line; `ficelle config` prints what it means today"),
    ])
}

/// What today's form leaves out or spells otherwise in files of every version.
fn today(document: &mut Node) {
    if let Some(map) = document.as_map_mut() {
        map.shift_remove("version");
    }
    for kind in KINDS {
        let resources = document.get_mut(kind).and_then(Node::as_map_mut).into_iter().flatten();
        for resource in resources.filter_map(|(_, node)| node.as_map_mut()) {
            let Some(name) = resource.get("external").and_then(|node| node.get("name")).cloned() else {
                continue;
            };
            resource.insert(Key::new("external", name.span), Node::new(Value::Bool(true), name.span));
            resource.insert(Key::new("name", name.span), name);
        }
    }
}

const KINDS: [&str; 4] = ["networks", "volumes", "secrets", "configs"];

/// Equal values, wherever they stand.
fn same(a: &Node, b: &Node) -> bool {
    a.edit == b.edit
        && match (&a.value, &b.value) {
            (Value::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Value::Map(a), Value::Map(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, a)| b.get(key.text.as_str()).is_some_and(|b| same(a, b)))
            }
            (a, b) => a == b,
        }
}

fn first_line(document: &Node) -> Option<usize> {
    let key = document.as_map()?.keys().next()?;
    Some(key.span.line as usize)
}

/// A line of the file and what becomes of it.
#[derive(Debug)]
struct Line<'a> {
    old: &'a str,
    /// `None` when it goes.
    new: Option<String>,
    /// Lines that come behind it.
    after: Vec<String>,
}

#[derive(Debug)]
struct Page<'a> {
    lines: Vec<Line<'a>>,
    files: &'a Files,
    changes: Vec<Change>,
}

/// Lines of a mapping's entry, from 0, the last one included.
type Lines = std::ops::RangeInclusive<usize>;

impl<'a> Page<'a> {
    fn new(text: &'a str, files: &'a Files) -> Self {
        let line = |old: &'a str| Line { old, new: Some(old.to_owned()), after: Vec::new() };
        Self { lines: text.lines().map(line).collect(), files, changes: Vec::new() }
    }

    fn text(&self) -> String {
        let lines = self.lines.iter().flat_map(|line| line.new.iter().chain(&line.after));
        lines.flat_map(|line| [line.as_str(), "\n"]).collect()
    }

    fn note(&mut self, span: Span, text: impl Into<String>) {
        self.changes.push(Change { place: self.files.place(span), text: text.into() });
    }

    // ---- what changes ----

    /// A document that ends before the line `end`, from 1.
    fn document(&mut self, document: &Node, end: usize) {
        let Some(map) = document.as_map() else { return };
        if let Some((_, key, _)) = map.get_full("version") {
            self.remove(key);
            self.note(key.span, "`version` is obsolete: removed");
        }
        for kind in KINDS {
            for (_, resource) in map.get(kind).and_then(Node::as_map).into_iter().flatten() {
                self.external(resource);
            }
        }
        let format = legacy::format(map);
        let services = match format {
            legacy::Format::Group => {
                if let Some((_, key, _)) = map.get_full("containers") {
                    self.replace(key.span, "services");
                    self.note(key.span, "the `containers` of a group are `services`");
                }
                map.get("containers").and_then(Node::as_map)
            }
            legacy::Format::First => Some(map),
            legacy::Format::Today => map.get("services").and_then(Node::as_map),
        };
        let Some(services) = services else { return };
        let names: Vec<String> = services.keys().map(|key| key.text.clone()).collect();
        for service in services.values().filter_map(Node::as_map) {
            self.ports(service);
            if format != legacy::Format::Today {
                self.service(service, &names);
            }
        }
        if format == legacy::Format::First {
            self.wrap(map, end);
        }
        if format != legacy::Format::Today {
            self.volumes(map, services, end);
        }
    }

    fn service(&mut self, service: &Map, names: &[String]) {
        if let Some((_, key, node)) = service.get_full("net") {
            self.replace(key.span, "network_mode");
            self.note(key.span, "`net` is `network_mode`");
            if let Some(name) = legacy::shared_service(node, names) {
                self.replace(node.span, &format!("\"service:{name}\""));
            }
        }
        for from in service.get("volumes_from").map(Node::items).unwrap_or_default() {
            if let Some(text) = legacy::foreign_container(from, names) {
                self.replace(from.span, &format!("\"{text}\""));
                self.note(from.span, "a container that is no service of the file is `container:NAME`");
            }
        }
        self.moved_below(service, "dockerfile", "build", "dockerfile", "context");
        self.moved_below(service, "log_driver", "logging", "driver", "driver");
        self.moved_below(service, "log_opt", "logging", "options", "driver");
        if let Some((_, key, _)) = service.get_full("volume_driver") {
            self.remove(key);
            self.note(
                key.span,
                "`volume_driver` is the `driver` of the volumes, below the top-level `volumes:`",
            );
        }
    }

    /// Ports without quotes, which older readers took for numbers of base 60.
    fn ports(&mut self, service: &Map) {
        for port in service.get("ports").map(Node::items).unwrap_or_default() {
            let Some(text) = port.as_str() else { continue };
            if ports::is_sexagesimal(text) && self.is_written(port.span, text) {
                self.replace(port.span, &format!("\"{text}\""));
                self.note(port.span, "a port is quoted, since YAML 1.1 reads it as a number of base 60");
            }
        }
    }

    /// `external: {name: x}` to `external: true` and `name: x`.
    fn external(&mut self, resource: &Node) {
        let Some((_, key, external)) = resource.as_map().and_then(|map| map.get_full("external")) else {
            return;
        };
        let Some((_, inner, _)) = external.as_map().and_then(|map| map.get_full("name")) else { return };
        let Some(lines) = self.entry(key) else { return };
        let Some(name) = self.entry(inner).filter(|name| name.start() > lines.start()) else { return };
        let indent = self.indent(*lines.start());
        let named = self.lines[*name.start()].old.trim_start().to_owned();
        self.cover(&lines, vec![format!("{indent}external: true"), format!("{indent}{named}")]);
        self.note(key.span, "`external: {name: ...}` is `external: true` and `name: ...`");
    }

    /// The services of the first format go below `services:`.
    fn wrap(&mut self, map: &Map, end: usize) {
        let Some(first) = map.keys().next() else { return };
        let mut start = first.span.line as usize - 1;
        // A comment right above the first service belongs to it.
        while start > 0 && self.lines[start - 1].old.trim_start().starts_with('#') {
            start -= 1;
        }
        for line in self.lines.iter_mut().take(end - 1).skip(start) {
            for text in line.new.iter_mut().chain(&mut line.after).filter(|text| !text.trim().is_empty()) {
                text.insert_str(0, "  ");
            }
        }
        if let Some(text) = &mut self.lines[start].new {
            text.insert_str(0, "services:\n");
        }
        self.note(first.span, "the services stand below a top-level `services:`");
    }

    /// Volumes that the older formats made by naming them are declared.
    fn volumes(&mut self, map: &Map, services: &Map, end: usize) {
        let declared = map.get("volumes").and_then(Node::as_map);
        let missing: Vec<_> = legacy::named_volumes(services)
            .into_iter()
            .filter(|volume| {
                declared.is_none_or(|map| !map.contains_key(volume.name.as_str()))
                    || services.len() == map.len()
            })
            .collect();
        let Some(last) = end.checked_sub(2).and_then(|last| self.lines.get_mut(last)) else { return };
        if missing.is_empty() {
            return;
        }
        last.after.push(String::new());
        last.after.push("volumes:".to_owned());
        let mut told = Vec::new();
        for volume in missing {
            last.after.push(format!("  {}:", volume.name));
            last.after.push(format!("    name: {}", volume.name));
            last.after.extend(volume.driver.map(|driver| format!("    driver: {driver}")));
            told.push((volume.span, format!("the volume `{}` is declared, under its own name", volume.name)));
        }
        for (span, text) in told {
            self.note(span, text);
        }
    }

    // ---- how it changes ----

    /// Moves the value of a former key below another; a text that stands there becomes its `short` key.
    fn moved_below(&mut self, service: &Map, former: &str, home: &str, name: &str, short: &str) {
        let Some((_, key, _)) = service.get_full(former) else { return };
        let Some(lines) = self.entry(key) else { return };
        self.note(key.span, format!("`{former}` is `{home}.{name}`"));
        let indent = self.indent(*lines.start());
        let mut block: Vec<String> =
            self.lines[lines.clone()].iter().map(|line| format!("  {}", line.old)).collect();
        if let Some(first) = block.first_mut() {
            *first = format!("{indent}  {name}{}", &first.trim_start()[former.len()..]);
        }
        let place = match service.get_full(home) {
            Some((_, key, node)) => self.entry(key).map(|lines| (key, node, lines)),
            // Another former key made the home already, at its own place.
            None => {
                let pair = ["log_driver", "log_opt"];
                let first = pair.iter().find_map(|other| service.get_full(*other));
                if former == "log_opt"
                    && let Some(made) = first.filter(|(_, other, _)| other.text == "log_driver")
                    && let Some(at) = self.entry(made.1)
                {
                    self.cover(&lines, Vec::new());
                    self.lines[*at.end()].after.extend(block);
                    return;
                }
                block.insert(0, format!("{indent}{home}:"));
                self.cover(&lines, block);
                return;
            }
        };
        let Some((home_key, node, home_lines)) = place else { return };
        self.cover(&lines, Vec::new());
        if node.as_str().is_some() {
            let line = &self.lines[*home_lines.start()];
            let rest = line.old.trim_start()[home_key.text.len()..].to_owned();
            self.cover(&home_lines, vec![format!("{indent}{home}:"), format!("{indent}  {short}{rest}")]);
        }
        self.lines[*home_lines.end()].after.extend(block);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(lines) = self.entry(key) {
            self.cover(&lines, Vec::new());
        }
    }

    /// Puts other lines in the place of these.
    fn cover(&mut self, lines: &Lines, new: Vec<String>) {
        for line in &mut self.lines[lines.clone()] {
            line.new = None;
        }
        let mut new = new.into_iter();
        if let (Some(line), Some(first)) = (self.lines.get_mut(*lines.start()), new.next()) {
            line.new = Some(first);
            line.after.splice(..0, new);
        }
    }

    /// Puts other words in the place of these.
    fn replace(&mut self, span: Span, text: &str) {
        let Some(line) = self.lines.get_mut((span.line as usize).saturating_sub(1)) else { return };
        let Some(new) = &mut line.new else { return };
        let at =
            |column: u32| line.old.char_indices().nth(column as usize).map_or(line.old.len(), |(at, _)| at);
        let (start, end) = (at(span.column - 1), at(span.column - 1 + span.length));
        // Words of one line are changed at most once, and from the right they would not move.
        let moved = new.len().wrapping_sub(line.old.len());
        let (start, end) = if new.get(..start) == line.old.get(..start) {
            (start, end)
        } else {
            (start.wrapping_add(moved), end.wrapping_add(moved))
        };
        if new.get(start..end).is_some() {
            new.replace_range(start..end, text);
        }
    }

    /// Whether the words of a span are this text, without quotes.
    fn is_written(&self, span: Span, text: &str) -> bool {
        let line = self.lines.get((span.line as usize).saturating_sub(1)).map_or("", |line| line.old);
        line.chars().skip(span.column as usize - 1).take(span.length as usize).eq(text.chars())
    }

    fn indent(&self, line: usize) -> String {
        let old = self.lines[line].old;
        old[..old.len() - old.trim_start().len()].to_owned()
    }

    /// The lines of an entry of a block mapping; `None` when it shares its first line with another.
    fn entry(&self, key: &Key) -> Option<Lines> {
        let start = (key.span.line as usize).checked_sub(1)?;
        let indent = key.span.column as usize - 1;
        let spaces = |line: &str| line.len() - line.trim_start_matches(' ').len();
        if spaces(self.lines.get(start)?.old) != indent {
            return None;
        }
        let mut end = start;
        for (at, line) in self.lines.iter().enumerate().skip(start + 1) {
            let words = line.old.trim();
            if words.is_empty() || words.starts_with('#') {
                continue;
            }
            let item = words == "-" || words.starts_with("- ");
            if spaces(line.old) > indent || (item && spaces(line.old) == indent) {
                end = at;
            } else {
                break;
            }
        }
        Some(start..=end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let done = migrate("fig.yml", text).unwrap();
        let changes = done.changes.iter().map(|change| {
            format!(
                "{}: {}\n",
                change.place.as_ref().map(ToString::to_string).unwrap_or_default(),
                change.text
            )
        });
        format!("{}--\n{}", done.text, changes.collect::<String>())
    }

    #[test]
    fn a_file_of_the_first_format_keeps_its_comments() {
        insta::assert_snapshot!(shown(
            "# Our site.\n\n# The front.\nweb:\n  build: .   # here\n  dockerfile: Dockerfile.dev\n  net: \"container:db\"\n  ports:\n    - 22:22  # ssh\n    - \"80:80\"\n  links:\n    - db:database\n\ndb:\n  image: postgres  # old\n  # Logs go away.\n  log_driver: syslog\n  log_opt:\n    tag: db\n  volume_driver: flocker\n  volumes:\n    - data:/var/lib\n    - ./conf:/etc/conf\n  volumes_from: [other]\n"
        ), @r#"
        # Our site.

        services:
          # The front.
          web:
            build:
              context: .   # here
              dockerfile: Dockerfile.dev
            network_mode: "service:db"
            ports:
              - "22:22"  # ssh
              - "80:80"
            links:
              - db:database

          db:
            image: postgres  # old
            # Logs go away.
            logging:
              driver: syslog
              options:
                tag: db
            volumes:
              - data:/var/lib
              - ./conf:/etc/conf
            volumes_from: ["container:other"]

        volumes:
          data:
            name: data
            driver: flocker
        --
        fig.yml:4:1: the services stand below a top-level `services:`
        fig.yml:6:3: `dockerfile` is `build.dockerfile`
        fig.yml:7:3: `net` is `network_mode`
        fig.yml:9:7: a port is quoted, since YAML 1.1 reads it as a number of base 60
        fig.yml:17:3: `log_driver` is `logging.driver`
        fig.yml:18:3: `log_opt` is `logging.options`
        fig.yml:20:3: `volume_driver` is the `driver` of the volumes, below the top-level `volumes:`
        fig.yml:22:7: the volume `data` is declared, under its own name
        fig.yml:24:18: a container that is no service of the file is `container:NAME`
        "#);
    }

    #[test]
    fn a_group_and_a_file_with_a_version_come_out_in_todays_form() {
        insta::assert_snapshot!(shown("name: shop\n# All of it.\ncontainers:\n  web:\n    image: i\n"), @r"
        name: shop
        # All of it.
        services:
          web:
            image: i
        --
        fig.yml:3:1: the `containers` of a group are `services`
        ");
        insta::assert_snapshot!(shown(
            "version: '2.1'\nservices:\n  web:\n    image: i # keep\nnetworks:\n  front:\n    external:\n      name: shared\n"
        ), @r"
        services:
          web:
            image: i # keep
        networks:
          front:
            external: true
            name: shared
        --
        fig.yml:1:1: `version` is obsolete: removed
        fig.yml:7:5: `external: {name: ...}` is `external: true` and `name: ...`
        ");
    }

    #[test]
    fn a_file_of_today_stays_as_it_is() {
        let text = "services:\n  web: {image: i}\n";
        assert_eq!(
            migrate("compose.yaml", text).unwrap(),
            Migrated { text: text.to_owned(), changes: vec![] }
        );
    }

    #[test]
    fn what_cannot_be_edited_is_refused_with_its_place() {
        let told = migrate("fig.yml", "web: {build: ., dockerfile: D}\n").unwrap_err();
        assert_eq!(
            told[0].short(),
            "fig.yml:1:1: error: this file is written in a way that cannot be edited line by line"
        );
    }
}
