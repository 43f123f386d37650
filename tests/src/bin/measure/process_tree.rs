//! A server and the processes that it started: what they use of the machine together.

use std::{collections::HashMap, fs, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

/// Resident memory in MiB, summed over the processes. Pages of files are shared with the page cache
/// and can be dropped by the system; anonymous ones are the process's own.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    pub(crate) resident_mib: f64,
    pub(crate) anonymous_mib: f64,
    pub(crate) file_mib: f64,
    /// A page that several processes share counts as a part for each.
    pub(crate) proportional_mib: f64,
    pub(crate) processes: usize,
}

/// The process and all that descend from it, children last.
pub(crate) fn members(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    for entry in entries {
        let Some(id) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // One that is gone by now belongs to nobody.
        if let Some(parent) = fields(id).and_then(|fields| fields.get(PARENT)?.parse().ok()) {
            children.entry(parent).or_default().push(id);
        }
    }
    let mut members = vec![root];
    let mut at = 0;
    while let Some(member) = members.get(at) {
        let found = children.remove(member).unwrap_or_default();
        members.extend(found);
        at += 1;
    }
    members
}

pub(crate) fn memory(root: u32) -> Result<Memory> {
    let mut all = Memory::default();
    for id in members(root) {
        let Ok(status) = fs::read_to_string(format!("/proc/{id}/status")) else {
            continue;
        };
        // A process that has ended and waits for its parent has none.
        let mib = |key: &str| kib(&status, key).unwrap_or_default() / 1024.0;
        all.resident_mib += mib("VmRSS:");
        all.anonymous_mib += mib("RssAnon:");
        all.file_mib += mib("RssFile:");
        let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup")).unwrap_or_default();
        all.proportional_mib += kib(&rollup, "Pss:").unwrap_or_default() / 1024.0;
        all.processes += 1;
    }
    anyhow::ensure!(
        all.resident_mib > 0.0,
        "/proc tells no memory of the server"
    );
    Ok(all)
}

/// Of the process alone, and only as much as costs it nothing: to count the pages that it shares, the
/// system walks through its memory for milliseconds while it waits.
pub(crate) fn resident_mib(id: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let resident = kib(&status, "VmRSS:").context("/proc tells no memory of the server")?;
    Ok(resident / 1024.0)
}

/// Processor time of all threads so far, in user mode and in the kernel for it, and of children that
/// have ended.
pub(crate) fn cpu_time(root: u32) -> Result<Duration> {
    /// `USER_HZ`, in which the kernel tells times to user space.
    const TICK: Duration = Duration::from_millis(10);
    fields(root).context("/proc tells no processor time of the server")?;
    let ticks = members(root)
        .into_iter()
        .filter_map(fields)
        .flat_map(|fields| {
            let times = fields.get(TIMES).unwrap_or_default();
            let times: Vec<u32> = times.iter().filter_map(|time| time.parse().ok()).collect();
            times
        });
    Ok(TICK * ticks.sum::<u32>())
}

/// Of the fields after the program's name, which may hold anything.
const PARENT: usize = 1;
const TIMES: std::ops::Range<usize> = 11..15;

fn fields(id: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    Some(fields.split_whitespace().map(str::to_owned).collect())
}

fn kib(text: &str, key: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_child_of_a_child_belongs_to_it() {
        let mut shell = Command::new("sh")
            .args(["-c", "sh -c 'read line; :'; :"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // A shell that starts another waits for it: it comes up sooner or later.
        while members(shell.id()).len() < 2 {
            std::thread::yield_now();
        }
        assert_eq!(members(shell.id())[0], shell.id());
        assert!(memory(shell.id()).unwrap().processes >= 2);
        drop(shell.stdin.take());
        shell.wait().unwrap();
    }
}
