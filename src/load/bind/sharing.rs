//! What a service shares with the host or with other containers: namespaces, control groups, volumes.

use super::{Reader, text};
use crate::{
    load::tree::Node,
    model::{IpcMode, Lender, NetworkMode, PidMode, VolumesFrom},
};

impl Reader<'_, '_> {
    pub(super) fn ipc(&mut self, node: &Node) -> IpcMode {
        let Some(mode) = node.get_str("ipc") else { return IpcMode::default() };
        match mode {
            "" | "private" => IpcMode::Private,
            "shareable" => IpcMode::Shareable,
            "none" => IpcMode::None,
            "host" => IpcMode::Host,
            mode => self
                .lender(node, "ipc", mode, "host, private, shareable, none")
                .map_or_else(IpcMode::default, IpcMode::Of),
        }
    }

    pub(super) fn pid(&mut self, node: &Node) -> PidMode {
        match node.get_str("pid") {
            None | Some("" | "private") => PidMode::Private,
            Some("host") => PidMode::Host,
            Some(mode) => self.lender(node, "pid", mode, "host").map_or_else(PidMode::default, PidMode::Of),
        }
    }

    fn lender(&mut self, node: &Node, key: &str, mode: &str, words: &str) -> Option<Lender> {
        let lender = Lender::parse(mode);
        if lender.is_none() {
            let message =
                format!("`{mode}` is no mode of `{key}`; known are {words}, service:NAME and container:NAME");
            self.tell(node.get(key).unwrap_or(node), key, message);
        }
        lender
    }

    /// Of a key that knows `host` and one other word for the container's own.
    pub(super) fn is_host(&mut self, node: &Node, key: &str, own: &str) -> bool {
        match node.get_str(key) {
            Some("host") => true,
            None => false,
            Some(word) if word.is_empty() || word == own => false,
            Some(word) => {
                let message = format!("`{word}` is no mode of `{key}`; known is host");
                self.tell(node.get(key).unwrap_or(node), key, message);
                false
            }
        }
    }

    /// Containers have the users of the host (or of its one user), so this asks for what is so.
    pub(super) fn userns(&mut self, node: &Node) {
        self.is_host(node, "userns_mode", "");
    }

    /// Containers are run by ourselves: what asks for that, and nothing else, can be had.
    pub(super) fn runtime(&mut self, node: &Node) {
        for (key, known) in [("runtime", &["runc", "io.containerd.runc.v2"][..]), ("isolation", &["default"])]
        {
            let Some(wanted) = node.get(key) else { continue };
            let name = wanted.as_str().unwrap_or_default();
            if !name.is_empty() && !known.contains(&name) {
                self.tell(wanted, key, format!("there is no {key} `{name}` here; known is {}", known[0]));
            }
        }
    }

    pub(super) fn network_of(mode: &str) -> Option<NetworkMode> {
        Lender::parse(mode).map(NetworkMode::Of)
    }

    /// `service[:ro]` or `container:name[:ro]`.
    pub(super) fn volumes_from(&mut self, node: &Node) -> Vec<VolumesFrom> {
        let mut found = Vec::new();
        for (at, item) in node.get("volumes_from").map(Node::items).unwrap_or_default().iter().enumerate() {
            let text = item.as_str().unwrap_or_default();
            let parts: Vec<&str> = text.split(':').collect();
            let (lender, access) = match parts.as_slice() {
                ["container", name] => (Lender::Container((*name).to_owned()), "rw"),
                ["container", name, access] => (Lender::Container((*name).to_owned()), *access),
                [service] => (Lender::Service((*service).to_owned()), "rw"),
                [service, access] => (Lender::Service((*service).to_owned()), *access),
                _ => (Lender::Service(String::new()), ""),
            };
            if !matches!(access, "rw" | "ro") {
                let message = format!("`{text}` is not of the form `service[:ro]` or `container:name[:ro]`");
                self.tell(item, &format!("volumes_from[{at}]"), message);
                continue;
            }
            found.push(VolumesFrom { lender, read_only: access == "ro" });
        }
        found
    }

    pub(super) fn cgroup_parent(&mut self, node: &Node) -> Option<String> {
        let parent = text(node, "cgroup_parent")?;
        if parent.split('/').any(|part| part == "..") || parent.contains('\0') {
            let message = format!("`{parent}` leads out of the control groups");
            self.tell(node.get("cgroup_parent").unwrap_or(node), "cgroup_parent", message);
        }
        Some(parent)
    }
}
