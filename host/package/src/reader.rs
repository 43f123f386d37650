//! A package from anybody: taken into a store, or only looked at. Nothing in it is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use crate::archive::{BlobSink, ImportLimits, RootFiles, scan};
use crate::digest::Digest;
use crate::error::PackageError;
use crate::manifest::{CONFIG_ORIGIN, DOCUMENT_BYTES_MAX, Descriptor, Package, find_manifest};
use crate::onnx::{self, OnnxError};
use crate::store::{Incoming, Store, StoreError};
use crate::world;

/// The largest component. One with a Python interpreter has 18 MB.
const PREDICTOR_BYTES_MAX: u64 = 256 << 20;

/// Reads a package archive into the store. Every blob is hashed while it is written to a file that
/// is not yet the store's; only when the whole package has been checked does the store have it. On
/// an error nothing of it remains.
///
/// The bytes need not be at hand: `reader` may be an upload that goes on.
pub fn import(
    reader: impl Read,
    store: &Store,
    limits: ImportLimits,
) -> Result<Package, PackageError> {
    let mut incoming = store.receive();
    let files = scan(reader, limits, &mut incoming)?;
    let mut package = verify(&files, &incoming)?;
    incoming.publish(&mut package)?;
    Ok(package)
}

/// Checks a package archive as an import does, and keeps nothing.
pub fn inspect(path: &Path) -> Result<Package, PackageError> {
    let archive = File::open(path).map_err(PackageError::Read)?;
    let package_max = archive.metadata().map_err(PackageError::Read)?.len();
    let mut in_place = InPlace {
        archive,
        writing: None,
        blobs: BTreeMap::new(),
    };
    let reader = in_place.archive.try_clone().map_err(PackageError::Read)?;
    let reader = BufReader::with_capacity(128 << 10, reader);
    let files = scan(reader, ImportLimits { package_max }, &mut in_place)?;
    verify(&files, &in_place)
}

/// Blobs whose digests were checked.
trait Blobs {
    fn size(&self, digest: &Digest) -> Option<u64>;
    fn digests(&self) -> Vec<Digest>;
    fn open(&self, digest: &Digest) -> Result<Box<dyn ReadSeek + '_>, PackageError>;
}

trait ReadSeek: Read + Seek {}

impl<T: Read + Seek> ReadSeek for T {}

/// Finds the package among the blobs, and checks that the blobs are the package's.
fn verify(files: &RootFiles, blobs: &dyn Blobs) -> Result<Package, PackageError> {
    let manifest = find_manifest(&files.layout, &files.index)?;
    let package = Package::resolve(&read_document("manifest", &manifest, blobs)?, |config| {
        read_document(CONFIG_ORIGIN, config, blobs)
    })?;
    for blob in package.files() {
        check_size(blob.title.as_str(), &blob.digest, blob.size, blobs)?;
    }
    let named: BTreeSet<Digest> = package.blobs().map(|(digest, _)| digest).collect();
    if let Some(unknown) = blobs
        .digests()
        .into_iter()
        .find(|digest| !named.contains(digest))
    {
        return Err(PackageError::invalid(
            format!("blobs/sha256/{}", unknown.as_hex()),
            "is named by nothing in the package",
        ));
    }
    check_predictor(&package, blobs)?;
    check_models(&package, blobs)?;
    Ok(package)
}

fn check_predictor(package: &Package, blobs: &dyn Blobs) -> Result<(), PackageError> {
    let (Some(blob), Some(predictor)) = (package.predictor(), &package.deployment().predictor)
    else {
        return Ok(());
    };
    let title = blob.title.to_string();
    if blob.size > PREDICTOR_BYTES_MAX {
        let message = format!(
            "has {} bytes; a predictor has at most {PREDICTOR_BYTES_MAX}",
            blob.size
        );
        return Err(PackageError::invalid(title, message));
    }
    let component = read_blob(&blob.digest, blobs)?;
    world::check(&component, &predictor.grants)
        .map_err(|source| PackageError::World { title, source })?;
    Ok(())
}

