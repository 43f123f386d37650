//! The verbs, one file each: their flags, what they do, what they print.

mod backend;
mod build;
mod compare;
pub(crate) mod compile_component;
mod completion;
mod delete;
mod deploy;
mod doctor;
mod env;
mod get;
mod import;
mod inspect;
mod log_level;
mod logs;
mod new;
mod package;
pub(crate) mod predict;
pub(crate) mod serve;
mod version;

use clap::Subcommand;

use crate::cli::Context;
use crate::exit::{Exit, Failure};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    New(new::Args),
    Import(Box<import::Args>),
    Build(build::Args),
    Package(package::Args),
    Inspect(inspect::Args),
    Deploy(deploy::Args),
    Get(get::Args),
    Predict(predict::Args),
    Compare(compare::Args),
    Logs(logs::Args),
    LogLevel(log_level::Args),
    Delete(delete::Args),
    Serve(serve::Args),
    Backend(backend::Args),
    Doctor(doctor::Args),
    Env(env::Args),
    Version(version::Args),
    Completion(completion::Args),
    #[command(hide = true)]
    CompileComponent(compile_component::Args),
}

impl Verb {
    pub(crate) async fn run(self, context: &Context) -> Result<(), Failure> {
        match self {
            Self::New(args) => new::run(args, context).await,
            Self::Import(args) => import::run(*args, context).await,
            Self::Build(args) => build::run(args, context).await,
            Self::Package(args) => package::run(args, context).await,
            Self::Inspect(args) => inspect::run(args, context).await,
            Self::Deploy(args) => deploy::run(args, context).await,
            Self::Get(args) => get::run(args, context).await,
            Self::Predict(args) => predict::run(args, context).await,
            Self::Compare(args) => compare::run(args, context).await,
            Self::Logs(args) => logs::run(args, context).await,
            Self::LogLevel(args) => log_level::run(args, context).await,
            Self::Delete(args) => delete::run(args, context).await,
            Self::Backend(args) => backend::run(args, context).await,
            Self::Doctor(args) => doctor::run(args, context).await,
            Self::Env(args) => env::run(args, context),
            Self::Version(args) => version::run(args, context).await,
            Self::Completion(args) => completion::run(&args, context),
            Self::CompileComponent(args) => compile_component::run(&args),
            Self::Serve(_) => Err(Failure::new(Exit::Failed, "serve has a runtime of its own")),
        }
    }
}
