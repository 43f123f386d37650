//! Where the native libraries of a node are, and which of its engines runs a model.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::onnxruntime::OnnxRuntime;
use super::torchscript::TorchScript;
use super::tract::Tract;
use super::{Backend, BackendKind, ModelSource, elf};
use crate::{InferenceError, one_line};

/// Where the native libraries of a node are looked for: a path that is given, and nowhere else
/// then; the folder; the system.
#[derive(Clone, Debug, Default)]
pub struct BackendPaths {
    /// Dunlin's own, with a folder for each backend: `onnxruntime/libonnxruntime.so`,
    /// `torchscript/libdunlin_torch.so`.
    pub folder: Option<PathBuf>,
    /// The library file of ONNX Runtime.
    pub onnxruntime: Option<PathBuf>,
    /// The library file made of [`TORCHSCRIPT_SHIM`](super::TORCHSCRIPT_SHIM).
    pub torchscript: Option<PathBuf>,
}

/// The engines of a node. tract is compiled in; the others are opened when they are first wanted. A
/// library that was opened stays open for as long as the process lives; one that was not found, or
/// could not be opened, is looked for again each time.
#[derive(Debug)]
pub struct Backends {
    paths: BackendPaths,
    onnxruntime: Mutex<Option<Arc<OnnxRuntime>>>,
    torchscript: Mutex<Option<Arc<TorchScript>>>,
}

/// What a node has of one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendReport {
    /// As in a deployment file: `onnxruntime`.
    pub name: &'static str,
    pub state: BackendState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BackendState {
    Ready {
        /// None: compiled in.
        path: Option<PathBuf>,
        /// The engine's own: `1.31.1`.
        version: String,
    },
    Missing {
        /// In the order of the search; a bare file name was left to the system's search.
        looked_in: Vec<PathBuf>,
    },
    /// The file is there and is of no use.
    Broken { path: PathBuf, reason: String },
}

/// Why a library is not there.
#[derive(Clone, Debug)]
pub(super) enum Absence {
    Missing { looked_in: Vec<PathBuf> },
    Broken { path: PathBuf, reason: String },
}

/// A native engine as the search sees it.
pub(super) trait Library: Sized {
    const KIND: BackendKind;
    /// Below the backend folder.
    const FOLDER: &'static str;
    const FILE: &'static str;

    /// Opens the file and checks that it is what it should be. The text says what is wrong with it.
    /// A bare file name is searched for by the system.
    fn open(path: &Path) -> Result<Self, String>;

    fn path(&self) -> &Path;

    fn version(&self) -> &str;
}

impl Backends {
    pub fn new(paths: BackendPaths) -> Self {
        Backends {
            paths,
            onnxruntime: Mutex::default(),
            torchscript: Mutex::default(),
        }
    }

    /// The engine for this model, or why there is none. What was asked for by name is never
    /// replaced by something else.
    pub fn resolve(
        &self,
        kind: BackendKind,
        source: &ModelSource,
    ) -> Result<Arc<dyn Backend>, InferenceError> {
        let is_zip = source.is_zip()?;
        let wrong_format = |format: &str, reads: &str| {
            Err(InferenceError::unsupported(format!(
                "the model is {format}; backend {} reads {reads}; write backend: auto, or the one \
                 that fits the file",
                kind.name()
            )))
        };
        match (kind, is_zip) {
            (BackendKind::Tract | BackendKind::OnnxRuntime, true) => {
                wrong_format("a zip archive, as TorchScript makes", "ONNX files")
            }
            (BackendKind::TorchScript, false) => {
                wrong_format("no zip archive, as TorchScript makes", "TorchScript files")
            }
            (BackendKind::Tract, false) => Ok(Arc::new(Tract)),
            (BackendKind::OnnxRuntime, false) => Ok(self.onnxruntime().map_err(absent(kind))?),
            (BackendKind::TorchScript | BackendKind::Auto, true) => {
                let absent = absent(BackendKind::TorchScript);
                Ok(self.torchscript().map_err(absent)?)
            }
            (BackendKind::Auto, false) => match self.onnxruntime() {
                Ok(onnxruntime) => Ok(onnxruntime),
                Err(Absence::Missing { .. }) => Ok(Arc::new(Tract)),
                Err(Absence::Broken { path, reason }) => {
                    tracing::warn!(
                        path = %path.display(),
                        reason,
                        "ONNX Runtime cannot be used, tract runs the model instead"
                    );
                    Ok(Arc::new(Tract))
                }
            },
        }
    }

    /// Opens the library that [`Backends::resolve`] would take, and leaves what is wrong with it to be
    /// told there.
    pub fn open_early(&self, kind: BackendKind, source: &ModelSource) {
        match (kind, source.is_zip()) {
            (BackendKind::OnnxRuntime | BackendKind::Auto, Ok(false)) => drop(self.onnxruntime()),
            (BackendKind::TorchScript | BackendKind::Auto, Ok(true)) => drop(self.torchscript()),
            _ => {}
        }
    }

    /// What there is of each engine. Opens those that nobody has wanted yet, which takes up to a
    /// second.
    pub fn report(&self) -> Vec<BackendReport> {
        let kinds = BackendKind::ALL.into_iter();
        kinds.filter_map(|kind| self.report_on(kind)).collect()
    }

    /// What there is of one engine, which alone is opened. None for `auto`, which is no engine.
    pub fn report_on(&self, kind: BackendKind) -> Option<BackendReport> {
        match kind {
            BackendKind::Auto => None,
            BackendKind::Tract => Some(BackendReport {
                name: kind.name(),
                state: BackendState::Ready {
                    path: None,
                    version: Tract::VERSION.to_owned(),
                },
            }),
            BackendKind::OnnxRuntime => Some(report(self.onnxruntime())),
            BackendKind::TorchScript => Some(report(self.torchscript())),
        }
    }

