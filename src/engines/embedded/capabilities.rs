//! Linux capabilities: Docker's default set, and what `cap_add`, `cap_drop` and `privileged` make of it.

use crate::runtime::{ALL_CAPABILITIES as ALL, DEFAULT_CAPABILITIES, capability_name};

/// A name that is no capability, or none that this machine can give: which list, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub attribute: &'static str,
    pub index: usize,
    pub name: String,
}

impl Unknown {
    /// Why it cannot be given.
    pub(super) fn message(&self) -> String {
        let Self { name, .. } = self;
        if ALL.contains(&capability_name(&name.to_uppercase())) {
            format!(
                "`{name}` is no capability that ficelle has on this machine (see CapBnd in /proc/self/status)"
            )
        } else {
            format!("`{name}` is no Linux capability")
        }
    }
}

/// The exact set, as `CAP_CHOWN`. All are those that are `available`, as Docker has it.
pub(super) fn effective(
    add: &[String],
    drop: &[String],
    privileged: bool,
    available: &[&str],
) -> Result<Vec<String>, Unknown> {
    let add = names("cap_add", add, available)?;
    let drop = names("cap_drop", drop, &ALL)?;
    let has_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let kept: Vec<&str> = if privileged {
        available.to_vec()
    } else if has_all(&add) {
        available.iter().filter(|&&name| !drop.iter().any(|d| d == name)).copied().collect()
    } else {
        let base = if has_all(&drop) { &[][..] } else { &DEFAULT_CAPABILITIES };
        let stays = |name: &&&str| available.contains(*name) && !drop.iter().any(|d| d == **name);
        let mut kept: Vec<&str> = base.iter().filter(stays).copied().collect();
        for name in &add {
            if !kept.contains(&name.as_str()) {
                kept.push(name);
            }
        }
        kept
    };
    Ok(kept.into_iter().map(|name| format!("CAP_{name}")).collect())
}

/// Upper case, without `CAP_`.
fn names(attribute: &'static str, list: &[String], known: &[&str]) -> Result<Vec<String>, Unknown> {
    let normal = |(index, name): (usize, &String)| {
        let upper = name.to_uppercase();
        let short = capability_name(&upper).to_owned();
        if short == "ALL" || known.contains(&short.as_str()) {
            Ok(short)
        } else {
            Err(Unknown { attribute, index, name: name.clone() })
        }
    };
    list.iter().enumerate().map(normal).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effective(add: &[&str], drop: &[&str]) -> Vec<String> {
        let owned = |list: &[&str]| list.iter().map(|&s| s.to_owned()).collect::<Vec<_>>();
        super::effective(&owned(add), &owned(drop), false, &ALL).unwrap()
    }

    #[test]
    fn the_default_set_has_fourteen() {
        assert_eq!(effective(&[], &[]).len(), 14);
        assert!(effective(&[], &[]).contains(&"CAP_NET_BIND_SERVICE".to_owned()));
    }

    #[test]
    fn all_can_be_dropped_and_single_ones_added() {
        assert_eq!(effective(&["net_admin"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert!(!effective(&[], &["CAP_CHOWN"]).contains(&"CAP_CHOWN".to_owned()));
        assert_eq!(effective(&["ALL"], &["SYS_ADMIN"]).len(), ALL.len() - 1);
    }

    #[test]
    fn an_unknown_name_is_told_with_its_place() {
        let unknown = super::effective(&[], &["KILL".into(), "FLY".into()], false, &ALL).unwrap_err();
        assert_eq!(unknown, Unknown { attribute: "cap_drop", index: 1, name: "FLY".into() });
        assert_eq!(unknown.message(), "`FLY` is no Linux capability");
    }

    #[test]
    fn all_are_those_of_the_machine_and_one_that_it_lacks_is_told() {
        let here = ["CHOWN", "KILL", "BPF"];
        let all = super::effective(&["ALL".into()], &["KILL".into()], false, &here).unwrap();
        assert_eq!(all, ["CAP_CHOWN", "CAP_BPF"]);
        assert_eq!(super::effective(&[], &[], true, &here).unwrap().len(), 3);
        assert_eq!(super::effective(&[], &[], false, &here).unwrap(), ["CAP_CHOWN", "CAP_KILL"]);
        let lacking = super::effective(&["cap_sys_time".into()], &[], false, &here).unwrap_err();
        assert!(lacking.message().contains("on this machine"), "{}", lacking.message());
    }
}
