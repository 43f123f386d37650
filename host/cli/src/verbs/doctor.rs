//! `dunlin doctor`: whether this machine has what Dunlin needs, and what to run where it has not.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use edge_config::Node;
use rustix::fs::{Access, access};
use serde::Serialize;
use serde_json::json;

use super::backend::{Seen, configured, seen};
use super::serve::reachable;
use crate::backend::{Cxx, INSTALL_CXX, Pip, State, free_space};
use crate::build::{GuestTarget, Toolchain, ways_to_std};
use crate::cli::{Context, blocking};
use crate::exit::{Exit, Failure};
use crate::paths;
use crate::table::{Align, Table};

/// A node that takes longer to say what it is counts as something else.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A node with less space for packages and compiled predictors is of no use.
const FREE_MIN: u64 = 256 << 20;

/// Check whether this machine has what Dunlin needs
///
/// Looks for the compilers that predictors are built with, the backends, the data folder and the
/// ports of a node; each backend runs a small model. The exit code is 0 if all that is required is
/// there and nothing that is there is broken.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin doctor
  dunlin doctor --node --config /etc/dunlin/node.yaml
  dunlin doctor -o json | jq '.parts[] | select(.state != \"ok\")'")]
pub(crate) struct Args {
    /// The node's configuration; without it the defaults
    #[arg(short, long, value_name = "node.yaml")]
    config: Option<PathBuf>,

    /// The node's data folder [default: $XDG_DATA_HOME/dunlin]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// This machine only serves: what predictors are built with is optional
    #[arg(long)]
    node: bool,
}

/// Something that a machine has or has not.
#[derive(Debug, Serialize)]
struct Part {
    name: String,
    required: bool,
    state: Condition,
    version: Option<String>,
    path: Option<PathBuf>,
    /// In a sentence.
    found: String,
    /// What to do about it.
    next: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Condition {
    Ok,
    /// It is set up where it is first needed, by what this machine has.
    Later,
    Missing,
    /// It is there and of no use. Whoever put it there wants it to work: required or not.
    Broken,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let mut config = configured(args.config.as_deref())?;
    config.backends = paths::backends(config.backends)?;
    let data_dir = match args.data_dir.or_else(|| config.data_dir.clone()) {
        Some(data_dir) => data_dir,
        None => paths::data_dir()?,
    };
    let (building, fetching, backends, serving) = tokio::try_join!(
        blocking(move || Ok(build_parts(!args.node))),
        blocking(|| Ok([cxx_part(), pip_part()])),
        seen(&config.backends),
        serve_parts(&config, data_dir),
    )?;
    let mut parts = building;
    parts.extend(fetching);
    parts.extend(backends.iter().map(Part::of_backend));
    parts.extend(serving);
    let wrong: Vec<&str> = parts
        .iter()
        .filter(|part| part.is_wrong())
        .map(|part| part.name.as_str())
        .collect();

    if context.output.json() {
        let document = json!({"ready": wrong.is_empty(), "parts": parts});
        context.output.document(&document)?;
    } else {
        context.output.text(&shown(&parts, context))?;
    }
    if wrong.is_empty() {
        if !context.output.json() {
            context.output.say("all that is required is there");
        }
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("not in order: {}", wrong.join(", "))).documented())
}

fn shown(parts: &[Part], context: &Context) -> String {
    let columns = ["part", "need", "state", "found"].map(|name| (name, Align::Left));
    let mut table = Table::new(context.output.style(), &columns);
    for part in parts {
        table.row([
            part.name.clone(),
            match part.required {
                true => "required",
                false => "optional",
            }
            .to_owned(),
            part.state.name().to_owned(),
            part.found.clone(),
        ]);
    }
    let mut text = table.to_string();
    for part in parts {
        if let Some(next) = &part.next {
            text += &format!("\n{}: {next}", part.name);
        }
    }
    if !text.ends_with('\n') {
        text.push('\n');
    }
    text
}

impl Condition {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Later => "later",
            Self::Missing => "missing",
            Self::Broken => "broken",
        }
    }
}

