//! Linux capabilities: Docker's default set, and what `cap_add`, `cap_drop` and `privileged` make of it.

use crate::runtime::{ALL_CAPABILITIES as ALL, DEFAULT_CAPABILITIES};

/// A name that is no capability: which list, and where in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    pub attribute: &'static str,
    pub index: usize,
    pub name: String,
}

/// The exact set, as `CAP_CHOWN`.
pub(super) fn effective(add: &[String], drop: &[String], privileged: bool) -> Result<Vec<String>, Unknown> {
    let add = names("cap_add", add)?;
    let drop = names("cap_drop", drop)?;
    let has_all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let kept: Vec<&str> = if privileged {
        ALL.to_vec()
    } else if has_all(&add) {
        ALL.iter().filter(|&&name| !drop.iter().any(|d| d == name)).copied().collect()
    } else {
        let base = if has_all(&drop) { &[][..] } else { &DEFAULT_CAPABILITIES };
        let stays = |name: &&&str| !drop.iter().any(|d| d == **name);
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
fn names(attribute: &'static str, list: &[String]) -> Result<Vec<String>, Unknown> {
    let normal = |(index, name): (usize, &String)| {
        let upper = name.to_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned();
        if short == "ALL" || ALL.contains(&short.as_str()) {
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
        super::effective(&owned(add), &owned(drop), false).unwrap()
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
        let unknown = super::effective(&[], &["KILL".into(), "FLY".into()], false).unwrap_err();
        assert_eq!(unknown, Unknown { attribute: "cap_drop", index: 1, name: "FLY".into() });
    }
}
