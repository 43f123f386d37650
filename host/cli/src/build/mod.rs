//! Turns the folder of a predictor's crate into a WebAssembly component.
//!
//! Owns everything between `cargo` and the component's bytes: which standard library a guest is
//! compiled with (`standard_library`), the flags that make every crate build alike (`cargo`), and
//! the encoding of a core module. It knows nothing of `dunlin.yaml`, packages or nodes, and it
//! writes only to Cargo's target directory and to Dunlin's cache.

mod cargo;
mod compiler;
mod debian;
mod standard_library;
mod toolchain;

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use self::cargo::Crate;
pub use self::cargo::NotBuilt;
use self::compiler::Compiler;
pub use self::standard_library::StandardLibrary;
pub use self::toolchain::{Toolchain, ways_to_std};

/// What a guest is compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuestTarget {
    /// `wasm32-wasip2`: std with clock, randomness and stdout. What most crates expect.
    #[default]
    Wasip2,
    /// `wasm32-unknown-unknown`: nothing ambient at all. For the smallest predictors.
    Unknown,
}

impl GuestTarget {
    /// The name that rustc knows it by.
    pub fn triple(self) -> &'static str {
        match self {
            Self::Wasip2 => "wasm32-wasip2",
            Self::Unknown => "wasm32-unknown-unknown",
        }
    }
}

impl fmt::Display for GuestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.triple())
    }
}

impl FromStr for GuestTarget {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "wasm32-wasip2" => Ok(Self::Wasip2),
            "wasm32-unknown-unknown" => Ok(Self::Unknown),
            _ => bail!(
                "`{name}` is not a target for predictors; write wasm32-wasip2 or \
                 wasm32-unknown-unknown"
            ),
        }
    }
}

/// One guest to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestBuild {
    /// The folder with the predictor's `Cargo.toml`.
    pub dir: PathBuf,
    pub target: GuestTarget,
    /// Bytes for what the predictor keeps on its stack.
    pub stack: u64,
    /// Where Cargo builds. Without it: `guests` below the target directory that Cargo itself would
    /// use, so that guests share one standard library and a build of the host is left alone.
    pub target_dir: Option<PathBuf>,
}

impl GuestBuild {
    pub fn new(dir: impl Into<PathBuf>, target: GuestTarget, stack: u64) -> Self {
        Self {
            dir: dir.into(),
            target,
            stack,
            target_dir: None,
        }
    }
}

/// A finished guest.
#[derive(Debug, Clone)]
pub struct BuiltGuest {
    /// The component.
    pub component: Vec<u8>,
    /// The same bytes as a file in the target directory, until the next build of that crate.
    pub path: PathBuf,
    pub summary: BuildSummary,
}

/// What was built and how.
#[derive(Debug, Clone)]
pub struct BuildSummary {
    pub package: String,
    pub version: String,
    pub target: GuestTarget,
    /// Which standard library it was compiled with.
    pub standard_library: StandardLibrary,
    pub component_bytes: u64,
    pub took: Duration,
}

impl fmt::Display for BuildSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} for {}: {} KiB in {:.1} s, with the standard library {}",
            self.package,
            self.version,
            self.target,
            self.component_bytes.div_ceil(1024),
            self.took.as_secs_f64(),
            self.standard_library,
        )
    }
}

/// Compiles the crate and gives back a component. `progress` gets a line for each thing that is
/// done, Cargo's own among them; it is called on this thread.
pub fn build(guest: &GuestBuild, progress: &mut dyn FnMut(&str)) -> Result<BuiltGuest> {
    let started = Instant::now();
    let compiler = Compiler::find(&guest.dir)?;
    let the_crate = Crate::read(&guest.dir)?;
    let standard_library = standard_library::find(&compiler, guest.target, &guest.dir, progress)?;
    progress(&format!(
        "building {} for {}, with the standard library {standard_library}",
        the_crate.package, guest.target
    ));

    let target_dir = guest
        .target_dir
        .clone()
        .unwrap_or_else(|| the_crate.target_dir.join("guests"));
    let wasm = cargo::compile(&the_crate, guest, &standard_library, &target_dir, progress)?;
    let (component, path) = match guest.target {
        // rustc's linker for this target has made a component of it already.
        GuestTarget::Wasip2 => (
            fs::read(&wasm).with_context(|| format!("cannot read {}", wasm.display()))?,
            wasm,
        ),
        GuestTarget::Unknown => encode(&wasm)?,
    };
    if !is_component(&component) {
        bail!(
            "{} is a core module, not a component: this Rust toolchain's {} does not link \
             components; update it with `rustup update`",
            path.display(),
            guest.target
        );
    }

    Ok(BuiltGuest {
        summary: BuildSummary {
            package: the_crate.package,
            version: the_crate.version,
            target: guest.target,
            standard_library,
            component_bytes: component.len() as u64,
            took: started.elapsed(),
        },
        component,
        path,
    })
}

/// Makes a component of a core module and puts it beside it.
fn encode(wasm: &Path) -> Result<(Vec<u8>, PathBuf)> {
    let module = fs::read(wasm).with_context(|| format!("cannot read {}", wasm.display()))?;
    let component = wit_component::ComponentEncoder::default()
        .validate(true)
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .with_context(|| {
            format!(
                "{} does not become a component; a predictor's crate needs \
                 `dunlin_sdk::export!(YourType)` and no wasm import besides the SDK's",
                wasm.display()
            )
        })?;

    let path = wasm.with_extension("component.wasm");
    let dir = wasm.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(dir)
        .with_context(|| format!("cannot write to {}", dir.display()))?;
    file.write_all(&component)
        .and_then(|()| file.persist(&path).map(drop).map_err(|e| e.error))
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok((component, path))
}

/// Whether the preamble says component (layer 1) rather than core module (layer 0).
fn is_component(wasm: &[u8]) -> bool {
    wasm.starts_with(b"\0asm") && wasm.get(6..8) == Some(&[1, 0])
}
