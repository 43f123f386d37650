//! `node.yaml`: what an operator says of one node. Every key is optional.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::ConfigError;
use crate::section::{Layout, Report, Section, text};
use crate::yaml::Value;

const KI: u64 = 1 << 10;
const MI: u64 = 1 << 20;
const GI: u64 = 1 << 30;

/// More threads than any edge machine has cores for.
const THREADS_MAX: u32 = 1024;

const LAYOUT: Layout = &[
    (
        "",
        &[
            "data",
            "grpc",
            "admin",
            "model_control",
            "data_dir",
            "threads",
            "busy_poll_microseconds",
            "model_scheduling",
            "instances_max",
            "guest_memory_max",
            "package_max",
            "uploads_max",
            "requests_in_flight_max",
            "body_memory_max",
            "connections_max",
            "deadline_max",
            "request_body_max",
            "response_body_max",
            "tensor_memory_max",
            "drain_timeout",
            "backends",
            "log",
            "traces",
        ],
    ),
    ("data", &["listen"]),
    ("grpc", &["listen"]),
    ("admin", &["listen"]),
    ("backends", &["folder", "onnxruntime", "torchscript"]),
    ("log", &["format", "level", "access"]),
    ("traces", &["endpoint", "sample_ratio"]),
];

/// A checked `node.yaml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Where predictions are asked for.
    pub data: Listen,
    /// Where they are asked for by gRPC; `None`: nowhere.
    pub grpc: Option<Listen>,
    /// Where deployments are changed.
    pub admin: Listen,
    /// Who may load and unload deployments through the Open Inference Protocol.
    pub model_control: ModelControl,
    /// Where packages and state are kept. `None`: nobody said, and the command line decides by the
    /// user's folders, which this crate does not look at.
    pub data_dir: Option<PathBuf>,
    /// Threads that serve requests; the machine's cores unless written.
    pub threads: u32,
    /// How long after an answer the threads go on looking for the next request before they sleep, where
    /// requests come so soon; `None`: not at all.
    pub busy_poll: Option<Duration>,
    /// How threads that only run models get a processor beside those that serve requests.
    pub model_scheduling: ModelScheduling,
    /// Live instances of all deployments together. The pooling allocator is sized from it.
    pub instances_max: u32,
    /// The largest `limits.memory` a deployment may ask for, in bytes.
    pub guest_memory_max: u64,
    /// The largest package that may be uploaded, in bytes.
    pub package_max: u64,
    /// Packages that are uploaded at once; each takes a thread while it arrives.
    pub uploads_max: u32,
    pub requests_in_flight_max: u32,
    /// Bytes of all requests and answers together that the node holds.
    pub body_memory_max: u64,
    pub connections_max: u32,
    /// The largest `limits.deadline` a deployment may ask for.
    pub deadline_max: Duration,
    /// The largest `limits.request_body` a deployment may ask for, in bytes.
    pub request_body_max: u64,
    /// The largest `limits.response_body` a deployment may ask for, in bytes.
    pub response_body_max: u64,
    /// The largest `limits.tensor_memory` a deployment may ask for, in bytes.
    pub tensor_memory_max: u64,
    /// How long requests in flight may take once the node was asked to stop.
    pub drain_timeout: Duration,
    pub backends: Backends,
    pub log: Log,
    pub traces: Traces,
}

/// Where native engines are looked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Backends {
    /// What `dunlin backend install` writes. `None`: the command line decides, as of
    /// [`Node::data_dir`].
    pub folder: Option<PathBuf>,
    /// The library of ONNX Runtime; `None`: the folder's, or else the system's.
    pub onnxruntime: Option<PathBuf>,
    /// Dunlin's library over libtorch; `None`: the folder's, or else the system's.
    pub torchscript: Option<PathBuf>,
}

/// Where traces go.
#[derive(Debug, Clone, PartialEq)]
pub struct Traces {
    /// The base URL of a collector that takes OTLP over HTTP. `None`: nobody said, and where the
    /// environment does not either there are no traces.
    pub endpoint: Option<String>,
    /// Of requests that come without a span of their caller, from 0 to 1.
    pub sample_ratio: f64,
}

