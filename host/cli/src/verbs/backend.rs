//! `dunlin backend`: the native engines of this machine.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;
use edge_config::{Backends, Node};
use serde_json::{Value, json};

use crate::backend::{
    Found, Installation, Manifest, Native, Outcome, Probe, State, answer, remove, shown,
    smoke_tract, try_out,
};
use crate::cli::{Context, blocking, confirmed};
use crate::exit::{Exit, Failure};
use crate::paths;
use crate::progress::Steps;
use crate::project::config_failure;
use crate::table::{Align, Table};

/// Install, list and remove native backends
///
/// A node runs ONNX models with tract, which is part of it. ONNX Runtime is faster, and TorchScript
/// models need libtorch: both are installed with this, into a folder of the user.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin backend list
  dunlin backend install onnxruntime
  dunlin backend install onnxruntime torchscript --folder /var/lib/dunlin/backends
  dunlin backend remove torchscript")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Install(Install),
    List(List),
    Remove(Remove),
    #[command(hide = true)]
    Probe(ProbeArgs),
}

/// Fetch backends with this machine's pip, and put them where a node finds them
///
/// Versions and hashes are pinned. Of torchscript a small part is compiled, which needs a C++
/// compiler. What is there and works is left alone; an installation that is interrupted leaves
/// nothing, and fetches no file twice.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin backend install onnxruntime
  dunlin backend install onnxruntime torchscript
  dunlin backend install onnxruntime --force
  PIP_INDEX_URL=https://pypi.example/simple dunlin backend install torchscript")]
struct Install {
    /// The backends
    #[arg(required = true, value_enum, value_name = "BACKEND")]
    backends: Vec<Native>,

    /// Install also what is there and works
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    place: Place,
}

/// List the backends: which there are, where each was found, and whether it works
///
/// Each is opened and runs a small model.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin backend list
  dunlin backend list --config /etc/dunlin/node.yaml
  dunlin backend list -o json | jq -r '.backends[] | select(.state == \"ready\").name'")]
struct List {
    #[command(flatten)]
    place: Place,
}

/// Remove a backend from the backend folder
///
/// A node that has it open keeps it until it ends.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin backend remove torchscript
  dunlin backend remove onnxruntime -y        # without asking, as in a script")]
struct Remove {
    /// The backend
    #[arg(value_enum, value_name = "BACKEND")]
    backend: Native,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    place: Place,
}

/// Opens a backend in this process, which it may end: `try_out` runs it.
#[derive(Debug, clap::Args)]
struct ProbeArgs {
    #[arg(value_enum)]
    backend: Native,
    #[arg(long)]
    library: Option<PathBuf>,
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// Where a node looks.
#[derive(Debug, clap::Args)]
struct Place {
    /// The node's configuration, where it says where backends are
    #[arg(short, long, value_name = "node.yaml")]
    config: Option<PathBuf>,