    fn onnxruntime(&self) -> Result<Arc<OnnxRuntime>, Absence> {
        self.find(&self.onnxruntime, self.paths.onnxruntime.as_deref())
    }

    fn torchscript(&self) -> Result<Arc<TorchScript>, Absence> {
        self.find(&self.torchscript, self.paths.torchscript.as_deref())
    }

    fn find<L: Library>(
        &self,
        opened: &Mutex<Option<Arc<L>>>,
        given: Option<&Path>,
    ) -> Result<Arc<L>, Absence> {
        // Held while the library is opened: whoever comes meanwhile wants the same one.
        let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(library) = &*opened {
            return Ok(Arc::clone(library));
        }
        let library = Arc::new(search::<L>(given, self.paths.folder.as_deref())?);
        tracing::info!(
            backend = L::KIND.name(),
            version = library.version(),
            path = %library.path().display(),
            "opened a native backend"
        );
        Ok(Arc::clone(opened.insert(library)))
    }
}

impl Default for Backends {
    /// tract, and what the system has.
    fn default() -> Self {
        Backends::new(BackendPaths::default())
    }
}

fn search<L: Library>(given: Option<&Path>, folder: Option<&Path>) -> Result<L, Absence> {
    let open = |path: &Path| {
        L::open(path).map_err(|reason| Absence::Broken {
            path: path.to_owned(),
            reason,
        })
    };
    // What was asked for is not replaced by what else there is.
    if let Some(given) = given {
        return open(given);
    }
    let mut looked_in = Vec::new();
    if let Some(folder) = folder {
        let path = folder.join(L::FOLDER).join(L::FILE);
        // A link that leads nowhere is a file of no use, not an absent one.
        if path.symlink_metadata().is_ok() {
            return open(&path);
        }
        looked_in.push(path);
    }
    let name = Path::new(L::FILE);
    L::open(name).map_err(|reason| {
        if system_has(&reason, L::FILE) {
            return Absence::Broken {
                path: name.to_owned(),
                reason,
            };
        }
        looked_in.push(name.to_owned());
        Absence::Missing { looked_in }
    })
}

/// Whether the system's search found a file, by what it said of it: there is no other way to ask.
fn system_has(reason: &str, file: &str) -> bool {
    !reason.contains(&format!("{file}: cannot open shared object file"))
}

fn report<L: Library>(found: Result<Arc<L>, Absence>) -> BackendReport {
    let state = match found {
        Ok(library) => BackendState::Ready {
            path: Some(library.path().to_owned()),
            version: library.version().to_owned(),
        },
        Err(Absence::Missing { looked_in }) => BackendState::Missing { looked_in },
        Err(Absence::Broken { path, reason }) => BackendState::Broken { path, reason },
    };
    BackendReport {
        name: L::KIND.name(),
        state,
    }
}

fn absent(kind: BackendKind) -> impl FnOnce(Absence) -> InferenceError {
    move |absence| {
        let name = kind.name();
        let what = match absence {
            Absence::Missing { .. } => format!("this node has no backend {name}"),
            Absence::Broken { path, reason } => {
                format!(
                    "backend {name} cannot be used: {}: {reason}",
                    path.display()
                )
            }
        };
        InferenceError::unsupported(format!("{what}; run `dunlin backend install {name}`"))
    }
}

/// A library of which a process can have one file only: whoever wants it next gets what the first
/// one opened.
#[derive(Debug)]
pub(super) struct OncePerProcess<T> {
    opened: Mutex<Option<(PathBuf, T)>>,
}

impl<T: Clone> OncePerProcess<T> {
    pub(super) const fn new() -> Self {
        OncePerProcess {
            opened: Mutex::new(None),
        }
    }

    /// The library at `path`, opened by `open` if nobody has opened it. What `check` says of the file
    /// comes first: a file of no use is told from one that comes too late. What it found goes on to
    /// `open`.
    pub(super) fn open<C>(
        &self,
        path: &Path,
        check: impl FnOnce(&Path) -> Result<C, String>,
        open: impl FnOnce(&Path, C) -> Result<T, String>,
    ) -> Result<T, String> {
        let checked = check(path)?;
        // Held meanwhile: whoever comes second is to find what the first one opens.
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((known, library)) = &*opened else {
            let (_, library) = opened.insert((path.to_owned(), open(path, checked)?));
            return Ok(library.clone());
        };
        let whole = |path: &Path| path.canonicalize().ok();
        if known == path || (whole(path).is_some() && whole(path) == whole(known)) {
            return Ok(library.clone());
        }
        Err(format!(
            "this process has opened {} already, and cannot open another; restart it",
            known.display()
        ))
    }
}

/// Whether the file is a whole library. Of a bare name nothing is known: it is the system's to find.
pub(super) fn check_library(path: &Path) -> Result<(), String> {
    match path.components().count() {
        0 | 1 => Ok(()),
        _ => elf::check(path),
    }
}

/// Opens a shared library. The text of a failure leaves out an absolute path, which its reader knows;
/// a bare name stays, for [`system_has`].
pub(super) fn open_library(path: &Path) -> Result<libloading::Library, String> {
    check_library(path)?;
    #[expect(unsafe_code, reason = "opening a library runs its initialisers")]
    // SAFETY: the file is the one that the operator of the node installed or named as this library,
    // and is trusted as the node's own binary is.
    let opened = unsafe { libloading::Library::new(path) };
    opened.map_err(|error| {
        let text = one_line(&error);
        match text.strip_prefix(&format!("{}: ", path.display())) {
            Some(rest) if path.is_absolute() => rest.to_owned(),
            _ => text,
        }
    })
}
