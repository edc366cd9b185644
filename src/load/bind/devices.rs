//! Devices, and the limits of what a container may take of the machine.

use super::{Reader, integer, pairs, strings, text};
use crate::{
    load::tree::{Node, Value},
    model::{Blkio, Device, DeviceRequest, DeviceRule, Limits, is_access},
};

impl Reader<'_, '_> {
    pub(super) fn devices(&mut self, node: &Node) -> Vec<Device> {
        let mut found = Vec::new();
        for (at, item) in node.get("devices").map(Node::items).unwrap_or_default().iter().enumerate() {
            let key = format!("devices[{at}]");
            let source = text(item, "source").unwrap_or_default();
            if is_cdi(&source) {
                found.push(Device::Cdi(source));
                continue;
            }
            let target = text(item, "target").unwrap_or_else(|| source.clone());
            let permissions = text(item, "permissions").unwrap_or_else(|| "rwm".to_owned());
            if !source.starts_with('/') || !target.starts_with('/') {
                self.tell(
                    item,
                    &key,
                    "a device is an absolute path, or a name such as `vendor.com/class=name`",
                );
                continue;
            }
            if !is_access(&permissions) {
                self.tell(item, &key, format!("`{permissions}` is not made of the letters r, w and m"));
                continue;
            }
            found.push(Device::Node { source, target, permissions });
        }
        found
    }

    pub(super) fn device_rules(&mut self, node: &Node) -> Vec<DeviceRule> {
        let items = node.get("device_cgroup_rules").map(Node::items).unwrap_or_default();
        let mut found = Vec::new();
        for (at, item) in items.iter().enumerate() {
            let text = item.as_str().unwrap_or_default();
            match DeviceRule::parse(text) {
                Some(rule) => found.push(rule),
                None => {
                    let message = format!("`{text}` is no device rule such as `c 189:* rwm`");
                    self.tell(item, &format!("device_cgroup_rules[{at}]"), message);
                }
            }
        }
        found
    }

    /// Those of `gpus`, which all want the capability `gpu`, and those of `deploy`.
    pub(super) fn device_requests(node: &Node) -> Vec<DeviceRequest> {
        let of_deploy = node
            .get("deploy")
            .and_then(|deploy| deploy.get("resources")?.get("reservations")?.get("devices"));
        let requests = |node: Option<&Node>| -> Vec<DeviceRequest> {
            node.map(Node::items).unwrap_or_default().iter().map(device_request).collect()
        };
        let mut found = requests(node.get("gpus"));
        for request in &mut found {
            if !request.capabilities.iter().any(|capability| capability == "gpu") {
                request.capabilities.push("gpu".to_owned());
            }
        }
        found.extend(requests(of_deploy));
        found
    }

