//! What stands below a directory, as text to compare.

use std::{path::Path, process::Command};

/// Kind, mode, owner, links, target, size and time of all that is below `root`, contents, devices and
/// extended attributes.
pub(super) fn listing(root: &Path) -> String {
    let script = r#"cd "$0" && find . -mindepth 1 -printf '%p|%y|%m|%U|%G|%n|%l|%s|%T@\n' | sed 's/|d|\(.*\)|[0-9]*|\([^|]*\)$/|d|\1||\2/' | sort
        find . -type f -exec sha256sum {} + | sort
        find . -type b -o -type c -exec stat -c '%n %t %T' {} + | sort
        getfattr -R -h -d -m '^user' -e hex . 2>/dev/null"#;
    let out = Command::new("sh").args(["-c", script]).arg(root).output().unwrap();
    String::from_utf8_lossy(&out.stdout).into_owned()
}
