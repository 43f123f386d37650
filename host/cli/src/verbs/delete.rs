//! `dunlin delete`: takes a deployment off the node.

use edge_config::DeploymentName;
use serde_json::json;

use crate::cli::{Context, confirmed};
use crate::exit::{Exit, Failure};

/// Delete a deployment from the node
///
/// Requests in flight finish; new ones get 404. The package goes with it.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin delete digits
  dunlin -e edge-1 delete digits -y        # without asking, as in a script")]
pub(crate) struct Args {
    /// The deployment
    name: DeploymentName,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let name = args.name.as_str();
    if !args.yes {
        let environment = client.environment();
        let question = format!(
            "Delete {name} from {} ({})? [y/N] ",
            environment.name, environment.admin
        );
        if !confirmed(question, "delete").await? {
            return Err(Failure::new(
                Exit::Failed,
                format!("{name} was not deleted"),
            ));
        }
    }
    let deleted = client.delete(name).await?;
    if context.output.json() {
        return context
            .output
            .document(&json!({"name": deleted.name, "deleted": true}));
    }
    context.output.text(&format!("deleted {}\n", deleted.name))
}
