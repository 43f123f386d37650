//! What can be wrong with a configuration file, and how it is said.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there, not readable or not UTF-8.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The file was read, and these things are wrong with it: at least one, ordered by line. The
    /// text has one line for each.
    #[error("{}", Lines(problems, *omitted))]
    Invalid {
        problems: Vec<Problem>,
        /// How many more there are: the list is bounded.
        omitted: usize,
    },
}

impl ConfigError {
    /// The problems of a file that could be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Read { .. } => &[],
            Self::Invalid { problems, .. } => problems,
        }
    }
}

/// One thing that is wrong: `dunlin.yaml:7: limits.memory: 5 potatoes is not a size; write 64Mi`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as the caller named it.
    pub origin: String,
    /// Counted from 1. `None` where no line is at fault, such as for an empty file.
    pub line: Option<u32>,
    /// The path of the key, such as `predictor.models.digits.backend`; empty for the whole file.
    pub key: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.origin)?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.message)
    }
}

struct Lines<'a>(&'a [Problem], usize);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        if self.1 > 0 {
            write!(f, "\nand {} more", self.1)?;
        }
        Ok(())
    }
}
