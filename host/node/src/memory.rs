//! What changes and requests leave behind in memory.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// So long nobody has asked when a node gives back what requests left: within twice of it.
const QUIET: Duration = Duration::from_secs(5);

/// Whether somebody asks.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    asked: AtomicBool,
}

impl Quiet {
    pub(crate) fn asked(&self) {
        // Most find it set, and do not take the line from other threads.
        if !self.asked.load(Ordering::Relaxed) {
            self.asked.store(true, Ordering::Relaxed);
        }
    }

    /// Gives memory back a while after the start, also where somebody asks, and each time that requests
    /// were followed by none. Not at the start: to look through the memory takes as long as a part of it,
    /// and the first request would miss its pages.
    pub(crate) async fn watch(&self) {
        tokio::time::sleep(QUIET).await;
        give_back().await;
        let mut left_behind = false;
        loop {
            tokio::time::sleep(QUIET).await;
            if self.asked.swap(false, Ordering::Relaxed) {
                left_behind = true;
            } else if std::mem::take(&mut left_behind) {
                give_back().await;
            }
        }
    }
}

/// Gives back what is there only because something was loaded or asked for: free memory that the allocator
/// keeps, and pages of programs. What is needed again of these is still in the page cache, and comes back at
/// the price of a few page faults.
pub(crate) async fn give_back() {
    let giving_back = tokio::task::spawn_blocking(|| {
        if let Some(give_back) = ALLOCATOR.get() {
            give_back();
        }
        #[cfg(target_os = "linux")]
        linux::let_go_of_programs();
    });
    // It fails only where the runtime ends.
    let _given_back = giving_back.await;
}

static ALLOCATOR: OnceLock<fn()> = OnceLock::new();

/// Says how the program's allocator gives back what is free. Where nobody says so, it does that by itself.
pub fn give_back_by(allocator: fn()) {
    ALLOCATOR.get_or_init(|| allocator);
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{ffi::c_void, ptr};

    use rustix::mm::{Advice, madvise};

    pub(super) fn let_go_of_programs() {
        let Ok(maps) = std::fs::read_to_string("/proc/self/smaps") else {
            return;
        };
        for (start, end) in unchanged(&maps) {
            #[expect(unsafe_code, reason = "a system call on addresses")]
            // SAFETY: the range is mapped from a file, it is not writable and has no page that was
            // written before it became so; the next access reads it from the file again.
            let let_go = unsafe {
                madvise(
                    ptr::with_exposed_provenance_mut::<c_void>(start),
                    end - start,
                    Advice::LinuxDontNeed,
                )
            };
            if let Err(error) = let_go {
                tracing::debug!(%error, "pages of programs are kept");
            }
        }
    }

    /// The addresses of code and constants as they are in the files of programs and libraries. What was
    /// relocated is not: those pages were written, and are anonymous or swapped.
    fn unchanged(smaps: &str) -> Vec<(usize, usize)> {
        let mut found = Vec::new();
        let mut at = None;
        let mut written = false;
        for line in smaps.lines() {
            if let Some(("Anonymous" | "Swap", size)) = line.split_once(':') {
                written |= size.trim() != "0 kB";
            } else if line.starts_with("VmFlags:") {
                // The last line of a mapping.
                found.extend(at.take().filter(|_| !written));
            } else if let Some(addresses) = mapping(line) {
                at = addresses;
                written = false;
            }
        }
        found
    }

    /// The first line of a mapping, and its addresses if it is a file's and not writable.
    fn mapping(line: &str) -> Option<Option<(usize, usize)>> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let addresses = (address(start)?, address(end)?);
        let fixed = matches!(fields.next()?, "r-xp" | "r--p");
        let is_file = fields.nth(3).is_some_and(|path| path.starts_with('/'));
        Some((fixed && is_file).then_some(addresses))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_what_is_as_in_its_file_is_let_go_of() {
            let mapping = |permissions: &str, path: &str, anonymous: u32, swap: u32| {
                unchanged(&format!(
                    "1000-3000 {permissions} 00d47000 fe:00 6392396 {path}\n\
                     Rss:                  44 kB\nAnonymous:             {anonymous} kB\n\
                     AnonHugePages:         0 kB\nSwap:                  {swap} kB\n\
                     SwapPss:               0 kB\nVmFlags: rd ex mr mw me sd\n"
                ))
            };
            let whole = [(0x1000, 0x3000)];
            assert_eq!(mapping("r-xp", "/usr/bin/dunlin", 0, 0), whole);
            assert_eq!(mapping("r--p", "/usr/lib/one two.so", 0, 0), whole);
            assert_eq!(mapping("r--p", "/usr/bin/dunlin", 4, 0), []);
            assert_eq!(mapping("r--p", "/usr/bin/dunlin", 0, 4), []);
            assert_eq!(mapping("rwxp", "/usr/bin/dunlin", 0, 0), []);
            assert_eq!(mapping("r-xp", "", 0, 0), []);
            assert_eq!(mapping("r-xp", "[vdso]", 0, 0), []);
        }

        #[test]
        fn what_was_let_go_of_comes_back() {
            let_go_of_programs();
            assert_eq!("still here".to_uppercase(), "STILL HERE");
        }
    }
}
