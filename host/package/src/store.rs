//! The content store: one file for each blob, named by its digest.
//!
//! ```text
//! <dir>/lock                   held by the one process that uses the store
//! <dir>/incoming/              files being written; emptied when the store is opened
//! <dir>/blobs/sha256/<hex>     whole and durable, or absent
//! ```
//!
//! A blob appears by a rename after its bytes were checked and synced, and a package's manifest
//! appears after everything it names: a crash leaves at most blobs that nobody refers to.
//!
//! Two things keep a blob: a package that the caller calls live when it collects, and a [`Package`]
//! in memory, which pins its blobs. Publishing and collecting exclude each other, so that a
//! collection sees a new package either not at all or with its pins.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::{NamedTempFile, TempPath};

use crate::archive::BlobSink;
use crate::digest::{Digest, Hasher};
use crate::error::PackageError;
use crate::manifest::{DOCUMENT_BYTES_MAX, Package};

/// A content store that this process owns.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// Held while blobs appear or disappear.
    gate: Mutex<()>,
    pins: Arc<Pins>,
    /// Unlocked when the process ends, however it ends.
    _lock: File,
}

/// What the store could not do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("the store {} is in use by another process; stop that one first", dir.display())]
    InUse { dir: PathBuf },
    #[error("cannot {action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the store has no blob {0}")]
    Missing(Digest),
    /// The file is there and holds something else.
    #[error("blob {0} is damaged on disk; deploy its package again")]
    Damaged(Digest),
}

impl StoreError {
    /// Whether the disk, or what of it the user may have, is full.
    pub fn is_out_of_space(&self) -> bool {
        let Self::Io { source, .. } = self else {
            return false;
        };
        matches!(
            source.kind(),
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded
        )
    }
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    pub blobs: u64,
    pub bytes: u64,
}

impl Store {
    /// Opens the store in `dir`, which is made if need be. What a crash left half-written is
    /// removed.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let make = |dir: &Path| fs::create_dir_all(dir).map_err(failed("make the folder", dir));
        make(dir)?;
        let lock_path = dir.join("lock");
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(failed("open", &lock_path))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => StoreError::InUse {
                dir: dir.to_owned(),
            },
            TryLockError::Error(source) => failed("lock", &lock_path)(source),
        })?;
        let store = Self {
            dir: dir.to_owned(),
            gate: Mutex::default(),
            pins: Arc::default(),
            _lock: lock,
        };
        let incoming = store.incoming();
        match fs::remove_dir_all(&incoming) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(failed("empty the folder", &incoming)(error));
            }
            _ => make(&incoming)?,
        }
        make(&store.blobs())?;
        for dir in [&store.blobs(), &dir.join("blobs"), dir] {
            sync_dir(dir)?;
        }
        Ok(store)
    }

    /// Where a blob is, or would be.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.as_hex())
    }

    /// The bytes of a blob, checked against its digest.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.path(digest);
        let bytes = fs::read(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => StoreError::Missing(*digest),
            _ => failed("read", &path)(source),
        })?;
        if Digest::of(&bytes) != *digest {
            return Err(StoreError::Damaged(*digest));
        }
        Ok(bytes)
    }

    /// Reads the whole of a blob and checks it, without keeping it in memory: what a node does
    /// before it hands a file to an engine.
    pub fn check(&self, digest: &Digest) -> Result<(), StoreError> {
        let path = self.path(digest);
        let mut file = File::open(&path).map_err(|source| match source.kind() {
            ErrorKind::NotFound => StoreError::Missing(*digest),
            _ => failed("open", &path)(source),
        })?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 128 << 10];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => hasher.update(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed("read", &path)(error)),
            }
        }
        let (found, _) = hasher.finish();
        if found == *digest {
            Ok(())
        } else {
            Err(StoreError::Damaged(*digest))
        }
    }

    /// A package that was imported before, with its blobs pinned. The documents are checked, and
    /// every other blob is there with its size; [`Store::check`] looks into it.
    pub fn package(&self, digest: &Digest) -> Result<Package, PackageError> {
        let _gate = self.gate();
        let mut package = self.resolve(digest)?;
        for (blob, size) in package.blobs() {
            match fs::metadata(self.path(&blob)) {
                Ok(metadata) if metadata.len() == size => {}
                Ok(_) => return Err(StoreError::Damaged(blob).into()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(StoreError::Missing(blob).into());
                }
                Err(error) => return Err(failed("look at", &self.path(&blob))(error).into()),
            }
        }
        package.pin = Some(self.pin(&package));
        Ok(package)
    }

    /// Puts the files of a package below a folder under their own paths, for engines that look for
    /// a file beside another: hard links where the file system has them, else copies. A file that
    /// is there already is left as it is.
    pub fn lay_out(&self, package: &Package, folder: &Path) -> Result<(), StoreError> {
        for blob in package.files() {
            let to = folder.join(AsRef::<Path>::as_ref(&blob.title));
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(failed("make the folder", parent))?;
            }
            let from = self.path(&blob.digest);
            match fs::hard_link(&from, &to) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(StoreError::Missing(blob.digest));
                }
                Err(_) => copy(&from, &to)?,
            }
        }
        Ok(())
    }

    /// Begins a collection: until it is finished or dropped, no package is published. What is live
    /// has to be asked for after this and not before, or a package that became live in between is
    /// taken for dead.
    pub fn collect(&self) -> Collection<'_> {
        Collection {
            store: self,
            _gate: self.gate(),
        }
    }

    pub(crate) fn receive(&self) -> Incoming<'_> {
        Incoming {
            store: self,
            writing: None,
            blobs: BTreeMap::new(),
        }
    }

    fn resolve(&self, digest: &Digest) -> Result<Package, PackageError> {
        let document = |digest: &Digest| -> Result<Vec<u8>, PackageError> {
            let size = fs::metadata(self.path(digest)).map_or(0, |metadata| metadata.len());
            if size > DOCUMENT_BYTES_MAX {
                let message = "is too large for a document of a package";
                return Err(PackageError::invalid(digest.to_string(), message));
            }
            Ok(self.read(digest)?)
        };
        Package::resolve(&document(digest)?, |config| document(&config.digest))
    }

    fn pin(&self, package: &Package) -> Pin {
        Pin::new(
            &self.pins,
            package.blobs().map(|(digest, _)| digest).collect(),
        )
    }

    fn gate(&self) -> MutexGuard<'_, ()> {
        // The gate guards files, and a panic leaves them as a crash does: in order.
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incoming(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    fn blobs(&self) -> PathBuf {
        self.dir.join("blobs").join("sha256")
    }
}

