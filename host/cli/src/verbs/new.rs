//! `dunlin new`: a complete predictor to start from.

use std::path::{Path, PathBuf};
use std::{fs, io};

use edge_config::DeploymentName;
use serde_json::json;

use crate::cli::Context;
use crate::exit::{Exit, Failure};

/// The files of a new predictor; `{{name}}` and `{{sdk}}` are filled in where there is text.
const TEMPLATE: [(&str, &[u8]); 9] = [
    (
        "Cargo.toml",
        include_bytes!("../../template/predictor/Cargo.toml.in"),
    ),
    (
        "README.md",
        include_bytes!("../../template/predictor/README.md.in"),
    ),
    (
        "dunlin.yaml",
        include_bytes!("../../template/predictor/dunlin.yaml.in"),
    ),
    (
        ".gitignore",
        include_bytes!("../../template/predictor/gitignore"),
    ),
    (
        "sample.json",
        include_bytes!("../../template/predictor/sample.json"),
    ),
    (
        "train.py",
        include_bytes!("../../template/predictor/train.py"),
    ),
    (
        "src/lib.rs",
        include_bytes!("../../template/predictor/src/lib.rs"),
    ),
    (
        "models/iris.onnx",
        include_bytes!("../../template/predictor/models/iris.onnx"),
    ),
    (
        "models/iris.golden.safetensors",
        include_bytes!("../../template/predictor/models/iris.golden.safetensors"),
    ),
];

/// Where the SDK lies in a checkout of Dunlin.
const SDK_IN_CHECKOUT: &str = "guest-sdk/rust";

/// Make the folder of a new predictor
///
/// It is complete: a small trained model with golden samples, the predictor with a unit test, its
/// deployment file and a request to try it with. Replace the model and the code by yours.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin new iris
  dunlin new services/ranker --name ranker-v2
  dunlin new iris --sdk-path ~/dunlin/guest-sdk/rust
  dunlin new iris --sdk-git https://github.com/dunlin-dev/dunlin")]
pub(crate) struct Args {
    /// The folder, which must not exist or be empty
    dir: PathBuf,

    /// The name of the deployment; without it the folder's
    #[arg(long)]
    name: Option<DeploymentName>,

    #[command(flatten)]
    sdk: Sdk,
}

/// Where the new crate takes dunlin-sdk from.
#[derive(Debug, clap::Args)]
#[group(multiple = false)]
pub(super) struct Sdk {
    /// Take dunlin-sdk from this folder
    #[arg(long, value_name = "DIR")]
    sdk_path: Option<PathBuf>,

    /// Take dunlin-sdk from this git repository
    #[arg(long, value_name = "URL")]
    sdk_git: Option<String>,

    /// Take this version of dunlin-sdk from the registry [default: the version of this binary]
    #[arg(long, value_name = "VERSION")]
    sdk_version: Option<String>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let name = match args.name {
        Some(name) => name,
        None => name_of(&args.dir)?,
    };
    let sdk = dependency(&args.sdk, context)?;
    write(&args.dir, &name, &sdk)?;

    let files: Vec<&str> = TEMPLATE.iter().map(|(path, _)| *path).collect();
    if context.output.json() {
        let document = json!({"name": name.as_str(), "dir": args.dir, "files": files});
        return context.output.document(&document);
    }
    let dir = args.dir.display();
    context
        .output
        .text(&format!("made the predictor {name} in {dir}\n"))?;
    context.output.say(&format!(
        "next:\n  \
           (cd {dir} && cargo test)\n  \
           {}                # a node has to run: dunlin serve\n  \
           {}",
        context.command(&format!("deploy {dir}")),
        context.command(&format!(
            "predict {name} {}",
            args.dir.join("sample.json").display()
        )),
    ));
    Ok(())
}

/// The folder's name, where that can name a deployment.
fn name_of(dir: &Path) -> Result<DeploymentName, Failure> {
    let absolute = std::path::absolute(dir);
    let absolute = absolute.map_err(|error| failed(dir, &error))?;
    let name = absolute
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    let name = name.unwrap_or_default();
    name.parse().map_err(|error| {
        Failure::new(Exit::Usage, format!("{name:?} {error}"))
            .next("name the deployment otherwise than the folder: --name NAME")
    })
}

/// The right side of `dunlin-sdk = …`.
pub(super) fn dependency(sdk: &Sdk, context: &Context) -> Result<String, Failure> {
    if let Some(path) = &sdk.sdk_path {
        return path_dependency(path);
    }
    if let Some(url) = &sdk.sdk_git {
        return Ok(format!("{{ git = {} }}", quoted(url)));
    }
    if let Some(version) = &sdk.sdk_version {
        return Ok(quoted(version));
    }
    // In a checkout, or with a binary that was built in one, the SDK beside it is the one that fits.
    let places = [std::env::current_exe().ok(), std::env::current_dir().ok()];
    if let Some(path) = places.iter().flatten().find_map(|place| sdk_above(place)) {
        context
            .output
            .say(&format!("taking dunlin-sdk from {}", path.display()));
        return path_dependency(&path);
    }
    Ok(quoted(env!("CARGO_PKG_VERSION")))
}

