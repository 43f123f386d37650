//! The tar archive that a package travels in: read as a stream, trusted in nothing.
//!
//! Of the archive only names, sizes and bytes matter. A blob's bytes must have the digest that its
//! name promises, so whatever else a header says (owners, times, extended attributes) is ignored,
//! and what would give a name another meaning (links, sparse files, long names) is refused.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read};

use tar::{Archive, EntryType};

use crate::digest::{Digest, Hasher};
use crate::error::PackageError;
use crate::store::StoreError;

/// Entries of one archive. The largest packages have some hundred files.
const ENTRIES_MAX: usize = 4096;
/// `oci-layout` or `index.json`.
const ROOT_FILE_BYTES_MAX: u64 = 64 << 10;
/// A header of PAX extensions.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;
const BLOCK_BYTES: usize = 512;

/// What an import takes at most.
#[derive(Debug, Clone, Copy)]
pub struct ImportLimits {
    /// Bytes of the archive.
    pub package_max: u64,
}

/// Where blobs go. Between `begin` and `end` come the bytes; without an `end` the blob was bad.
pub(crate) trait BlobSink {
    /// `offset` is where in the archive the bytes begin.
    fn begin(&mut self, named: Digest, offset: u64) -> Result<(), StoreError>;
    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError>;
    fn end(&mut self, size: u64) -> Result<(), StoreError>;
}

/// The two files that an archive has besides blobs.
#[derive(Debug)]
pub(crate) struct RootFiles {
    pub(crate) layout: Vec<u8>,
    pub(crate) index: Vec<u8>,
}

/// `oci-layout` and `index.json`, as far as they were there.
type FoundRootFiles = (Option<Vec<u8>>, Option<Vec<u8>>);

/// Reads a whole archive to its end.
pub(crate) fn scan(
    reader: impl Read,
    limits: ImportLimits,
    sink: &mut dyn BlobSink,
) -> Result<RootFiles, PackageError> {
    let mut reader = Bounded {
        inner: reader,
        left: limits.package_max,
        exceeded: false,
        failed: false,
        ended: false,
        start: Vec::with_capacity(BLOCK_BYTES),
    };
    let result = scan_entries(&mut reader, sink).and_then(|files| {
        // An archive that was cut is told so, before it is told what it lacks by that.
        read_end(&mut reader)?;
        let (layout, index) = files;
        let missing = |name: Name| PackageError::invalid(name.to_string(), "is missing");
        Ok(RootFiles {
            layout: layout.ok_or_else(|| missing(Name::Layout))?,
            index: index.ok_or_else(|| missing(Name::Index))?,
        })
    });
    // Past the bound every other complaint is a consequence.
    if reader.exceeded {
        return Err(PackageError::TooLarge {
            package_max: limits.package_max,
        });
    }
    match result {
        Ok(files) => Ok(files),
        Err(ScanError::Package(error)) => Err(error),
        Err(ScanError::Io(error)) if reader.failed => Err(PackageError::Read(error)),
        Err(ScanError::Io(_)) if reader.ended && may_be_cut(&reader.start) => {
            Err(PackageError::Truncated)
        }
        Err(ScanError::Io(error)) => Err(PackageError::invalid(
            "package",
            format!("is not a tar archive: {error}"),
        )),
    }
}

/// Whether what ended within a block could have gone on as a package, by the name that its first
/// header begins with. A file that is something else altogether is not to be sent again.
fn may_be_cut(start: &[u8]) -> bool {
    let start = start.strip_prefix(b"./").unwrap_or(start);
    start.len() >= BLOCK_BYTES - 2
        || ["blobs/", "index.json", "oci-layout"].iter().any(|name| {
            let name = name.as_bytes();
            start.starts_with(name) || name.starts_with(start)
        })
}

/// An I/O error may be the reader's or the archive's: only the reader can tell.
enum ScanError {
    Io(io::Error),
    Package(PackageError),
}

impl From<io::Error> for ScanError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<PackageError> for ScanError {
    fn from(error: PackageError) -> Self {
        Self::Package(error)
    }
}

impl From<StoreError> for ScanError {
    fn from(error: StoreError) -> Self {
        Self::Package(error.into())
    }
}

fn scan_entries(
    reader: &mut impl Read,
    sink: &mut dyn BlobSink,
) -> Result<FoundRootFiles, ScanError> {
    let (mut layout, mut index) = (None, None);
    let mut seen = BTreeSet::new();
    let mut archive = Archive::new(reader);
    // Raw: extensions of the format would be read into memory, however long they claim to be.
    for (at, entry) in archive.entries()?.raw(true).enumerate() {
        let mut entry = entry?;
        if at == ENTRIES_MAX {
            let message = format!("has more than {ENTRIES_MAX} entries");
            return Err(PackageError::invalid("package", message).into());
        }
        let size = entry.size();
        match entry.header().entry_type() {
            EntryType::XHeader | EntryType::XGlobalHeader if size <= EXTENSION_BYTES_MAX => {
                continue;
            }
            EntryType::Regular | EntryType::Directory => {}
            kind => {
                let name = show_name(&entry.path_bytes());
                return Err(PackageError::invalid(name, refuse_kind(kind)).into());
            }
        }
        let name = classify(&entry.path_bytes(), entry.header().entry_type())?;
        if name != Name::Folder && !seen.insert(name) {
            return Err(PackageError::invalid(name.to_string(), "is there twice").into());
        }
        match name {
            Name::Folder => {}
            Name::Layout => layout = Some(read_root_file(&mut entry, name, size)?),
            Name::Index => index = Some(read_root_file(&mut entry, name, size)?),
            Name::Blob(named) => {
                sink.begin(named, entry.raw_file_position())?;
                let (found, read) = read_blob(&mut entry, sink)?;
                if read != size {
                    return Err(PackageError::Truncated.into());
                }
                if found != named {
                    return Err(PackageError::Tampered { named, found }.into());
                }
                sink.end(size)?;
            }
        }
    }
    Ok((layout, index))
}