/// A collection that has begun.
#[derive(Debug)]
pub struct Collection<'s> {
    store: &'s Store,
    _gate: MutexGuard<'s, ()>,
}

impl Collection<'_> {
    /// Removes every blob that no `live` package and no [`Package`] in memory refers to. When a
    /// live package cannot be read, nothing is removed.
    pub fn keep_only(self, live: &[Digest]) -> Result<Collected, PackageError> {
        let mut kept = self.store.pins.all();
        for digest in live {
            let package = self.store.resolve(digest)?;
            kept.extend(package.blobs().map(|(blob, _)| blob));
        }
        Ok(self.remove_others(&kept)?)
    }

    fn remove_others(&self, kept: &HashSet<Digest>) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        let dir = self.store.blobs();
        for entry in fs::read_dir(&dir).map_err(failed("list", &dir))? {
            let entry = entry.map_err(failed("list", &dir))?;
            let name = entry.file_name();
            // A file that is no blob is somebody else's.
            let Some(Ok(digest)) = name.to_str().map(Digest::from_hex) else {
                continue;
            };
            if kept.contains(&digest) {
                continue;
            }
            let bytes = entry.metadata().map_or(0, |metadata| metadata.len());
            fs::remove_file(entry.path()).map_err(failed("remove", &entry.path()))?;
            collected.blobs += 1;
            collected.bytes += bytes;
        }
        sync_dir(&dir)?;
        Ok(collected)
    }
}

/// Blobs on their way in. Dropped without `publish`, they leave nothing behind.
pub(crate) struct Incoming<'s> {
    store: &'s Store,
    writing: Option<(Digest, NamedTempFile)>,
    /// Checked and synced.
    blobs: BTreeMap<Digest, (TempPath, u64)>,
}