fn path_dependency(path: &Path) -> Result<String, Failure> {
    let missing = |why: String| {
        Failure::new(
            Exit::NotFound,
            format!("{} is not dunlin-sdk: {why}", path.display()),
        )
        .next("give the folder guest-sdk/rust of a checkout of Dunlin")
    };
    let manifest = fs::read_to_string(path.join("Cargo.toml"));
    let manifest = manifest.map_err(|error| missing(format!("its Cargo.toml: {error}")))?;
    if !is_sdk(&manifest) {
        return Err(missing("its Cargo.toml is of another crate".to_owned()));
    }
    let path = fs::canonicalize(path).map_err(|error| missing(error.to_string()))?;
    let path = path
        .to_str()
        .ok_or_else(|| missing("its path is not UTF-8".to_owned()))?;
    Ok(format!("{{ path = {} }}", quoted(path)))
}

/// The SDK of the checkout that this file or folder lies in.
fn sdk_above(place: &Path) -> Option<PathBuf> {
    place
        .ancestors()
        .map(|dir| dir.join(SDK_IN_CHECKOUT))
        .find(|sdk| {
            fs::read_to_string(sdk.join("Cargo.toml")).is_ok_and(|manifest| is_sdk(&manifest))
        })
}

fn is_sdk(manifest: &str) -> bool {
    manifest
        .lines()
        .any(|line| line.replace(' ', "") == "name=\"dunlin-sdk\"")
}

/// A TOML string: its escapes are those of JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn write(dir: &Path, name: &DeploymentName, sdk: &str) -> Result<(), Failure> {
    let failed = |error: io::Error| failed(dir, &error);
    match fs::read_dir(dir) {
        Ok(entries) => {
            if entries.count() > 0 {
                let message = format!("{} is not empty", dir.display());
                return Err(Failure::new(Exit::Refused, message)
                    .next("give a folder that does not exist yet"));
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(dir).map_err(failed)?;
        }
        Err(error) => return Err(failed(error)),
    }
    for (path, content) in TEMPLATE {
        let path = dir.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed)?;
        }
        let written = match std::str::from_utf8(content) {
            Ok(text) if text.contains("{{") => fs::write(
                path,
                text.replace("{{name}}", name.as_str())
                    .replace("{{sdk}}", sdk),
            ),
            _ => fs::write(path, content),
        };
        written.map_err(failed)?;
    }
    Ok(())
}

fn failed(dir: &Path, error: &io::Error) -> Failure {
    Failure::caused_by(
        Exit::Failed,
        format!("cannot make {}", dir.display()),
        error,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_a_deployment() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("deep/iris");
        write(&dir, &"my-name".parse().unwrap(), "\"9.9.9\"").unwrap();
        let deployment = edge_config::Deployment::read(&dir.join("dunlin.yaml")).unwrap();
        assert_eq!(deployment.name.as_str(), "my-name");
        for model in &deployment.models {
            assert!(dir.join(model.path.as_str()).is_file(), "{}", model.path);
        }
        let manifest = fs::read_to_string(dir.join("Cargo.toml")).unwrap();
        assert!(manifest.contains("dunlin-sdk = \"9.9.9\""), "{manifest}");
        for (path, content) in TEMPLATE {
            let written = fs::read(dir.join(path)).unwrap();
            if std::str::from_utf8(content).is_ok() {
                let text = String::from_utf8(written).unwrap();
                assert!(!text.contains("{{"), "{path} has a placeholder left");
            } else {
                assert_eq!(written, content, "{path}");
            }
        }
    }

    #[test]
    fn nothing_is_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("thesis.txt"), "10 years").unwrap();
        let error = write(folder.path(), &"iris".parse().unwrap(), "\"1\"").unwrap_err();
        assert_eq!(error.exit, Exit::Refused);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_that_cannot_name_a_deployment_is_refused() {
        assert_eq!(name_of(Path::new("a/iris-2")).unwrap().as_str(), "iris-2");
        for dir in ["My_Project", "/", "v2"] {
            assert_eq!(
                name_of(Path::new(dir)).unwrap_err().exit,
                Exit::Usage,
                "{dir}"
            );
        }
    }

    #[test]
    fn the_sdk_of_a_checkout_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let sdk = folder.path().join("guest-sdk/rust");
        let exe = folder.path().join("target/debug/dunlin");
        assert_eq!(sdk_above(&exe), None);
        fs::create_dir_all(&sdk).unwrap();
        fs::write(sdk.join("Cargo.toml"), "[package]\nname = \"other\"\n").unwrap();
        assert_eq!(sdk_above(&exe), None);
        assert!(path_dependency(&sdk).is_err());
        fs::write(sdk.join("Cargo.toml"), "[package]\nname = \"dunlin-sdk\"\n").unwrap();
        assert_eq!(sdk_above(&exe).as_deref(), Some(sdk.as_path()));
        assert!(path_dependency(&sdk).unwrap().starts_with("{ path = \"/"));
    }
}
