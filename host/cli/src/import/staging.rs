//! The folder that an import writes: made beside its place under another name, and renamed once it
//! is whole. What is given up leaves nothing.

use std::path::{Path, PathBuf};
use std::{fs, io};

use tempfile::TempDir;

use super::MODELS;
use crate::exit::{Exit, Failure};
use crate::project::DEPLOYMENT_FILE;

/// Where the folder is to be, checked before anything takes time.
#[derive(Debug, Clone)]
pub(crate) struct Destination {
    path: PathBuf,
}

/// A folder that is not there yet.
#[derive(Debug)]
pub(crate) struct Staging {
    /// Removed when this goes.
    around: TempDir,
    destination: Destination,
}

impl Destination {
    /// A folder that does not exist, or is empty. With `force` also one that has a `dunlin.yaml`: it
    /// is replaced.
    pub(crate) fn check(path: PathBuf, force: bool) -> Result<Self, Failure> {
        let refuse = |what: &str| Failure::new(Exit::Refused, format!("{} {what}", path.display()));
        match fs::read_dir(&path).map(Iterator::count) {
            Ok(0) => {}
            Ok(_) if force && path.join(DEPLOYMENT_FILE).is_file() => {}
            Ok(_) if force => {
                return Err(refuse("is not empty, and no folder of a deployment")
                    .next("only a folder with dunlin.yaml is replaced; give another: --out DIR"));
            }
            Ok(_) => {
                return Err(refuse("is not empty")
                    .next("give another folder, --out DIR, or replace this one: --force"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(unwritable(&path, &error)),
        }
        Ok(Self { path })
    }
}

impl Staging {
    pub(crate) fn new(destination: Destination) -> Result<Self, Failure> {
        let failed = |error: io::Error| unwritable(&destination.path, &error);
        let absolute = std::path::absolute(&destination.path).map_err(failed)?;
        // In the nearest folder that is there: a rename stays within one file system.
        let parent = absolute.ancestors().skip(1).find(|parent| parent.is_dir());
        let around = tempfile::Builder::new()
            .prefix(".dunlin-import-")
            .tempdir_in(parent.unwrap_or(Path::new("/")))
            .map_err(failed)?;
        let staging = Self {
            around,
            destination,
        };
        fs::create_dir_all(staging.models())
            .map_err(|error| unwritable(&staging.destination.path, &error))?;
        Ok(staging)
    }

    /// The new folder, under its temporary name.
    pub(crate) fn path(&self) -> PathBuf {
        self.around.path().join("new")
    }

    pub(crate) fn models(&self) -> PathBuf {
        self.path().join(MODELS)
    }

    /// Writes a file of the folder.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<(), Failure> {
        let path = self.path().join(name);
        let folder = path.parent().map_or(Ok(()), fs::create_dir_all);
        folder
            .and_then(|()| fs::write(&path, content))
            .map_err(|error| unwritable(&self.destination.path.join(name), &error))
    }

    /// The files of the folder, in order.
    pub(crate) fn files(&self) -> Result<Vec<String>, Failure> {
        fn walk(folder: &Path, prefix: &str, files: &mut Vec<String>) -> io::Result<()> {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                match entry.file_type()?.is_dir() {
                    true => walk(&entry.path(), &format!("{name}/"), files)?,
                    false => files.push(name),
                }
            }
            Ok(())
        }
        let mut files = Vec::new();
        walk(&self.path(), "", &mut files)
            .map_err(|error| unwritable(&self.destination.path, &error))?;
        files.sort();
        Ok(files)
    }

    /// Puts the folder in its place.
    pub(crate) fn commit(self) -> Result<PathBuf, Failure> {
        let path = self.destination.path.clone();
        let failed = |error: io::Error| unwritable(&path, &error);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        let replaced = self.around.path().join("replaced");
        match fs::rename(&path, &replaced) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        if let Err(error) = fs::rename(self.path(), &path) {
            // What was there is better than nothing; that it cannot be put back is the lesser news.
            let _lost = fs::rename(&replaced, &path);
            return Err(failed(error));
        }
        Ok(path)
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::caused_by(
        Exit::Failed,
        format!("cannot write {}", path.display()),
        error,
    )
    .next("give another folder: --out DIR")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_folder_is_there_whole_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("deep/digits");
        let staging = Staging::new(Destination::check(out.clone(), false).unwrap()).unwrap();
        staging.write("models/digits.onnx", "weights").unwrap();
        drop(staging);
        assert!(names(home.path()).is_empty(), "what was given up is gone");

        let staging = Staging::new(Destination::check(out.clone(), false).unwrap()).unwrap();
        staging.write("models/digits.onnx", "weights").unwrap();
        staging.write("dunlin.yaml", "name: digits").unwrap();
        assert_eq!(
            staging.files().unwrap(),
            ["dunlin.yaml", "models/digits.onnx"]
        );
        staging.commit().unwrap();
        assert_eq!(names(home.path()), ["deep"]);
        assert_eq!(names(&out), ["dunlin.yaml", "models"]);
    }

    #[test]
    fn only_a_deployment_is_replaced_and_only_by_force() {
        let home = tempfile::tempdir().unwrap();
        let out = home.path().join("digits");
        fs::create_dir(&out).unwrap();
        Destination::check(out.clone(), false).unwrap();
        fs::write(out.join("thesis.txt"), "10 years").unwrap();
        for force in [false, true] {
            let refused = Destination::check(out.clone(), force).unwrap_err();
            assert_eq!(refused.exit, Exit::Refused);
        }
        fs::write(out.join("dunlin.yaml"), "name: old").unwrap();
        assert!(Destination::check(out.clone(), false).is_err());
        let staging = Staging::new(Destination::check(out.clone(), true).unwrap()).unwrap();
        staging.write("dunlin.yaml", "name: new").unwrap();
        staging.commit().unwrap();
        assert_eq!(
            fs::read_to_string(out.join("dunlin.yaml")).unwrap(),
            "name: new"
        );
        assert_eq!(names(&out), ["dunlin.yaml", "models"]);
    }
}
