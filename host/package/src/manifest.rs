//! The OCI documents of a package, and what they mean together.
//!
//! OCI Image Format Specification 1.1: image layout, index, manifest and descriptor. The media type
//! of a model's weights is CNCF ModelPack's.

use std::collections::BTreeMap;
use std::path::Path;

use edge_config::{Deployment, PackagePath};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::PackageError;
use crate::store::Pin;

pub(crate) const ARTIFACT_TYPE: &str = "application/vnd.dunlin.package.v1";
pub(crate) const CONFIG_TYPE: &str = "application/vnd.dunlin.deployment.v1+yaml";
pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const LAYOUT_VERSION: &str = "1.0.0";
const TITLE: &str = "org.opencontainers.image.title";

/// What the deployment file is called in messages: it travels without a name.
pub(crate) const CONFIG_ORIGIN: &str = "dunlin.yaml in the package";

/// What a predictor is called in every package.
pub const PREDICTOR_TITLE: &str = "predictor.wasm";

/// The largest manifest or deployment file. Registries refuse manifests beyond 4 MiB.
pub(crate) const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// A package whose parts are known and fit together.
///
/// While one that came from a [`crate::Store`] is in memory, the store keeps its blobs, whoever
/// else refers to them.
#[derive(Debug, Clone)]
pub struct Package {
    digest: Digest,
    deployment: Deployment,
    manifest: Descriptor,
    config: Descriptor,
    layers: BTreeMap<PackagePath, Blob>,
    pub(crate) pin: Option<Pin>,
}

/// A file of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    pub kind: LayerKind,
    /// The file's path in the package.
    pub title: PackagePath,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerKind {
    Predictor,
    /// A model, or what a model keeps in a file of its own.
    Weights,
    Golden,
}

impl LayerKind {
    const ALL: [(&'static str, Self); 3] = [
        ("application/wasm", Self::Predictor),
        ("application/vnd.cncf.model.weight.v1.raw", Self::Weights),
        ("application/vnd.dunlin.golden.v1+safetensors", Self::Golden),
    ];

    pub fn media_type(self) -> &'static str {
        Self::ALL[self as usize].0
    }
}

impl Package {
    /// The digest of the manifest, which names everything else.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    pub fn deployment(&self) -> &Deployment {
        &self.deployment
    }

    pub fn predictor(&self) -> Option<&Blob> {
        self.file(PREDICTOR_TITLE)
            .filter(|blob| blob.kind == LayerKind::Predictor)
    }

    /// The file with this path, such as a model's.
    pub fn file(&self, path: &str) -> Option<&Blob> {
        self.layers.get(path)
    }

    /// All files, by path.
    pub fn files(&self) -> impl Iterator<Item = &Blob> {
        self.layers.values()
    }

    /// The bytes of all files and documents together.
    pub fn size(&self) -> u64 {
        self.blobs()
            .map(|(_, size)| size)
            .fold(0, u64::saturating_add)
    }

    /// Every blob once or more, with its size; the manifest last.
    pub(crate) fn blobs(&self) -> impl Iterator<Item = (Digest, u64)> {
        let layers = self.layers.values().map(|blob| (blob.digest, blob.size));
        let documents = [&self.config, &self.manifest];
        layers.chain(documents.map(|document| (document.digest, document.size)))
    }

    /// Makes a package of its manifest and the deployment file that the manifest names, and checks
    /// that the two agree. What the layers hold is not looked at.
    pub(crate) fn resolve(
        manifest_bytes: &[u8],
        read_config: impl FnOnce(&Descriptor) -> Result<Vec<u8>, PackageError>,
    ) -> Result<Self, PackageError> {
        let manifest = Manifest::parse(manifest_bytes)?;
        let layers = read_layers(&manifest)?;
        let config = read_config(&manifest.config)?;
        let config = String::from_utf8(config)
            .map_err(|_| PackageError::invalid(CONFIG_ORIGIN, "is not UTF-8"))?;
        let deployment = Deployment::parse(&config, CONFIG_ORIGIN).map_err(PackageError::Config)?;
        check_agreement(&deployment, &layers)?;
        Ok(Self {
            digest: Digest::of(manifest_bytes),
            deployment,
            manifest: Descriptor::new(MANIFEST_TYPE, manifest_bytes),
            config: manifest.config,
            layers,
            pin: None,
        })
    }
}

fn read_layers(manifest: &Manifest) -> Result<BTreeMap<PackagePath, Blob>, PackageError> {
    let refuse = |message: String| Err(PackageError::invalid("manifest", message));
    let mut layers = BTreeMap::new();
    for layer in &manifest.layers {
        let Some(written) = layer.annotations.get(TITLE) else {
            return refuse(format!("layer {} has no annotation {TITLE}", layer.digest));
        };
        let title = match written.parse::<PackagePath>() {
            // Another spelling of a path would let two layers claim one file.
            Ok(title) if title.as_str() == written => title,
            Ok(title) => return refuse(format!("title {written:?} is not written as {title}")),
            Err(error) => return refuse(format!("title {written:?} {error}")),
        };
        let Some((_, kind)) = LayerKind::ALL
            .iter()
            .find(|(name, _)| *name == layer.media_type)
        else {
            return refuse(format!(
                "{title} has the unknown media type {:?}",
                layer.media_type
            ));
        };
        let blob = Blob {
            digest: layer.digest,
            size: layer.size,
            kind: *kind,
            title: title.clone(),
        };
        if layers.insert(title, blob).is_some() {
            return refuse(format!("{written} is there twice"));
        }
    }
    // A file and a folder of one name cannot be laid out on a disk.
    for title in layers.keys() {
        let path: &Path = title.as_ref();
        let mut folders = path.ancestors().skip(1).filter_map(Path::to_str);
        if let Some(folder) = folders.find(|folder| layers.contains_key(*folder)) {
            return refuse(format!("{folder} is a file, and {title} is below it"));
        }
    }
    Ok(layers)
}

