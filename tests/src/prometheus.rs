//! A real Prometheus that scrapes a node, and its `promtool`.

use std::{
    io::Write as _,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Answer, Node, artifacts, until_async};

const SOON: Duration = Duration::from_secs(60);

/// Ended when it is dropped.
#[derive(Debug)]
pub struct Prometheus {
    process: Child,
    url: String,
    client: Client,
    _folder: TempDir,
}

/// One series of an answer: its labels and its value.
pub type Series = (Value, f64);

impl Prometheus {
    /// Starts a Prometheus that scrapes the node many times a second. None where there is none;
    /// `cargo xtask test` fetches one.
    ///
    /// # Panics
    /// It cannot be started.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        let program = artifacts::prometheus()?.join("prometheus");
        let folder = tempfile::tempdir().expect("the tests can make folders");
        let config = folder.path().join("prometheus.yml");
        let target = node.admin_url().trim_start_matches("http://");
        let text = format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms}}\n\
             scrape_configs: [{{job_name: dunlin, static_configs: [{{targets: ['{target}']}}]}}]\n"
        );
        std::fs::write(&config, text).expect("the folder is the test's");
        let address = free_address();
        let process = Command::new(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ))
            .arg(format!("--web.listen-address={address}"))
            .args(["--log.level=error"])
            .stdin(Stdio::null())
            .spawn()
            .expect("prometheus can be run");
        Some(Self {
            process,
            url: format!("http://{address}"),
            client: Client::builder().no_proxy().build().expect("no TLS"),
            _folder: folder,
        })
    }

    /// The series that a query gives now; none also where Prometheus is not up yet.
    ///
    /// # Panics
    /// The query is refused.
    pub async fn query(&self, query: &str) -> Vec<Series> {
        let request = self.client.get(format!("{}/api/v1/query", self.url));
        let Ok(answer) = Answer::to(request.query(&[("query", query)])).await else {
            return Vec::new();
        };
        if answer.status == 503 {
            return Vec::new();
        }
        let answer = answer.json();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        let series = answer["data"]["result"].as_array();
        let series = series.into_iter().flatten().filter_map(|series| {
            let value = series["value"][1].as_str()?.parse().ok()?;
            Some((series["metric"].clone(), value))
        });
        series.collect()
    }

    /// Waits until the query gives one number and it is this.
    ///
    /// # Panics
    /// It does not become so.
    pub async fn until_value(&self, query: &str, expected: f64) {
        until_async(&format!("{query} is {expected}"), SOON, || async {
            let series = self.query(query).await;
            matches!(series[..], [(_, value)] if value == expected).then_some(())
        })
        .await;
    }

    /// Waits until the query gives numbers.
    ///
    /// # Panics
    /// It does not.
    pub async fn until_some(&self, query: &str) -> Vec<Series> {
        until_async(&format!("{query} gives something"), SOON, || async {
            let series = self.query(query).await;
            let some = series.iter().any(|(_, value)| !value.is_nan());
            some.then_some(series)
        })
        .await
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _status = self.process.wait();
    }
}

/// What `promtool check metrics` finds wrong with a scrape, line by line: nothing where it is in
/// order. None where there is no promtool.
///
/// # Panics
/// The text is no scrape at all.
#[must_use]
pub fn promtool_complaints(text: &str) -> Option<Vec<String>> {
    let program: PathBuf = artifacts::prometheus()?.join("promtool");
    Some(complaints(&program, text))
}

fn complaints(program: &Path, text: &str) -> Vec<String> {
    let mut process = Command::new(program)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be run");
    let mut stdin = process.stdin.take().expect("it is piped");
    stdin
        .write_all(text.as_bytes())
        .expect("promtool reads what it is given");
    drop(stdin);
    let output = process.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // 3: it was read, and something could be better.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{said}");
    said.lines().map(str::to_owned).collect()
}

/// An address that was free a moment ago: Prometheus does not tell which one it chose.
fn free_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = listener.local_addr().expect("it has one");
    address.to_string()
}
