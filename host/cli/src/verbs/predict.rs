//! `dunlin predict`: sends a file to a deployment and writes what comes back.

use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use edge_config::DeploymentName;
use reqwest::Response;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt as _;

use crate::cli::{Context, reading};
use crate::client::{Client, Prediction, read_to};
use crate::exit::{Exit, Failure};
use crate::paths;
use crate::project::unreadable;

/// More than any node takes by default by far; a mistake such as a disk image is refused here.
const BODY_MAX: u64 = 1 << 30;
/// How much of a reply is kept in memory for JSON output. As text it is passed on as it comes.
const REPLY_MAX: usize = 256 * 1024 * 1024;
const ERROR_MAX: usize = 16 * 1024;

/// Send a file to a deployment and print the prediction
///
/// The content type follows from the file's extension, and the exit code from the status: 0 only
/// for 2xx. With '-o json' the output has the status, the headers and the body.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  dunlin predict digits sample.json
  dunlin predict digits three.png
  echo '{\"pixels\": []}' | dunlin predict digits -
  dunlin predict ranker query.bin --content-type application/x-protobuf --path /top/3?lang=en
  dunlin predict segmenter street.jpg --save mask.png")]
pub(crate) struct Args {
    /// The deployment
    name: DeploymentName,

    /// What to send; '-' is standard input
    #[arg(value_name = "FILE|-")]
    file: PathBuf,

    /// The content type, where the extension does not say it
    #[arg(short = 't', long, value_name = "TYPE")]
    content_type: Option<HeaderValue>,

    /// A further header, 'name: value'; may be given again
    #[arg(short = 'H', long = "header", value_name = "HEADER", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,

    /// The path below the deployment, with its query
    #[arg(short, long, default_value = "", hide_default_value = true, value_parser = parse_path)]
    path: String,

    /// How many seconds to wait for the whole answer
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,

    /// Write the reply to this file
    #[arg(short, long, value_name = "FILE")]
    save: Option<PathBuf>,
}

pub(crate) async fn run(args: Args, context: &Context) -> Result<(), Failure> {
    let body = read_body(&args.file, context).await?;
    let content_type = args.content_type.unwrap_or_else(|| {
        HeaderValue::from_static(content_type(
            args.file.extension().and_then(|e| e.to_str()),
            &body,
        ))
    });
    let mut headers: HeaderMap = args.headers.into_iter().collect();
    headers.entry(CONTENT_TYPE).or_insert(content_type);

    let client = Client::with_read_timeout(
        context.environment()?,
        // The node's own deadline answers long before.
        Duration::from_secs(args.timeout.unwrap_or(3600)),
    )?;
    let prediction = Prediction {
        path: &args.path,
        headers,
        body,
        timeout: args.timeout.map(Duration::from_secs),
    };
    let response = client.predict(args.name.as_str(), prediction).await?;
    match (&args.save, context.output.json()) {
        (Some(path), _) if response.status().is_success() => save(response, path, context).await,
        (_, true) => document(response, &client, context).await,
        _ => pass_on(response, &client, context).await,
    }
}

async fn read_body(file: &Path, context: &Context) -> Result<Bytes, Failure> {
    if file == Path::new("-") {
        if io::stdin().is_terminal() {
            context
                .output
                .say("reading the request from the terminal; Ctrl-D ends it");
        }
        return reading(|| read_bounded(io::stdin(), Path::new("standard input"))).await;
    }
    let file = file.to_owned();
    // A file may be a pipe too.
    reading(move || {
        let opened = std::fs::File::open(&file).map_err(|error| {
            unreadable(&file, &error).next("give the file to send, or '-' for standard input")
        })?;
        read_bounded(opened, &file)
    })
    .await
}

fn read_bounded(reader: impl Read, name: &Path) -> Result<Bytes, Failure> {
    let mut body = Vec::new();
    let read = reader.take(BODY_MAX + 1).read_to_end(&mut body);
    read.map_err(|error| unreadable(name, &error))?;
    if body.len() as u64 > BODY_MAX {
        let message = format!("{} is larger than 1 GiB", name.display());
        return Err(Failure::new(Exit::Refused, message));
    }
    Ok(Bytes::from(body))
}