    pub(super) fn limits(&mut self, node: &Node) -> Limits {
        let within = |section: &str, key: &str| {
            node.get("deploy").and_then(|deploy| deploy.get("resources")?.get(section)?.get(key))
        };
        let bytes =
            |node: Option<&Node>| node.and_then(Node::as_str).and_then(|size| size.parse::<i64>().ok());
        let whole = |key: &str| integer(node.get(key)).filter(|number| *number != 0);
        let time = |key: &str| whole(key).and_then(|time| u64::try_from(time).ok());
        let cpus = node.get("cpus").or_else(|| within("limits", "cpus")).and_then(number);
        let swappiness = bytes(node.get("mem_swappiness")).filter(|value| *value >= 0);
        if swappiness.is_some_and(|value| value > 100) {
            self.tell(node, "mem_swappiness", "`mem_swappiness` is between 0 and 100");
        }
        if cpus.is_some_and(|cpus| cpus > 0.0)
            && (whole("cpu_quota").is_some() || whole("cpu_period").is_some())
        {
            self.tell(
                node.get("cpus").unwrap_or(node),
                "cpus",
                "`cpus` and `cpu_quota` or `cpu_period` exclude each other",
            );
        }
        Limits {
            memory: bytes(node.get("mem_limit").or_else(|| within("limits", "memory"))).filter(|n| *n != 0),
            memory_swap: bytes(node.get("memswap_limit")).filter(|n| *n != 0),
            memory_reservation: bytes(
                node.get("mem_reservation").or_else(|| within("reservations", "memory")),
            ),
            #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
            nano_cpus: cpus.filter(|cpus| *cpus > 0.0).map(|cpus| (cpus * 1e9).round() as i64),
            cpu_shares: integer(node.get("cpu_shares")).and_then(|n| u64::try_from(n).ok()),
            cpuset: text(node, "cpuset"),
            pids: integer(node.get("pids_limit").or_else(|| within("limits", "pids"))).filter(|n| *n != 0),
            cpu_period: time("cpu_period"),
            cpu_quota: whole("cpu_quota"),
            cpu_rt_period: time("cpu_rt_period"),
            cpu_rt_runtime: whole("cpu_rt_runtime"),
            memory_swappiness: swappiness.and_then(|value| u64::try_from(value).ok()),
            oom_kill_disable: super::flag(node, "oom_kill_disable"),
            blkio: node.get("blkio_config").map(|config| self.blkio(config)).unwrap_or_default(),
        }
    }

    fn blkio(&mut self, config: &Node) -> Blkio {
        let mut weight = |node: &Node| {
            let value = integer(Some(node)).filter(|value| *value != 0)?;
            let weight = u16::try_from(value).ok().filter(|weight| (10..=1000).contains(weight));
            if weight.is_none() {
                self.tell(node, "blkio_config", format!("the weight {value} is not between 10 and 1000"));
            }
            weight
        };
        let of_devices = |key: &str| config.get(key).map(Node::items).unwrap_or_default().iter();
        let path = |item: &Node| text(item, "path").unwrap_or_default();
        let rates = |key: &str| {
            let rate = |item: &Node| item.get_str("rate").and_then(|rate| rate.parse().ok());
            of_devices(key).filter_map(|item| Some((path(item), rate(item)?))).collect()
        };
        Blkio {
            weight: config.get("weight").and_then(&mut weight),
            weight_device: of_devices("weight_device")
                .filter_map(|item| Some((path(item), item.get("weight").and_then(&mut weight)?)))
                .collect(),
            read_bps: rates("device_read_bps"),
            write_bps: rates("device_write_bps"),
            read_iops: rates("device_read_iops"),
            write_iops: rates("device_write_iops"),
        }
    }
}

fn device_request(node: &Node) -> DeviceRequest {
    let device_ids = strings(node.get("device_ids"));
    DeviceRequest {
        driver: text(node, "driver"),
        count: integer(node.get("count")).unwrap_or(if device_ids.is_empty() { -1 } else { 0 }),
        device_ids,
        capabilities: strings(node.get("capabilities")),
        options: pairs(node.get("options")),
    }
}

/// Whether this names a device of the Container Device Interface: `vendor.com/class=name`.
fn is_cdi(text: &str) -> bool {
    let word = |text: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.:-".contains(c))
    };
    let named = text.split_once('=').and_then(|(kind, name)| Some((kind.split_once('/')?, name)));
    named.is_some_and(|((vendor, class), name)| word(vendor) && word(class) && word(name))
}

fn number(node: &Node) -> Option<f64> {
    match node.value {
        Value::Float(number) => Some(number),
        #[expect(clippy::cast_precision_loss, reason = "nobody has 2^52 CPUs")]
        Value::Int(number) => Some(number as f64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::is_cdi;

    #[test]
    fn a_name_of_the_device_interface_is_no_path() {
        assert!(is_cdi("nvidia.com/gpu=all") && is_cdi("vendor.com/net-class=0:1"));
        for text in ["/dev/fuse", "nvidia.com/gpu", "gpu=all", "/a=b", "nvidia.com/gpu="] {
            assert!(!is_cdi(text), "{text}");
        }
    }
}
