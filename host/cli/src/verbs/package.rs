//! `dunlin package`: a predictor and its models in one file.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::cli::{Context, blocking, folder};
use crate::exit::{Exit, Failure};
use crate::packaging::{Packaged, write_package};
use crate::paths;
use crate::progress::Steps;
use crate::project::Project;

/// Build and package the predictor of a folder into one file
///
/// The file is an OCI image layout in a tar, and the same inputs make the same bytes. A node takes
/// it by 'dunlin deploy FILE'.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin package
  dunlin package predictors/digits --file digits-1.2.tar
  dunlin package -o json | jq -r .digest")]
pub(crate) struct Args {
    /// The folder with dunlin.yaml; without it the current one
    dir: Option<PathBuf>,

    /// The file to write [default: NAME.dunlin.tar in the current folder]
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let dir = folder(args.dir);
    let steps = Steps::new(context.output);
    let interrupted = context.interrupted.clone();
    let (file, packaged) = blocking(move || {
        let project = Project::open(&dir)?;
        let component = project.component(&mut |line| steps.say(line))?;
        let name = &project.deployment.name;
        let file = args
            .file
            .unwrap_or_else(|| PathBuf::from(format!("{name}.dunlin.tar")));
        steps.say(&format!("packaging {name}"));
        let temporary =
            paths::temporary_beside(&file).map_err(|error| unwritable(&file, &error))?;
        let packaged = write_package(
            &project,
            component.as_ref(),
            temporary.as_file(),
            interrupted,
        )?;
        let synced = temporary.as_file().sync_all();
        synced.map_err(|error| unwritable(&file, &error))?;
        temporary
            .persist(&file)
            .map_err(|error| unwritable(&file, &error.error))?;
        Ok((file, packaged))
    })
    .await?;
    print(&file, &packaged, context)
}

fn print(file: &Path, packaged: &Packaged, context: &Context) -> Result<(), Failure> {
    if context.output.json() {
        return context.output.document(&json!({
            "name": packaged.name,
            "digest": packaged.digest,
            "file": file,
            "bytes": packaged.size,
        }));
    }
    context.output.text(&format!(
        "{}  {}  {} bytes\n",
        file.display(),
        packaged.digest,
        packaged.size
    ))?;
    context.output.say(&format!(
        "next: {}",
        context.command(&format!("deploy {}", file.display()))
    ));
    Ok(())
}

fn unwritable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::caused_by(
        Exit::Failed,
        format!("cannot write {}", file.display()),
        error,
    )
    .next("give another file: --file FILE")
}
