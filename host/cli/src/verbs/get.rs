//! `dunlin get`: what runs on a node, once or again and again.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use edge_config::DeploymentName;
use jiff::Timestamp;
use serde_json::json;

use crate::api::Deployment;
use crate::cli::Context;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::Style;
use crate::table::{Align, Table};

const WATCH_EVERY: Duration = Duration::from_secs(2);
/// Cursor home, and everything below it cleared: no flicker, and what was above stays in the
/// terminal's history.
const REDRAW: &str = "\u{1b}[H\u{1b}[J";

/// Show deployments: status, requests and latency
///
/// Without a name all of them, a line each; with one, its instances, models and tensors too.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin get
  dunlin get digits
  dunlin get -w                            # again every 2 s, until Ctrl-C
  dunlin get -o json | jq -r '.deployments[].name'")]
pub(crate) struct Args {
    /// The deployment; without it all of them
    name: Option<DeploymentName>,

    /// Show it again every 2 s until Ctrl-C; with '-o json' a document a line
    #[arg(short, long)]
    watch: bool,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    let name = args.name.as_ref().map(DeploymentName::as_str);
    if !args.watch {
        let shown = fetch(&client, name).await?;
        return if context.output.json() {
            context.output.document(&shown.document())
        } else {
            context
                .output
                .text(&shown.text(&client, context.output.style()))
        };
    }
    tokio::select! {
        result = watch(&client, name, context) => result,
        // The one way to end it is no failure.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn watch(client: &Client, name: Option<&str>, context: &Context) -> Result<(), Failure> {
    let output = context.output;
    let redraw = if io::stdout().is_terminal() {
        REDRAW
    } else {
        ""
    };
    let mut shown_once = false;
    let mut ticks = tokio::time::interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match fetch(client, name).await {
            Ok(shown) if output.json() => output.line(&shown.document())?,
            Ok(shown) => output.text(&format!("{redraw}{}", shown.text(client, output.style())))?,
            // A node that restarts comes back; one that never answered is a mistake.
            Err(failure) if shown_once && failure.exit == Exit::Unreachable => {
                output.say(&format!("{failure}; trying again"));
            }
            Err(failure) => return Err(failure),
        }
        shown_once = true;
    }
}

enum Shown {
    One(Box<Deployment>),
    All(Vec<Deployment>),
}

async fn fetch(client: &Client, name: Option<&str>) -> Result<Shown, Failure> {
    match name {
        Some(name) => Ok(Shown::One(Box::new(client.deployment(name).await?))),
        None => Ok(Shown::All(client.deployments().await?)),
    }
}

impl Shown {
    fn document(&self) -> serde_json::Value {
        match self {
            Self::One(deployment) => json!(deployment),
            Self::All(deployments) => json!({"deployments": deployments}),
        }
    }

    fn text(&self, client: &Client, style: Style) -> String {
        let now = Timestamp::now();
        match self {
            Self::All(none) if none.is_empty() => format!(
                "nothing is deployed on {} ({}); deploy a predictor: dunlin deploy DIR\n",
                client.environment().name,
                client.environment().admin
            ),
            Self::All(deployments) => table(deployments, now, style),
            Self::One(deployment) => {
                let table = table(std::slice::from_ref(deployment), now, style);
                table + &details(deployment, client, style)
            }
        }
    }
}

fn table(deployments: &[Deployment], now: Timestamp, style: Style) -> String {
    let columns = [
        ("name", Align::Left),
        ("status", Align::Left),
        ("revision", Align::Right),
        ("digest", Align::Left),
        ("requests", Align::Right),
        ("2xx", Align::Right),
        ("4xx", Align::Right),
        ("5xx", Align::Right),
        ("mean", Align::Right),
        ("age", Align::Right),
    ];
    let mut table = Table::new(style, &columns);
    for deployment in deployments {
        let requests = &deployment.requests;
        table.row([
            deployment.name.clone(),
            deployment.status.clone(),
            deployment.revision.to_string(),
            short_digest(&deployment.digest).to_owned(),
            requests.total.to_string(),
            requests.ok.to_string(),
            requests.client_error.to_string(),
            requests.server_error.to_string(),
            requests
                .mean_ms
                .filter(|_| requests.total > 0)
                .map(mean)
                .unwrap_or_default(),
            deployment
                .created_at
                .parse()
                .map(|created| age(created, now))
                .unwrap_or_default(),
        ]);
    }
    table.to_string()
}

