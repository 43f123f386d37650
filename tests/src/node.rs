//! A node in a process of its own, with a data directory of its own.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use reqwest::{Client, Method, RequestBuilder};
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Answer, artifacts::binary, send, until};

/// A debug build compiles predictors and loads models before it says that it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// How much of a node's log a failed test shows.
const LOG_LINES_MAX: usize = 50;

/// How a node is started.
#[derive(Debug, Clone, Default)]
pub struct NodeOptions {
    /// `node.yaml`; empty for the defaults. The addresses and the data directory are given by flags.
    pub config: String,
    /// Gives the data directory a file system of so many bytes, made with `unshare -rm`. It is gone
    /// with the process.
    pub disk_bytes: Option<u64>,
    /// The node's standard error is a pipe that nobody reads; [`Node::log`] is empty.
    pub stalled_log: bool,
    /// It has no native backends, whatever this machine has.
    pub without_backends: bool,
}

/// How a node is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// It drains.
    Term,
    /// It is gone at once.
    Kill,
}

/// A running node. Dropped, it is killed; where a test fails, its log is printed.
#[derive(Debug)]
pub struct Node {
    process: Child,
    ready: Ready,
    options: NodeOptions,
    client: Client,
    folder: TempDir,
}

#[derive(Debug)]
struct Ready {
    data: String,
    grpc: String,
    admin: String,
    token_file: PathBuf,
}

impl Node {
    /// Starts a node on free ports and waits until it is ready.
    ///
    /// # Panics
    /// It does not come up.
    #[must_use]
    pub fn start(options: &NodeOptions) -> Self {
        let folder = tempfile::tempdir().expect("the tests can make folders");
        let (process, ready) = spawn(folder.path(), options);
        Self {
            process,
            ready,
            options: options.clone(),
            client: client(),
            folder,
        }
    }

    /// Stops the node and starts it again on the same data, on other ports. Gives how it ended.
    ///
    /// # Panics
    /// It does not end, or does not come up.
    pub fn restart(&mut self, signal: Signal) -> ExitStatus {
        let ended = self.stop(signal);
        self.start_again();
        ended
    }

