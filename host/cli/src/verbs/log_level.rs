//! `dunlin log-level`: what a node logs, changed while it runs.

use clap::ValueEnum as _;

use crate::cli::Context;
use crate::exit::Failure;
use crate::verbs::serve::LogLevelFlag;

/// Show or change what the node logs
///
/// The level holds until it is changed again or the node restarts; what a node starts with is
/// log.level of its node.yaml.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin log-level
  dunlin log-level debug
  dunlin -e edge-7 log-level info")]
pub(crate) struct Args {
    /// The least important events that are logged from now on
    #[arg(value_enum)]
    level: Option<LogLevelFlag>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let name = args.level.and_then(|level| level.to_possible_value());
    let answer = match &name {
        Some(level) => client.set_log_level(level.get_name()).await?,
        None => client.log_level().await?,
    };
    if context.output.json() {
        return context.output.document(&answer);
    }
    context.output.text(&format!("{}\n", answer.level))
}
