//! `dunlin build`: a predictor's crate becomes a component.

use std::path::PathBuf;

use serde_json::json;

use crate::cli::{Context, blocking, folder};
use crate::exit::{Exit, Failure};
use crate::progress::Steps;
use crate::project::Project;

/// Compile the predictor of a folder to a WebAssembly component
///
/// 'deploy' and 'package' do this by themselves. The Rust standard library for WebAssembly is
/// taken from the toolchain, added by rustup, or compiled from source: it says which. With
/// DUNLIN_GUEST_STD=source it is compiled from source even where the toolchain has one.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin build
  dunlin build predictors/digits
  dunlin build -o json | jq -r .component")]
pub(crate) struct Args {
    /// The folder with dunlin.yaml; without it the current one
    dir: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let dir = folder(args.dir);
    let steps = Steps::new(context.output);
    let (name, component) = blocking(move || {
        let project = Project::open(&dir)?;
        let component = project.component(&mut |line| steps.say(line))?;
        Ok((project.deployment.name, component))
    })
    .await?;
    let Some(component) = component else {
        return Err(Failure::new(
            Exit::Refused,
            format!("{name} has no predictor code to build"),
        )
        .next("write predictor.path in dunlin.yaml, or package the models alone: dunlin package"));
    };
    if context.output.json() {
        return context.output.document(&json!({
            "name": name.as_str(),
            "component": component.path,
            "bytes": component.bytes.len(),
            "built": component.built,
        }));
    }
    if let Some(built) = &component.built {
        context.output.say(built);
    }
    context
        .output
        .text(&format!("{}\n", component.path.display()))
}
