//! `dunlin compile-component`: what a node runs to compile a predictor in a process of its own.

use std::io::{self, Write as _};

use dunlin_node::Compiler;

use crate::exit::Failure;

/// Compile the component on standard input to machine code for this machine, on standard output
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The node's guest_memory_max
    #[arg(long, value_name = "BYTES")]
    guest_memory_max: u64,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let compiled = dunlin_node::compile(args.guest_memory_max, io::stdin(), io::stdout());
    if let Err(error) = compiled {
        // The node reads the reason from there, and says it to whoever deploys.
        let _closed = write!(io::stderr(), "{}", error_chain(&*error));
        std::process::exit(1);
    }
    Ok(())
}

fn error_chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.join(": ")
}

/// This program, with this verb.
pub(crate) fn command(guest_memory_max: u64) -> Compiler {
    // The file itself, also after another version was put in its place.
    let this = if cfg!(target_os = "linux") {
        Ok("/proc/self/exe".into())
    } else {
        std::env::current_exe()
    };
    Compiler {
        program: this.unwrap_or_else(|_| "dunlin".into()),
        arguments: vec![
            "compile-component".into(),
            "--guest-memory-max".into(),
            guest_memory_max.to_string().into(),
        ],
    }
}
