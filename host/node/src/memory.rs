//! What a change leaves behind in memory.

/// Gives back what is there only because something was loaded: free memory that the allocator keeps,
/// and pages of code that run once. Code that is needed again is still in the page cache, and comes
/// back at the price of a few page faults.
pub(crate) fn give_back() {
    dunlin_inference::give_memory_back();
    #[cfg(target_os = "linux")]
    linux::let_go_of_code();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::{ffi::c_void, ptr};

    use rustix::mm::{Advice, madvise};

    pub(super) fn let_go_of_code() {
        let Ok(maps) = std::fs::read_to_string("/proc/self/maps") else {
            return;
        };
        for (start, end) in maps.lines().filter_map(code_of_a_file) {
            #[expect(unsafe_code, reason = "a system call on addresses")]
            // SAFETY: the range is mapped from a file and not writable, so no page in it differs from
            // the file; the next access reads it from there again.
            let let_go = unsafe {
                madvise(
                    ptr::with_exposed_provenance_mut::<c_void>(start),
                    end - start,
                    Advice::LinuxDontNeed,
                )
            };
            if let Err(error) = let_go {
                tracing::debug!(%error, "pages of code are kept");
            }
        }
    }

    /// The addresses of a line of `/proc/self/maps`, if it is code as the linker left it in a program
    /// or library. Data that was relocated is in other mappings, and so is compiled Wasm.
    fn code_of_a_file(line: &str) -> Option<(usize, usize)> {
        let mut fields = line.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let is_code = fields.next()? == "r-xp";
        let path = fields.nth(3)?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        (is_code && path.starts_with('/')).then_some((address(start)?, address(end)?))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn only_code_of_files_is_let_go_of() {
            let line = |permissions: &str, path: &str| {
                code_of_a_file(&format!(
                    "1000-3000 {permissions} 00d47000 fe:00 6392396 {path}"
                ))
            };
            assert_eq!(line("r-xp", "/usr/bin/dunlin"), Some((0x1000, 0x3000)));
            assert_eq!(line("r--p", "/usr/bin/dunlin"), None);
            assert_eq!(line("rwxp", "/usr/bin/dunlin"), None);
            assert_eq!(line("r-xp", ""), None);
            assert_eq!(line("r-xp", "[vdso]"), None);
        }

        #[test]
        fn code_that_was_let_go_of_runs_on() {
            let_go_of_code();
            assert_eq!("still here".to_uppercase(), "STILL HERE");
        }
    }
}
