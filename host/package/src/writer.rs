//! A package from what an author has: the deployment file, the predictor and the models.
//!
//! The same files give the same bytes, on every machine: nothing of a clock, a user or a folder's
//! order goes in.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read, Write};
use std::path::{Path, PathBuf};

use edge_config::{ConfigError, Deployment, Model, PackagePath};
use tar::{Builder, EntryType, Header};

use crate::digest::{Digest, Hasher};
use crate::manifest::{
    ARTIFACT_TYPE, Blob, CONFIG_TYPE, Descriptor, INDEX_TYPE, Index, LAYOUT_VERSION, LayerKind,
    Layout, MANIFEST_TYPE, Manifest, PREDICTOR_TITLE,
};
use crate::onnx::{self, OnnxError};
use crate::world::{self, WorldError};

/// What a package is made of.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The text of the deployment file.
    pub yaml: &'a str,
    /// What messages call that file.
    pub origin: &'a str,
    /// The folder that its paths start from.
    pub base: &'a Path,
    /// The compiled predictor, where the deployment file has one.
    pub predictor: Option<&'a [u8]>,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct PackageSummary {
    /// The package's digest.
    pub digest: Digest,
    /// By path.
    pub files: Vec<Blob>,
    /// Of the archive.
    pub bytes: u64,
}

/// Why no package was written, or only a part of one.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the deployment file is wrong")]
    Config(#[from] ConfigError),
    #[error("the compiled predictor is not one that a node runs")]
    World(#[from] WorldError),
    #[error("cannot read {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file does not have the form it must have.
    #[error("{}: {message}", path.display())]
    Invalid { path: PathBuf, message: String },
    #[error("{} changed while it was packaged; try again", path.display())]
    Changed { path: PathBuf },
    #[error("cannot write the package")]
    Output(#[source] io::Error),
}

/// Writes a package archive. After an error what was written so far is no package.
pub fn write(source: &Source<'_>, out: impl Write) -> Result<PackageSummary, WriteError> {
    let deployment = Deployment::parse(source.yaml, source.origin)?;
    let yaml = Deployment::with_predictor_path(source.yaml, source.origin, PREDICTOR_TITLE)?;
    let layers = find_layers(source, &deployment)?;

    let manifest = to_json(&Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST_TYPE.to_owned()),
        artifact_type: Some(ARTIFACT_TYPE.to_owned()),
        config: Descriptor::new(CONFIG_TYPE, yaml.as_bytes()),
        layers: layers
            .values()
            .map(|layer| Descriptor::of_layer(&layer.blob))
            .collect(),
    });
    let mut descriptor = Descriptor::new(MANIFEST_TYPE, &manifest);
    descriptor.artifact_type = Some(ARTIFACT_TYPE.to_owned());
    let digest = descriptor.digest;
    let index = to_json(&Index {
        schema_version: 2,
        media_type: Some(INDEX_TYPE.to_owned()),
        manifests: vec![descriptor],
    });
    let layout = to_json(&Layout {
        image_layout_version: LAYOUT_VERSION.to_owned(),
    });

    // By digest, so that files with the same content are one blob.
    let mut blobs: BTreeMap<Digest, Content<'_>> = layers
        .values()
        .map(|layer| (layer.blob.digest, layer.content.clone()))
        .collect();
    blobs.insert(digest, Content::Bytes(&manifest));
    blobs.insert(Digest::of(yaml.as_bytes()), Content::Bytes(yaml.as_bytes()));

    let mut archive = Builder::new(Counting {
        inner: out,
        written: 0,
    });
    for (digest, content) in &blobs {
        append_blob(&mut archive, digest, content)?;
    }
    append(&mut archive, "index.json", index.len() as u64, &*index)?;
    append(&mut archive, "oci-layout", layout.len() as u64, &*layout)?;
    let mut out = archive.into_inner().map_err(WriteError::Output)?;
    out.flush().map_err(WriteError::Output)?;
    Ok(PackageSummary {
        digest,
        bytes: out.written,
        files: layers.into_values().map(|layer| layer.blob).collect(),
    })
}

struct Layer<'a> {
    blob: Blob,
    content: Content<'a>,
}

#[derive(Clone)]
enum Content<'a> {
    Bytes(&'a [u8]),
    File(PathBuf),
}