impl Part {
    fn new(name: impl Into<String>, state: Condition, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            required: false,
            state,
            version: None,
            path: None,
            found: found.into(),
            next: None,
        }
    }

    fn required(mut self, required: bool) -> Self {
        self.required = required;
        self
    }

    fn version(mut self, version: impl Into<String>) -> Self {
        self.version = Some(version.into());
        self
    }

    fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    fn is_wrong(&self) -> bool {
        match self.state {
            Condition::Ok | Condition::Later => false,
            Condition::Missing => self.required,
            Condition::Broken => true,
        }
    }

    fn of_backend(seen: &Seen) -> Self {
        let mut part = match &seen.state {
            State::Ready { version, .. } => {
                let place = match (seen.path(), seen.found) {
                    (Some(path), Some(found)) => {
                        format!(": {} (by the {})", path.display(), found.name())
                    }
                    _ => ", embedded".to_owned(),
                };
                Self::new(
                    format!("backend {}", seen.name),
                    Condition::Ok,
                    format!("{version}, ran a model{place}"),
                )
                .version(version)
            }
            State::NotInstalled { looked_in } => {
                let looked_in: Vec<String> = looked_in
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect();
                Self::new(
                    format!("backend {}", seen.name),
                    Condition::Missing,
                    format!("not installed: no {}", looked_in.join(", no ")),
                )
            }
            State::Broken { reason, .. } => Self::new(
                format!("backend {}", seen.name),
                Condition::Broken,
                reason.clone(),
            ),
        };
        part.path = seen.path().map(Path::to_owned);
        part.next = seen.next();
        // A node has it whatever else it has.
        part.required(seen.name == "tract")
    }
}

fn build_parts(required: bool) -> Vec<Part> {
    const RUSTUP: &str = "install Rust with rustup: https://rustup.rs";
    let mut parts = Vec::new();
    let toolchain = Toolchain::find(Path::new("."));
    parts.push(match &toolchain {
        Ok(toolchain) => Part::new(
            "rust compiler",
            Condition::Ok,
            format!("{} ({})", toolchain.release(), toolchain.rustc().display()),
        )
        .version(toolchain.release())
        .path(toolchain.rustc()),
        Err(_) => Part::new("rust compiler", Condition::Missing, "no rustc").next(RUSTUP),
    });
    parts.push(match Toolchain::cargo() {
        Ok(version) => Part::new("cargo", Condition::Ok, version.clone()).version(version),
        Err(_) => Part::new("cargo", Condition::Missing, "no cargo").next(RUSTUP),
    });
    if let Ok(toolchain) = &toolchain {
        let targets = [GuestTarget::Wasip2, GuestTarget::Unknown];
        parts.extend(targets.map(|target| standard_library_part(toolchain, target)));
    }
    parts
        .into_iter()
        .map(|part| part.required(required))
        .collect()
}

fn standard_library_part(toolchain: &Toolchain, target: GuestTarget) -> Part {
    let name = format!("std for {target}");
    if let Some(library) = toolchain.standard_library(target) {
        return Part::new(name, Condition::Ok, library.to_string());
    }
    let next = format!("where rustup has a network: rustup target add {target}");
    match ways_to_std()[..] {
        [] => Part::new(name, Condition::Missing, "no rustup to add it with").next(next),
        ref ways => Part::new(
            name,
            Condition::Later,
            format!("the first build sets it up, by {}", ways.join(" or ")),
        )
        .next(next),
    }
}

fn cxx_part() -> Part {
    const NAME: &str = "c++ compiler";
    match Cxx::find() {
        Some(cxx) => Part::new(NAME, Condition::Ok, cxx.version.clone())
            .version(cxx.version)
            .path(cxx.program),
        None => Part::new(
            NAME,
            Condition::Missing,
            "none; it is needed to install the backend torchscript",
        )
        .next(INSTALL_CXX),
    }
}

fn pip_part() -> Part {
    const NAME: &str = "python with pip";
    match Pip::find() {
        Ok(pip) => Part::new(
            NAME,
            Condition::Ok,
            format!(
                "Python {}, pip {} ({})",
                pip.python_version,
                pip.version,
                pip.python.display()
            ),
        )
        .version(pip.version)
        .path(pip.python),
        Err(error) => Part::new(
            NAME,
            Condition::Missing,
            format!("{error}; it is needed to install backends"),
        )
        .next(error.next()),
    }
}

async fn serve_parts(config: &Node, data_dir: PathBuf) -> Result<Vec<Part>, Failure> {
    let (data, admin, mut parts) = tokio::try_join!(
        port_part(DATA, config.data.listen),
        port_part(ADMIN, config.admin.listen),
        blocking(move || Ok(data_dir_parts(&data_dir))),
    )?;
    parts.extend([data, admin]);
    Ok(parts.into_iter().map(|part| part.required(true)).collect())
}

