//! The user's own Python, running the helper that this binary carries.
//!
//! The helper's files go to a temporary folder, the request into a file beside them. It says what it
//! does in JSON lines on its standard output; what else is printed, and tracebacks, go to a log that
//! stays only where that failed.

use std::ffi::{OsStr, OsString};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::{env, fs, io};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tempfile::{NamedTempFile, TempDir};
use tokio::sync::mpsc;

use crate::exit::{Exit, Failure};
use crate::progress::Steps;

/// Lines that wait to be looked at.
const LINES_MAX: usize = 64;
const PACKAGE: &str = "dunlin_import";

macro_rules! helper {
    ($($file:literal)*) => {
        [$(($file, include_str!(concat!("../../python/dunlin_import/", $file)))),*]
    };
}

const HELPER: [(&str, &str); 15] = helper! {
    "__init__.py" "__main__.py" "checkpoint.py" "compare.py" "dtypes.py" "environment.py"
    "golden.py" "lightning_import.py" "onnx_route.py" "original.py" "original_route.py" "report.py"
    "samples.py" "torchscript_import.py" "torchscript_route.py"
};
/// An interpreter.
#[derive(Debug, Clone)]
pub(crate) struct Python {
    exe: PathBuf,
    /// Shown as it is written, not collected.
    verbose: bool,
}

/// What the helper made of a request.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) result: T,
    pub(crate) warnings: Vec<String>,
}

impl Python {
    /// The interpreter given, else that of the active virtual environment, else that of the PATH.
    pub(crate) fn find(given: Option<&Path>, verbose: bool) -> Result<Self, Failure> {
        let missing = |what: String| {
            Failure::new(Exit::NotFound, what)
                .next("name the Python that trained the model: --python EXE")
        };
        let exe = match given {
            Some(exe) => on_path(exe.as_os_str())
                .ok_or_else(|| missing(format!("there is no Python {}", exe.display())))?,
            None => {
                let active = env::var_os("VIRTUAL_ENV").map(PathBuf::from);
                let active = active.map(|folder| folder.join("bin/python").into_os_string());
                let names = active
                    .into_iter()
                    .chain(["python3".into(), "python".into()]);
                let mut found = names.filter_map(|name: OsString| on_path(&name));
                found
                    .next()
                    .ok_or_else(|| missing("there is no python3 on the PATH".to_owned()))?
            }
        };
        Ok(Self { exe, verbose })
    }

    /// Whether it can import what the helper needs for a TorchScript file.
    pub(crate) async fn has_torch(&self) -> bool {
        let code = "import importlib.util as u, sys; \
                    sys.exit(not (u.find_spec('torch') and u.find_spec('numpy')))";
        let exe = self.exe.clone();
        let run = tokio::task::spawn_blocking(move || {
            Command::new(exe)
                .args(["-c", code])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
        });
        matches!(run.await, Ok(Ok(status)) if status.success())
    }

    /// Runs the helper. Dropped, it ends the helper.
    pub(crate) async fn run<T: DeserializeOwned>(
        &self,
        request: &impl Serialize,
        steps: &Steps,
    ) -> Result<Answer<T>, Failure> {
        let failed = |error: &io::Error| {
            Failure::caused_by(Exit::Failed, "cannot write the Python helper", error)
                .next("free space in the temporary folder, or set TMPDIR to another one")
        };
        let folder = unpack().map_err(|error| failed(&error))?;
        let request_file = folder.path().join("request.json");
        let text = serde_json::to_vec(request).expect("requests have string keys");
        fs::write(&request_file, text).map_err(|error| failed(&error))?;
        let log = tempfile::Builder::new()
            .prefix("dunlin-import-")
            .suffix(".log")
            .tempfile()
            .map_err(|error| failed(&error))?;
        let running = self.start(folder.path(), &request_file, &log)?;
        match self.listen(running, steps).await? {
            Said {
                outcome: Some(Outcome::Result(result)),
                warnings,
            } => match serde_json::from_value(result) {
                Ok(result) => Ok(Answer { result, warnings }),
                Err(error) => Err(self.broken(&format!("its answer: {error}"), log)),
            },
            Said {
                outcome: Some(Outcome::Refused(refused)),
                ..
            } => Err(self.refused(&refused, log)),
            Said { outcome: None, .. } => {
                let said = fs::read_to_string(log.path()).unwrap_or_default();
                let last = said.lines().rev().find(|line| !line.trim().is_empty());
                Err(self.broken(last.unwrap_or("it ended without an answer"), log))
            }
        }
    }

