//! A node of its own for one route: this binary's `serve` in a process, on free ports, with a
//! temporary data directory. Dropped, it is gone, and so is all that it wrote.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE};
use serde::Deserialize;
use tempfile::TempDir;
use tokio_util::io::ReaderStream;

use super::golden::{self, BinaryRequest, Tensors};
use super::requests::Request;
use crate::api;
use crate::exit::{Exit, Failure};

const START_TIMEOUT: Duration = Duration::from_secs(60);
/// A deployment loads its models and compiles its predictor before it is answered.
const DEPLOY_TIMEOUT: Duration = Duration::from_secs(600);
/// More than the deadline that a deployment may set itself is of no use here.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
const LOG_LINES_SHOWN: usize = 5;
const LENGTH_HEADER: &str = "inference-header-content-length";

#[derive(Debug)]
pub(super) struct Node {
    process: Child,
    ready: Ready,
    token: String,
    http: reqwest::Client,
    _folder: TempDir,
}

/// What `dunlin serve -o json` says first.
#[derive(Debug, Deserialize)]
struct Ready {
    data: String,
    admin: String,
    token_file: std::path::PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The text of an error, on one line and not too long.
    pub(super) fn error(&self) -> String {
        let document = serde_json::from_slice::<serde_json::Value>(&self.body).ok();
        let text = document.and_then(|document| document["error"].as_str().map(str::to_owned));
        let text = text.unwrap_or_else(|| String::from_utf8_lossy(&self.body).into_owned());
        let text: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(1000)
            .collect();
        match text.trim() {
            "" => format!("HTTP {}", self.status),
            text => text.to_owned(),
        }
    }
}