/// The type of a file by its extension; without one, JSON is recognised by its look.
pub(crate) fn content_type(extension: Option<&str>, body: &[u8]) -> &'static str {
    match extension.map(str::to_ascii_lowercase).as_deref() {
        Some("json") => "application/json",
        Some("txt" | "text" | "md") => "text/plain; charset=utf-8",
        Some("csv") => "text/csv",
        Some("html" | "htm") => "text/html",
        Some("xml") => "application/xml",
        Some("png") => "image/png",
        Some("jpg" | "jpeg") => "image/jpeg",
        Some("gif") => "image/gif",
        Some("webp") => "image/webp",
        Some("bmp") => "image/bmp",
        Some("tif" | "tiff") => "image/tiff",
        Some("wav") => "audio/wav",
        Some("mp3") => "audio/mpeg",
        Some("flac") => "audio/flac",
        Some("mp4") => "video/mp4",
        Some("pdf") => "application/pdf",
        Some(_) => "application/octet-stream",
        None if serde_json::from_slice::<serde::de::IgnoredAny>(body).is_ok() => "application/json",
        None => "application/octet-stream",
    }
}

/// The reply as it is, to standard output; an error to standard error.
async fn pass_on(
    mut response: Response,
    client: &Client,
    context: &Context,
) -> Result<(), Failure> {
    if !response.status().is_success() {
        return Err(refused(response, client).await);
    }
    let terminal = io::stdout().is_terminal();
    if terminal && !is_text(response.headers()) {
        return Err(Failure::new(
            Exit::Refused,
            "the reply is not text, and standard output is a terminal",
        )
        .next("write it to a file: --save FILE"));
    }
    let mut last = b'\n';
    while let Some(chunk) = response.chunk().await.map_err(|error| broken_off(&error))? {
        last = chunk.last().copied().unwrap_or(last);
        context.output.bytes(&chunk)?;
    }
    if terminal && last != b'\n' {
        context.output.text("\n")?;
    }
    Ok(())
}

/// Status, headers and body as one document.
async fn document(response: Response, client: &Client, context: &Context) -> Result<(), Failure> {
    let status = response.status();
    let headers = response.headers().clone();
    let body = read_to(response, REPLY_MAX)
        .await
        .map_err(|error| broken_off(&error))?;
    context.output.document(&json!({
        "status": status.as_u16(),
        "headers": header_object(&headers),
        "body": body_value(&body),
    }))?;
    if status.is_success() {
        return Ok(());
    }
    Err(client.refused(status.as_u16(), &body).documented())
}

/// The reply into a file, which is there only once it is whole.
async fn save(mut response: Response, path: &Path, context: &Context) -> Result<(), Failure> {
    let failed = |error: &io::Error| {
        Failure::caused_by(
            Exit::Failed,
            format!("cannot write {}", path.display()),
            error,
        )
    };
    let content_type = response.headers().get(CONTENT_TYPE).cloned();
    let file = paths::temporary_beside(path).map_err(|error| failed(&error))?;
    let (file, temporary) = file.into_parts();
    let mut file = tokio::fs::File::from_std(file);
    let mut size = 0;
    while let Some(chunk) = response.chunk().await.map_err(|error| broken_off(&error))? {
        size += chunk.len();
        file.write_all(&chunk)
            .await
            .map_err(|error| failed(&error))?;
    }
    file.flush().await.map_err(|error| failed(&error))?;
    temporary
        .persist(path)
        .map_err(|error| failed(&error.error))?;

    let content_type = content_type
        .as_ref()
        .and_then(|value| value.to_str().ok())
        .unwrap_or("-");
    if context.output.json() {
        return context.output.document(&json!({
            "status": response.status().as_u16(),
            "headers": header_object(response.headers()),
            "file": path,
            "bytes": size,
        }));
    }
    context.output.say(&format!(
        "wrote {} ({size} bytes, {content_type})",
        path.display()
    ));
    Ok(())
}