impl Traces {
    /// Checks the base URL of a collector.
    ///
    /// # Errors
    /// What is wrong with it, and what to write.
    pub fn check_endpoint(text: &str) -> Result<String, String> {
        const WRITE: &str = "write that of a collector, such as http://127.0.0.1:4318";
        let Some(rest) = text.strip_prefix("http://") else {
            return Err(if text.starts_with("https://") {
                format!(
                    "{text} wants TLS, which a node does not speak; {WRITE}, and let it go on from \
                     there"
                )
            } else {
                format!("{text} is no URL of http; {WRITE}")
            });
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        if authority.is_empty() || authority.contains('@') || !plain || text.contains(['?', '#']) {
            return Err(format!("{text} is no base URL; {WRITE}"));
        }
        Ok(text.to_owned())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    pub listen: SocketAddr,
}

/// The names of systemd's `CPUSchedulingPolicy=`, but for `other`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelScheduling {
    /// When nobody else wants it, and half of it where requests take all: a request waits for no run.
    Idle,
    /// As everybody else.
    Normal,
}

/// Who may load and unload deployments where predictions are asked for. Triton's
/// `--model-control-mode` has `none` and, as `explicit`, what is `open` here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelControl {
    None,
    /// Who presents the admin plane's token.
    Token,
    /// Everybody.
    Open,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    pub level: LogLevel,
    pub access: AccessLog,
}

/// Which requests to the data plane have a line of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessLog {
    None,
    /// Those with a status of 400 or more.
    Errors,
    All,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    /// With their names, the least that is logged first.
    pub const ALL: [(&'static str, Self); 5] = [
        ("error", Self::Error),
        ("warn", Self::Warn),
        ("info", Self::Info),
        ("debug", Self::Debug),
        ("trace", Self::Trace),
    ];

    pub fn as_str(self) -> &'static str {
        Self::ALL[self as usize].0
    }

    pub fn named(name: &str) -> Option<Self> {
        let mut all = Self::ALL.into_iter();
        all.find_map(|(known, level)| (known == name).then_some(level))
    }
}

impl Node {
    /// Checks the text of a node file. `origin` is what messages call the file.
    pub fn parse(yaml: &str, origin: &str) -> Result<Self, ConfigError> {
        let report = Report::new(origin);
        let tree = crate::yaml::parse(yaml, origin)?;
        let node = check(&Section::root(&tree, LAYOUT, &report));
        report.finish()?;
        Ok(node)
    }

    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&crate::yaml::read(path)?, &path.display().to_string())
    }
}

/// What an empty file means.
impl Default for Node {
    fn default() -> Self {
        Self::parse("", "").expect("every key of a node file is optional")
    }
}

