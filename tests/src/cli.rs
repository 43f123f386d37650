//! The command line as a user runs it: a process, with a home of its own.

use std::{
    ffi::OsStr,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{artifacts::binary, node::Node};

/// A user with an empty home.
#[derive(Debug)]
pub struct Cli {
    home: TempDir,
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Cli {
    /// # Panics
    /// There is no space for a home.
    #[must_use]
    pub fn new() -> Self {
        Self {
            home: tempfile::tempdir().expect("the tests can make folders"),
        }
    }

    /// A user who has made `node` their environment `local`.
    ///
    /// # Panics
    /// `dunlin env configure` fails.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let cli = Self::new();
        let token_file = node.token_file().to_string_lossy().into_owned();
        let configured = cli.run([
            "env",
            "configure",
            "local",
            "--data",
            node.data_url(),
            "--admin",
            node.admin_url(),
            "--token-file",
            &token_file,
        ]);
        assert_eq!(configured.code, Some(0), "{}", configured.stderr);
        cli
    }

    /// The folder that commands run in.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Ran {
        self.run_with(arguments, b"")
    }

    /// Runs `dunlin` with `input` on its standard input.
    ///
    /// # Panics
    /// It cannot be run.
    pub fn run_with<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Ran {
        let mut child = self
            .command()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("dunlin can be run");
        let mut stdin = child.stdin.take().expect("it is piped");
        // A command that wants no input may be gone already.
        let _closed = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output();
        output.expect("a child can be waited for").into()
    }

    /// `dunlin`, in this home, without anything of the environment that it reads.
    #[must_use]
    pub fn command(&self) -> Command {
        self.program(binary())
    }

    /// Another program, in this home. What Cargo tells its tests it is not told.
    #[must_use]
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| {
                name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
            }) {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.home.path())
            .env("XDG_CONFIG_HOME", self.home.path().join("config"))
            .env("XDG_DATA_HOME", self.home.path().join("data"))
            .env_remove("DUNLIN_ENV")
            .env_remove("DUNLIN_TOKEN")
            .env_remove("DUNLIN_BACKENDS")
            .env_remove("DUNLIN_ONNXRUNTIME_LIBRARY")
            .env_remove("DUNLIN_TORCHSCRIPT_LIBRARY");
        command
    }
}

impl Default for Cli {
    fn default() -> Self {
        Self::new()
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Standard output, having checked the exit code.
    ///
    /// # Panics
    /// It ended otherwise.
    #[must_use]
    pub fn exit(&self, code: i32) -> &str {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        &self.stdout
    }

    /// Standard output as the one JSON document that it is, having checked the exit code.
    ///
    /// # Panics
    /// It is none, or the command ended otherwise.
    #[must_use]
    pub fn json(&self, code: i32) -> Value {
        let stdout = self.exit(code);
        match serde_json::from_str(stdout) {
            Ok(document) => document,
            Err(error) => panic!("not one JSON document ({error}): {stdout}"),
        }
    }
}
