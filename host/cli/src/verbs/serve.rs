//! `dunlin serve`: a node, in this process. Flags win over the file, the file over the defaults.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use dunlin_node::{Log, NodeError, Ready};
use edge_config::{Listen, LogFormat, LogLevel, Node, Traces};
use serde_json::json;

use crate::cli::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Output, Style};
use crate::project::config_failure;
use crate::verbs::compile_component;
use crate::{allocator, environment, paths};

/// Run a node: serve predictions, take deployments
///
/// The data plane answers predictions, the admin plane takes deployments and wants the token that
/// is made at the first start. SIGTERM and Ctrl-C let requests in flight finish.
#[derive(Debug, clap::Args)]
#[command(after_help = concat!("Examples:
  dunlin serve
  dunlin serve --data-dir /var/lib/dunlin --listen 0.0.0.0:8080
  dunlin serve --config /etc/dunlin/node.yaml --log-format json
  dunlin serve --listen 127.0.0.1:0 --grpc-listen off --admin-listen 127.0.0.1:0 -o json   # any free ports

Bounds, native engines and all else that has no flag is set in node.yaml. Its keys and their defaults:
  ", env!("CARGO_PKG_REPOSITORY"), "#nodeyaml"))]
pub(crate) struct Args {
    /// The node's configuration; without it the defaults
    #[arg(short, long, value_name = "node.yaml")]
    config: Option<PathBuf>,

    /// Where packages, state and the token are kept [default: $XDG_DATA_HOME/dunlin]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Address of the data plane [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,

    /// Address for predictions by gRPC, or off [default: 127.0.0.1:8082]
    #[arg(long, value_name = "ADDRESS", value_parser = address_or_off)]
    grpc_listen: Option<AddressOrOff>,

    /// Address of the admin plane [default: 127.0.0.1:8081]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<SocketAddr>,

    /// How the log on standard error is written [default: text]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log_format: Option<LogFormatFlag>,

    /// The least important events that are logged [default: info]
    #[arg(long, value_enum, value_name = "LEVEL")]
    log_level: Option<LogLevelFlag>,
}

#[derive(Debug, Clone, Copy)]
struct AddressOrOff(Option<SocketAddr>);

