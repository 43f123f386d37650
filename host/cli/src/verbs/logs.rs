//! `dunlin logs`: what a deployment's predictor and the node say of it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::time::Duration;

use edge_config::DeploymentName;
use serde_json::{Value, json};

use crate::api::LogEntry;
use crate::cli::Context;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::output::Style;

/// How long the node holds a request that has nothing to tell. It allows 30 s.
const LONG_POLL: Duration = Duration::from_secs(25);
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// A node's log of one deployment is bounded; so is what is asked for to see its end.
const PAGES_MAX: usize = 1000;

/// Show the log of a deployment
///
/// What its predictor logs or prints, and what the node says of it, oldest first.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin logs digits
  dunlin logs digits -n 20
  dunlin logs digits -f                    # and what comes, until Ctrl-C
  dunlin logs digits -f -o json | jq 'select(.level == \"error\")'")]
pub(crate) struct Args {
    /// The deployment
    name: DeploymentName,

    /// Go on with what comes, until Ctrl-C; with '-o json' a document a line
    #[arg(short, long)]
    follow: bool,

    /// How many of the latest entries to begin with
    #[arg(short = 'n', long, default_value_t = 100, value_name = "COUNT")]
    lines: usize,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let client = context.client()?;
    if !args.follow {
        let (entries, _next) = latest(&client, args.name.as_str(), args.lines).await?;
        return if context.output.json() {
            context.output.document(&json!({"entries": entries}))
        } else {
            print(entries.iter(), context)
        };
    }
    tokio::select! {
        result = follow(&client, &args, context) => result,
        // The one way to end it is no failure.
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

/// The last `count` entries, and where the log goes on.
async fn latest(
    client: &Client,
    name: &str,
    count: usize,
) -> Result<(VecDeque<LogEntry>, u64), Failure> {
    let mut latest = VecDeque::new();
    let mut after = 0;
    for _page in 0..PAGES_MAX {
        let page = client.logs(name, after, Duration::ZERO).await?;
        after = page.next;
        if page.entries.is_empty() {
            break;
        }
        latest.extend(page.entries);
        latest.drain(..latest.len().saturating_sub(count));
    }
    Ok((latest, after))
}

async fn follow(client: &Client, args: &Args, context: &Context) -> Result<(), Failure> {
    let name = args.name.as_str();
    let (entries, mut after) = latest(client, name, args.lines).await?;
    print(entries.iter(), context)?;
    loop {
        match client.logs(name, after, LONG_POLL).await {
            Ok(page) => {
                print(page.entries.iter(), context)?;
                after = page.next;
            }
            Err(failure) if failure.exit == Exit::Unreachable => {
                context.output.say(&format!("{failure}; trying again"));
                tokio::time::sleep(RETRY_AFTER).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn print<'a>(
    entries: impl Iterator<Item = &'a LogEntry>,
    context: &Context,
) -> Result<(), Failure> {
    let output = context.output;
    for entry in entries {
        if output.json() {
            output.line(entry)?;
        } else {
            output.text(&line(entry, output.style()))?;
        }
    }
    Ok(())
}

/// `2026-01-02T03:04:05Z ERROR no such label label=12 request_id=ab12`
fn line(entry: &LogEntry, style: Style) -> String {
    let level = format!("{:5}", entry.level.to_uppercase());
    let level = match entry.level.as_str() {
        "error" => style.red(&level),
        "warn" => style.bold(&level),
        _ => level,
    };
    let mut line = format!("{} {level} {}", clean(&entry.time), clean(&entry.message));
    let fields = entry
        .fields
        .iter()
        .map(|(name, value)| (name.as_str(), text(value)));
    let request = entry.request_id.iter().filter(|id| !id.is_empty());
    let request = request.map(|id| ("request_id", id.clone()));
    for (name, value) in fields.chain(request) {
        write!(line, " {}={}", clean(name), clean(&value)).expect("a String takes every write");
    }
    line.push('\n');
    line
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) if !text.contains(' ') => text.clone(),
        other => other.to_string(),
    }
}

/// A predictor may log anything; a terminal must not obey it. Lines of a message are indented.
fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for c in text.trim_end().chars() {
        match c {
            '\n' => clean.push_str("\n    "),
            '\t' => clean.push(' '),
            c if c.is_control() => clean.push('?'),
            c => clean.push(c),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &str) {
        let entry: LogEntry = serde_json::from_str(json).unwrap();
        assert_eq!(line(&entry, Style::plain()), expected);
    }

    #[test]
    fn an_entry_is_a_line() {
        check(
            r#"{"seq":1,"time":"T","level":"info","request_id":"ab","message":"made",
                "fields":{"label":"7","took":1.5,"why":"two words"}}"#,
            "T INFO  made label=7 took=1.5 why=\"two words\" request_id=ab\n",
        );
        check(
            r#"{"time":"T","level":"warn","message":"a\nb\n"}"#,
            "T WARN  a\n    b\n",
        );
        check(r#"{"message":"\u001b[2Jx"}"#, "       ?[2Jx\n");
    }
}
