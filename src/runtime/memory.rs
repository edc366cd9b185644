//! Memory of processes that live long and do little: pages of the program that only their start needed
//! are not kept mapped.

use std::{fs, ops::Range, time::Duration};

/// How long nothing must have happened before it is worth the while.
pub const QUIET: Duration = Duration::from_secs(1);

/// Gives back every page that is the same in its file, and what lies free between the pieces of the heap. What is
/// needed again is mapped again.
pub fn shed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: looks at the allocator's own records of what is free (malloc_trim(3)).
    unsafe {
        libc::malloc_trim(0);
    }
    let maps = fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    for range in clean(&maps) {
        // SAFETY: nothing of ours was ever written there, so the kernel reads the same from the file.
        unsafe { libc::madvise(range.start as *mut libc::c_void, range.len(), libc::MADV_DONTNEED) };
    }
}

/// Mappings of files in which no page is our own (`/proc/PID/smaps`, see proc(5)).
fn clean(maps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut current = None;
    for line in maps.lines() {
        if let Some(range) = mapping(line) {
            current = range;
        } else if line.split_whitespace().eq(["Anonymous:", "0", "kB"]) {
            found.extend(current.take());
        }
    }
    found
}

/// Of the first line of a mapping: its range when a file is mapped and cannot be written; `None` for any
/// other line.
#[expect(clippy::option_option, reason = "a mapping that is not meant ends the one before")]
fn mapping(line: &str) -> Option<Option<Range<usize>>> {
    let mut fields = line.split_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(from)?..address(to)?;
    let access = fields.next()?;
    let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
    Some((is_file && !access.contains('w')).then_some(range))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPS: &str = "\
1000-3000 r-xp 00001000 fe:00 12 /usr/bin/ficelle
Rss:                   8 kB
Anonymous:             0 kB
3000-4000 r--p 00003000 fe:00 12 /usr/bin/ficelle
Anonymous:             4 kB
4000-5000 rw-p 00004000 fe:00 12 /usr/bin/ficelle
Anonymous:             0 kB
5000-6000 r--p 00000000 00:00 0 [vvar]
Anonymous:             0 kB
";

    #[test]
    fn what_is_our_own_is_kept() {
        let kept = clean(MAPS);
        assert_eq!((kept.len(), &kept[0]), (1, &(0x1000..0x3000)));
    }

    #[test]
    fn a_process_goes_on_after_it_has_given_pages_back() {
        shed();
        assert!(fs::read_to_string("/proc/self/status").unwrap().contains("VmRSS"));
    }
}
