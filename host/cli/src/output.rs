//! The two streams: results on standard output, everything said to a person on standard error.
//!
//! Nothing here panics on a closed stream, and no escape reaches a stream that is not a terminal.

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::exit::Failure;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// Text for people
    Pretty,
    /// One JSON document on standard output, also for a failure; a line each where a verb follows
    Json,
}

impl Format {
    /// The format that a command line asks for which clap could not make sense of.
    pub(crate) fn asked_for(arguments: impl Iterator<Item = OsString>) -> Self {
        let mut asked = Self::Pretty;
        let mut arguments = arguments.take_while(|argument| argument != "--");
        while let Some(argument) = arguments.next() {
            let Some(argument) = argument.to_str() else {
                continue;
            };
            // `-o json`, `-ojson`, `-o=json`, also behind other flags of one letter: `-qo json`.
            let short = argument
                .strip_prefix('-')
                .filter(|rest| !rest.starts_with('-'));
            let value = match (argument.strip_prefix("--output"), short) {
                (Some(rest), _) => Some(rest),
                (None, Some(flags)) => flags
                    .split_once('o')
                    .filter(|(before, _)| before.chars().all(|flag| flag == 'q'))
                    .map(|(_, rest)| rest),
                (None, None) => None,
            };
            let value = match value {
                None => continue,
                Some("") => arguments.next().unwrap_or_default(),
                Some(value) => value.strip_prefix('=').unwrap_or(value).into(),
            };
            asked = match value.to_str() {
                Some("json") => Self::Json,
                _ => Self::Pretty,
            };
        }
        asked
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: Format,
    pub(crate) quiet: bool,
}

impl Output {
    pub(crate) fn json(self) -> bool {
        self.format == Format::Json
    }

    /// The style for text on standard output.
    pub(crate) fn style(self) -> Style {
        Style::of(&io::stdout())
    }

    /// Writes text to standard output.
    pub(crate) fn text(self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes to standard output as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<(), Failure> {
        let mut stdout = io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        written.map_err(|error| Failure::output(&error))
    }

    /// Writes the verb's JSON document.
    pub(crate) fn document(self, document: &impl Serialize) -> Result<(), Failure> {
        self.text(&(to_json(serde_json::to_string_pretty(document)) + "\n"))
    }

    /// Writes one of many JSON documents, on a line of its own.
    pub(crate) fn line(self, document: &impl Serialize) -> Result<(), Failure> {
        self.text(&(to_json(serde_json::to_string(document)) + "\n"))
    }

    /// Says what is going on, on standard error.
    pub(crate) fn say(self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Writes a failure: the text to standard error, the document where JSON was asked for.
    pub(crate) fn failure(self, failure: &Failure) {
        let style = Style::of(&io::stderr());
        say(&format!("{} {failure}", style.red("error:")));
        for line in failure.details() {
            say(&line);
        }
        if self.json() && !failure.documented {
            // The exit code tells the failure even where this cannot be written.
            let _closed = self.document(&failure.document());
        }
    }
}

/// A closed standard error has nobody to tell.
pub(crate) fn say(text: &str) {
    let _closed = writeln!(io::stderr().lock(), "{text}");
}

fn to_json(json: serde_json::Result<String>) -> String {
    json.expect("the documents have string keys and no failing Serialize")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    on: bool,
}

impl Style {
    pub(crate) fn of(stream: &impl IsTerminal) -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let dumb = set("TERM").is_some_and(|term| term == "dumb");
        Self {
            on: stream.is_terminal() && set("NO_COLOR").is_none() && !dumb,
        }
    }

    #[cfg(test)]
    pub(crate) fn plain() -> Self {
        Self { on: false }
    }

    #[cfg(test)]
    pub(crate) fn styled() -> Self {
        Self { on: true }
    }

    pub(crate) fn is_on(self) -> bool {
        self.on
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.wrap("32", text)
    }

    fn wrap(self, code: &str, text: &str) -> String {
        if self.on {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_a_wrong_command_line() {
        let asked = |line: &str| Format::asked_for(line.split(' ').map(OsString::from));
        for json in [
            "destroy -o json",
            "-o json destroy",
            "get -ojson",
            "get -o=json",
            "get --output json",
            "get --output=json --watchful",
            "get -qo json",
            "get -o pretty -o json",
        ] {
            assert_eq!(asked(json), Format::Json, "{json}");
        }
        for pretty in [
            "",
            "destroy",
            "get -o",
            "get -o yaml",
            "get json",
            "get -- -o json",
            "get --other json",
        ] {
            assert_eq!(asked(pretty), Format::Pretty, "{pretty}");
        }
    }
}
