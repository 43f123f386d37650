//! Where and of what the measurement was taken. No name of the machine or its owner.

use std::{
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: f64,
    pub(crate) virtual_machine: bool,
    /// How busy its cores were before the measurement began.
    pub(crate) busy_percent: f64,
}

impl Machine {
    /// Watches for a second how busy it is without us.
    pub(crate) fn look() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let value = |key: &str| {
            let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
            line.split_once(':').map(|(_, value)| value.trim())
        };
        Ok(Self {
            // On arm64 the kernel tells no name.
            cpu: value("model name")
                .unwrap_or(std::env::consts::ARCH)
                .to_owned(),
            cores: thread::available_parallelism()?.get(),
            memory_gib: memory_gib()?,
            virtual_machine: value("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            busy_percent: busy_percent(Duration::from_secs(1))?,
        })
    }
}

/// The commit, and whether something else was changed since. What this program itself writes does
/// not count.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Commit {
    pub(crate) id: String,
    pub(crate) changed: bool,
}

/// By this program, into the folder of its default.
const WRITTEN: [&str; 5] = [
    "docs/measurements.md",
    "docs/measurements.json",
    "docs/requests.svg",
    "docs/latency.svg",
    "docs/memory.svg",
];

/// Sources without git can be measured too.
pub(crate) fn commit(root: &Path) -> Option<Commit> {
    let id = git(root, &["rev-parse", "--short=12", "HEAD"]).ok()?;
    let changes = git(root, &["status", "--porcelain"]).ok()?;
    let changed = changes
        .lines()
        .any(|line| !WRITTEN.iter().any(|written| line.ends_with(written)));
    Some(Commit { id, changed })
}

fn git(root: &Path, arguments: &[&str]) -> Result<String> {
    let output = Command::new("git")
        .current_dir(root)
        .args(arguments)
        .output()
        .context("cannot run git")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "git: {complaint}");
    Ok(String::from_utf8_lossy(&output.stdout)
        .trim_end()
        .to_owned())
}

fn memory_gib() -> Result<f64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let total = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|total| total.split_whitespace().next());
    let kib: f64 = kib.context("/proc/meminfo has no MemTotal")?.parse()?;
    Ok(kib / f64::from(1 << 20))
}

fn busy_percent(watch: Duration) -> Result<f64> {
    let before = idle()?;
    let started = Instant::now();
    thread::sleep(watch);
    let idle = idle()?.saturating_sub(before);
    let cores = u32::try_from(thread::available_parallelism()?.get())?;
    let all = started.elapsed() * cores;
    Ok((100.0 * (1.0 - idle.as_secs_f64() / all.as_secs_f64())).clamp(0.0, 100.0))
}

/// Idle time of all cores since the machine came up.
fn idle() -> Result<Duration> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    match uptime.split_whitespace().nth(1) {
        Some(idle) => Ok(Duration::from_secs_f64(idle.parse()?)),
        None => bail!("/proc/uptime has no idle time"),
    }
}