/// Every file that belongs into the package, by its path there.
fn find_layers<'a>(
    source: &Source<'a>,
    deployment: &Deployment,
) -> Result<BTreeMap<PackagePath, Layer<'a>>, WriteError> {
    let mut layers = BTreeMap::new();
    match (&deployment.predictor, source.predictor) {
        (Some(predictor), Some(component)) => {
            world::check(component, &predictor.grants)?;
            let title = PREDICTOR_TITLE
                .parse::<PackagePath>()
                .expect("the title is a path");
            let blob = Blob {
                digest: Digest::of(component),
                size: component.len() as u64,
                kind: LayerKind::Predictor,
                title: title.clone(),
            };
            layers.insert(
                title,
                Layer {
                    blob,
                    content: Content::Bytes(component),
                },
            );
        }
        (None, None) => {}
        (Some(_), None) => return Err(invalid(source.origin, "its predictor was not compiled")),
        (None, Some(_)) => {
            return Err(invalid(
                source.origin,
                "it has no predictor.path, and one was compiled",
            ));
        }
    }
    for model in &deployment.models {
        add_file(&mut layers, source.base, &model.path, LayerKind::Weights)?;
        for file in external_files(source.base, model)? {
            add_file(&mut layers, source.base, &file, LayerKind::Weights)?;
        }
        if let Some(golden) = &model.golden {
            add_file(&mut layers, source.base, golden, LayerKind::Golden)?;
        }
    }
    Ok(layers)
}

fn add_file(
    layers: &mut BTreeMap<PackagePath, Layer<'_>>,
    base: &Path,
    title: &PackagePath,
    kind: LayerKind,
) -> Result<(), WriteError> {
    let path = base.join(AsRef::<Path>::as_ref(title));
    if let Some(known) = layers.get(title) {
        // Two models may share a file, as when two backends are compared.
        if known.blob.kind == kind {
            return Ok(());
        }
        return Err(invalid(
            path,
            "is two things in one package; give one another path",
        ));
    }
    let (digest, size) = hash_file(&path)?;
    let blob = Blob {
        digest,
        size,
        kind,
        title: title.clone(),
    };
    layers.insert(
        title.clone(),
        Layer {
            blob,
            content: Content::File(path),
        },
    );
    Ok(())
}

fn hash_file(path: &Path) -> Result<(Digest, u64), WriteError> {
    let fail = |source| WriteError::File {
        path: path.to_owned(),
        source,
    };
    let file = open(path)?;
    let mut hashing = Hashing {
        inner: file,
        hasher: Hasher::default(),
    };
    io::copy(&mut hashing, &mut io::sink()).map_err(fail)?;
    Ok(hashing.hasher.finish())
}

/// A pipe or a device would be read until it ends, which may be never.
fn open(path: &Path) -> Result<File, WriteError> {
    let fail = |source| WriteError::File {
        path: path.to_owned(),
        source,
    };
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(invalid(path, "is not a file"));
    }
    File::open(path).map_err(fail)
}

fn external_files(base: &Path, model: &Model) -> Result<Vec<PackagePath>, WriteError> {
    if !onnx::is_format_of(model) {
        return Ok(Vec::new());
    }
    let path = base.join(AsRef::<Path>::as_ref(&model.path));
    let locations = onnx::external_locations(open(&path)?).map_err(|error| match error {
        OnnxError::Io(source) => WriteError::File {
            path: path.clone(),
            source,
        },
        OnnxError::Malformed(message) => invalid(path.clone(), message),
    })?;
    locations
        .into_iter()
        .map(|location| {
            model.path.sibling(&location).map_err(|error| {
                invalid(
                    path.clone(),
                    format!("keeps weights in {location:?}, which {error}"),
                )
            })
        })
        .collect()
}

fn append_blob<W: Write>(
    archive: &mut Builder<W>,
    digest: &Digest,
    content: &Content<'_>,
) -> Result<(), WriteError> {
    let name = format!("blobs/sha256/{}", digest.as_hex());
    match content {
        Content::Bytes(bytes) => append(archive, &name, bytes.len() as u64, Cursor::new(bytes)),
        Content::File(path) => {
            let file = open(path)?;
            let size = file
                .metadata()
                .map_err(|source| WriteError::File {
                    path: path.clone(),
                    source,
                })?
                .len();
            let mut hashing = Hashing {
                inner: file.take(size),
                hasher: Hasher::default(),
            };
            append(archive, &name, size, &mut hashing)?;
            let (found, _) = hashing.hasher.finish();
            if found != *digest {
                return Err(WriteError::Changed { path: path.clone() });
            }
            Ok(())
        }
    }
}

fn append<W: Write>(
    archive: &mut Builder<W>,
    name: &str,
    size: u64,
    content: impl Read,
) -> Result<(), WriteError> {
    let mut header = Header::new_gnu();
    header.set_path(name).map_err(WriteError::Output)?;
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header.set_cksum();
    archive.append(&header, content).map_err(WriteError::Output)
}

fn to_json<T: serde::Serialize>(document: &T) -> Vec<u8> {
    serde_json::to_vec(document).expect("texts and numbers are always JSON")
}

fn invalid(path: impl Into<PathBuf>, message: impl Into<String>) -> WriteError {
    WriteError::Invalid {
        path: path.into(),
        message: message.into(),
    }
}

struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        Ok(read)
    }
}

struct Counting<W> {
    inner: W,
    written: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests;