/// Writes nothing: a folder that is not there yet is judged by the one it would be made in.
fn data_dir_parts(data_dir: &Path) -> Vec<Part> {
    let shown = data_dir.display();
    let Some(existing) = data_dir.ancestors().find(|dir| dir.exists()) else {
        return vec![Part::new(
            "data folder",
            Condition::Missing,
            format!("{shown}: no folder"),
        )];
    };
    let writable = match access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if existing.is_dir() => Ok(()),
        Ok(()) => Err(format!("{} is not a folder", existing.display())),
        Err(error) => Err(format!(
            "{} cannot be written: {}",
            existing.display(),
            io::Error::from(error)
        )),
    };
    let folder = match writable {
        Ok(()) if existing == data_dir => {
            Part::new("data folder", Condition::Ok, format!("{shown}, writable"))
        }
        Ok(()) => Part::new(
            "data folder",
            Condition::Ok,
            format!("{shown}, which the first start makes"),
        ),
        Err(why) => Part::new("data folder", Condition::Missing, why)
            .next("give a folder that is yours: --data-dir DIR, or data_dir in node.yaml"),
    };
    let space = free_space(existing).map(|free| {
        let text = format!("{} MiB free for {shown}", free >> 20);
        match free >= FREE_MIN {
            true => Part::new("disk", Condition::Ok, text),
            false => Part::new("disk", Condition::Missing, text).next(format!(
                "make at least {} MiB free, or give another folder: --data-dir DIR",
                FREE_MIN >> 20
            )),
        }
    });
    std::iter::once(folder.path(data_dir))
        .chain(space)
        .collect()
}

/// Listens for a moment where the node would.
async fn port_part(plane: Plane, address: SocketAddr) -> Result<Part, Failure> {
    let name = format!("port of the {} plane", plane.name);
    let next = format!(
        "stop what listens there, or give another address: {} ADDRESS",
        plane.flag
    );
    let error = match TcpListener::bind(address) {
        Ok(_) => return Ok(Part::new(name, Condition::Ok, format!("{address} is free"))),
        Err(error) => error,
    };
    if error.kind() != io::ErrorKind::AddrInUse {
        return Ok(Part::new(name, Condition::Missing, format!("{address}: {error}")).next(next));
    }
    Ok(match plane.answers_at(reachable(address)).await {
        true => Part::new(name, Condition::Ok, format!("{address}: a node is there")),
        false => Part::new(
            name,
            Condition::Missing,
            format!("{address} is used by something that is no node"),
        )
        .next(next),
    })
}

/// How a node's side is known.
#[derive(Debug, Clone, Copy)]
struct Plane {
    name: &'static str,
    /// The flag of `dunlin serve` with its address.
    flag: &'static str,
    path: &'static str,
    /// Stands in what a node answers there to anybody.
    mark: &'static str,
}

const DATA: Plane = Plane {
    name: "data",
    flag: "--listen",
    path: "/v2",
    mark: "\"dunlin\"",
};
const ADMIN: Plane = Plane {
    name: "admin",
    flag: "--admin-listen",
    path: "/metrics",
    mark: "dunlin_",
};

impl Plane {
    async fn answers_at(self, address: SocketAddr) -> bool {
        let answer = async {
            let client = reqwest::Client::builder().no_proxy().build().ok()?;
            let url = format!("http://{address}{}", self.path);
            let answer = client.get(url).send().await.ok()?;
            answer.text().await.ok()
        };
        let answer = tokio::time::timeout(WAIT_MAX, answer).await;
        answer.is_ok_and(|text| text.is_some_and(|text| text.contains(self.mark)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_required_or_broken_is_wrong() {
        for (state, required, wrong) in [
            (Condition::Ok, true, false),
            (Condition::Later, true, false),
            (Condition::Missing, false, false),
            (Condition::Missing, true, true),
            (Condition::Broken, false, true),
        ] {
            let part = Part::new("part", state, "").required(required);
            assert_eq!(part.is_wrong(), wrong, "{part:?}");
        }
    }

    #[test]
    fn a_data_folder_is_judged_without_making_it() {
        let dir = tempfile::tempdir().unwrap();
        let states = |path: &Path| data_dir_parts(path)[0].state;
        assert_eq!(states(dir.path()), Condition::Ok);
        let absent = dir.path().join("a/b");
        assert_eq!(states(&absent), Condition::Ok);
        assert!(!absent.exists());
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(states(&file), Condition::Missing);
        assert_eq!(states(&file.join("below")), Condition::Missing);
    }

    #[tokio::test]
    async fn a_port_is_free_or_somebody_elses() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        // It takes the connection and never answers.
        let part = port_part(DATA, address).await.unwrap();
        assert_eq!(part.state, Condition::Missing, "{part:?}");
        drop(taken);
        let part = port_part(DATA, address).await.unwrap();
        assert_eq!(part.state, Condition::Ok, "{part:?}");
    }
}