/// The deployment file and the layers name the same things.
fn check_agreement(
    deployment: &Deployment,
    layers: &BTreeMap<PackagePath, Blob>,
) -> Result<(), PackageError> {
    let refuse = |message: String| Err(PackageError::invalid(CONFIG_ORIGIN, message));
    let has = |title: &str, kind| layers.get(title).is_some_and(|blob| blob.kind == kind);

    match &deployment.predictor {
        Some(predictor) if predictor.path != Path::new(PREDICTOR_TITLE) => {
            return refuse(format!(
                "predictor.path is {}; in a package it is {PREDICTOR_TITLE}",
                predictor.path.display()
            ));
        }
        Some(_) if !has(PREDICTOR_TITLE, LayerKind::Predictor) => {
            return refuse(format!("{PREDICTOR_TITLE} is not in the package"));
        }
        Some(_) | None => {}
    }
    for model in &deployment.models {
        if !has(model.path.as_str(), LayerKind::Weights) {
            let (name, path) = (&model.name, &model.path);
            return refuse(format!(
                "model {name}: {path} is not among the package's models"
            ));
        }
        if let Some(golden) = &model.golden
            && !has(golden.as_str(), LayerKind::Golden)
        {
            let name = &model.name;
            return refuse(format!(
                "model {name}: {golden} is not among the golden samples"
            ));
        }
    }
    for blob in layers.values() {
        let named = match blob.kind {
            LayerKind::Predictor => {
                deployment.predictor.is_some() && blob.title.as_str() == PREDICTOR_TITLE
            }
            LayerKind::Golden => deployment
                .models
                .iter()
                .any(|model| model.golden.as_ref() == Some(&blob.title)),
            // Or what a model refers to: only the model's bytes tell.
            LayerKind::Weights => true,
        };
        if !named {
            return refuse(format!(
                "{} is in the package and not named here",
                blob.title
            ));
        }
    }
    Ok(())
}

/// `oci-layout`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Layout {
    pub(crate) image_layout_version: String,
}

/// `index.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    pub(crate) fn of_layer(blob: &Blob) -> Self {
        Self {
            media_type: blob.kind.media_type().to_owned(),
            digest: blob.digest,
            size: blob.size,
            artifact_type: None,
            annotations: BTreeMap::from([(TITLE.to_owned(), blob.title.to_string())]),
        }
    }
}

/// The one manifest that `oci-layout` and `index.json` lead to.
pub(crate) fn find_manifest(layout: &[u8], index: &[u8]) -> Result<Descriptor, PackageError> {
    let layout: Layout = parse_json("oci-layout", layout)?;
    if layout.image_layout_version != LAYOUT_VERSION {
        let message = format!(
            "has version {:?}; a package has {LAYOUT_VERSION}",
            layout.image_layout_version
        );
        return Err(PackageError::invalid("oci-layout", message));
    }
    let index: Index = parse_json("index.json", index)?;
    let refuse = |message: String| Err(PackageError::invalid("index.json", message));
    if index.schema_version != 2 || index.media_type.is_some_and(|is| is != INDEX_TYPE) {
        return refuse("is not an OCI image index".to_owned());
    }
    let count = index.manifests.len();
    let Ok([manifest]) = <[Descriptor; 1]>::try_from(index.manifests) else {
        return refuse(format!("has {count} manifests; a package has one"));
    };
    if manifest.media_type != MANIFEST_TYPE {
        return refuse(format!(
            "names a {:?}; a package has a manifest",
            manifest.media_type
        ));
    }
    Ok(manifest)
}

impl Manifest {
    fn parse(bytes: &[u8]) -> Result<Self, PackageError> {
        let manifest: Self = parse_json("manifest", bytes)?;
        let refuse = |message: String| Err(PackageError::invalid("manifest", message));
        if manifest.schema_version != 2
            || manifest
                .media_type
                .as_deref()
                .is_some_and(|is| is != MANIFEST_TYPE)
        {
            return refuse("is not an OCI image manifest".to_owned());
        }
        if manifest.artifact_type.as_deref() != Some(ARTIFACT_TYPE) {
            let found = manifest.artifact_type.as_deref().unwrap_or("nothing");
            return refuse(format!(
                "is of {found:?}, not a Dunlin package ({ARTIFACT_TYPE}); make it with dunlin package"
            ));
        }
        if manifest.config.media_type != CONFIG_TYPE {
            let found = &manifest.config.media_type;
            return refuse(format!(
                "has a configuration of {found:?}, not of {CONFIG_TYPE}"
            ));
        }
        Ok(manifest)
    }
}

fn parse_json<'de, T: Deserialize<'de>>(at: &str, bytes: &'de [u8]) -> Result<T, PackageError> {
    serde_json::from_slice(bytes).map_err(|error| PackageError::invalid(at, error.to_string()))
}
