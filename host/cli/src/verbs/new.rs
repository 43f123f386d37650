//! `dunlin new`: a complete predictor to start from.

use std::path::{Path, PathBuf};
use std::{fs, io};

use edge_config::DeploymentName;
use serde_json::json;

use crate::cli::Context;
use crate::exit::{Exit, Failure};
use crate::sdk::{Dependency, Sdk};

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

/// Make the folder of a new predictor
///
/// It is complete: a small trained model with golden samples, the predictor with a unit test, its
/// deployment file, a request to try it with, and in dunlin-sdk the crate that predictors are
/// written with. Replace the model and the code by yours.
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

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let name = match args.name {
        Some(name) => name,
        None => name_of(&args.dir)?,
    };
    let sdk = args.sdk.dependency()?;
    write(&args.dir, &name, &sdk)?;

    let mut files: Vec<String> = TEMPLATE
        .iter()
        .map(|(path, _)| (*path).to_owned())
        .collect();
    files.extend(sdk.files().map(|(path, _)| path));
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

fn write(dir: &Path, name: &DeploymentName, sdk: &Dependency) -> Result<(), Failure> {
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
        let filled = match std::str::from_utf8(content) {
            Ok(text) if text.contains("{{") => text
                .replace("{{name}}", name.as_str())
                .replace("{{sdk}}", sdk.in_manifest())
                .into_bytes(),
            _ => content.to_vec(),
        };
        write_file(&dir.join(path), &filled).map_err(failed)?;
    }
    for (path, content) in sdk.files() {
        write_file(&dir.join(path), content).map_err(failed)?;
    }
    Ok(())
}

fn write_file(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, content)
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
        let sdk = Dependency::given("\"9.9.9\"");
        write(&dir, &"my-name".parse().unwrap(), &sdk).unwrap();
        assert!(!dir.join("dunlin-sdk").exists());
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
        let name = "iris".parse().unwrap();
        let error = write(folder.path(), &name, &Dependency::embedded()).unwrap_err();
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
}