/// What an entry of this archive can be.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Name {
    Layout,
    Index,
    Blob(Digest),
    Folder,
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Layout => f.write_str("oci-layout"),
            Self::Index => f.write_str("index.json"),
            Self::Blob(digest) => write!(f, "blobs/sha256/{}", digest.as_hex()),
            Self::Folder => f.write_str("folder"),
        }
    }
}

/// Names are compared, never followed: one that is none of these has no place to go.
fn classify(path: &[u8], kind: EntryType) -> Result<Name, PackageError> {
    let refuse = || {
        PackageError::invalid(
            show_name(path),
            "has no place in a package; make it with dunlin package",
        )
    };
    let text = std::str::from_utf8(path).map_err(|_| refuse())?;
    let text = text.strip_prefix("./").unwrap_or(text);
    if kind == EntryType::Directory {
        return match text.strip_suffix('/').unwrap_or(text) {
            "" | "." | "blobs" | "blobs/sha256" => Ok(Name::Folder),
            _ => Err(refuse()),
        };
    }
    match text {
        "oci-layout" => Ok(Name::Layout),
        "index.json" => Ok(Name::Index),
        _ => {
            let hex = text.strip_prefix("blobs/sha256/").ok_or_else(refuse)?;
            Digest::from_hex(hex).map(Name::Blob).map_err(|_| refuse())
        }
    }
}

fn refuse_kind(kind: EntryType) -> String {
    let what = match kind {
        EntryType::Symlink | EntryType::Link => "is a link",
        EntryType::GNUSparse => "is a sparse file",
        EntryType::GNULongName | EntryType::GNULongLink => "is a long name",
        EntryType::XHeader | EntryType::XGlobalHeader => "is a header of unreasonable length",
        _ => "is neither a file nor a folder",
    };
    format!("{what}; a package has plain files only")
}

fn show_name(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.chars()
        .take(120)
        .collect::<String>()
        .escape_debug()
        .to_string()
}

fn read_root_file(entry: &mut impl Read, name: Name, size: u64) -> Result<Vec<u8>, ScanError> {
    if size > ROOT_FILE_BYTES_MAX {
        let message = format!("has {size} bytes; it has at most {ROOT_FILE_BYTES_MAX}");
        return Err(PackageError::invalid(name.to_string(), message).into());
    }
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes)?;
    if bytes.len() as u64 != size {
        return Err(PackageError::Truncated.into());
    }
    Ok(bytes)
}

fn read_blob(entry: &mut impl Read, sink: &mut dyn BlobSink) -> Result<(Digest, u64), ScanError> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 128 << 10];
    loop {
        let read = match entry.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        hasher.update(&buffer[..read]);
        sink.write(&buffer[..read])?;
    }
}

/// Reads what follows the last entry: zeros, at least the second block of the two that end an
/// archive, as the first has been read. Bytes behind the end are nothing a package may hide.
fn read_end<R: Read>(reader: &mut Bounded<R>) -> Result<(), ScanError> {
    let mut zeros = 0;
    let mut buffer = vec![0; 16 << 10];
    // Cut between two entries, it ended where the first of the blocks should be.
    while !reader.ended {
        match reader.read(&mut buffer) {
            Ok(read) if buffer[..read].iter().all(|byte| *byte == 0) => zeros += read,
            Ok(_) => {
                let message = "has more bytes behind the end of its archive";
                return Err(PackageError::invalid("package", message).into());
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    if zeros < BLOCK_BYTES {
        return Err(PackageError::Truncated.into());
    }
    Ok(())
}

/// A reader that ends at a bound, and remembers what it saw.
struct Bounded<R> {
    inner: R,
    left: u64,
    /// There was more than the bound.
    exceeded: bool,
    /// The inner reader failed.
    failed: bool,
    /// The inner reader has no more.
    ended: bool,
    /// The first block, as far as it was read.
    start: Vec<u8>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let len = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        // At the bound one byte more is asked for: an archive of exactly that size is allowed.
        let wanted = &mut buffer[..len.max(1)];
        let read = self.inner.read(wanted).inspect_err(|error| {
            self.failed |= error.kind() != ErrorKind::Interrupted;
        })?;
        if read > len {
            self.exceeded = true;
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.left -= read as u64;
        let missing = BLOCK_BYTES - self.start.len();
        self.start.extend_from_slice(&wanted[..read.min(missing)]);
        self.ended = read == 0;
        Ok(read)
    }
}
