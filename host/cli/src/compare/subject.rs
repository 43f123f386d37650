//! What is compared: a deployment with its predictor built once, and the exports of its models.
//!
//! The exports of a model are the file that dunlin.yaml names, the files beside it with the same
//! stem (`digits.onnx`, `digits.pt`, `digits.ckpt`), and those that `--model` names instead.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use dunlin_package::{Digest, ImportLimits, Store};
use edge_config::Model;
use serde_json::Value;
use tempfile::TempDir;

use super::golden::Golden;
use crate::exit::{Exit, Failure};
use crate::project::{Component, DEPLOYMENT_FILE, Project, is_deployment_file, unreadable};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Onnx,
    TorchScript,
    Checkpoint,
}

impl Format {
    /// By the extension, else by how the file begins: a TorchScript module is a zip.
    fn of(path: &Path) -> io::Result<Self> {
        let extension = path.extension().and_then(|extension| extension.to_str());
        match extension.map(str::to_ascii_lowercase).as_deref() {
            Some("onnx") => return Ok(Self::Onnx),
            Some("ckpt") => return Ok(Self::Checkpoint),
            Some("pt" | "pth" | "ts" | "torchscript") => return Ok(Self::TorchScript),
            _ => {}
        }
        let mut start = [0; 4];
        let read = File::open(path)?.read(&mut start)?;
        Ok(match &start[..read] {
            b"PK\x03\x04" => Self::TorchScript,
            _ => Self::Onnx,
        })
    }
}

/// `NAME=PATH`: another export of a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Export {
    model: String,
    path: PathBuf,
}

impl FromStr for Export {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((model, path)) if !model.is_empty() && !path.is_empty() => Ok(Self {
                model: model.to_owned(),
                path: path.into(),
            }),
            _ => Err("write NAME=PATH, such as digits=exports/digits.pt".to_owned()),
        }
    }
}

/// A deployment on disk, ready to be deployed in several ways.
#[derive(Debug)]
pub(crate) struct Subject {
    pub(crate) project: Project,
    pub(crate) component: Option<Component>,
    pub(super) models: Vec<SubjectModel>,
    /// Where a package was unpacked.
    _unpacked: Option<TempDir>,
}

/// One model of the deployment, in the order of dunlin.yaml.
#[derive(Debug)]
pub(super) struct SubjectModel {
    pub(super) name: String,
    pub(super) onnx: Option<PathBuf>,
    pub(super) torchscript: Option<PathBuf>,
    pub(super) checkpoint: Option<PathBuf>,
    pub(super) golden: Option<(PathBuf, Golden)>,
}

impl Subject {
    /// Reads a folder or a deployment file, building its predictor, or a package.
    pub(crate) fn open(
        what: &Path,
        exports: &[Export],
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, Failure> {
        let metadata = fs::metadata(what).map_err(|error| {
            unreadable(what, &error).next("give a folder with dunlin.yaml, or a package")
        })?;
        let unpacked = match metadata.is_dir() || is_deployment_file(what) {
            true => None,
            false => {
                progress(&format!("unpacking {}", what.display()));
                Some(unpack(what)?)
            }
        };
        let project = Project::open(unpacked.as_ref().map_or(what, TempDir::path))?;
        let folder = project.dir.as_path();
        let component = project.component(progress)?;
        let models = project.deployment.models.iter();
        let models = models
            .map(|model| SubjectModel::find(folder, model, exports))
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(export) = exports
            .iter()
            .find(|export| models.iter().all(|model| model.name != export.model))
        {
            let names: Vec<&str> = models.iter().map(|model| model.name.as_str()).collect();
            return Err(Failure::new(
                Exit::NotFound,
                format!(
                    "--model names {}, and the models are {}",
                    export.model,
                    names.join(", ")
                ),
            ));
        }
        if models.is_empty() {
            return Err(Failure::new(
                Exit::Refused,
                format!(
                    "{} has no models, so there are no routes to compare",
                    what.display()
                ),
            ));
        }
        Ok(Self {
            project,
            component,
            models,
            _unpacked: unpacked,
        })
    }

    pub(crate) fn name(&self) -> &str {
        self.project.deployment.name.as_str()
    }
}

impl SubjectModel {
    fn find(folder: &Path, model: &Model, exports: &[Export]) -> Result<Self, Failure> {
        let own = folder.join(AsRef::<Path>::as_ref(&model.path));
        let mut found = Self {
            name: model.name.to_string(),
            onnx: None,
            torchscript: None,
            checkpoint: None,
            golden: None,
        };
        if let Some(golden) = &model.golden {
            let path = folder.join(AsRef::<Path>::as_ref(golden));
            let golden = Golden::read(&path)?;
            found.golden = Some((path, golden));
        }
        // What is put later wins.
        for extension in ["onnx", "pt", "ckpt"] {
            let sibling = own.with_extension(extension);
            if sibling.is_file() {
                found.put(sibling)?;
            }
        }
        found.put(own)?;
        let named = |export: &&Export| export.model == model.name.as_str();
        for export in exports.iter().filter(named) {
            found.put(export.path.clone())?;
        }
        Ok(found)
    }

