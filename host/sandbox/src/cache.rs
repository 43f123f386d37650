//! Compiled components on disk.
//!
//! An entry is named by the component's digest and by what the engine says about its own settings
//! and version, and begins with the digest of what follows. An entry that is damaged, or of another
//! engine, is compiled again. Only what this node compiled is ever loaded.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    io::Write,
    path::{Path, PathBuf},
};

use sha2::{Digest, Sha256};
use wasmtime::{Engine, component::Component};

use crate::{compiler::Compiler, error::SandboxError};

const CHECKSUM: usize = 32;

/// How the name of an entry begins while it is written.
const UNFINISHED: &str = ".tmp";

/// The SHA-256 of `bytes` in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut hex = String::with_capacity(2 * CHECKSUM);
    for byte in Sha256::digest(bytes) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

pub(crate) struct CompiledCache {
    dir: PathBuf,
    engine: Engine,
    engine_key: u64,
    compiler: Option<Compiler>,
}

impl CompiledCache {
    pub(crate) fn open(
        dir: &Path,
        engine: &Engine,
        compiler: Option<Compiler>,
    ) -> Result<Self, SandboxError> {
        let unusable = |source| SandboxError::Cache {
            path: dir.display().to_string(),
            source,
        };
        std::fs::create_dir_all(dir).map_err(unusable)?;
        // What lies here is run as machine code: nobody else may put anything in.
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
                .map_err(unusable)?;
        }
        remove_unfinished(dir).map_err(unusable)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Ok(Self {
            dir: dir.to_owned(),
            engine: engine.clone(),
            engine_key: hasher.finish(),
            compiler,
        })
    }

    /// Blocks for as long as the compiler takes: seconds for a large component.
    pub(crate) fn load_or_compile(
        &self,
        digest: &str,
        wasm: &[u8],
    ) -> Result<Component, SandboxError> {
        let path = self.dir.join(self.name(digest));
        if let Some(component) = self.load(&path) {
            return Ok(component);
        }
        let started = std::time::Instant::now();
        let elsewhere = self
            .compiler
            .as_ref()
            .and_then(|compiler| compiler.run(wasm));
        let artifact = elsewhere
            .unwrap_or_else(|| self.engine.precompile_component(wasm))
            .map_err(SandboxError::Compile)?;
        tracing::info!(
            digest,
            bytes = wasm.len(),
            elapsed_ms = started.elapsed().as_millis(),
            "compiled a predictor"
        );
        if let Err(error) = self.store(&path, &artifact) {
            // Serving goes on; the next start compiles again.
            tracing::warn!(%error, path = %path.display(), "a compiled predictor was not kept");
        }
        self.deserialize(&artifact).map_err(SandboxError::Compile)
    }

    /// Removes the entries of all components but those with these digests, and the entries of other
    /// engines. Gives the bytes that are free now.
    pub(crate) fn keep_only(&self, digests: &HashSet<String>) -> std::io::Result<u64> {
        let kept: HashSet<String> = digests.iter().map(|digest| self.name(digest)).collect();
        let mut freed = 0;
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // What is being written has its name only when it is whole.
            if kept.contains(&*name) || name.starts_with(UNFINISHED) {
                continue;
            }
            freed += entry.metadata()?.len();
            std::fs::remove_file(entry.path())?;
        }
        Ok(freed)
    }

    fn name(&self, digest: &str) -> String {
        format!("{digest}-{:016x}", self.engine_key)
    }

    fn load(&self, path: &Path) -> Option<Component> {
        let entry = match std::fs::read(path) {
            Ok(entry) => entry,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a compiled predictor is unreadable");
                return None;
            }
        };
        let intact = entry
            .split_at_checked(CHECKSUM)
            .filter(|(checksum, artifact)| Sha256::digest(artifact).as_slice() == *checksum);
        let Some((_, artifact)) = intact else {
            tracing::warn!(path = %path.display(), "a compiled predictor is damaged and made again");
            return None;
        };
        match self.deserialize(artifact) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "a compiled predictor is made again");
                None
            }
        }
    }

    fn store(&self, path: &Path, artifact: &[u8]) -> std::io::Result<()> {
        let mut file = tempfile::Builder::new()
            .prefix(UNFINISHED)
            .tempfile_in(&self.dir)?;
        file.write_all(&Sha256::digest(artifact))?;
        file.write_all(artifact)?;
        file.persist(path)?;
        Ok(())
    }

    #[expect(
        unsafe_code,
        reason = "wasmtime cannot check machine code that it is given"
    )]
    fn deserialize(&self, artifact: &[u8]) -> wasmtime::Result<Component> {
        // SAFETY: the bytes come from `precompile_component` of an engine with these settings, here
        // or in our own child, a moment ago or from a file that only this user can write, whose
        // checksum was compared just now.
        unsafe { Component::deserialize(&self.engine, artifact) }
    }
}

/// What a crash left half-written.
fn remove_unfinished(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
    const EMPTY_MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn entries(dir: &Path) -> Vec<PathBuf> {
        let mut entries: Vec<_> = std::fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        entries.sort();
        entries
    }

    #[test]
    fn a_damaged_entry_is_compiled_again() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let cache = CompiledCache::open(dir.path(), &engine, None).unwrap();
        let wasm = EMPTY_COMPONENT;
        let key = digest(wasm);
        cache.load_or_compile(&key, wasm).unwrap();
        let [entry] = &entries(dir.path())[..] else {
            panic!("one entry")
        };
        let whole = std::fs::read(entry).unwrap();

        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        for damaged in [&flipped[..], &whole[..whole.len() / 2], b"", b"short"] {
            std::fs::write(entry, damaged).unwrap();
            assert!(cache.load(entry).is_none());
            cache.load_or_compile(&key, wasm).unwrap();
            assert!(cache.load(entry).is_some(), "the entry was written again");
        }
        assert_eq!(entries(dir.path()).len(), 1);
    }

    #[test]
    fn what_is_no_component_is_refused_and_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CompiledCache::open(dir.path(), &Engine::default(), None).unwrap();
        let refused = cache.load_or_compile("00", EMPTY_MODULE);
        assert!(matches!(refused, Err(SandboxError::Compile(_))));
        assert!(entries(dir.path()).is_empty());
    }

    #[test]
    fn entries_that_nobody_needs_go() {
        let dir = tempfile::tempdir().unwrap();
        let cache = CompiledCache::open(dir.path(), &Engine::default(), None).unwrap();
        cache.load_or_compile("needed", EMPTY_COMPONENT).unwrap();
        cache.load_or_compile("deleted", EMPTY_COMPONENT).unwrap();
        let entry = dir.path().join(cache.name("needed"));
        std::fs::write(dir.path().join("needed-0000000000000000"), "older").unwrap();
        let needed = HashSet::from(["needed".to_owned()]);
        assert!(cache.keep_only(&needed).unwrap() > 5);
        assert_eq!(entries(dir.path()), std::slice::from_ref(&entry));
        assert_eq!(cache.keep_only(&needed).unwrap(), 0);

        // The next start does not find what the last one left half-written.
        let unfinished = dir.path().join(".tmpQ3x9");
        std::fs::write(&unfinished, "half").unwrap();
        CompiledCache::open(dir.path(), &Engine::default(), None).unwrap();
        assert_eq!(entries(dir.path()), [entry]);
    }
}
