//! Runs a program to its end and hands on every line it prints.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// A line of output and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Line {
    Out(String),
    Err(String),
}

/// How much of what a program printed an error repeats.
const LINES_KEPT: usize = 12;

/// Runs `command`; `on_line` sees the lines as they come. A program that is still running after
/// `limit` is ended.
pub(crate) fn run(
    command: &mut Command,
    limit: Option<Duration>,
    on_line: &mut dyn FnMut(Line),
) -> Result<ExitStatus> {
    let name = command.get_program().to_string_lossy().into_owned();
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;

    let (lines, received) = mpsc::channel();
    let out = child
        .stdout
        .take()
        .map(|out| forward(out, Line::Out, lines.clone()));
    let err = child
        .stderr
        .take()
        .map(|err| forward(err, Line::Err, lines));
    loop {
        let line = match deadline {
            None => received.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(at) => received.recv_timeout(at.saturating_duration_since(Instant::now())),
        };
        match line {
            Ok(line) => on_line(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                // The readers are left to end by themselves: a grandchild may still hold the pipe.
                let _ = child.kill();
                let _ = child.wait();
                bail!("no answer within {} s", limit.unwrap_or_default().as_secs());
            }
        }
    }
    for reader in [out, err].into_iter().flatten() {
        let _ = reader.join();
    }
    child
        .wait()
        .with_context(|| format!("cannot wait for `{name}`"))
}

/// Runs `command` and gives back what it wrote to stdout; a failure carries what it said.
pub(crate) fn output(command: &mut Command, limit: Option<Duration>) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let mut out = String::new();
    let mut said = Vec::new();
    let status = run(command, limit, &mut |line| match line {
        Line::Out(line) => {
            out.push_str(&line);
            out.push('\n');
        }
        Line::Err(line) => said.push(line),
    })?;
    if !status.success() {
        let from = said.len().saturating_sub(LINES_KEPT);
        let said = said[from..].join("\n");
        bail!("`{name}` failed ({status}): {}", said.trim());
    }
    Ok(out)
}

fn forward<R: Read + Send + 'static>(
    from: R,
    wrap: fn(String) -> Line,
    to: mpsc::Sender<Line>,
) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        while matches!(from.read_until(b'\n', &mut line), Ok(read) if read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            line.clear();
            if to.send(wrap(text)).is_err() {
                return;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_come_as_lines() {
        let mut lines = Vec::new();
        let status = run(
            Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]),
            None,
            &mut |line| lines.push(line),
        )
        .unwrap();
        assert_eq!(status.code(), Some(3));
        assert!(lines.contains(&Line::Out("one".into())), "{lines:?}");
        assert!(lines.contains(&Line::Err("two".into())), "{lines:?}");
    }

    #[test]
    fn a_failure_says_what_the_program_said() {
        let error = output(
            Command::new("sh").args(["-c", "echo no such >&2; exit 1"]),
            None,
        )
        .unwrap_err()
        .to_string();
        assert!(error.contains("no such"), "{error}");
    }

    #[test]
    fn a_program_that_hangs_is_ended() {
        let limit = Some(Duration::from_millis(50));
        let started = Instant::now();
        let error = output(Command::new("sleep").arg("30"), limit)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no answer"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }
}