    /// # Panics
    /// The node does not end.
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }

    /// Sends the signal and does not wait for what it does.
    pub fn signal(&self, signal: Signal) {
        let signal = match signal {
            Signal::Term => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        // One that has ended already is ended.
        let _ended = kill_process(Pid::from_child(&self.process), signal);
    }

    /// Waits for the node to end.
    ///
    /// # Panics
    /// It does not.
    pub fn wait(&mut self) -> ExitStatus {
        until("the node ends", STOP_TIMEOUT, || {
            self.process.try_wait().expect("a child can be waited for")
        })
    }

    /// Starts a node that was stopped, on its data.
    ///
    /// # Panics
    /// It does not come up.
    pub fn start_again(&mut self) {
        (self.process, self.ready) = spawn(self.folder.path(), &self.options);
        // Connections to the old one are of no use.
        self.client = client();
    }

    /// As [`Node::start_again`], but waits only until the node listens.
    ///
    /// # Panics
    /// It does not listen.
    pub fn start_again_unready(&mut self) {
        let logged = self.log().len();
        self.process = serve(self.folder.path(), &self.options);
        let line = until("the node listens", START_TIMEOUT, || {
            let log = self.log();
            let line = log[logged..]
                .lines()
                .find(|line| line.contains("listening"))?;
            Some(line.to_owned())
        });
        let url = |plane: &str| {
            let mut words = line.split_whitespace();
            let address = words.find_map(|word| word.strip_prefix(plane));
            format!("http://{}", address.expect("the line has both addresses"))
        };
        (self.ready.data, self.ready.admin) = (url("data="), url("admin="));
        self.client = client();
    }

    /// `http://127.0.0.1:<port>` of the data plane.
    #[must_use]
    pub fn data_url(&self) -> &str {
        &self.ready.data
    }

    /// `127.0.0.1:<port>` for gRPC.
    #[must_use]
    pub fn grpc_address(&self) -> &str {
        &self.ready.grpc
    }

    /// `http://127.0.0.1:<port>` of the admin plane.
    #[must_use]
    pub fn admin_url(&self) -> &str {
        &self.ready.admin
    }

    #[must_use]
    pub fn token_file(&self) -> &Path {
        &self.ready.token_file
    }

    /// # Panics
    /// The token file cannot be read.
    #[must_use]
    pub fn token(&self) -> String {
        let text = std::fs::read_to_string(self.token_file()).expect("the token file is there");
        text.trim().to_owned()
    }

    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What the node has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(log_file(self.folder.path())).unwrap_or_default()
    }

    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// A request to the data plane.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.ready.data);
        self.client.request(method, url)
    }

    /// A request to the admin plane, with the token.
    pub fn admin(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.ready.admin);
        self.client.request(method, url).bearer_auth(self.token())
    }

    /// GETs a path of the data plane.
    pub async fn fetch(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    /// POSTs to a path of the data plane.
    pub async fn post(&self, path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Answer {
        let request = self.request(Method::POST, path);
        let request = request.header("content-type", content_type);
        send(request.body(body.into())).await
    }

    pub async fn post_json(&self, path: &str, body: &Value) -> Answer {
        self.post(path, "application/json", body.to_string()).await
    }

    /// Uploads a package under its own name, and gives what the node says of the deployment.
    ///
    /// # Panics
    /// It is refused.
    pub async fn deploy(&self, package: &Path) -> Value {
        let answer = self.upload(read(package), None).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// As [`Node::deploy`], under another name.
    ///
    /// # Panics
    /// It is refused.
    pub async fn deploy_as(&self, name: &str, package: &Path) -> Value {
        let answer = self.upload(read(package), Some(name)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    }

    /// Uploads bytes, whatever comes of it.
    pub async fn upload(&self, package: impl Into<reqwest::Body>, name: Option<&str>) -> Answer {
        let path = match name {
            Some(name) => format!("/v1/deployments?name={name}"),
            None => "/v1/deployments".to_owned(),
        };
        send(self.admin(Method::POST, &path).body(package)).await
    }

    /// # Panics
    /// There is no such deployment.
    pub async fn delete(&self, name: &str) {
        let path = format!("/v1/deployments/{name}");
        let answer = send(self.admin(Method::DELETE, &path)).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    /// What the node says of a deployment; `None` where there is none.
    pub async fn get(&self, name: &str) -> Option<Value> {
        let path = format!("/v1/deployments/{name}");
        let answer = send(self.admin(Method::GET, &path)).await;
        (answer.status != 404).then(|| answer.ok().json())
    }

    /// The resident memory of the node's process.
    ///
    /// # Panics
    /// The system does not tell.
    #[must_use]
    pub fn rss_bytes(&self) -> u64 {
        let id = self.process.id().to_string();
        let output = Command::new("ps")
            .args(["-o", "rss=", "-p", &id])
            .output()
            .ok()
            .and_then(|output| String::from_utf8(output.stdout).ok());
        let kibibytes = std::fs::read_to_string(format!("/proc/{id}/status"))
            .ok()
            .and_then(|status| {
                let line = status
                    .lines()
                    .find_map(|line| line.strip_prefix("VmRSS:"))?;
                line.trim().trim_end_matches(" kB").parse::<u64>().ok()
            })
            .or_else(|| output?.trim().parse().ok());
        kibibytes.expect("/proc or ps tells a process's memory") << 10
    }

    /// Lets [`Node::peak_bytes`] begin anew, where the system can.
    pub fn reset_peak(&self) {
        let path = format!("/proc/{}/clear_refs", self.process.id());
        let _unless_it_cannot = std::fs::write(path, "5");
    }

    /// The most that it had since [`Node::reset_peak`], where the system tells.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<u64> {
        let path = format!("/proc/{}/status", self.process.id());
        let status = std::fs::read_to_string(path).ok()?;
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.signal(Signal::Kill);
        let _status = self.process.wait();
        if thread::panicking() {
            eprintln!("--- end of the node's log ---\n{}---", tail(&self.log()));
        }
    }
}

/// The last lines: a guest can make the log as long as it likes.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.len().saturating_sub(LOG_LINES_MAX);
    lines[from..]
        .iter()
        .map(|line| format!("{line}\n"))
        .collect()
}

fn read(package: &Path) -> Vec<u8> {
    std::fs::read(package).expect("a package can be read")
}

fn client() -> Client {
    Client::builder()
        .no_proxy()
        // A test that waits forever says nothing.
        .timeout(Duration::from_secs(60))
        .build()
        .expect("a client without TLS needs nothing")
}

fn log_file(folder: &Path) -> PathBuf {
    folder.join("node.log")
}

/// `dunlin serve` below `folder`, ready or not.
fn serve(folder: &Path, options: &NodeOptions) -> Child {
    let config = folder.join("node.yaml");
    std::fs::write(&config, &options.config).expect("the folder is the test's");
    let log: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log_file(folder))
        .expect("the folder is the test's");
    let data = folder.join("data");
    let mut command = match options.disk_bytes {
        None => Command::new(binary()),
        Some(bytes) => {
            std::fs::create_dir_all(&data).expect("the folder is the test's");
            let mount = format!(r#"mount -t tmpfs -o size={bytes} tmpfs "$0" && exec "$@""#);
            let mut command = Command::new("unshare");
            command.args(["-rm", "sh", "-c", &mount]);
            command.arg(&data).arg(binary());
            command
        }
    };
    if options.without_backends {
        command.env("DUNLIN_BACKENDS", folder.join("no-backends"));
    }
    command
        .args(["serve", "-o", "json", "--listen", "127.0.0.1:0"])
        .args(["--grpc-listen", "127.0.0.1:0"])
        .args(["--admin-listen", "127.0.0.1:0", "--config"])
        .arg(config)
        .arg("--data-dir")
        .arg(data)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(if options.stalled_log {
            Stdio::piped()
        } else {
            log.into()
        })
        .spawn()
        .expect("dunlin can be run")
}

fn spawn(folder: &Path, options: &NodeOptions) -> (Child, Ready) {
    let mut process = serve(folder, options);
    let stdout = process.stdout.take().expect("it is piped");
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = String::new();
        let _read = BufReader::new(stdout).read_line(&mut line);
        sender.send(line)
    });
    let line = receiver.recv_timeout(START_TIMEOUT).unwrap_or_default();
    let document: Value = serde_json::from_str(&line).unwrap_or_default();
    let text = |key: &str| document[key].as_str().map(str::to_owned);
    match (
        text("data"),
        text("grpc"),
        text("admin"),
        text("token_file"),
    ) {
        (Some(data), Some(grpc), Some(admin), Some(token_file)) => {
            let mut token_file = PathBuf::from(token_file);
            if options.disk_bytes.is_some() {
                // The file system is the node's own; this is the way in.
                let root = format!("/proc/{}/root", process.id());
                let below = token_file.strip_prefix("/").unwrap_or(&token_file);
                token_file = Path::new(&root).join(below);
            }
            let ready = Ready {
                data,
                grpc,
                admin,
                token_file,
            };
            (process, ready)
        }
        _ => {
            let _gone = process.kill();
            let log = std::fs::read_to_string(log_file(folder)).unwrap_or_default();
            panic!(
                "the node does not come up; it said {line:?} and logged\n{}",
                tail(&log)
            );
        }
    }
}