impl Node {
    /// Starts a node and waits until it listens. `config` is a node.yaml for it.
    pub(super) async fn start(config: Option<&Path>) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("dunlin-compare-")
            .tempdir()
            .map_err(|error| cannot_start(&error))?;
        let log = folder.path().join("node.log");
        let mut process =
            spawn(folder.path(), &log, config).map_err(|error| cannot_start(&error))?;
        let stdout = process.stdout.take();
        // From here on whatever ends early ends the process.
        let mut guard = Guard(Some(process));
        let line = first_line(stdout).await;
        let Ok(ready) = serde_json::from_str::<Ready>(&line) else {
            let failure = Failure::new(Exit::Failed, "a node for the comparison does not start");
            return Err(failure
                .because(tail(&log))
                .next("try it: dunlin serve --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0"));
        };
        let token = fs::read_to_string(&ready.token_file).map_err(|error| cannot_start(&error))?;
        let http = reqwest::Client::builder()
            .no_proxy()
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|error| {
                Failure::caused_by(Exit::Failed, "cannot set up an HTTP client", &error)
            })?;
        Ok(Self {
            process: guard.0.take().expect("the guard has the process"),
            ready,
            token: token.trim().to_owned(),
            http,
            _folder: folder,
        })
    }

    /// Uploads a package; gives the deployment and how long the node took for it.
    pub(super) async fn deploy(
        &self,
        package: &Path,
    ) -> Result<(api::Deployment, Duration), String> {
        let file = tokio::fs::File::open(package).await;
        let file = file.map_err(|error| error.to_string())?;
        let size = file
            .metadata()
            .await
            .map_err(|error| error.to_string())?
            .len();
        let request = self
            .http
            .post(format!("{}/v1/deployments", self.ready.admin))
            .bearer_auth(&self.token)
            .timeout(DEPLOY_TIMEOUT)
            .header(CONTENT_TYPE, "application/x-tar")
            .header(CONTENT_LENGTH, size)
            .body(reqwest::Body::wrap_stream(ReaderStream::new(file)));
        let started = Instant::now();
        let answer = self.send(request).await?.1;
        let took = started.elapsed();
        if !answer.is_success() {
            return Err(answer.error());
        }
        let deployment = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
        Ok((deployment, took))
    }

    /// Asks a model for tensors.
    pub(super) async fn infer(
        &self,
        deployment: &str,
        model: &str,
        request: BinaryRequest,
    ) -> Result<Tensors, String> {
        let url = format!("{}/v2/models/{deployment}.{model}/infer", self.ready.data);
        let request = self
            .http
            .post(url)
            .header(LENGTH_HEADER, request.json_len)
            .body(request.body);
        let (headers, answer) = self.send(request).await?;
        if !answer.is_success() {
            return Err(answer.error());
        }
        let json_len = headers.get(LENGTH_HEADER);
        let json_len = json_len.and_then(|value| value.to_str().ok()?.parse().ok());
        golden::parse_answer(json_len, &answer.body)
    }

    /// Sends a recorded request to the deployment.
    pub(super) async fn predict(
        &self,
        deployment: &str,
        request: &Request,
    ) -> Result<Answer, String> {
        let sent = self
            .http
            .post(format!("{}/{deployment}", self.ready.data))
            .header(CONTENT_TYPE, request.content_type)
            .body(request.body.clone());
        Ok(self.send(sent).await?.1)
    }

    /// `host:port` of the data plane.
    pub(super) fn address(&self) -> &str {
        self.ready.data.trim_start_matches("http://")
    }

    /// Resident bytes of the process; `None` where the system does not tell.
    pub(super) fn resident_bytes(&self) -> Option<u64> {
        let id = self.process.id();
        let kibibytes = match fs::read_to_string(format!("/proc/{id}/status")) {
            Ok(status) => {
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("VmRSS:"))?;
                line.trim().trim_end_matches(" kB").parse::<u64>().ok()?
            }
            // Not Linux.
            Err(_) => {
                let id = id.to_string();
                let output = Command::new("ps").args(["-o", "rss=", "-p", &id]).output();
                let text = String::from_utf8(output.ok()?.stdout).ok()?;
                text.trim().parse().ok()?
            }
        };
        Some(kibibytes << 10)
    }

    async fn send(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(reqwest::header::HeaderMap, Answer), String> {
        let exchange = async {
            let response = request.send().await?;
            let status = response.status().as_u16();
            let headers = response.headers().clone();
            let body = response.bytes().await?;
            Ok((headers, Answer { status, body }))
        };
        exchange.await.map_err(|error: reqwest::Error| {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text = error.to_string();
                cause = error.source();
            }
            format!("the node did not answer: {text}")
        })
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        end(&mut self.process);
    }
}

/// Ends a process that nobody has taken over.
struct Guard(Option<Child>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(process) = &mut self.0 {
            end(process);
        }
    }
}

/// Nothing of it is kept, so it need not drain.
fn end(process: &mut Child) {
    let _gone = process.kill();
    let _status = process.wait();
}

fn spawn(folder: &Path, log: &Path, config: Option<&Path>) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["serve", "-o", "json", "--log-level", "warn"])
        .args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
        .args(["--grpc-listen", "off"])
        .arg("--data-dir")
        .arg(folder.join("data"));
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(log)?)
        .spawn()
}

/// Empty where none came in time.
async fn first_line(stdout: Option<impl io::Read + Send + 'static>) -> String {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        if let Some(stdout) = stdout {
            let _closed = BufReader::new(stdout).read_line(&mut line);
        }
        sender.send(line)
    });
    let line = tokio::time::timeout(START_TIMEOUT, receiver).await;
    line.ok().and_then(Result::ok).unwrap_or_default()
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    let from = lines.len().saturating_sub(LOG_LINES_SHOWN);
    match lines.is_empty() {
        true => "it said nothing".to_owned(),
        false => lines[from..].join("\n"),
    }
}

fn cannot_start(error: &io::Error) -> Failure {
    Failure::caused_by(
        Exit::Failed,
        "cannot start a node for the comparison",
        error,
    )
    .next("free space in the temporary folder, or set TMPDIR to another one")
}
