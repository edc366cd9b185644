//! `security_opt`.

use std::path::PathBuf;

use super::Reader;
use crate::{
    load::{diagnostic::Diagnostic, tree::Node},
    model::SecurityOption,
};

impl Reader<'_, '_> {
    /// Both `name=value` and the older `name:value`.
    pub(super) fn security_options(&mut self, node: &Node) -> Vec<SecurityOption> {
        let mut found = Vec::new();
        for (at, entry) in node.get("security_opt").map(Node::items).unwrap_or_default().iter().enumerate() {
            let text = entry.as_str().unwrap_or_default();
            let (name, value) = text.split_once(['=', ':']).unwrap_or((text, ""));
            found.push(match (name, value) {
                ("no-new-privileges", "" | "true") => SecurityOption::NoNewPrivileges(true),
                ("no-new-privileges", "false") => SecurityOption::NoNewPrivileges(false),
                ("seccomp", "unconfined") => SecurityOption::SeccompUnconfined,
                // The filter that every container has.
                ("seccomp", "builtin") => continue,
                ("seccomp", path) if !path.is_empty() => SecurityOption::SeccompProfile(self.file(path)),
                ("apparmor", profile) if !profile.is_empty() => SecurityOption::Apparmor(profile.to_owned()),
                ("systempaths", "unconfined") => SecurityOption::SystempathsUnconfined,
                // Without SELinux every container is so; with it none is confined by us.
                ("label", "disable") => continue,
                _ => {
                    self.refuse(entry, text, name, at);
                    continue;
                }
            });
        }
        found
    }

    fn file(&self, path: &str) -> PathBuf {
        self.bind.root.join(path)
    }

    fn refuse(&mut self, entry: &Node, text: &str, name: &str, at: usize) {
        let known = [
            "no-new-privileges:true",
            "seccomp=unconfined",
            "seccomp=FILE",
            "apparmor=PROFILE",
            "apparmor=unconfined",
            "systempaths=unconfined",
            "label=disable",
        ];
        let told = if name == "label" {
            Diagnostic::error(format!(
                "the security option `{text}` needs SELinux, which this engine does not use"
            ))
            .help("leave it out, or write `label=disable`")
        } else {
            Diagnostic::error(format!("there is no security option `{text}`; known are {}", known.join(", ")))
                .nearest(text, known)
        };
        let told = told.at(format_args!("{}.security_opt[{at}]", self.path));
        self.bind.diagnostics.push(told.mark(self.bind.files.mark(entry.span, "")));
    }
}
