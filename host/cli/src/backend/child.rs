//! A program that works for minutes, and that must not outlive this one.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

/// How often its progress is looked at.
const POLL: Duration = Duration::from_millis(50);

/// What an error repeats of what it printed: its end.
const LINES_KEPT: usize = 12;
const BYTES_KEPT: u64 = 8 * 1024;

/// Runs `command` to its end. `watch` is asked again and again meanwhile; its error ends the program
/// and everything that it started. Its standard input stays open for as long as this process lives.
pub(super) fn run(command: &mut Command, watch: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut said = tempfile::tempfile().context("cannot make a temporary file")?;
    let out = |file: &File| file.try_clone().map(Stdio::from);
    let child = command
        .stdin(Stdio::piped())
        .stdout(out(&said)?)
        .stderr(out(&said)?)
        // A group of its own: a compiler has others do its work.
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    let mut group = Group { child };
    let status = loop {
        if let Some(status) = group.child.try_wait()? {
            break status;
        }
        watch()?;
        thread::sleep(POLL);
    };
    if !status.success() {
        bail!("`{name}` failed ({status}): {}", end_of(&mut said)?);
    }
    Ok(())
}

/// Ends the program when dropped.
struct Group {
    child: Child,
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
                let _gone = kill_process_group(pid, Signal::KILL);
            }
            let _reaped = self.child.wait();
        }
    }
}

fn end_of(said: &mut File) -> Result<String> {
    let size = said.metadata()?.len();
    said.seek(SeekFrom::Start(size.saturating_sub(BYTES_KEPT)))?;
    let mut text = Vec::new();
    said.take(BYTES_KEPT).read_to_end(&mut text)?;
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    Ok(lines[lines.len().saturating_sub(LINES_KEPT)..].join("\n"))
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_failure_repeats_the_end_of_what_was_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "seq 1 5000; echo the reason >&2; exit 3"]);
        let error = run(&mut command, &mut || Ok(())).unwrap_err().to_string();
        assert!(error.ends_with("\n5000\nthe reason"), "{error}");
        assert!(error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn what_watches_ends_it_and_what_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let made = Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        let mut command = Command::new("sh");
        // The grandchild holds the pipe open for as long as it lives.
        command
            .args(["-c", "sleep 600 > \"$0\"; echo over"])
            .arg(&fifo);
        let started = Instant::now();
        let reader = thread::spawn(move || std::fs::read(fifo));
        let mut polls = 0;
        let error = run(&mut command, &mut || {
            polls += 1;
            if polls == 3 {
                bail!("interrupted")
            } else {
                Ok(())
            }
        });
        assert_eq!(error.unwrap_err().to_string(), "interrupted");
        assert_eq!(reader.join().unwrap().unwrap(), b"");
        assert!(started.elapsed() < Duration::from_secs(60));
    }
}
