//! Whether a component is a predictor: what it exports, and what it wants from the node.
//!
//! Only the top level of the binary is read. Whether the types behind the names fit is found out
//! when the node compiles and links the component.

use std::fmt;

use edge_config::Grants;
use wasmparser::{ComponentExternalKind, ComponentTypeRef, Encoding, Parser, Payload};

const HANDLER: &str = "dunlin:predictor/handler";
const TENSOR_HANDLER: &str = "dunlin:predictor/tensor-handler";
const NN_VERSION: &str = "0.2.0-rc-2024-10-28";

/// Imports of one component. The largest of the known guest languages has some forty.
const IMPORTS_MAX: usize = 256;

/// What a predictor is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// It serves tensors itself.
    pub tensor_handler: bool,
    /// It imports something of WASI besides `wasi:nn`.
    pub wasi: bool,
    /// The names, in the component's order.
    pub imports: Vec<String>,
}

/// Why a binary is no predictor, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorldError {
    #[error("it is not WebAssembly; give the .wasm file that the compiler made")]
    NotWasm,
    #[error(
        "it is a core module, not a component; build it for wasm32-wasip2, or let dunlin package \
         build it"
    )]
    CoreModule,
    #[error("its binary is damaged: {0}; build it again")]
    Malformed(String),
    #[error(
        "it does not export {HANDLER}@0.1; implement Predictor and export it with the SDK's macro"
    )]
    NoHandler,
    #[error("it exports {found}; this node has {HANDLER}@0.1: build it with a fitting SDK")]
    HandlerVersion { found: String },
    #[error("it has more than {IMPORTS_MAX} imports; build it with fewer features")]
    TooManyImports,
    /// All the imports that are refused.
    #[error("{}", Lines(.0))]
    Imports(Vec<ImportProblem>),
}

/// One import that is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportProblem {
    pub import: String,
    pub advice: String,
}

/// Looks at the top-level imports and exports of a binary.
pub fn check(component: &[u8], grants: &Grants) -> Result<World, WorldError> {
    let Externs { imports, exports } = read_externs(component)?;
    let problems: Vec<ImportProblem> = imports
        .iter()
        .filter_map(|import| {
            let advice = refuse_import(import, grants)?;
            Some(ImportProblem {
                import: import.name.clone(),
                advice,
            })
        })
        .collect();
    if !problems.is_empty() {
        return Err(WorldError::Imports(problems));
    }
    let mut handlers = exports
        .iter()
        .filter(|export| package_item(export) == HANDLER);
    if !handlers.clone().any(|export| is_interface_0_1(export)) {
        return Err(match handlers.next() {
            Some(found) => WorldError::HandlerVersion {
                found: found.clone(),
            },
            None => WorldError::NoHandler,
        });
    }
    Ok(World {
        tensor_handler: exports
            .iter()
            .any(|export| package_item(export) == TENSOR_HANDLER && is_interface_0_1(export)),
        wasi: imports
            .iter()
            .any(|import| import.name.starts_with("wasi:") && !import.name.starts_with("wasi:nn/")),
        imports: imports.into_iter().map(|import| import.name).collect(),
    })
}