impl Incoming<'_> {
    pub(crate) fn size(&self, digest: &Digest) -> Option<u64> {
        self.blobs.get(digest).map(|(_, size)| *size)
    }

    pub(crate) fn digests(&self) -> impl Iterator<Item = &Digest> {
        self.blobs.keys()
    }

    pub(crate) fn open(&self, digest: &Digest) -> Result<File, StoreError> {
        let (path, _) = self.blobs.get(digest).ok_or(StoreError::Missing(*digest))?;
        File::open(path).map_err(failed("open", path))
    }

    /// Makes the blobs of a package the store's: all of them, or none that was not there before.
    pub(crate) fn publish(mut self, package: &mut Package) -> Result<(), StoreError> {
        let store = self.store;
        let _gate = store.gate();
        let pin = store.pin(package);
        let mut new = Vec::new();
        let result = self
            .rename_all(package, &mut new)
            .and_then(|()| sync_dir(&store.blobs()));
        if result.is_err() {
            // The gate is still held: nobody else can have come to rely on these.
            for path in new {
                let _ = fs::remove_file(path);
            }
        }
        package.pin = result.is_ok().then_some(pin);
        result
    }

    fn rename_all(&mut self, package: &Package, new: &mut Vec<PathBuf>) -> Result<(), StoreError> {
        // The manifest comes last: where it is, the rest is.
        for (digest, _) in package.blobs() {
            let Some((temp, _)) = self.blobs.remove(&digest) else {
                continue; // Two files with the same content are one blob.
            };
            let path = self.store.path(&digest);
            let known = path.exists();
            // A blob that is there already is replaced: it may have been damaged since.
            temp.persist(&path)
                .map_err(|error| failed("write", &path)(error.error))?;
            if !known {
                new.push(path);
            }
        }
        Ok(())
    }
}

impl BlobSink for Incoming<'_> {
    fn begin(&mut self, named: Digest, _: u64) -> Result<(), StoreError> {
        let dir = self.store.incoming();
        let file = NamedTempFile::new_in(&dir).map_err(failed("write into", &dir))?;
        self.writing = Some((named, file));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let Some((_, file)) = &mut self.writing else {
            return Ok(());
        };
        let result = file.as_file_mut().write_all(bytes);
        result.map_err(failed("write", file.path()))
    }

    fn end(&mut self, size: u64) -> Result<(), StoreError> {
        let Some((digest, file)) = self.writing.take() else {
            return Ok(());
        };
        file.as_file()
            .sync_all()
            .map_err(failed("sync", file.path()))?;
        self.blobs.insert(digest, (file.into_temp_path(), size));
        Ok(())
    }
}

/// How many packages in memory refer to each blob.
#[derive(Debug, Default)]
struct Pins(Mutex<HashMap<Digest, usize>>);

impl Pins {
    fn all(&self) -> HashSet<Digest> {
        self.counts().keys().copied().collect()
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the blobs of one package from being collected, until its last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Pin(#[expect(dead_code, reason = "it is there to be dropped")] Arc<Pinned>);

#[derive(Debug)]
struct Pinned {
    pins: Arc<Pins>,
    digests: Vec<Digest>,
}

impl Pin {
    fn new(pins: &Arc<Pins>, digests: Vec<Digest>) -> Self {
        let mut counts = pins.counts();
        for digest in &digests {
            *counts.entry(*digest).or_default() += 1;
        }
        drop(counts);
        Self(Arc::new(Pinned {
            pins: pins.clone(),
            digests,
        }))
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let mut counts = self.pins.counts();
        for digest in &self.digests {
            if let Entry::Occupied(mut count) = counts.entry(*digest) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

/// Whole or not at all, as a link is.
fn copy(from: &Path, to: &Path) -> Result<(), StoreError> {
    let dir = to.parent().unwrap_or(Path::new("."));
    let mut temp = NamedTempFile::new_in(dir).map_err(failed("write into", dir))?;
    let mut from_file = File::open(from).map_err(failed("open", from))?;
    io::copy(&mut from_file, temp.as_file_mut()).map_err(failed("write", to))?;
    temp.persist(to)
        .map_err(|error| failed("write", to)(error.error))?;
    Ok(())
}

/// Makes what was renamed into or removed from a folder durable.
fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync", dir))
}

fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        action,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests;
