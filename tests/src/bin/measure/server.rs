//! A server as a process of its own: where it listens, what it has used of the machine.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Ends with this value.
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

/// Resident memory in MiB. Pages of files are shared with the page cache and can be dropped by the
/// system; anonymous ones are the process's own.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Memory {
    pub(crate) resident_mib: f64,
    pub(crate) anonymous_mib: f64,
    pub(crate) file_mib: f64,
}

impl Server {
    /// Waits until it takes requests. What it logs goes to the file.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Result<Self> {
        let log_file =
            File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log_file)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().to_string_lossy()))?;
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

    pub(crate) fn data(&self) -> Result<SocketAddr> {
        address(&self.ready.data)
    }

    pub(crate) fn admin(&self) -> Result<SocketAddr> {
        let admin = self.ready.admin.as_deref();
        address(admin.context("the server has no admin plane")?)
    }

    /// On SIGTERM a node drains and ends with 0.
    pub(crate) fn stop(mut self) -> Result<()> {
        let id = self.process.id().to_string();
        // The standard library can only kill.
        let asked = Command::new("kill").arg(&id).status()?;
        ensure!(asked.success(), "kill {id} ended with {asked}");
        let status = self.process.wait()?;
        ensure!(status.success(), "the server ended with {status}");
        Ok(())
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = self.proc_file("status")?;
        let mib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let kib = line.and_then(|line| line.split_whitespace().nth(1));
            let kib: f64 = kib
                .and_then(|kib| kib.parse().ok())
                .with_context(|| format!("/proc tells no {key}"))?;
            anyhow::Ok(kib / 1024.0)
        };
        Ok(Memory {
            resident_mib: mib("VmRSS")?,
            anonymous_mib: mib("RssAnon")?,
            file_mib: mib("RssFile")?,
        })
    }

    /// Processor time of all its threads so far, in user mode and in the kernel for it.
    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        /// `USER_HZ`, in which the kernel tells times to user space.
        const TICK: Duration = Duration::from_millis(10);
        let stat = self.proc_file("stat")?;
        // The second field is the program's name in brackets and may hold anything.
        let (_, fields) = stat.rsplit_once(')').context("/proc has an odd stat")?;
        let mut times = fields.split_whitespace().skip(11);
        let mut ticks = || times.next()?.parse::<u32>().ok();
        let (Some(user), Some(system)) = (ticks(), ticks()) else {
            bail!("/proc tells no processor time")
        };
        Ok(TICK * (user + system))
    }

    fn proc_file(&self, name: &str) -> Result<String> {
        let path = format!("/proc/{}/{name}", self.process.id());
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that has stopped is gone already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn address(url: &str) -> Result<SocketAddr> {
    url.strip_prefix("http://")
        .and_then(|address| address.parse().ok())
        .with_context(|| format!("{url} is not http://ADDRESS:PORT"))
}