/// What to do about an import; `None` where it is fine.
fn refuse_import(import: &Import, grants: &Grants) -> Option<String> {
    let name = import.name.as_str();
    let Some((package, item)) = package_item(name).split_once('/') else {
        return Some("it is no interface that a node has; remove it".to_owned());
    };
    if !import.is_instance {
        return Some("it is not imported as an interface; remove it".to_owned());
    }
    let version = version(name);
    let grant = |granted: bool, grant: &str| {
        (!granted).then(|| {
            format!("it was not granted; write {grant} into predictor.grants, or do without it")
        })
    };
    match (package, item) {
        (
            "dunlin:predictor",
            "types" | "logging" | "metrics" | "streaming" | "clock" | "random",
        ) => {
            if !is_interface_0_1(name) {
                return Some("this node has version 0.1; build it with a fitting SDK".to_owned());
            }
            match item {
                "clock" => grant(grants.clock, "clock"),
                "random" => grant(grants.random, "random"),
                _ => None,
            }
        }
        ("dunlin:predictor", _) => {
            Some("this node has no such interface; build it with a fitting SDK".to_owned())
        }
        ("wasi:nn", "tensor" | "graph" | "inference" | "errors") => (version != NN_VERSION)
            .then(|| format!("this node has wasi:nn@{NN_VERSION}; build it with that version")),
        ("wasi:cli" | "wasi:io" | "wasi:clocks" | "wasi:filesystem" | "wasi:random", _) => {
            (!is_release_of(version, "0.2."))
                .then(|| "this node has WASI 0.2; build it for wasm32-wasip2".to_owned())
        }
        ("wasi:http", _) => Some(
            "a predictor makes no HTTP requests; the caller or the payload brings the data".into(),
        ),
        ("wasi:sockets", _) => {
            Some("a predictor reaches no network; remove the crate that opens sockets".to_owned())
        }
        _ => Some("a node does not have it; remove what needs it".to_owned()),
    }
}

/// `a:b/c` of `a:b/c@1.2.3`.
fn package_item(name: &str) -> &str {
    name.split_once('@').map_or(name, |(item, _)| item)
}

fn version(name: &str) -> &str {
    name.split_once('@').map_or("", |(_, version)| version)
}

fn is_interface_0_1(name: &str) -> bool {
    is_release_of(version(name), "0.1.")
}

/// Whether the version is the line and a patch number: a pre-release promises nothing.
fn is_release_of(version: &str, line: &str) -> bool {
    version
        .strip_prefix(line)
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|digit| digit.is_ascii_digit()))
}

struct Externs {
    imports: Vec<Import>,
    /// The interfaces.
    exports: Vec<String>,
}

struct Import {
    name: String,
    is_instance: bool,
}

fn read_externs(binary: &[u8]) -> Result<Externs, WorldError> {
    if !binary.starts_with(b"\0asm") {
        return Err(WorldError::NotWasm);
    }
    let malformed = |error: wasmparser::BinaryReaderError| WorldError::Malformed(error.to_string());
    let mut externs = Externs {
        imports: Vec::new(),
        exports: Vec::new(),
    };
    let mut parser = Parser::new(0);
    let mut rest = binary;
    loop {
        let chunk = parser.parse(rest, true).map_err(malformed)?;
        let wasmparser::Chunk::Parsed { consumed, payload } = chunk else {
            return Err(WorldError::Malformed("it ends too early".to_owned()));
        };
        rest = &rest[consumed..];
        match payload {
            Payload::Version {
                encoding: Encoding::Module,
                ..
            } => {
                return Err(WorldError::CoreModule);
            }
            // What is inside has imports and exports of its own.
            Payload::ModuleSection {
                unchecked_range: range,
                ..
            }
            | Payload::ComponentSection {
                unchecked_range: range,
                ..
            } => {
                let inside = usize::try_from(range.end.saturating_sub(range.start))
                    .ok()
                    .filter(|len| *len <= rest.len())
                    .ok_or_else(|| WorldError::Malformed("it ends too early".to_owned()))?;
                rest = &rest[inside..];
            }
            Payload::ComponentImportSection(section) => {
                for import in section {
                    let import = import.map_err(malformed)?;
                    if externs.imports.len() == IMPORTS_MAX {
                        return Err(WorldError::TooManyImports);
                    }
                    externs.imports.push(Import {
                        name: import.name.full_name().into_owned(),
                        is_instance: matches!(import.ty, ComponentTypeRef::Instance(_)),
                    });
                }
            }
            Payload::ComponentExportSection(section) => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    if export.kind == ComponentExternalKind::Instance {
                        externs.exports.push(export.name.full_name().into_owned());
                    }
                }
            }
            Payload::End(_) => return Ok(externs),
            _ => {}
        }
    }
}

struct Lines<'a>(&'a [ImportProblem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            let separator = if at == 0 {
                "it imports"
            } else {
                "\nit imports"
            };
            write!(
                f,
                "{separator} {}: {}",
                problem.import.escape_debug(),
                problem.advice
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
