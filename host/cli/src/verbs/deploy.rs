//! `dunlin deploy`: from a folder or a package to a URL that answers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use edge_config::DeploymentName;
use serde_json::json;
use tempfile::NamedTempFile;
use tokio::fs::File;
use tokio::time::Instant;

use crate::api::{Deployment, Node, Uploaded};
use crate::cli::{Context, blocking, folder};
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::packaging::{self, Packaged};
use crate::progress::{Steps, Upload};
use crate::project::{Project, is_deployment_file, unreadable};

const POLL_EVERY: Duration = Duration::from_millis(200);

/// Deploy a folder or a package, and wait until it is live
///
/// A folder is built and packaged first. A deployment of that name is replaced without a failed request. What was live stays live where
/// the new one is refused.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin deploy
  dunlin deploy predictors/digits
  dunlin deploy digits/dunlin.torchscript.yaml
  dunlin deploy digits.dunlin.tar --name digits-next
  dunlin -e edge-1 deploy digits.dunlin.tar
  dunlin deploy -o json | jq -r .url")]
pub(crate) struct Args {
    /// A folder with dunlin.yaml, another deployment file, or a package; without it the current
    /// folder
    #[arg(value_name = "DIR|FILE")]
    what: Option<PathBuf>,

    /// Deploy under this name, not the one in dunlin.yaml
    #[arg(long)]
    name: Option<DeploymentName>,

    /// How many seconds to wait until the node has checked the package and it is live
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    timeout: u64,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let what = folder(args.what);
    let timeout = Duration::from_secs(args.timeout);
    let client = Client::with_read_timeout(context.environment()?, timeout)?;
    // Before minutes of compiling and uploading: is there a node, and does it take our token?
    let node = client.node().await?;

    let package = package(&what, context).await?;
    check_size(&package.packaged, &node)?;
    let name = args.name.as_ref().map(DeploymentName::as_str);
    let uploaded = upload(&client, &package, name, context).await?;
    let deployment = wait(&client, &uploaded, timeout, context).await?;
    print(&client, &deployment, &uploaded, context)
}

/// A package on disk: the user's, or one that is removed when this goes.
struct PackageFile {
    path: PathBuf,
    packaged: Packaged,
    _temporary: Option<NamedTempFile>,
}

async fn package(what: &Path, context: &Context) -> Result<PackageFile, Failure> {
    let metadata = tokio::fs::metadata(what).await.map_err(|error| {
        unreadable(what, &error).next("give a folder with dunlin.yaml, or a package")
    })?;
    let steps = Steps::new(context.output);
    let interrupted = context.interrupted.clone();
    let what = what.to_owned();
    if metadata.is_file() && !is_deployment_file(&what) {
        return blocking(move || {
            steps.say(&format!("checking {}", what.display()));
            let (packaged, _package) = packaging::inspect(&what)?;
            Ok(PackageFile {
                path: what,
                packaged,
                _temporary: None,
            })
        })
        .await;
    }
    blocking(move || {
        let project = Project::open(&what)?;
        let component = project.component(&mut |line| steps.say(line))?;
        steps.say(&format!("packaging {}", project.deployment.name));
        let temporary = NamedTempFile::with_prefix("dunlin-").map_err(|error| {
            Failure::caused_by(Exit::Failed, "cannot make a temporary file", &error)
                .next("free space in the temporary folder, or set TMPDIR to another one")
        })?;
        let packaged = packaging::write_package(
            &project,
            component.as_ref(),
            temporary.as_file(),
            interrupted,
        )?;
        Ok(PackageFile {
            path: temporary.path().to_owned(),
            packaged,
            _temporary: Some(temporary),
        })
    })
    .await
}

fn check_size(packaged: &Packaged, node: &Node) -> Result<(), Failure> {
    let Some(max) = node.package_max.filter(|max| packaged.size > *max) else {
        return Ok(());
    };
    Err(Failure::new(
        Exit::Refused,
        format!(
            "the package has {} bytes, and the node takes {max} at most",
            packaged.size
        ),
    )
    .next("make the models smaller, or raise package_max in the node's node.yaml"))
}

async fn upload(
    client: &Client,
    package: &PackageFile,
    name: Option<&str>,
    context: &Context,
) -> Result<Uploaded, Failure> {
    let size = package.packaged.size;
    let file = File::open(&package.path).await;
    let file = file.map_err(|error| unreadable(&package.path, &error))?;
    let progress = Upload::new(context.output, size);
    let uploaded = client.upload(name, size, progress.body(file, size)).await;
    progress.done();
    uploaded
}

/// Waits until the node says that what was uploaded is live.
async fn wait(
    client: &Client,
    uploaded: &Uploaded,
    timeout: Duration,
    context: &Context,
) -> Result<Deployment, Failure> {
    let until = Instant::now() + timeout;
    let steps = Steps::new(context.output);
    let name = &uploaded.name;
    loop {
        let deployment = client.deployment(name).await?;
        // A later revision is somebody else's, uploaded meanwhile: ours was live before it.
        let ours = deployment.digest == uploaded.digest || deployment.revision > uploaded.revision;
        if deployment.is_live() && ours {
            return Ok(deployment);
        }
        if ours && let Some(reason) = &deployment.reason {
            let message = format!("{name} is {}: {reason}", deployment.status);
            return Err(Failure::new(Exit::Refused, message).next(format!(
                "look at it: {}",
                context.command(&format!("logs {name}"))
            )));
        }
        if Instant::now() >= until {
            let message = format!(
                "{name} is {} after {} s",
                deployment.status,
                timeout.as_secs()
            );
            return Err(Failure::new(Exit::Busy, message).next(format!(
                "look at it: {}",
                context.command(&format!("logs {name}"))
            )));
        }
        steps.say(&format!("{name} is {}", deployment.status));
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn print(
    client: &Client,
    deployment: &Deployment,
    uploaded: &Uploaded,
    context: &Context,
) -> Result<(), Failure> {
    let (url, curl) = how_to_call(client, deployment);
    if context.output.json() {
        return context.output.document(&json!({
            "name": deployment.name,
            "digest": uploaded.digest,
            "revision": uploaded.revision,
            "status": deployment.status,
            "environment": client.environment().name,
            "url": url,
            "curl": curl,
        }));
    }
    let style = context.output.style();
    context.output.text(&format!(
        "{} is {} (revision {})\n{url}\n",
        style.bold(&deployment.name),
        style.green(&deployment.status),
        uploaded.revision,
    ))?;
    let predict = match deployment.predictor {
        true => format!(
            "\n  {}",
            context.command(&format!("predict {} FILE", deployment.name))
        ),
        false => String::new(),
    };
    context.output.say(&format!("try it:{predict}\n  {curl}"));
    Ok(())
}

/// The URL of the predictor, or of the first model where there is no predictor, and a curl line.
fn how_to_call(client: &Client, deployment: &Deployment) -> (String, String) {
    match deployment.models.first() {
        Some(model) if !deployment.predictor => {
            let url = format!("{}v2/models/{}", client.environment().data, model.name);
            // What the model takes; the request to `/infer` follows from it.
            let curl = format!("curl {url}");
            (format!("{url}/infer"), curl)
        }
        _ => {
            let url = client.deployment_url(&deployment.name).to_string();
            let curl =
                format!("curl -H 'content-type: application/json' --data-binary @FILE {url}");
            (url, curl)
        }
    }
}
