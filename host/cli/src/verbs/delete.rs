//! `dunlin delete`: takes a deployment off the node.

use std::io::{self, IsTerminal as _, Write as _};

use edge_config::DeploymentName;
use serde_json::json;

use crate::cli::{Context, reading};
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
        if !confirmed(question).await? {
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

/// Asks a person. Where nobody can answer nothing is deleted.
async fn confirmed(question: String) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(Exit::Usage, "there is no terminal to ask on")
            .next("to delete without being asked, add -y"));
    }
    reading(move || {
        let failed = |error: io::Error| Failure::caused_by(Exit::Failed, "cannot ask", &error);
        let mut stderr = io::stderr().lock();
        write!(stderr, "{question}")
            .and_then(|()| stderr.flush())
            .map_err(failed)?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map_err(failed)?;
        Ok(is_yes(&answer))
    })
    .await
}

fn is_yes(answer: &str) -> bool {
    matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_yes() {
        for answer in ["y\n", "Y", " yes \n"] {
            assert!(is_yes(answer), "{answer:?}");
        }
        for answer in ["", "\n", "n\n", "yep\n", "yes please\n"] {
            assert!(!is_yes(answer), "{answer:?}");
        }
    }
}