    /// The backend folder [default: $DUNLIN_BACKENDS, or $XDG_DATA_HOME/dunlin/backends]
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Place {
    /// As the node will, but for a folder that was given here.
    fn backends(&self) -> Result<Backends, Failure> {
        let backends = configured(self.config.as_deref())?.backends;
        match &self.folder {
            None => paths::backends(backends),
            Some(folder) => Ok(Backends {
                folder: Some(paths::absolute(folder)?),
                ..paths::backends(backends)?
            }),
        }
    }

    fn folder(&self) -> Result<PathBuf, Failure> {
        let folder = self.backends()?.folder.unwrap_or_default();
        paths::absolute(&folder)
    }
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    match args.command {
        Command::Install(args) => install(args, context).await,
        Command::List(args) => list(&args, context).await,
        Command::Remove(args) => remove_one(args, context).await,
        Command::Probe(args) => context.output.line(&answer(&Probe {
            native: args.backend,
            library: args.library,
            folder: args.folder,
        })),
    }
}

/// The node's configuration; the defaults where none is named.
pub(super) fn configured(config: Option<&Path>) -> Result<Node, Failure> {
    match config {
        Some(path) => Node::read(path).map_err(|error| config_failure(path, &error)),
        None => Ok(Node::default()),
    }
}

async fn install(args: Install, context: &Context) -> Result<(), Failure> {
    let folder = args.place.folder()?;
    let backends = paths::backends(configured(args.place.config.as_deref())?.backends)?;
    let mut natives = args.backends;
    natives.sort_unstable();
    natives.dedup();
    let mut documents = Vec::new();
    for native in natives {
        let installation = Installation {
            folder: folder.clone(),
            force: args.force,
            steps: Steps::new(context.output),
            interrupted: Arc::clone(&context.interrupted),
        };
        let outcome = blocking(move || installation.install(native)).await?;
        documents.push(document_of(&outcome));
        if !context.output.json() {
            context.output.text(&told(&outcome))?;
        }
        if let Some(hint) = not_used(native, &folder, &backends) {
            context.output.say(&hint);
        }
    }
    if context.output.json() {
        return context
            .output
            .document(&json!({"folder": folder, "backends": documents}));
    }
    Ok(())
}

fn document_of(outcome: &Outcome) -> Value {
    json!({
        "name": outcome.native.name(),
        "version": outcome.version,
        "path": outcome.path,
        "installed": outcome.installed,
    })
}

fn told(outcome: &Outcome) -> String {
    let Outcome {
        native,
        version,
        path,
        installed,
    } = outcome;
    let path = path.display();
    match installed {
        true => format!("installed {native} {version}: {path}\n"),
        false => format!("{native} {version} is in place and works: {path}\n"),
    }
}

/// Why a node with these settings uses something else than what was installed.
fn not_used(native: Native, folder: &Path, backends: &Backends) -> Option<String> {
    let probe = Probe::of(native, backends);
    match probe.found() {
        Found::Environment => Some(format!(
            "a node uses another {native}: {} is set to {}",
            native.variable(),
            shown(probe.library.as_deref())
        )),
        Found::Setting => Some(format!(
            "a node uses another {native}: its configuration names {}",
            shown(probe.library.as_deref())
        )),
        _ if probe.folder.as_deref() != Some(folder) => Some(format!(
            "a node finds it with DUNLIN_BACKENDS={}, or with backends.folder in node.yaml",
            folder.display()
        )),
        _ => None,
    }
}

async fn list(args: &List, context: &Context) -> Result<(), Failure> {
    let backends = args.place.backends()?;
    let [tract, onnxruntime, torchscript] = seen(&backends).await?;
    let all = [tract, onnxruntime, torchscript];
    if context.output.json() {
        let documents: Vec<Value> = all.iter().map(Seen::document).collect();
        return context
            .output
            .document(&json!({"folder": backends.folder, "backends": documents}));
    }
    let columns = ["name", "state", "version", "found", "path"].map(|name| (name, Align::Left));
    let mut table = Table::new(context.output.style(), &columns);
    for seen in &all {
        table.row([
            seen.name.to_owned(),
            seen.state_name().replace('_', " "),
            seen.version().unwrap_or_default().to_owned(),
            seen.found.map_or("", Found::name).to_owned(),
            shown(seen.path()),
        ]);
    }
    context.output.text(&table.to_string())?;
    for seen in &all {
        if let State::Broken { reason, .. } = &seen.state {
            context.output.say(&format!("{}: {reason}", seen.name));
        }
        if let Some(next) = seen.next() {
            context.output.say(&format!("{}: {next}", seen.name));
        }
    }
    Ok(())
}

async fn remove_one(args: Remove, context: &Context) -> Result<(), Failure> {
    let native = args.backend;
    let folder = args.place.folder()?;
    if !args.yes {
        let question = format!("Remove {native} from {}? [y/N] ", folder.display());
        if !confirmed(question, "remove").await? {
            return Err(Failure::new(
                Exit::Failed,
                format!("{native} was not removed"),
            ));
        }
    }
    let version = Manifest::read(&folder, native).map(|manifest| manifest.version);
    let removed = {
        let folder = folder.clone();
        blocking(move || remove(&folder, native)).await?
    };
    if !removed {
        return Err(Failure::new(
            Exit::NotFound,
            format!("{native} is not installed in {}", folder.display()),
        )
        .next("see which there are: dunlin backend list"));
    }
    if context.output.json() {
        return context.output.document(&json!({
            "name": native.name(),
            "version": version,
            "removed": true,
        }));
    }
    let version = version.map_or_else(String::new, |version| format!(" {version}"));
    context.output.text(&format!("removed {native}{version}\n"))
}

/// A backend as it was found, having run a model if it could.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) name: &'static str,
    pub(super) state: State,
    /// None: it was not.
    pub(super) found: Option<Found>,
    native: Option<Native>,
}

/// tract, then the native ones.
pub(super) async fn seen(backends: &Backends) -> Result<[Seen; 3], Failure> {
    let native = |native: Native| {
        let probe = Probe::of(native, backends);
        blocking(move || {
            let state = try_out(&probe);
            Ok(Seen {
                name: native.name(),
                found: match &state {
                    State::NotInstalled { .. } => None,
                    _ => Some(probe.found()),
                },
                state,
                native: Some(native),
            })
        })
    };
    let [onnxruntime, torchscript] = Native::ALL.map(native);
    let tract = blocking(|| {
        let state = match smoke_tract() {
            Ok(version) => State::Ready {
                path: PathBuf::new(),
                version,
            },
            Err(error) => State::Broken {
                path: None,
                reason: format!("{error:#}"),
            },
        };
        Ok(Seen {
            name: "tract",
            state,
            found: Some(Found::Embedded),
            native: None,
        })
    });
    let (tract, onnxruntime, torchscript) = tokio::try_join!(tract, onnxruntime, torchscript)?;
    Ok([tract, onnxruntime, torchscript])
}

impl Seen {
    fn state_name(&self) -> &'static str {
        match self.state {
            State::Ready { .. } => "ready",
            State::NotInstalled { .. } => "not_installed",
            State::Broken { .. } => "broken",
        }
    }

    pub(super) fn version(&self) -> Option<&str> {
        match &self.state {
            State::Ready { version, .. } => Some(version),
            _ => None,
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        let path = match &self.state {
            State::Ready { path, .. } => Some(path.as_path()),
            State::Broken { path, .. } => path.as_deref(),
            State::NotInstalled { .. } => None,
        };
        path.filter(|path| !path.as_os_str().is_empty())
    }

    /// What to do about it.
    pub(super) fn next(&self) -> Option<String> {
        let native = self.native?;
        match (&self.state, self.found) {
            (State::Ready { .. }, _) => None,
            (State::Broken { .. }, Some(Found::Environment)) => Some(format!(
                "name a library that works, or none: {}",
                native.variable()
            )),
            (State::Broken { .. }, Some(Found::Setting)) => Some(format!(
                "name a library that works, or none: backends.{native} in node.yaml"
            )),
            _ => Some(format!("run `dunlin backend install {native}`")),
        }
    }

    fn document(&self) -> Value {
        let (reason, looked_in) = match &self.state {
            State::Broken { reason, .. } => (Some(reason), None),
            State::NotInstalled { looked_in } => (None, Some(looked_in)),
            State::Ready { .. } => (None, None),
        };
        json!({
            "name": self.name,
            "state": self.state_name(),
            "version": self.version(),
            "found": self.found,
            "path": self.path(),
            "reason": reason,
            "looked_in": looked_in,
            "next": self.next(),
        })
    }
}
