//! `dunlin env`: the nodes this user works with.

use std::io::Read as _;
use std::path::PathBuf;

use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::Context;
use crate::environment::{Environment, LOCAL, Store, Token, TokenSource, check_name, parse_url};
use crate::exit::{Exit, Failure};
use crate::paths;
use crate::table::{Align, Table};

/// Manage environments: the nodes to talk to, by name
///
/// An environment has the URLs of a node's data and admin planes and its admin token. 'local' is
/// built in: a node on this machine with its defaults.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin env list
  dunlin env configure edge-1 --data http://10.0.0.5:8080 --admin http://10.0.0.5:8081 \\
      --token-file ~/edge-1.token --default
  dunlin -e edge-1 get
  dunlin env default local
  dunlin env delete edge-1")]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Configure(Configure),
    List(List),
    Default(Default),
    Delete(Delete),
}

/// Add an environment, or change what is given of one
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin env configure edge-1 --data 10.0.0.5:8080 --admin 10.0.0.5:8081 --token-file edge-1.token
  ssh edge-1 cat /var/lib/dunlin/admin-token | dunlin env configure edge-1 --token -
  dunlin env configure local --token-file /var/lib/dunlin/admin-token")]
struct Configure {
    /// The environment
    name: String,

    /// URL of the data plane, such as http://10.0.0.5:8080
    #[arg(long, value_name = "URL")]
    data: Option<String>,

    /// URL of the admin plane, such as http://10.0.0.5:8081
    #[arg(long, value_name = "URL")]
    admin: Option<String>,

    /// The file with the admin token, read at each use
    #[arg(long, value_name = "FILE", conflicts_with = "token")]
    token_file: Option<PathBuf>,

    /// The admin token itself; '-' reads it from standard input, where no other user sees it
    #[arg(long, value_name = "TOKEN|-")]
    token: Option<String>,

    /// Make it the environment that is used where none is named
    #[arg(long)]
    default: bool,
}

/// List the environments; '*' is the one that is used where none is named
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  dunlin env list\n  dunlin env list -o json")]
struct List {}

/// Show the default environment, or set it
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  dunlin env default\n  dunlin env default edge-1")]
struct Default {
    /// The environment to use where none is named
    name: Option<String>,
}

/// Forget an environment; the node is left alone
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  dunlin env delete edge-1")]
struct Delete {
    /// The environment
    name: String,
}

pub(crate) fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let store = Store::open_default()?;
    match args.command {
        Command::Configure(args) => configure(args, store, context),
        Command::List(_) => list(&store, context),
        Command::Default(args) => default(&args, store, context),
        Command::Delete(args) => delete(&args, store, context),
    }
}

fn configure(args: Configure, mut store: Store, context: &Context) -> Result<(), Failure> {
    check_name(&args.name)?;
    let known = store.get(Some(&args.name));
    let is_new = known.is_err();
    let mut environment = match known {
        Ok(environment) => environment,
        // A new one without an address or a token would be the local node under another name.
        Err(_) if args.data.is_none() || args.admin.is_none() => {
            return Err(
                Failure::new(Exit::Usage, format!("the environment {} is new", args.name)).next(
                    "give both URLs of the node: --data http://HOST:8080 --admin http://HOST:8081",
                ),
            );
        }
        Err(_) => Environment::named(&args.name),
    };
    if let Some(url) = &args.data {
        environment.data = parse_url(url)?;
    }
    if let Some(url) = &args.admin {
        environment.admin = parse_url(url)?;
    }
    match (args.token, args.token_file) {
        (Some(token), _) => environment.token = TokenSource::Text(read_token(&token)?),
        (_, Some(path)) => {
            environment.token = // Used from any folder later on. It need not exist yet: a node makes it.
            TokenSource::File(paths::absolute(&path)?)
        }
        (None, None) if is_new => {
            return Err(Failure::new(Exit::Usage, format!("{} has no token", args.name))
                .next("give the node's admin token: --token-file FILE, or --token - on standard input"));
        }
        (None, None) => {}
    }
    store.put(&environment);
    if args.default {
        store.set_default(&args.name)?;
    }
    store.save()?;
    let is_default = store.default_name() == args.name;
    if context.output.json() {
        return context.output.document(&document(&environment, is_default));
    }
    context.output.text(&format!(
        "configured {} in {}\n",
        args.name,
        store.path().display()
    ))?;
    context
        .output
        .say(&format!("try it: dunlin -e {} version", args.name));
    Ok(())
}

fn list(store: &Store, context: &Context) -> Result<(), Failure> {
    let environments = store.list()?;
    let default = store.default_name();
    if context.output.json() {
        let documents: Vec<Value> = environments
            .iter()
            .map(|environment| document(environment, environment.name == default))
            .collect();
        return context
            .output
            .document(&json!({"default": default, "environments": documents}));
    }
    let columns = [
        ("", Align::Left),
        ("name", Align::Left),
        ("data", Align::Left),
        ("admin", Align::Left),
        ("token", Align::Left),
    ];
    let mut table = Table::new(context.output.style(), &columns);
    for environment in &environments {
        table.row([
            if environment.name == default {
                "*"
            } else {
                " "
            }
            .to_owned(),
            environment.name.clone(),
            environment.data.to_string(),
            environment.admin.to_string(),
            match &environment.token {
                TokenSource::Text(_) => "(stored)".to_owned(),
                TokenSource::File(path) => path.display().to_string(),
            },
        ]);
    }
    context.output.text(&table.to_string())
}

fn default(args: &Default, mut store: Store, context: &Context) -> Result<(), Failure> {
    if let Some(name) = &args.name {
        store.set_default(name)?;
        store.save()?;
    }
    let name = store.default_name();
    if context.output.json() {
        return context.output.document(&json!({"default": name}));
    }
    context.output.text(&format!("{name}\n"))
}

fn delete(args: &Delete, mut store: Store, context: &Context) -> Result<(), Failure> {
    store.delete(&args.name)?;
    store.save()?;
    if context.output.json() {
        return context
            .output
            .document(&json!({"name": args.name, "deleted": true}));
    }
    let restored = if args.name == LOCAL {
        "; it is the built-in one again"
    } else {
        ""
    };
    context.output.text(&format!(
        "deleted the environment {}{restored}\n",
        args.name
    ))
}

/// Everything but the token.
fn document(environment: &Environment, is_default: bool) -> Value {
    let token_file = match &environment.token {
        TokenSource::Text(_) => None,
        TokenSource::File(path) => Some(path),
    };
    json!({
        "name": environment.name,
        "default": is_default,
        "data": environment.data.as_str(),
        "admin": environment.admin.as_str(),
        "token_file": token_file,
    })
}

fn read_token(given: &str) -> Result<Token, Failure> {
    if given != "-" {
        return Token::parse(given);
    }
    let mut text = String::new();
    let read = std::io::stdin().take(4096).read_to_string(&mut text);
    read.map_err(|error| Failure::caused_by(Exit::Failed, "cannot read the token", &error))?;
    Token::parse(&text)
}
