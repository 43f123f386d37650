//! `dunlin version`: of this client, and of the node where one answers.

use std::time::Duration;

use serde_json::json;

use crate::cli::Context;
use crate::exit::Failure;

/// A node that takes longer is shown as not reachable.
const WAIT_MAX: Duration = Duration::from_secs(3);

/// Show the version of this client and of the node
///
/// The exit code is 0 also where no node answers: that is in the output.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin version
  dunlin -e edge-1 version
  dunlin version -o json | jq -r .node.version")]
pub(crate) struct Args {}

pub(crate) async fn run(_args: Args, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let environment = client.environment();
    let node = match tokio::time::timeout(WAIT_MAX, client.node()).await {
        Ok(Ok(node)) => Ok(node),
        Ok(Err(failure)) => Err(failure.to_string()),
        Err(_elapsed) => Err(format!("no answer within {} s", WAIT_MAX.as_secs())),
    };
    let version = env!("CARGO_PKG_VERSION");
    if context.output.json() {
        return context.output.document(&json!({
            "client": {"version": version},
            "environment": environment.name,
            "admin": environment.admin.as_str(),
            "node": node.as_ref().ok(),
            "node_error": node.as_ref().err(),
        }));
    }
    let node = match node {
        Ok(node) => node.version,
        Err(why) => format!("- ({why})"),
    };
    context
        .output
        .text(&format!("client  {version}\nnode    {node}\n"))
}
