//! Packages on the author's machine: written from a project, read back for a look.
//!
//! Owns how the errors of `dunlin_package` become failures. Knows no format: that is the crate's.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dunlin_package::{Package, PackageError, Source, WriteError};

use crate::exit::{Exit, Failure};
use crate::project::{Component, Project, unreadable};

/// A package that was written or read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packaged {
    pub(crate) name: String,
    pub(crate) digest: String,
    /// Of the whole file, in bytes.
    pub(crate) size: u64,
}

/// Writes a package, unless Ctrl-C is pressed meanwhile: then what was written is no package.
pub(crate) fn write_package(
    project: &Project,
    component: Option<&Component>,
    file: &File,
    interrupted: Arc<AtomicBool>,
) -> Result<Packaged, Failure> {
    let origin = project.file.display().to_string();
    let source = Source {
        yaml: &project.yaml,
        origin: &origin,
        base: &project.dir,
        predictor: component.map(|component| component.bytes.as_slice()),
    };
    let out = BufWriter::new(Interruptible {
        inner: file,
        interrupted,
    });
    let summary = dunlin_package::write(&source, out).map_err(|error| not_written(&error))?;
    Ok(Packaged {
        name: project.deployment.name.to_string(),
        digest: summary.digest.to_string(),
        size: summary.bytes,
    })
}

/// Checks a package as a node does before it takes it.
pub(crate) fn inspect(file: &Path) -> Result<(Packaged, Package), Failure> {
    let size = fs::metadata(file)
        .map_err(|error| unreadable(file, &error))?
        .len();
    let package = dunlin_package::inspect(file).map_err(|error| match error {
        PackageError::Read(error) => unreadable(file, &error),
        error => {
            let message = format!("{} is not a package that a node takes", file.display());
            Failure::caused_by(Exit::Refused, message, &error).next("make one: dunlin package DIR")
        }
    })?;
    let packaged = Packaged {
        name: package.deployment().name.to_string(),
        digest: package.digest().to_string(),
        size,
    };
    Ok((packaged, package))
}

fn not_written(error: &WriteError) -> Failure {
    let failed = |exit| Failure::caused_by(exit, "cannot make the package", error);
    match error {
        WriteError::Config(_) | WriteError::World(_) | WriteError::Invalid { .. } => {
            failed(Exit::Refused)
        }
        WriteError::File { path, source } => {
            unreadable(path, source).next("correct the path in dunlin.yaml, or put the file there")
        }
        WriteError::Changed { .. } => failed(Exit::Failed),
        WriteError::Output(_) => failed(Exit::Failed).next("free space on the disk"),
    }
}

/// Stops writing once Ctrl-C was pressed, so that whoever owns the file removes it.
struct Interruptible<W> {
    inner: W,
    interrupted: Arc<AtomicBool>,
}

impl<W: Write> Write for Interruptible<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.interrupted.load(Ordering::Relaxed) {
            return Err(io::Error::other("interrupted"));
        }
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_write_stops() {
        let interrupted = Arc::new(AtomicBool::new(false));
        let mut out = Interruptible {
            inner: Vec::new(),
            interrupted: interrupted.clone(),
        };
        out.write_all(b"a").unwrap();
        interrupted.store(true, Ordering::Relaxed);
        assert!(out.write_all(b"b").is_err());
        assert_eq!(out.inner, b"a");
    }

    #[test]
    fn models_alone_are_packaged_and_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = "name: iris\npredictor: {models: [{name: iris, path: iris.pt, backend: torchscript, inputs: [{name: x, datatype: FP32, shape: [-1]}]}]}\n";
        fs::write(folder.path().join("dunlin.yaml"), yaml).unwrap();
        let project = Project::open(folder.path()).unwrap();
        let file = folder.path().join("iris.tar");
        let write = || {
            let out = File::create(&file).unwrap();
            write_package(&project, None, &out, Arc::default())
        };
        let missing = write().unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound);
        assert!(missing.to_string().contains("iris.pt"), "{missing}");

        fs::write(folder.path().join("iris.pt"), "weights").unwrap();
        let written = write().unwrap();
        let (read, package) = inspect(&file).unwrap();
        assert_eq!(read, written);
        assert_eq!(read.size, fs::metadata(&file).unwrap().len());
        assert_eq!(package.files().count(), 1);

        let mut bytes = fs::read(&file).unwrap();
        let at = bytes
            .windows(7)
            .position(|window| window == b"weights")
            .unwrap();
        bytes[at] = b'W';
        fs::write(&file, bytes).unwrap();
        assert_eq!(inspect(&file).unwrap_err().exit, Exit::Refused);
    }
}
