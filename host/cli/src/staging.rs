//! A folder whose entries are whole: Dunlin's cache, the backends of this user.
//!
//! An entry is made in a temporary folder beside it and renamed, so one that exists is whole,
//! whatever ended the run that made it; one lock file serialises whoever makes entries.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

/// What a folder in the making is called until it is renamed.
const UNFINISHED: &str = ".unfinished-";

#[derive(Debug)]
pub(crate) struct Staging {
    dir: PathBuf,
}

/// Held while entries are made; let go when dropped, also by a process that dies.
#[derive(Debug)]
pub(crate) struct StagingLock {
    _file: File,
}

impl Staging {
    /// What was fetched once, and can be deleted: `$XDG_CACHE_HOME/dunlin/<part>`, or below
    /// `~/.cache`.
    pub(crate) fn cache(part: &str) -> Result<Self> {
        let base = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| env::home_dir().map(|home| home.join(".cache")))
            .context("there is no home folder for the cache; set XDG_CACHE_HOME")?;
        Self::at(base.join("dunlin").join(part))
    }

    pub(crate) fn at(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn path(&self, entry: &str) -> PathBuf {
        self.dir.join(entry)
    }

    /// Waits until nobody else makes entries, and clears away what an interrupted run left.
    pub(crate) fn lock(&self, progress: &mut dyn FnMut(&str)) -> Result<StagingLock> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            progress(&format!(
                "waiting for another dunlin that works in {}",
                self.dir.display()
            ));
        }
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                // A leftover that cannot be removed costs space, nothing else.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(StagingLock { _file: file })
    }

    /// Makes an entry: `fill` gets an empty folder and names what in it is to become the entry. One
    /// that existed is replaced in the same step.
    pub(crate) fn make<E: From<anyhow::Error>>(
        &self,
        _held: &StagingLock,
        entry: &str,
        fill: impl FnOnce(&Path) -> Result<PathBuf, E>,
    ) -> Result<PathBuf, E> {
        let unfinished = self.unfinished()?;
        let filled = fill(unfinished.path())?;
        let path = self.path(entry);
        put(&filled, &path, unfinished.path())?;
        Ok(path)
    }

    /// Removes an entry, in one step. False: there was none.
    pub(crate) fn remove(&self, _held: &StagingLock, entry: &str) -> Result<bool> {
        let path = self.path(entry);
        if path.symlink_metadata().is_err() {
            return Ok(false);
        }
        let unfinished = self.unfinished()?;
        fs::rename(&path, unfinished.path().join("removed"))
            .with_context(|| format!("cannot remove {}", path.display()))?;
        Ok(true)
    }

    fn unfinished(&self) -> Result<tempfile::TempDir> {
        tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.dir)
            .with_context(|| format!("cannot write to {}", self.dir.display()))
    }
}

/// Renames `filled` to `path`. What was there is left in `scratch`.
fn put(filled: &Path, path: &Path, scratch: &Path) -> Result<()> {
    let failed = || format!("cannot make {}", path.display());
    if path.symlink_metadata().is_err() {
        return fs::rename(filled, path).with_context(failed);
    }
    // The two change places: nobody sees a moment without the entry.
    let exchanged = renameat_with(CWD, filled, CWD, path, RenameFlags::EXCHANGE);
    match exchanged {
        Ok(()) => Ok(()),
        // Some file systems cannot do that.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            fs::rename(path, scratch.join("replaced"))
                .and_then(|()| fs::rename(filled, path))
                .with_context(failed)
        }
        Err(error) => Err(error).with_context(failed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Staging) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Staging::at(dir.path().join("cache")).unwrap();
        (dir, cache)
    }

    fn names(cache: &Staging) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(&cache.dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn an_entry_that_fails_leaves_nothing() {
        let (_dir, cache) = cache();
        let lock = cache.lock(&mut |_| ()).unwrap();
        let made = cache.make(&lock, "src", |dir| {
            fs::write(dir.join("half"), "half").unwrap();
            anyhow::bail!("no network")
        });
        assert!(made.is_err());
        assert_eq!(names(&cache), ["lock"]);
    }

    #[test]
    fn an_entry_is_replaced_whole() {
        let (_dir, cache) = cache();
        let lock = cache.lock(&mut |_| ()).unwrap();
        for text in ["old", "new"] {
            let path = cache
                .make::<anyhow::Error>(&lock, "src", |dir| {
                    let entry = dir.join("entry");
                    fs::create_dir(&entry)?;
                    fs::write(entry.join(text), text)?;
                    Ok(entry)
                })
                .unwrap();
            assert!(path.join(text).is_file());
        }
        assert!(!cache.path("src").join("old").exists());
        assert_eq!(names(&cache), ["lock", "src"]);
    }

    #[test]
    fn an_entry_is_removed_once() {
        let (_dir, cache) = cache();
        let lock = cache.lock(&mut |_| ()).unwrap();
        fs::create_dir(cache.path("src")).unwrap();
        assert!(cache.remove(&lock, "src").unwrap());
        assert!(!cache.remove(&lock, "src").unwrap());
        assert_eq!(names(&cache), ["lock"]);
    }

    #[test]
    fn what_an_interrupted_run_left_goes() {
        let (_dir, cache) = cache();
        fs::create_dir(cache.path(".unfinished-x")).unwrap();
        let _lock = cache.lock(&mut |_| ()).unwrap();
        assert_eq!(names(&cache), ["lock"]);
    }
}
