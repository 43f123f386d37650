//! A server as a process of its own: where it listens, what it has used of the machine.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::process_tree::{self, Memory};

/// Ends with this value, and all that it started with it.
#[derive(Debug)]
pub(crate) struct Server {
    process: Child,
    pub(crate) ready: Ready,
}

/// What a server says on its first line when it takes requests.
#[derive(Debug, Deserialize)]
pub(crate) struct Ready {
    data: String,
    admin: Option<String>,
    pub(crate) token_file: Option<PathBuf>,
}

impl Server {
    /// Waits until it takes requests. What it logs goes to the file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let mut process = spawn(command.stdout(Stdio::piped()), log)?;
        let stdout = process.stdout.take().context("the server has no output")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        match serde_json::from_str(&line) {
            Ok(ready) => Ok(Self { process, ready }),
            Err(error) => {
                let _ = process.kill();
                let status = process.wait()?;
                let log = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the server did not come up ({status}, {error}): {line}{log}")
            }
        }
    }

    /// One that was told where to listen and says nothing of itself. `answers` tells whether it
    /// takes requests by now.
    pub(crate) fn start_at(
        address: SocketAddr,
        command: &mut Command,
        log: &Path,
        mut answers: impl FnMut() -> bool,
    ) -> Result<Self> {
        /// Longer than any of them takes on a busy machine.
        const PATIENCE: Duration = Duration::from_secs(120);
        const STEP: Duration = Duration::from_millis(2);
        let process = spawn(command.stdout(File::create(log)?), log)?;
        let mut server = Self {
            process,
            ready: Ready {
                data: format!("http://{address}"),
                admin: None,
                token_file: None,
            },
        };
        let began = Instant::now();
        while !answers() {
            let ended = server.process.try_wait()?;
            if ended.is_some() || began.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(12)..].join("\n");
                bail!("the server did not come up: {last}");
            }
            thread::sleep(STEP);
        }
        Ok(server)
    }

    pub(crate) fn data(&self) -> Result<SocketAddr> {
        address(&self.ready.data)
    }

    pub(crate) fn admin(&self) -> Result<SocketAddr> {
        let admin = self.ready.admin.as_deref();
        address(admin.context("the server has no admin plane")?)
    }

    /// On SIGTERM a node drains and ends with 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        terminate(self.process.id())?;
        let status = self.process.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    /// As often as one likes, while it is measured.
    pub(crate) fn resident_mib(&self) -> Result<f64> {
        process_tree::resident_mib(self.process.id())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        process_tree::memory(self.process.id())
    }

    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        process_tree::cpu_time(self.process.id())
    }

    /// Waits until it has done what callers who are gone asked for: that would be time of the next
    /// window.
    pub(crate) fn settle(&self) -> Result<()> {
        const WATCH: Duration = Duration::from_millis(100);
        /// Processor time in `WATCH` of a server that has nothing to do.
        const IDLE: Duration = Duration::from_millis(20);
        const PATIENCE: Duration = Duration::from_secs(60);
        let began = Instant::now();
        let mut before = self.cpu_time()?;
        while began.elapsed() < PATIENCE {
            thread::sleep(WATCH);
            let now = self.cpu_time()?;
            if now.saturating_sub(before) <= IDLE {
                break;
            }
            before = now;
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The processes that it started would outlive it: they are found while it is there.
        let members = process_tree::members(self.process.id());
        let _ = self.process.kill();
        for member in &members[1..] {
            let _ = signal(*member, "-KILL");
        }
        // One that has stopped is gone already.
        let _ = self.process.wait();
    }
}

/// An address where nothing listens now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?)
}

fn spawn(command: &mut Command, log: &Path) -> Result<Child> {
    let log_file = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("cannot write {}", log.display()))?;
    command
        .stdin(Stdio::null())
        .stderr(log_file)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))
}

fn terminate(id: u32) -> Result<()> {
    ensure!(signal(id, "-TERM")?, "process {id} cannot be told to stop");
    Ok(())
}

/// The standard library can only kill, and only children.
fn signal(id: u32, signal: &str) -> Result<bool> {
    let sent = Command::new("kill")
        .args([signal, &id.to_string()])
        .stderr(Stdio::null())
        .status()?;
    Ok(sent.success())
}

fn address(url: &str) -> Result<SocketAddr> {
    url.strip_prefix("http://")
        .and_then(|address| address.parse().ok())
        .with_context(|| format!("{url} is not http://ADDRESS:PORT"))
}