    fn put(&mut self, path: PathBuf) -> Result<(), Failure> {
        let place = match Format::of(&path).map_err(|error| unreadable(&path, &error))? {
            Format::Onnx => &mut self.onnx,
            Format::TorchScript => &mut self.torchscript,
            Format::Checkpoint => &mut self.checkpoint,
        };
        if !path.is_file() {
            let error = io::Error::from(io::ErrorKind::NotFound);
            return Err(unreadable(&path, &error));
        }
        // The node's packages are made from another folder.
        *place = Some(std::path::absolute(&path).unwrap_or(path));
        Ok(())
    }
}

/// Lays a package out as the folder that it was made from.
fn unpack(file: &Path) -> Result<TempDir, Failure> {
    let failed = |error: &(dyn std::error::Error + 'static)| {
        let message = format!("cannot unpack {}", file.display());
        Failure::caused_by(Exit::Refused, message, error).next("make one: dunlin package DIR")
    };
    let folder = tempfile::Builder::new()
        .prefix("dunlin-compare-")
        .tempdir()
        .map_err(|error| failed(&error))?;
    let archive = File::open(file).map_err(|error| unreadable(file, &error))?;
    let package_max = archive
        .metadata()
        .map_err(|error| unreadable(file, &error))?
        .len();
    let store = Store::open(&folder.path().join(".store")).map_err(|error| failed(&error))?;
    let archive = io::BufReader::new(archive);
    let package = dunlin_package::import(archive, &store, ImportLimits { package_max })
        .map_err(|error| failed(&error))?;
    store
        .lay_out(&package, folder.path())
        .map_err(|error| failed(&error))?;
    let manifest = store
        .read(package.digest())
        .map_err(|error| failed(&error))?;
    let manifest: Value = serde_json::from_slice(&manifest).map_err(|error| failed(&error))?;
    let config = manifest["config"]["digest"].as_str().unwrap_or_default();
    let config: Digest = config.parse().map_err(|error| failed(&error))?;
    let yaml = store.read(&config).map_err(|error| failed(&error))?;
    fs::write(folder.path().join(DEPLOYMENT_FILE), yaml).map_err(|error| failed(&error))?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exports_are_found_by_their_stem_and_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let yaml = "name: iris\npredictor: {models: [{name: net, path: iris.onnx}]}\n";
        for (name, text) in [
            ("dunlin.yaml", yaml),
            ("iris.onnx", "onnx"),
            ("iris.ckpt", "ckpt"),
            ("other.pt", "pt"),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let open = |exports: &[&str]| {
            let exports: Vec<Export> = exports.iter().map(|text| text.parse().unwrap()).collect();
            Subject::open(folder.path(), &exports, &mut |_| {})
        };
        let subject = open(&[]).unwrap();
        let model = &subject.models[0];
        assert_eq!(model.onnx.as_deref(), Some(&*path("iris.onnx")));
        assert_eq!(model.checkpoint.as_deref(), Some(&*path("iris.ckpt")));
        assert_eq!(model.torchscript, None);

        let other = format!("net={}", path("other.pt").display());
        let subject = open(&[&other]).unwrap();
        assert_eq!(
            subject.models[0].torchscript.as_deref(),
            Some(&*path("other.pt"))
        );

        let unknown = open(&["nets=other.pt"]).unwrap_err();
        assert!(
            unknown.to_string().contains("the models are net"),
            "{unknown}"
        );
        assert_eq!(open(&["net=none.pt"]).unwrap_err().exit, Exit::NotFound);
        assert!("net".parse::<Export>().is_err());
    }

    #[test]
    fn a_package_is_laid_out_as_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let yaml = "name: iris # kept\npredictor: {models: [{name: iris, path: a/iris.pt, \
                    inputs: [{name: x, datatype: FP32, shape: [-1]}]}]}\n";
        fs::create_dir(folder.path().join("a")).unwrap();
        fs::write(folder.path().join("a/iris.pt"), "weights").unwrap();
        let package = folder.path().join("iris.tar");
        let source = dunlin_package::Source {
            yaml,
            origin: "dunlin.yaml",
            base: folder.path(),
            predictor: None,
        };
        dunlin_package::write(&source, File::create(&package).unwrap()).unwrap();
        let subject = Subject::open(&package, &[], &mut |_| {}).unwrap();
        assert_eq!(
            (subject.name(), subject.project.yaml.as_str()),
            ("iris", yaml)
        );
        let model = subject.models[0].torchscript.as_ref().unwrap();
        assert_eq!(fs::read(model).unwrap(), b"weights");
        fs::write(&package, "no package").unwrap();
        let refused = Subject::open(&package, &[], &mut |_| {}).unwrap_err();
        assert_eq!(refused.exit, Exit::Refused);
    }
}