fn check(root: &Section<'_>) -> Node {
    let data = root.section("data");
    let grpc = root.section("grpc");
    let admin = root.section("admin");
    let backends = root.section("backends");
    let log = root.section("log");
    let traces = root.section("traces");
    let threads = root.count_u32("threads", cores(), 1..=THREADS_MAX);
    let busy_poll = root.count("busy_poll_microseconds", 0, 0..=1000);
    let node = Node {
        data: check_listen(&data, 8080),
        grpc: check_listen_or_off(&grpc, 8082),
        admin: check_listen(&admin, 8081),
        model_control: root.one_of(
            "model_control",
            ModelControl::None,
            &[
                ("none", ModelControl::None),
                ("token", ModelControl::Token),
                ("open", ModelControl::Open),
            ],
        ),
        data_dir: path(root, "data_dir", "/var/lib/dunlin"),
        threads,
        busy_poll: (busy_poll > 0).then(|| Duration::from_micros(busy_poll)),
        model_scheduling: root.one_of(
            "model_scheduling",
            ModelScheduling::Idle,
            &[
                ("idle", ModelScheduling::Idle),
                ("normal", ModelScheduling::Normal),
            ],
        ),
        instances_max: root.count_u32("instances_max", 128, 1..=65_536),
        guest_memory_max: root.size("guest_memory_max", 256 * MI, MI..=4 * GI),
        package_max: root.size("package_max", 2 * GI, MI..=1024 * GI),
        uploads_max: root.count_u32("uploads_max", 8, 1..=256),
        requests_in_flight_max: root.count_u32("requests_in_flight_max", 1024, 1..=1_000_000),
        body_memory_max: root.size("body_memory_max", 512 * MI, MI..=1024 * GI),
        connections_max: root.count_u32("connections_max", 4096, 1..=1_000_000),
        deadline_max: root.duration(
            "deadline_max",
            Duration::from_secs(60),
            Duration::from_millis(1)..=Duration::from_secs(3600),
        ),
        request_body_max: root.size("request_body_max", 64 * MI, KI..=4 * GI),
        response_body_max: root.size("response_body_max", 64 * MI, KI..=4 * GI),
        tensor_memory_max: root.size("tensor_memory_max", GI, MI..=64 * GI),
        drain_timeout: root.duration(
            "drain_timeout",
            Duration::from_secs(30),
            Duration::ZERO..=Duration::from_secs(3600),
        ),
        backends: Backends {
            folder: path(&backends, "folder", "/var/lib/dunlin/backends"),
            onnxruntime: path(&backends, "onnxruntime", "/usr/lib/libonnxruntime.so"),
            torchscript: path(&backends, "torchscript", "/usr/lib/libdunlin_torch.so"),
        },
        log: Log {
            format: log.one_of(
                "format",
                LogFormat::Text,
                &[("text", LogFormat::Text), ("json", LogFormat::Json)],
            ),
            level: log.one_of("level", LogLevel::Info, &LogLevel::ALL),
            access: log.one_of(
                "access",
                AccessLog::None,
                &[
                    ("none", AccessLog::None),
                    ("errors", AccessLog::Errors),
                    ("all", AccessLog::All),
                ],
            ),
        },
        traces: Traces {
            endpoint: traces.read("endpoint", |value| Traces::check_endpoint(text(value)?)),
            sample_ratio: traces.fraction("sample_ratio", 1.0, 0.0..=1.0),
        },
    };
    let planes = [
        ("data", Some(node.data), &data),
        ("admin", Some(node.admin), &admin),
        ("grpc", node.grpc, &grpc),
    ];
    for (position, (name, address, section)) in planes.iter().enumerate() {
        for (other_name, other_address, other) in &planes[..position] {
            // Port 0 is another free port each time it is bound.
            if let Some(Listen { listen }) = address.filter(|a| a.listen.port() != 0)
                && address == other_address
            {
                let section = if section.has("listen") {
                    section
                } else {
                    other
                };
                section.refuse(
                    "listen",
                    format!("{listen} is that of {other_name} and of {name}; write another port"),
                );
            }
        }
    }
    node
}

fn path(section: &Section<'_>, key: &str, example: &str) -> Option<PathBuf> {
    section.read(key, |value| match text(value)? {
        "" => Err(format!("is empty; write a path, such as {example}")),
        path if path.contains('\0') => Err(format!("{value} is no path")),
        path => Ok(PathBuf::from(path)),
    })
}

fn check_listen(section: &Section<'_>, port: u16) -> Listen {
    let default = local(port);
    let listen = section.read("listen", |value| address(value, default));
    listen.unwrap_or(default)
}

fn check_listen_or_off(section: &Section<'_>, port: u16) -> Option<Listen> {
    let default = local(port);
    let listen = section.read("listen", |value| match value {
        Value::String(off) if off == "off" => Ok(None),
        Value::Bool(false) => Ok(None),
        _ => address(value, default).map(Some),
    });
    listen.unwrap_or(Some(default))
}

fn local(port: u16) -> Listen {
    Listen {
        listen: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
    }
}

fn address(value: &Value, default: Listen) -> Result<Listen, String> {
    let written = match value {
        Value::String(text) => text.parse().ok(),
        _ => None,
    };
    let listen = written.ok_or_else(|| {
        let default = default.listen;
        format!("{value} is not an address with a port; write {default}")
    })?;
    Ok(Listen { listen })
}

/// A machine that does not tell has one.
fn cores() -> u32 {
    std::thread::available_parallelism()
        .map(NonZeroUsize::get)
        .map_or(1, |cores| {
            u32::try_from(cores).unwrap_or(THREADS_MAX).min(THREADS_MAX)
        })
}

#[cfg(test)]
mod tests;
