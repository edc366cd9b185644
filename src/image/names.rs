//! Names in archives: bytes with `/` between them, brought to one form.

pub(super) const MAX_PATH: usize = 4096;
const MAX_NAME: usize = 255;

/// The path below the root: no `/` at either end, no `.`, no `..`.
pub(super) fn clean(path: &[u8]) -> Result<Vec<u8>, String> {
    let refuse = |why: &str| Err(format!("the name `{}` {why}", path.escape_ascii()));
    if path.len() > MAX_PATH {
        return refuse("is longer than 4096 bytes");
    }
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                if parts.pop().is_none() {
                    return refuse("leads out of the layer");
                }
            }
            part if part.len() > MAX_NAME => return refuse("has a part longer than 255 bytes"),
            part => parts.push(part),
        }
    }
    Ok(parts.join(&b'/'))
}

/// The same for the target of a symbolic link, where `..` at the root stays at the root.
pub(super) fn clean_clamped(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    })
}

pub(super) fn join(parent: &[u8], leaf: &[u8]) -> Vec<u8> {
    if parent.is_empty() { leaf.to_vec() } else { [parent, b"/", leaf].concat() }
}

/// Bytes as text, one character each.
pub(super) fn to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// Back from [`Facts::implied`]; `None` when it was not made by us.
pub(super) fn from_text(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}
