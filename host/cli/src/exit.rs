//! How a run of `dunlin` ends: the exit codes, and the message that says what to do next.
//!
//! Owns the numbers, which scripts rely on. Knows no verb and prints nothing.

use std::{fmt, io};

use clap::error::ErrorKind;
use serde_json::json;

/// The exit codes. `EXIT_CODES` says the same to people; a test holds the two together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Standard output was closed by its reader, which has what it wanted.
    Quiet = 0,
    Failed = 1,
    Usage = 2,
    NotFound = 3,
    Refused = 4,
    Unreachable = 5,
    Unauthorised = 6,
    Busy = 7,
    ServerFailed = 8,
    Differs = 9,
    Interrupted = 130,
}

/// Shown at the end of `dunlin --help`.
pub(crate) const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    failed for a reason on this machine: a file, a compiler, a full disk
  2    the command line is wrong
  3    there is no such deployment, environment or file
  4    the input was refused: by a check here, or by the node or the predictor (HTTP 4xx)
  5    the node cannot be reached
  6    the node refused the token (HTTP 401, 403), or there is none
  7    the node is busy or ran out of time or space: try again (HTTP 429, 503, 504, 507)
  8    the node or the predictor failed (other HTTP 5xx)
  9    a route's answers differ from the original's by more than the tolerance ('compare')
  130  interrupted by Ctrl-C";

impl Exit {
    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    /// The name of this kind of failure in JSON output.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Quiet => "closed",
            Self::Failed => "failed",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Unauthorised => "unauthorised",
            Self::Busy => "busy",
            Self::ServerFailed => "server_failed",
            Self::Differs => "differs",
            Self::Interrupted => "interrupted",
        }
    }

    /// What an HTTP status other than success means for the exit code.
    pub(crate) fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Unauthorised,
            404 => Self::NotFound,
            429 | 503 | 504 | 507 => Self::Busy,
            300..500 => Self::Refused,
            _ => Self::ServerFailed,
        }
    }
}

/// Why a verb did not do what it was asked: what is wrong, why, and what to do next.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    message: String,
    causes: Vec<String>,
    next: Option<String>,
    /// The verb has already written its one JSON document, which tells of the failure.
    pub(crate) documented: bool,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            message: message.into(),
            causes: Vec::new(),
            next: None,
            documented: false,
        }
    }

    /// A failure with the chain of what caused it. A cause whose text the message before it already
    /// has is left out: many libraries print their source and return it too.
    pub(crate) fn caused_by(
        exit: Exit,
        message: impl Into<String>,
        error: &(dyn std::error::Error + 'static),
    ) -> Self {
        let mut failure = Self::new(exit, message);
        let mut cause = Some(error);
        while let Some(error) = cause {
            let text = error.to_string();
            let said = failure.causes.last().unwrap_or(&failure.message);
            if !said.contains(&text) {
                failure.causes.push(text);
            }
            cause = error.source();
        }
        failure
    }

    /// One more cause.
    pub(crate) fn because(mut self, cause: impl Into<String>) -> Self {
        self.causes.push(cause.into());
        self
    }

    /// What the user can do about it: an imperative, or a command to run.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }

    pub(crate) fn documented(mut self) -> Self {
        self.documented = true;
        self
    }

    /// What clap says of a wrong command line: the first line is the message, without the label.
    pub(crate) fn usage(error: &clap::Error) -> Self {
        let text = error.render().to_string();
        let first = text.lines().next().unwrap_or_default();
        let message = match error.kind() {
            // What it prints is the help.
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => "a verb is missing",
            _ => first.strip_prefix("error: ").unwrap_or(first),
        };
        Self::new(Exit::Usage, message).next("see: dunlin help")
    }

    pub(crate) fn interrupted() -> Self {
        Self::new(Exit::Interrupted, "interrupted")
    }

    /// A write to standard output failed. Whoever closed the pipe has read enough.
    pub(crate) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::new(Exit::Quiet, "standard output was closed"),
            _ => Self::caused_by(Exit::Failed, "cannot write to standard output", error),
        }
    }

    /// The document that stands on standard output with `-o json`.
    pub(crate) fn document(&self) -> serde_json::Value {
        json!({"error": {
            "kind": self.exit.name(),
            "exit_code": self.exit.code(),
            "message": self.message,
            "causes": self.causes,
            "next": self.next,
        }})
    }

    /// The lines below the message, without styles: causes, then what to do.
    pub(crate) fn details(&self) -> impl Iterator<Item = String> {
        let causes = self
            .causes
            .iter()
            .map(|cause| format!("  because: {}", indented(cause)));
        causes.chain(
            self.next
                .iter()
                .map(|next| format!("  next: {}", indented(next))),
        )
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        let mut causes = error.chain().skip(1);
        let message = error.to_string();
        match causes.next() {
            Some(cause) => Self::caused_by(Exit::Failed, message, cause),
            None => Self::new(Exit::Failed, message),
        }
    }
}

fn indented(text: &str) -> String {
    text.trim_end().replace('\n', "\n    ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_map_to_codes() {
        let table = [
            (400, Exit::Refused),
            (401, Exit::Unauthorised),
            (403, Exit::Unauthorised),
            (404, Exit::NotFound),
            (405, Exit::Refused),
            (409, Exit::Refused),
            (413, Exit::Refused),
            (422, Exit::Refused),
            (429, Exit::Busy),
            (500, Exit::ServerFailed),
            (502, Exit::ServerFailed),
            (503, Exit::Busy),
            (504, Exit::Busy),
            (507, Exit::Busy),
            (302, Exit::Refused),
        ];
        for (status, exit) in table {
            assert_eq!(Exit::of_status(status), exit, "status {status}");
        }
    }

    #[test]
    fn every_code_is_documented_once() {
        let codes = [
            Exit::Quiet,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::Refused,
            Exit::Unreachable,
            Exit::Unauthorised,
            Exit::Busy,
            Exit::ServerFailed,
            Exit::Differs,
            Exit::Interrupted,
        ];
        let documented: Vec<u8> = EXIT_CODES
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        assert_eq!(documented, codes.map(Exit::code));
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let inner = io::Error::other("the disk is on fire");
        let outer = anyhow::Error::new(inner).context("cannot write: the disk is on fire");
        let failure = Failure::from(outer).next("put it out");
        assert_eq!(failure.to_string(), "cannot write: the disk is on fire");
        assert_eq!(
            failure.details().collect::<Vec<_>>(),
            ["  next: put it out"]
        );
    }

    #[test]
    fn causes_stand_in_their_order() {
        let error = anyhow::Error::new(io::Error::other("c"))
            .context("b")
            .context("a");
        let lines: Vec<_> = Failure::from(error).details().collect();
        assert_eq!(lines, ["  because: b", "  because: c"]);
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let closed = Failure::output(&io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(closed.exit.code(), 0);
        let full = Failure::output(&io::Error::from(io::ErrorKind::StorageFull));
        assert_eq!(full.exit, Exit::Failed);
    }
}