    fn start(
        &self,
        folder: &Path,
        request: &Path,
        log: &NamedTempFile,
    ) -> Result<Running, Failure> {
        let failed = |error: io::Error| {
            let message = format!("cannot run {}", self.exe.display());
            Failure::caused_by(Exit::Failed, message, &error)
                .next("name the Python that trained the model: --python EXE")
        };
        let mut path = folder.as_os_str().to_owned();
        if let Some(own) = env::var_os("PYTHONPATH").filter(|own| !own.is_empty()) {
            path.push(":");
            path.push(own);
        }
        let stderr = match self.verbose {
            true => Stdio::inherit(),
            false => log.reopen().map_err(failed)?.into(),
        };
        Command::new(&self.exe)
            .args(["-m", PACKAGE])
            .arg(request)
            .env("PYTHONPATH", path)
            .env("PYTHONIOENCODING", "utf-8")
            // The user's folders stay as they are.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map(Running)
            .map_err(failed)
    }

    async fn listen(&self, mut running: Running, steps: &Steps) -> Result<Said, Failure> {
        let failed = |error: io::Error| {
            let message = format!("cannot read from {}", self.exe.display());
            Failure::caused_by(Exit::Failed, message, &error)
        };
        let stdout = running.0.stdout.take().expect("it is piped");
        let (sender, mut lines) = mpsc::channel(LINES_MAX);
        // It ends with the helper, or with whoever listens.
        tokio::task::spawn_blocking(move || {
            for line in BufReader::new(stdout).lines() {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        let mut said = Said::default();
        while let Some(line) = lines.recv().await {
            let line = line.map_err(failed)?;
            let Ok(Value::Object(mut document)) = serde_json::from_str(&line) else {
                continue;
            };
            let text = |key| document.get(key).and_then(Value::as_str);
            if let Some(step) = text("step") {
                steps.say(step);
            } else if let Some(warning) = text("warning") {
                said.warnings.push(warning.to_owned());
            } else if let Some(result) = document.remove("result") {
                said.outcome = Some(Outcome::Result(result));
            } else if let Some(refused) = document.remove("refused") {
                said.outcome = Some(Outcome::Refused(refused));
            }
        }
        // With its standard output closed it has answered, and is about to end.
        drop(running);
        Ok(said)
    }

    fn refused(&self, refused: &Value, log: NamedTempFile) -> Failure {
        let text = |key| refused[key].as_str().unwrap_or_default();
        let exit = match text("kind") {
            "environment" => Exit::Failed,
            "not_found" => Exit::NotFound,
            _ => Exit::Refused,
        };
        let mut failure = Failure::new(exit, text("message"));
        if !text("cause").is_empty() {
            failure = self.with_log(failure.because(text("cause")), log);
        }
        failure.next(text("next"))
    }

    /// The helper ended otherwise than it should.
    fn broken(&self, how: &str, log: NamedTempFile) -> Failure {
        let message = format!("{} did not get to the end", self.exe.display());
        let failure = self.with_log(Failure::new(Exit::Failed, message).because(how), log);
        failure.next("see the log; with not enough memory the system ends a process")
    }

    fn with_log(&self, failure: Failure, log: NamedTempFile) -> Failure {
        if self.verbose {
            return failure;
        }
        match log.keep() {
            Ok((_, path)) => failure.because(format!("the whole of it is in {}", path.display())),
            Err(_) => failure,
        }
    }
}

/// The helper. Given up, as by Ctrl-C, it is ended: it would write to a folder that is gone.
#[derive(Debug)]
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // One that has ended already is ended.
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

#[derive(Debug, Default)]
struct Said {
    outcome: Option<Outcome>,
    warnings: Vec<String>,
}

#[derive(Debug)]
enum Outcome {
    Result(Value),
    Refused(Value),
}

fn unpack() -> io::Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("dunlin-python-")
        .tempdir()?;
    let package = folder.path().join(PACKAGE);
    fs::create_dir(&package)?;
    for (name, text) in HELPER {
        fs::write(package.join(name), text)?;
    }
    Ok(folder)
}

/// The program, where it can be run; a bare name is looked for as the shell does.
fn on_path(name: &OsStr) -> Option<PathBuf> {
    let path = PathBuf::from(name);
    if path.components().count() > 1 {
        return path.is_file().then_some(path);
    }
    let folders = env::var_os("PATH")?;
    env::split_paths(&folders)
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_helper_is_carried() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("python")
            .join(PACKAGE);
        let entries = fs::read_dir(folder).unwrap();
        let mut there: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".py"))
            .collect();
        there.sort();
        let mut carried: Vec<&str> = HELPER.iter().map(|(name, _)| *name).collect();
        carried.sort_unstable();
        assert_eq!(carried, there);
    }

    #[test]
    fn a_python_that_is_not_there_is_named() {
        let missing = Python::find(Some(Path::new("/no/such/python")), false).unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound);
        assert!(missing.to_string().contains("/no/such/python"));
    }
}
