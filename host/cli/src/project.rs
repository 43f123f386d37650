//! A predictor's folder on the author's machine: its `dunlin.yaml`, and what is made from it.
//!
//! Owns the way from a folder to a component and to a package. Knows no node.

use std::path::{Path, PathBuf};
use std::{fs, io};

use dunlin_package::world;
use edge_config::{ConfigError, Deployment, GuestTarget};

use crate::build::{self, GuestBuild, NotBuilt};
use crate::exit::{Exit, Failure};

/// The deployment file of a folder.
pub(crate) const DEPLOYMENT_FILE: &str = "dunlin.yaml";

/// A folder with a checked deployment file.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) dir: PathBuf,
    /// The deployment file.
    pub(crate) file: PathBuf,
    /// The file's text, which goes into the package.
    pub(crate) yaml: String,
    pub(crate) deployment: Deployment,
}

/// Where the predictor's code comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// There is none: the node serves the models.
    Nothing,
    /// A crate, to be compiled.
    Crate(GuestBuild),
    /// A component that something else made.
    Component(PathBuf),
}

/// A predictor that can be packaged.
#[derive(Debug)]
pub(crate) struct Component {
    pub(crate) bytes: Vec<u8>,
    pub(crate) path: PathBuf,
    /// How it was built; `None` where the file was there.
    pub(crate) built: Option<String>,
}

impl Project {
    /// Reads and checks the deployment file of a folder, or another one that is named itself: its
    /// folder is the project's.
    pub(crate) fn open(path: &Path) -> Result<Self, Failure> {
        let (dir, file) = match is_deployment_file(path) {
            true => (path.parent().unwrap_or(Path::new("")), path.to_owned()),
            false => (path, path.join(DEPLOYMENT_FILE)),
        };
        let deployment = Deployment::read(&file).map_err(|error| config_failure(&file, &error))?;
        let yaml = fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
        Ok(Self {
            dir: dir.to_owned(),
            file,
            yaml,
            deployment,
        })
    }

    pub(crate) fn source(&self) -> Source {
        let Some(predictor) = &self.deployment.predictor else {
            return Source::Nothing;
        };
        let path = self.dir.join(&predictor.path);
        if path
            .extension()
            .is_some_and(|extension| extension == "wasm")
        {
            return Source::Component(path);
        }
        let target = match predictor.target {
            GuestTarget::Wasm32Wasip2 => build::GuestTarget::Wasip2,
            GuestTarget::Wasm32UnknownUnknown => build::GuestTarget::Unknown,
        };
        Source::Crate(GuestBuild::new(path, target, predictor.stack))
    }

    /// Builds the predictor where it is a crate, and checks that a node can run it.
    pub(crate) fn component(
        &self,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Option<Component>, Failure> {
        let component = match self.source() {
            Source::Nothing => return Ok(None),
            Source::Component(path) => Component {
                bytes: fs::read(&path).map_err(|error| unreadable(&path, &error))?,
                path,
                built: None,
            },
            Source::Crate(guest) => compile(&guest, progress)?,
        };
        self.check_world(&component)?;
        Ok(Some(component))
    }

    fn check_world(&self, component: &Component) -> Result<(), Failure> {
        let grants = self
            .deployment
            .predictor
            .as_ref()
            .map(|predictor| predictor.grants);
        world::check(&component.bytes, &grants.unwrap_or_default()).map_err(|error| {
            let message = format!(
                "{} is not a predictor that a node runs",
                component.path.display()
            );
            Failure::caused_by(Exit::Refused, message, &error)
        })?;
        Ok(())
    }
}

/// Whether a path names a deployment file, and not a folder or a package.
pub(crate) fn is_deployment_file(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    matches!(extension, Some("yaml" | "yml")) && path.is_file()
}

fn compile(guest: &GuestBuild, progress: &mut dyn FnMut(&str)) -> Result<Component, Failure> {
    let dir = &guest.dir;
    if !dir.join("Cargo.toml").is_file() {
        return Err(Failure::new(Exit::NotFound, format!("{} has no Cargo.toml", dir.display()))
            .next("write the folder of the predictor's crate, or a .wasm component, as predictor.path in dunlin.yaml"));
    }
    let built = build::build(guest, progress).map_err(|error| {
        let advice = error.downcast_ref().map(NotBuilt::advice);
        let failure = Failure::from(error);
        match advice {
            Some(advice) => failure.next(advice),
            None => failure,
        }
    })?;
    Ok(Component {
        bytes: built.component,
        path: built.path,
        built: Some(built.summary.to_string()),
    })
}

pub(crate) fn config_failure(file: &Path, error: &ConfigError) -> Failure {
    match error {
        ConfigError::Read { source, .. } => unreadable(file, source),
        ConfigError::Invalid { .. } => Failure::new(Exit::Refused, error.to_string()),
    }
}

/// The failure for a file that this machine does not give.
pub(crate) fn unreadable(file: &Path, error: &io::Error) -> Failure {
    let message = format!("cannot read {}", file.display());
    let missing = error.kind() == io::ErrorKind::NotFound;
    let exit = if missing {
        Exit::NotFound
    } else {
        Exit::Failed
    };
    let failure = Failure::caused_by(exit, message, error);
    match file.file_name() {
        Some(name) if missing && name == DEPLOYMENT_FILE => {
            failure.next("give the folder of a predictor, or make one: dunlin new NAME")
        }
        _ => failure,
    }
}
