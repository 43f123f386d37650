//! Load on one server for a window of time: by wrk where there is one, else by this program.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use http::Method;
use serde::{Deserialize, Serialize};

use crate::{
    client::{Client, Question},
    spread::quantile,
};

#[derive(Debug)]
pub(crate) enum Generator {
    /// Independent of hyper, and light: on a machine where it shares the cores with the servers,
    /// what a generator takes is missing from all of them alike and draws the ratios towards 1.
    Wrk(PathBuf),
    Own,
}

/// What came back during a window.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Answers {
    pub(crate) count: f64,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

impl Generator {
    pub(crate) fn find(own: bool) -> Self {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut found = env::split_paths(&path).map(|dir| dir.join("wrk"));
        match found.find(|program| program.is_file()) {
            Some(wrk) if !own => Generator::Wrk(wrk),
            _ => Generator::Own,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Generator::Wrk(_) => "wrk",
            Generator::Own => "this program (hyper's client), as wrk was not used",
        }
    }

    /// Any answer but 200 and any lost one is an error: a window with failures compares nothing.
    /// wrk takes whole seconds only; less is this program's load, to warm up.
    pub(crate) fn run(
        &self,
        client: &Client,
        server: SocketAddr,
        question: &Question,
        connections: usize,
        window: Duration,
    ) -> Result<Answers> {
        match self {
            Generator::Wrk(wrk) if window >= Duration::from_secs(1) => {
                let folder = tempfile::tempdir()?;
                let script = script(question, folder.path())?;
                run_wrk(wrk, &script, server, question, connections, window)
            }
            _ => {
                let started = Instant::now();
                let mut took = client.load(server, question, connections, window)?;
                let elapsed = started.elapsed().as_secs_f64();
                took.sort_by(f64::total_cmp);
                #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 answers")]
                let count = took.len() as f64;
                let quantile = |share| quantile(&took, share).context("nothing was answered");
                Ok(Answers {
                    count,
                    per_second: count / elapsed,
                    p50_us: quantile(0.5)?,
                    p99_us: quantile(0.99)?,
                    p999_us: quantile(0.999)?,
                })
            }
        }
    }
}

/// What the script prints when wrk is done; times in microseconds.
#[derive(Deserialize)]
struct Summary {
    requests: f64,
    duration: f64,
    p50: f64,
    p99: f64,
    p999: f64,
    failed: f64,
}

const DONE: &str = r#"
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "duration": %d, "p50": %g, "p99": %g, "p999": %g, "failed": %d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"#;

/// Written into the folder, beside the body that it reads: a body may be any bytes.
fn script(question: &Question, folder: &Path) -> Result<PathBuf> {
    let mut script = format!("wrk.method = {}\n", lua_string(question.method.as_str()));
    if question.method != Method::GET {
        let body = folder.join("body");
        fs::write(&body, &question.body)?;
        let path = lua_string(body.to_str().context("the path is not text")?);
        script += &format!("local body = io.open({path}, 'rb')\n");
        script += "wrk.body = body:read('*all')\nbody:close()\n";
    }
    for (name, value) in &question.headers {
        let (name, value) = (lua_string(name.as_str()), lua_string(value));
        script += &format!("wrk.headers[{name}] = {value}\n");
    }
    script += DONE;
    let path = folder.join("script.lua");
    fs::write(&path, script)?;
    Ok(path)
}

fn run_wrk(
    wrk: &PathBuf,
    script: &Path,
    server: SocketAddr,
    question: &Question,
    connections: usize,
    window: Duration,
) -> Result<Answers> {
    let threads = std::thread::available_parallelism()?.get().min(connections);
    let seconds = window.as_secs().max(1);
    let output = Command::new(wrk)
        .args(["--threads", &threads.to_string()])
        .args(["--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s")])
        // Its own is 2 s: a slow answer would count as none.
        .args(["--timeout", "120s"])
        .arg("--script")
        .arg(script)
        .arg(format!("http://{server}{}", question.path))
        .output()
        .with_context(|| format!("cannot run {}", wrk.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "wrk failed: {text}{complaint}");
    let last = text.lines().last().unwrap_or_default();
    let summary: Summary =
        serde_json::from_str(last).with_context(|| format!("wrk said: {text}{complaint}"))?;
    let failed = summary.failed;
    ensure!(failed == 0.0, "{failed} requests failed under wrk: {text}");
    Ok(Answers {
        count: summary.requests,
        per_second: summary.requests / (summary.duration / 1e6),
        p50_us: summary.p50,
        p99_us: summary.p99,
        p999_us: summary.p999,
    })
}

/// Quoted for Lua, as far as the texts here need it.
fn lua_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lua_takes_what_was_meant() {
        for (text, quoted) in [
            ("POST", r#""POST""#),
            (r#"{"a": 1}"#, r#""{\"a\": 1}""#),
            (r"a\b", r#""a\\b""#),
        ] {
            assert_eq!(lua_string(text), quoted);
        }
    }
}
