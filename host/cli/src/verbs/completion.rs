//! `dunlin completion`: completion for a shell, on standard output.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::{Cli, Context};
use crate::exit::Failure;

/// Print the completion script of a shell
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  source <(dunlin completion bash)
  dunlin completion bash > ~/.local/share/bash-completion/completions/dunlin
  dunlin completion zsh > \"${fpath[1]}/_dunlin\"
  dunlin completion fish > ~/.config/fish/completions/dunlin.fish")]
pub(crate) struct Args {
    #[arg(value_enum)]
    shell: Shell,
}

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    // Into memory first: the generator panics where it cannot write.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "dunlin", &mut script);
    context.output.bytes(&script)
}
