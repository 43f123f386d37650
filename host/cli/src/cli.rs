//! The command line as a whole: what is common to all verbs.

use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;

use crate::client::Client;
use crate::environment::{Environment, Store};
use crate::exit::{EXIT_CODES, Exit, Failure};
use crate::output::{Format, Output};
use crate::verbs::Verb;

/// The flags of every verb stand apart from its own.
const GLOBAL: &str = "Global options";

/// Package machine-learning models with their predictors, and serve them at the edge.
///
/// A predictor is the code around a model. It is compiled to WebAssembly, packaged together with
/// its models, and run in a sandbox by a node.
#[derive(Debug, Parser)]
#[command(
    name = "dunlin",
    version,
    propagate_version = true,
    max_term_width = 100
)]
#[command(after_help = "Run 'dunlin help VERB' or 'dunlin VERB --help' for examples.")]
#[command(after_long_help = after_long_help())]
pub(crate) struct Cli {
    /// The node to talk to: an environment of 'dunlin env list'
    #[arg(short, long, global = true, env = "DUNLIN_ENV", value_name = "NAME")]
    #[arg(help_heading = GLOBAL, hide_env_values = true)]
    pub(crate) env: Option<String>,

    /// What standard output is: text, or one JSON document
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "pretty",
        value_name = "FORMAT",
        help_heading = GLOBAL
    )]
    pub(crate) output: Format,

    /// Say nothing on standard error but errors
    #[arg(short, long, global = true, help_heading = GLOBAL)]
    pub(crate) quiet: bool,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

fn after_long_help() -> String {
    format!(
        "From nothing to a prediction:
  dunlin serve                        # in one terminal: a node on this machine
  dunlin new iris                     # a complete predictor with a small model
  dunlin deploy iris
  dunlin predict iris iris/sample.json

{EXIT_CODES}

Environment:
  DUNLIN_ENV    the node to talk to, as --env
  DUNLIN_TOKEN  the admin token, in place of the one of the environment
  DUNLIN_BACKENDS
                the folder with the native backends
  DUNLIN_ONNXRUNTIME_LIBRARY, DUNLIN_TORCHSCRIPT_LIBRARY
                the library file of a backend, in place of any other
  NO_COLOR      no colours; there are none either where the output is not a terminal"
    )
}

/// What every verb is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) output: Output,
    /// Set once Ctrl-C was pressed; work on other threads looks at it where it writes.
    pub(crate) interrupted: Arc<AtomicBool>,
    env: Option<String>,
}

impl Context {
    pub(crate) fn new(cli: &Cli) -> Self {
        Self {
            output: Output {
                format: cli.output,
                quiet: cli.quiet,
            },
            interrupted: Arc::default(),
            env: cli.env.clone().filter(|name| !name.is_empty()),
        }
    }

    pub(crate) fn environment(&self) -> Result<Environment, Failure> {
        Store::open_default()?.get(self.env.as_deref())
    }

    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::new(self.environment()?)
    }

    /// How to run `verb` against the same node: for messages that say what to do next.
    pub(crate) fn command(&self, verb: &str) -> String {
        match &self.env {
            Some(name) => format!("dunlin -e {name} {verb}"),
            None => format!("dunlin {verb}"),
        }
    }
}

/// Runs work that blocks, such as a compiler or hashing, beside the thread that answers Ctrl-C.
pub(crate) fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> impl Future<Output = Result<T, Failure>> {
    let task = tokio::task::spawn_blocking(work);
    async {
        match task.await {
            Ok(result) => result,
            Err(error) => Err(
                Failure::caused_by(Exit::Failed, "an internal error", &error)
                    .next("report it, with the command that was run"),
            ),
        }
    }
}

/// Reads from a person or a pipe, which nothing can cut short: on a thread that is left behind when
/// Ctrl-C ends the process.
pub(crate) async fn reading<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // The receiver is gone only after Ctrl-C, when nobody wants the answer.
    std::thread::spawn(move || sender.send(read()).ok());
    receiver
        .await
        .map_err(|_| Failure::new(Exit::Failed, "the reading thread panicked"))?
}

/// Asks a person before something goes. Where nobody can answer nothing is done; `verb` says what.
pub(crate) async fn confirmed(question: String, verb: &str) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Err(Failure::new(Exit::Usage, "there is no terminal to ask on")
            .next(format!("to {verb} without being asked, add -y")));
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

/// The folder of a verb that works on a project: the one given, or the current one.
pub(crate) fn folder(dir: Option<PathBuf>) -> PathBuf {
    dir.unwrap_or_else(|| PathBuf::from("."))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_examples() {
        let mut command = Cli::command();
        // What is hidden is the node's own, and nobody's to call.
        for verb in command.get_subcommands_mut().filter(|v| !v.is_hide_set()) {
            let help = verb.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{}", verb.get_name());
        }
    }

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