async fn refused(response: Response, client: &Client) -> Failure {
    let status = response.status().as_u16();
    let id = response
        .headers()
        .get("x-request-id")
        .and_then(|id| id.to_str().ok());
    let id = id.map(str::to_owned);
    let body = read_to(response, ERROR_MAX).await.unwrap_or_default();
    let failure = client.refused(status, &body);
    match id {
        Some(id) => failure.because(format!("HTTP {status}, request id {id}")),
        None => failure.because(format!("HTTP {status}")),
    }
}

fn broken_off(error: &reqwest::Error) -> Failure {
    Failure::caused_by(Exit::Unreachable, "the node broke off its reply", error)
        .next("look at the node's log")
}

fn is_text(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    essence.starts_with("text/")
        || essence.ends_with("json")
        || essence.ends_with("xml")
        || essence.ends_with("x-www-form-urlencoded")
}

fn header_object(headers: &HeaderMap) -> Map<String, Value> {
    let mut object = Map::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        match object.get_mut(name.as_str()) {
            // A header that occurs again means a list, as in HTTP.
            Some(Value::String(before)) => before.push_str(&format!(", {value}")),
            _ => _ = object.insert(name.to_string(), Value::from(value)),
        }
    }
    object
}

/// JSON as JSON, text as a string, anything else as `{"base64": "…"}`.
fn body_value(body: &[u8]) -> Value {
    if let Ok(value) = serde_json::from_slice(body) {
        return value;
    }
    match std::str::from_utf8(body) {
        Ok(text) => Value::from(text),
        Err(_) => json!({"base64": base64::engine::general_purpose::STANDARD.encode(body)}),
    }
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("write it as 'name: value', such as 'x-user: 7'")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("{name:?} is not the name of a header"))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| format!("{value:?} is not the value of a header"))?;
    Ok((name, value))
}

fn parse_path(text: &str) -> Result<String, String> {
    if text.is_empty() || text.starts_with('/') || text.starts_with('?') {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a path starts with '/' and a query with '?'; write /{text}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_types() {
        for (extension, body, expected) in [
            (Some("json"), "not json", "application/json"),
            (Some("PNG"), "", "image/png"),
            (Some("jpeg"), "", "image/jpeg"),
            (Some("xyz"), "{}", "application/octet-stream"),
            (None, "{\"a\": [1]}", "application/json"),
            (None, "", "application/octet-stream"),
            (None, "{\"a\":", "application/octet-stream"),
        ] {
            assert_eq!(
                content_type(extension, body.as_bytes()),
                expected,
                "{extension:?} {body}"
            );
        }
    }

    #[test]
    fn headers_and_paths_are_checked() {
        let (name, value) = parse_header("X-User:  7").unwrap();
        assert_eq!((name.as_str(), value.to_str().unwrap()), ("x-user", "7"));
        for text in ["x-user", "a b: 1", "a: \u{1}", ": 1"] {
            assert!(parse_header(text).is_err(), "{text:?}");
        }
        for text in ["", "/", "/a/b?c=d", "?c=d"] {
            assert_eq!(parse_path(text).unwrap(), text);
        }
        assert!(parse_path("a").unwrap_err().contains("write /a"));
    }

    #[test]
    fn bodies_in_documents() {
        assert_eq!(body_value(b"{\"label\":3}"), json!({"label": 3}));
        assert_eq!(body_value(b"plain text"), json!("plain text"));
        assert_eq!(body_value(b"\xff\x00"), json!({"base64": "/wA="}));
        assert_eq!(body_value(b""), json!(""));
    }

    #[test]
    fn repeated_headers_are_lists() {
        let mut headers = HeaderMap::new();
        headers.append("a", HeaderValue::from_static("1"));
        headers.append("a", HeaderValue::from_static("2"));
        assert_eq!(Value::from(header_object(&headers)), json!({"a": "1, 2"}));
    }
}
