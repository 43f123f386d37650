//! Whether a shared library is whole: the dynamic linker maps what the headers promise, and a
//! process that touches a part that is not in the file is killed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Of ELF, 64 bits, little-endian: the kinds of machine that the native engines exist for.
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const LOADED: u32 = 1;

/// The text says what is wrong with the file.
pub(super) fn check(path: &Path) -> Result<(), String> {
    let unreadable = |error: io::Error| error.to_string();
    let mut file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err("it is not a file".to_owned());
    }
    let not_a_library = || "it is not a shared library".to_owned();
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(|_| not_a_library())?;
    if header[..6] != *b"\x7fELF\x02\x01" {
        return Err(not_a_library());
    }
    let mut end = 0;
    let (start, size, count) = (
        u64_at(&header, 32),
        u16_at(&header, 54),
        u16_at(&header, 56),
    );
    if usize::from(size) != PROGRAM_HEADER_BYTES {
        return Err(not_a_library());
    }
    file.seek(SeekFrom::Start(start)).map_err(unreadable)?;
    for _ in 0..count {
        let mut program = [0; PROGRAM_HEADER_BYTES];
        file.read_exact(&mut program).map_err(|_| not_a_library())?;
        if u32_at(&program, 0) == LOADED {
            let (offset, length) = (u64_at(&program, 8), u64_at(&program, 32));
            end = end.max(offset.saturating_add(length));
        }
    }
    match metadata.len() {
        length if length < end => Err(format!(
            "the file is cut off: it has {length} bytes of {end}"
        )),
        _ => Ok(()),
    }
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_cut_off_is_told_from_a_whole_one() {
        let whole = std::env::current_exe().unwrap();
        check(&whole).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let cut = folder.path().join("cut");
        std::fs::copy(&whole, &cut).unwrap();
        let length = std::fs::metadata(&cut).unwrap().len();
        let said_of = |length: u64| {
            let file = File::options().write(true).open(&cut).unwrap();
            file.set_len(length).unwrap();
            check(&cut).unwrap_err()
        };
        assert!(said_of(length / 3).contains("the file is cut off"));
        assert_eq!(said_of(100), "it is not a shared library");
        assert_eq!(said_of(0), "it is not a shared library");
        assert_eq!(check(folder.path()).unwrap_err(), "it is not a file");
        let absent = check(&folder.path().join("absent")).unwrap_err();
        assert!(absent.contains("No such file"), "{absent}");
    }
}