/// A model may refer to files beside it. The engines open whatever is written there, so it must be
/// a file of the package.
fn check_models(package: &Package, blobs: &dyn Blobs) -> Result<(), PackageError> {
    for model in package
        .deployment()
        .models
        .iter()
        .filter(|model| onnx::is_format_of(model))
    {
        let path = model.path.as_str();
        let Some(blob) = package.file(path) else {
            continue;
        };
        let locations = match onnx::external_locations(blobs.open(&blob.digest)?) {
            Ok(locations) => locations,
            Err(OnnxError::Malformed(message)) => {
                return Err(PackageError::invalid(path, message));
            }
            Err(OnnxError::Io(error)) => return Err(PackageError::Read(error)),
        };
        for location in locations {
            let known = model.path.sibling(&location).ok();
            if known.is_none_or(|file| package.file(file.as_str()).is_none()) {
                let message =
                    format!("keeps weights in {location:?}, which is not beside it in the package");
                return Err(PackageError::invalid(path, message));
            }
        }
    }
    Ok(())
}

fn read_document(
    at: &str,
    document: &Descriptor,
    blobs: &dyn Blobs,
) -> Result<Vec<u8>, PackageError> {
    check_size(at, &document.digest, document.size, blobs)?;
    if document.size > DOCUMENT_BYTES_MAX {
        let message = format!(
            "has {} bytes; it has at most {DOCUMENT_BYTES_MAX}",
            document.size
        );
        return Err(PackageError::invalid(at, message));
    }
    read_blob(&document.digest, blobs)
}

fn check_size(at: &str, digest: &Digest, size: u64, blobs: &dyn Blobs) -> Result<(), PackageError> {
    match blobs.size(digest) {
        None => Err(PackageError::invalid(
            at,
            format!("{digest} is not in the package"),
        )),
        Some(found) if found != size => Err(PackageError::invalid(
            at,
            format!("has {found} bytes where {size} are announced"),
        )),
        Some(_) => Ok(()),
    }
}

/// The file may have changed since it was hashed: what is believed is hashed again.
fn read_blob(digest: &Digest, blobs: &dyn Blobs) -> Result<Vec<u8>, PackageError> {
    let mut bytes = Vec::new();
    blobs
        .open(digest)?
        .read_to_end(&mut bytes)
        .map_err(PackageError::Read)?;
    let found = Digest::of(&bytes);
    if found != *digest {
        return Err(PackageError::Tampered {
            named: *digest,
            found,
        });
    }
    Ok(bytes)
}

impl Blobs for Incoming<'_> {
    fn size(&self, digest: &Digest) -> Option<u64> {
        Incoming::size(self, digest)
    }

    fn digests(&self) -> Vec<Digest> {
        Incoming::digests(self).copied().collect()
    }

    fn open(&self, digest: &Digest) -> Result<Box<dyn ReadSeek + '_>, PackageError> {
        Ok(Box::new(Incoming::open(self, digest)?))
    }
}

/// Blobs that stay where they are in an archive on disk.
struct InPlace {
    archive: File,
    writing: Option<(Digest, u64)>,
    /// Offset and size.
    blobs: BTreeMap<Digest, (u64, u64)>,
}

impl BlobSink for InPlace {
    fn begin(&mut self, named: Digest, offset: u64) -> Result<(), StoreError> {
        self.writing = Some((named, offset));
        Ok(())
    }

    fn write(&mut self, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }

    fn end(&mut self, size: u64) -> Result<(), StoreError> {
        if let Some((digest, offset)) = self.writing.take() {
            self.blobs.insert(digest, (offset, size));
        }
        Ok(())
    }
}

impl Blobs for InPlace {
    fn size(&self, digest: &Digest) -> Option<u64> {
        self.blobs.get(digest).map(|(_, size)| *size)
    }

    fn digests(&self) -> Vec<Digest> {
        self.blobs.keys().copied().collect()
    }

    fn open(&self, digest: &Digest) -> Result<Box<dyn ReadSeek + '_>, PackageError> {
        let (start, len) = *self.blobs.get(digest).ok_or(StoreError::Missing(*digest))?;
        let mut archive = &self.archive;
        archive
            .seek(SeekFrom::Start(start))
            .map_err(PackageError::Read)?;
        Ok(Box::new(Part {
            archive,
            start,
            len,
            at: 0,
        }))
    }
}

/// A part of a file, as if it were one. It is the file's only reader while it is used.
struct Part<'a> {
    archive: &'a File,
    start: u64,
    len: u64,
    at: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self
            .archive
            .take(self.len.saturating_sub(self.at))
            .read(buffer)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Seek for Part<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at
            .filter(|at| *at <= self.len)
            .ok_or(io::ErrorKind::InvalidInput)?;
        self.archive.seek(SeekFrom::Start(self.start + self.at))?;
        Ok(self.at)
    }
}
