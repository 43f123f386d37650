//! `dunlin`: one binary for authors of predictors and operators of nodes.
//!
//! The flow of every verb: arguments (`cli`), the verb (`verbs/*`, one file each), a result on
//! standard output or a `Failure` with its exit code (`exit`). What verbs share: environments, the
//! client for a node, projects on disk.

mod allocator;
mod api;
#[expect(
    unreachable_pub,
    reason = "`pub` in there is what the rest of the binary uses"
)]
mod backend;
#[expect(
    unreachable_pub,
    reason = "`pub` in there is what the rest of the binary uses"
)]
mod build;
mod cli;
mod client;
mod compare;
mod environment;
mod exit;
mod import;
mod output;
mod packaging;
mod paths;
mod process;
mod progress;
mod project;
mod sdk;
mod staging;
mod table;
mod verbs;

use std::env;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::Duration;

use clap::Parser as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{Cli, Context};
use crate::exit::{Exit, Failure};
use crate::output::{Format, Output};
use crate::verbs::Verb;

/// How long work that cannot be dropped at once may go on after Ctrl-C: enough to remove what it
/// was writing.
const INTERRUPT_GRACE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    keep_to_ourselves();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let context = Context::new(&cli);
    let result = match cli.verb {
        Verb::Serve(args) => verbs::serve::run(&args, &context),
        verb => run(verb, &context),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if failure.exit != Exit::Quiet {
                context.output.failure(&failure);
            }
            ExitCode::from(failure.exit.code())
        }
    }
}

/// ONNX Runtime (1.31 does) keeps a database of what it is used for in the user's home, to be sent to
/// Microsoft. The function that turns that off can be called only once it has begun.
fn keep_to_ourselves() {
    #[expect(unsafe_code, reason = "the environment of the process")]
    // SAFETY: there is no other thread yet that could read it.
    unsafe {
        env::set_var("ORT_DISABLE_TELEMETRY", "1");
    }
}

/// Answers a command line that names no work to do: a question for help, or a mistake.
fn refuse(error: &clap::Error) -> ExitCode {
    // A closed stream has nobody to tell.
    let _closed = error.print();
    if !error.use_stderr() {
        return ExitCode::SUCCESS;
    }
    let failure = Failure::usage(error);
    if Format::asked_for(env::args_os().skip(1)) == Format::Json {
        let output = Output {
            format: Format::Json,
            quiet: true,
        };
        let _closed = output.document(&failure.document());
    }
    ExitCode::from(failure.exit.code())
}

/// Runs a verb that is not a server: to its end, or until Ctrl-C.
fn run(verb: Verb, context: &Context) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::caused_by(Exit::Failed, "cannot start", &error))?;
    let result = runtime.block_on(async {
        // Before the verb begins: what it starts or writes must not outlive a Ctrl-C that comes at
        // once. `ctrl_c()` would listen only when it is first polled.
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|error| Failure::caused_by(Exit::Failed, "cannot start", &error))?;
        tokio::select! {
            // A verb that ends by Ctrl-C, such as `get -w`, is asked first.
            biased;
            result = verb.run(context) => result,
            _ = interrupt.recv() => Err(Failure::interrupted()),
        }
    });
    // Whatever still works on another thread writes for nobody now.
    context.interrupted.store(true, Ordering::Relaxed);
    runtime.shutdown_timeout(INTERRUPT_GRACE);
    result
}
