//! Dunlin's cache folder: what was fetched once and is kept. Everything in it can be deleted.
//!
//! An entry is made in a temporary folder beside it and renamed, so a folder that exists is whole;
//! one lock file serialises whoever makes entries.

use std::env;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// What a folder in the making is called until it is renamed.
const UNFINISHED: &str = ".unfinished-";

#[derive(Debug)]
pub(super) struct Cache {
    dir: PathBuf,
}

/// Held while entries are made; let go when dropped, also by a process that dies.
#[derive(Debug)]
pub(super) struct CacheLock {
    _file: File,
}

impl Cache {
    /// `$XDG_CACHE_HOME/dunlin/<part>`, or below `~/.cache`.
    pub(super) fn open(part: &str) -> Result<Self> {
        let base = env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .or_else(|| env::home_dir().map(|home| home.join(".cache")))
            .context("there is no home folder for the cache; set XDG_CACHE_HOME")?;
        Self::at(base.join("dunlin").join(part))
    }

    pub(super) fn at(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        Ok(Self { dir })
    }

    pub(super) fn path(&self, entry: &str) -> PathBuf {
        self.dir.join(entry)
    }

    /// Waits until nobody else makes entries, and clears away what an interrupted run left.
    pub(super) fn lock(&self, progress: &mut dyn FnMut(&str)) -> Result<CacheLock> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if let Err(TryLockError::WouldBlock) = file.try_lock() {
            progress("waiting for another build that is setting up the standard library");
        }
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        for entry in fs::read_dir(&self.dir)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                // A leftover that cannot be removed costs space, nothing else.
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(CacheLock { _file: file })
    }

    /// Makes an entry: `fill` gets an empty folder and names the one in it that is to become the
    /// entry. One that existed is replaced.
    pub(super) fn make(
        &self,
        _held: &CacheLock,
        entry: &str,
        fill: impl FnOnce(&Path) -> Result<PathBuf>,
    ) -> Result<PathBuf> {
        let unfinished = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempdir_in(&self.dir)
            .with_context(|| format!("cannot write to {}", self.dir.display()))?;
        let filled = fill(unfinished.path())?;
        let path = self.path(entry);
        if path.exists() {
            fs::rename(&path, unfinished.path().join("replaced"))
                .with_context(|| format!("cannot replace {}", path.display()))?;
        }
        fs::rename(&filled, &path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::at(dir.path().join("cache")).unwrap();
        (dir, cache)
    }

    fn names(cache: &Cache) -> Vec<String> {
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
                .make(&lock, "src", |dir| {
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
    fn what_an_interrupted_run_left_goes() {
        let (_dir, cache) = cache();
        fs::create_dir(cache.path(".unfinished-x")).unwrap();
        let _lock = cache.lock(&mut |_| ()).unwrap();
        assert_eq!(names(&cache), ["lock"]);
    }
}