fn details(deployment: &Deployment, client: &Client, style: Style) -> String {
    let mut text = String::new();
    let mut line = |label: &str, value: String| {
        writeln!(text, "{} {value}", style.bold(&format!("{label:10}")))
            .expect("a String takes every write");
    };
    let instances = &deployment.instances;
    if let Some(reason) = &deployment.reason {
        line("reason", reason.clone());
    }
    line("digest", deployment.digest.clone());
    if deployment.predictor {
        line("url", client.deployment_url(&deployment.name).to_string());
        line(
            "instances",
            format!(
                "{} busy, {} idle, {} at most",
                instances.busy, instances.idle, instances.max
            ),
        );
    }
    for model in &deployment.models {
        line("model", format!("{} ({})", model.name, model.platform));
        for input in &model.inputs {
            line("  input", input.to_string());
        }
        for output in &model.outputs {
            line("  output", output.to_string());
        }
    }
    format!("\n{text}")
}

/// The first 12 digits of a digest: enough to tell packages apart.
pub(crate) fn short_digest(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

/// Three figures at most, with the unit that suits.
fn mean(ms: f64) -> String {
    match ms {
        ms if ms < 0.0995 => format!("{:.0} µs", ms * 1000.0),
        ms if ms < 9.995 => format!("{ms:.2} ms"),
        ms if ms < 999.5 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1000.0),
    }
}

/// The largest whole unit. A clock that is behind the node's shows 0s.
fn age(created: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(created).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages() {
        let now: Timestamp = "2026-01-31T00:00:00Z".parse().unwrap();
        for (created, expected) in [
            ("2026-01-31T00:00:00Z", "0s"),
            ("2026-01-31T00:00:05Z", "0s"),
            ("2026-01-30T23:58:01Z", "119s"),
            ("2026-01-30T23:58:00Z", "2m"),
            ("2026-01-30T22:00:00Z", "2h"),
            ("2026-01-30T01:00:00+01:00", "24h"),
            ("2026-01-29T00:00:00Z", "2d"),
        ] {
            assert_eq!(age(created.parse().unwrap(), now), expected, "{created}");
        }
    }

    #[test]
    fn means() {
        for (ms, expected) in [
            (0.0123, "12 µs"),
            (0.25, "0.25 ms"),
            (9.99, "9.99 ms"),
            (10.4, "10 ms"),
            (1500.0, "1.5 s"),
        ] {
            assert_eq!(mean(ms), expected);
        }
    }

    #[test]
    fn a_row_has_what_the_node_said() {
        let deployments: Vec<Deployment> = serde_json::from_str(
            r#"[{"name":"digits","revision":2,"digest":"sha256:0123456789abcdef","status":"live",
                 "created_at":"2026-01-30T23:59:00Z",
                 "requests":{"total":7,"2xx":4,"4xx":2,"5xx":1,"mean_ms":1.5}},
                {"name":"a"}]"#,
        )
        .unwrap();
        let now = "2026-01-31T00:00:00Z".parse().unwrap();
        let rows: Vec<Vec<String>> = table(&deployments, now, Style::plain())
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().map(str::to_owned).collect())
            .collect();
        assert_eq!(
            rows[0],
            [
                "digits",
                "live",
                "2",
                "0123456789ab",
                "7",
                "4",
                "2",
                "1",
                "1.50",
                "ms",
                "60s"
            ]
        );
        assert_eq!(rows[1], ["a", "-", "0", "-", "0", "0", "0", "0", "-", "-"]);
    }
}
