//! Why a machine closes user namespaces to ordinary users, and what opens them.

use std::fs;

use super::super::Error;

/// `error` came when a user namespace was made or first used to do `what`.
pub fn explain(error: &Error, what: &str) -> Error {
    let read = |knob: &str| fs::read_to_string(format!("/proc/sys/{knob}")).ok();
    match found(read) {
        Some((message, help)) => Error::Rootless { message: message.to_owned(), help: help.to_owned() },
        None => {
            let mut text = format!("this user cannot have a user namespace, or not {what}: {error}");
            if let Some(source) = std::error::Error::source(error) {
                text.push_str(&format!(": {source}"));
            }
            Error::Rootless {
                message: text,
                help: "a container around this one, or a security module, may forbid it; run ficelle as root there"
                    .to_owned(),
            }
        }
    }
}

fn found(read: impl Fn(&str) -> Option<String>) -> Option<(&'static str, &'static str)> {
    let is = |knob: &str, value: &str| read(knob).is_some_and(|text| text.trim() == value);
    if is("user/max_user_namespaces", "0") {
        return Some((
            "this machine allows no user namespaces (user.max_user_namespaces is 0)",
            "`sudo sysctl user.max_user_namespaces=28633`; a file in /etc/sysctl.d keeps it",
        ));
    }
    if is("kernel/unprivileged_userns_clone", "0") {
        return Some((
            "user namespaces are closed to ordinary users (kernel.unprivileged_userns_clone is 0)",
            "`sudo sysctl kernel.unprivileged_userns_clone=1`; a file in /etc/sysctl.d keeps it",
        ));
    }
    if is("kernel/apparmor_restrict_unprivileged_userns", "1") {
        return Some((
            "AppArmor closes user namespaces to programs without a profile \
             (kernel.apparmor_restrict_unprivileged_userns is 1)",
            "give ficelle one: write `abi <abi/4.0>, include <tunables/global> profile ficelle /usr/{,local/}bin/ficelle \
             flags=(unconfined) { userns, }` to /etc/apparmor.d/ficelle and run `sudo apparmor_parser -r \
             /etc/apparmor.d/ficelle`; or `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_obstacle_is_named_with_what_removes_it() {
        let of = |knob: &'static str, value: &'static str| {
            found(move |asked| (asked == knob).then(|| format!("{value}\n")))
        };
        for (knob, value) in [
            ("user/max_user_namespaces", "0"),
            ("kernel/unprivileged_userns_clone", "0"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ] {
            let (message, help) = of(knob, value).unwrap();
            let name = knob.replace('/', ".");
            assert!(message.contains(&name) && help.contains(&name), "{message}: {help}");
        }
        assert!(of("user/max_user_namespaces", "96365").is_none());
    }
}