fn address_or_off(text: &str) -> Result<AddressOrOff, std::net::AddrParseError> {
    match text {
        "off" => Ok(AddressOrOff(None)),
        address => address.parse().map(|address| AddressOrOff(Some(address))),
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormatFlag {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum LogLevelFlag {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// How long the last lines of the log may take.
const LOG_PATIENCE: Duration = Duration::from_secs(1);

pub(crate) fn run(args: &Args, context: &Context) -> Result<(), Failure> {
    let mut config = configuration(args)?;
    config.backends = paths::backends(config.backends)?;
    config.traces.endpoint = endpoint(config.traces.endpoint)?;
    let data_dir = match config.data_dir.clone() {
        Some(data_dir) => data_dir,
        None => paths::data_dir()?,
    };
    // Standard output is for what was asked for.
    let log = Log::start(&config.log, Style::of(&io::stderr()).is_on())
        .map_err(|error| Failure::caused_by(Exit::Failed, "cannot start the log", &error))?;
    dunlin_node::give_back_by(allocator::give_back);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(usize::try_from(config.threads).unwrap_or(1))
        .enable_all()
        .build()
        .map_err(|error| Failure::caused_by(Exit::Failed, "cannot start the node", &error))?;
    let served = runtime.block_on(serve(config, data_dir, log.clone(), context));
    // What was to finish has, or had its time: a model that is being loaded does not hold up the end,
    // and neither does a log that nobody reads.
    runtime.shutdown_background();
    log.writer().finish(LOG_PATIENCE);
    served
}

/// OpenTelemetry's own variable, where the file does not say.
fn endpoint(configured: Option<String>) -> Result<Option<String>, Failure> {
    const VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
    if configured.is_some() {
        return Ok(configured);
    }
    let written = std::env::var(VARIABLE).ok().filter(|url| !url.is_empty());
    let checked = written.map(|url| Traces::check_endpoint(&url)).transpose();
    checked.map_err(|reason| Failure::new(Exit::Refused, format!("{VARIABLE}: {reason}")))
}

async fn serve(
    config: Node,
    data_dir: PathBuf,
    log: Log,
    context: &Context,
) -> Result<(), Failure> {
    let output = context.output;
    let announced = |ready: &Ready| {
        let ready = ready.clone();
        // A reader that has left, or that does not read, does not stop a node.
        std::thread::spawn(move || announce(&ready, output));
    };
    let compiler = Some(compile_component::command(config.guest_memory_max));
    let served = dunlin_node::run(config, data_dir, compiler, log, announced).await;
    served.map_err(|error| {
        let next = match &error {
            NodeError::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => {
                Some("stop what listens there, or give other addresses: --listen, --grpc-listen, --admin-listen")
            }
            NodeError::Listen { .. } => Some("give an address of this machine"),
            NodeError::DataDir { .. } => Some("give a folder that is yours: --data-dir DIR"),
            NodeError::StateFile { .. } => Some(
                "put back a copy of it; or move it away with the files beside it (-wal, -shm), \
                 start again, and deploy again",
            ),
            NodeError::StateVersion { .. } => Some(
                "give another folder and deploy again: --data-dir DIR; or start the version of \
                 Dunlin that it is of",
            ),
            NodeError::Locked { .. } => Some("give another folder: --data-dir DIR"),
            _ => None,
        };
        let failure = Failure::caused_by(Exit::Failed, error.to_string(), &error);
        match next {
            Some(next) => failure.next(next),
            None => failure,
        }
    })
}

fn configuration(args: &Args) -> Result<Node, Failure> {
    let mut config = match &args.config {
        Some(path) => Node::read(path).map_err(|error| config_failure(path, &error))?,
        None => Node::default(),
    };
    if let Some(listen) = args.listen {
        config.data.listen = listen;
    }
    if let Some(listen) = args.admin_listen {
        config.admin.listen = listen;
    }
    if let Some(AddressOrOff(listen)) = args.grpc_listen {
        config.grpc = listen.map(|listen| Listen { listen });
    }
    if config.data.listen == config.admin.listen && config.data.listen.port() != 0 {
        return Err(Failure::new(
            Exit::Usage,
            format!("{} is the address of both planes", config.data.listen),
        )
        .next("give the planes two ports: --listen 127.0.0.1:8080 --admin-listen 127.0.0.1:8081"));
    }
    let planes = [config.data.listen, config.admin.listen];
    if let Some(grpc) = config.grpc.filter(|grpc| planes.contains(&grpc.listen))
        && grpc.listen.port() != 0
    {
        return Err(Failure::new(
            Exit::Usage,
            format!(
                "{} is the address for gRPC and of another plane",
                grpc.listen
            ),
        )
        .next("give gRPC a port of its own: --grpc-listen 127.0.0.1:8082"));
    }
    if let Some(data_dir) = &args.data_dir {
        config.data_dir = Some(data_dir.clone());
    }
    match args.log_format {
        Some(LogFormatFlag::Text) => config.log.format = LogFormat::Text,
        Some(LogFormatFlag::Json) => config.log.format = LogFormat::Json,
        None => {}
    }
    if let Some(level) = args.log_level {
        config.log.level = match level {
            LogLevelFlag::Error => LogLevel::Error,
            LogLevelFlag::Warn => LogLevel::Warn,
            LogLevelFlag::Info => LogLevel::Info,
            LogLevelFlag::Debug => LogLevel::Debug,
            LogLevelFlag::Trace => LogLevel::Trace,
        };
    }
    Ok(config)
}

/// Says where the node listens, where its token is and what to try next.
fn announce(ready: &Ready, output: Output) -> Result<(), Failure> {
    let Ready {
        data,
        grpc,
        admin,
        token_file,
    } = ready;
    if output.json() {
        return output.line(&json!({
            "data": format!("http://{data}"),
            "grpc": grpc.map(|grpc| grpc.to_string()),
            "admin": format!("http://{admin}"),
            "token_file": token_file,
        }));
    }
    output.text(&format!(
        "predictions  http://{data}\n\
         gRPC         {}\n\
         admin        http://{admin}\n\
         token        {}\n",
        grpc.map_or_else(|| "off".to_owned(), |grpc| grpc.to_string()),
        token_file.display()
    ))?;
    output.say(&next_steps(ready));
    Ok(())
}

fn next_steps(ready: &Ready) -> String {
    let local = environment::Environment::local();
    let urls_are_local = local.data.as_str() == format!("http://{}/", ready.data)
        && local.admin.as_str() == format!("http://{}/", ready.admin);
    let token_is_local = local.token == environment::TokenSource::File(ready.token_file.clone());
    let configure = match (urls_are_local, token_is_local) {
        (true, true) => String::new(),
        (true, false) => format!(
            "  dunlin env configure local --token-file {}\n",
            ready.token_file.display()
        ),
        (false, _) => format!(
            "  dunlin env configure local --data http://{} --admin http://{} --token-file {}\n",
            reachable(ready.data),
            reachable(ready.admin),
            ready.token_file.display()
        ),
    };
    format!(
        "next, in another terminal:\n{configure}  \
           dunlin new iris && dunlin deploy iris && dunlin predict iris iris/sample.json"
    )
}

/// A wildcard address is where to listen, not where to connect.
pub(super) fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), v4.port())
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), v6.port())
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;
    use crate::verbs::Verb;

    fn configured(flags: &[&str]) -> Result<Node, Failure> {
        let cli = Cli::parse_from(["dunlin", "serve"].iter().chain(flags));
        let Verb::Serve(args) = cli.verb else {
            unreachable!("the verb is serve")
        };
        configuration(&args)
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            file.path(),
            "data: {listen: 127.0.0.1:1}\nadmin: {listen: 127.0.0.1:2}\ndata_dir: /file\nlog: {level: warn}\n",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        let node = configured(&[
            "--config",
            path,
            "--listen",
            "[::]:9",
            "--log-format",
            "json",
        ])
        .unwrap();
        assert_eq!(node.data.listen, "[::]:9".parse().unwrap());
        assert_eq!(node.admin.listen, "127.0.0.1:2".parse().unwrap());
        assert_eq!(node.data_dir.as_deref(), Some(Path::new("/file")));
        assert_eq!(
            (node.log.format, node.log.level),
            (LogFormat::Json, LogLevel::Warn)
        );
    }

    #[test]
    fn the_help_says_where_the_keys_of_the_file_are() {
        use clap::CommandFactory as _;
        let mut cli = Cli::command();
        let serve = cli.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        assert!(help.contains("node.yaml. Its keys"), "{help}");
        assert!(help.contains("dunlin#nodeyaml"), "{help}");
    }

    #[test]
    fn wrong_settings_are_refused() {
        let same = configured(&["--listen", "127.0.0.1:8081"]).unwrap_err();
        assert_eq!(same.exit, Exit::Usage);
        let missing = configured(&["--config", "/nowhere/node.yaml"]).unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "treads: 2\n").unwrap();
        let wrong = configured(&["--config", file.path().to_str().unwrap()]).unwrap_err();
        assert_eq!(wrong.exit, Exit::Refused);
        assert!(wrong.to_string().contains("treads"), "{wrong}");
    }

    #[test]
    fn what_to_try_next_works_as_it_stands() {
        let ready = |data: &str, token_file: &Path| Ready {
            data: data.parse().unwrap(),
            grpc: None,
            admin: "127.0.0.1:8081".parse().unwrap(),
            token_file: token_file.to_owned(),
        };
        let other = Path::new("/elsewhere/admin-token");
        let moved = next_steps(&ready("127.0.0.1:8080", other));
        assert!(
            moved.contains("env configure local --token-file /elsewhere"),
            "{moved}"
        );
        let wildcard = next_steps(&ready("0.0.0.0:9000", other));
        assert!(
            wildcard.contains("--data http://127.0.0.1:9000"),
            "{wildcard}"
        );
        if let Ok(token_file) = paths::default_token_file() {
            let plain = next_steps(&ready("127.0.0.1:8080", &token_file));
            assert!(!plain.contains("env configure"), "{plain}");
        }
    }
}
