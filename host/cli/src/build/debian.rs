//! Fetches a Debian package of a wanted version and unpacks it into a folder, without root and
//! without a change to the machine: apt gets lists, cache and sources of its own.
//!
//! The mirror is the one the machine's own apt sources name.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process;

/// Where to look, the cheapest index first. Backports keep several versions of the Rust sources.
const SUITES: [&str; 3] = ["trixie-backports", "forky", "sid"];

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

const STEP_LIMIT: Duration = Duration::from_secs(600);

/// An unpacked package.
#[derive(Debug)]
pub(super) struct Unpacked {
    /// The folder that stands for `/`.
    pub(super) root: PathBuf,
    pub(super) version: String,
}

/// Puts `package` into a folder below `scratch`, in the newest version that `wanted` accepts.
pub(super) fn fetch(
    package: &str,
    wanted: &dyn Fn(&str) -> bool,
    scratch: &Path,
    progress: &mut dyn FnMut(&str),
) -> Result<Unpacked> {
    let mirrors = mirrors()?;
    let mut seen = BTreeSet::new();
    let mut trouble = None;
    for suite in SUITES {
        progress(&format!("looking for Debian's {package} in {suite}"));
        match fetch_from(
            &mirrors, suite, package, wanted, scratch, &mut seen, progress,
        ) {
            Ok(Some(unpacked)) => return Ok(unpacked),
            Ok(None) => {}
            Err(error) => trouble = Some(error),
        }
    }
    match trouble {
        Some(error) => Err(error),
        None if seen.is_empty() => bail!("Debian's {} have no {package}", SUITES.join(", ")),
        None => bail!(
            "Debian has {package} only in other versions: {}",
            seen.into_iter().collect::<Vec<_>>().join(", ")
        ),
    }
}

fn fetch_from(
    mirrors: &[String],
    suite: &str,
    package: &str,
    wanted: &dyn Fn(&str) -> bool,
    scratch: &Path,
    seen: &mut BTreeSet<String>,
    progress: &mut dyn FnMut(&str),
) -> Result<Option<Unpacked>> {
    let dir = scratch.join(format!("{package}-{suite}"));
    let apt = Apt::new(&dir, mirrors, suite)?;
    apt.run("apt-get", &["update"], &dir)
        .with_context(|| format!("apt cannot read the list of {suite}"))?;

    let madison = apt.run("apt-cache", &["madison", package], &dir)?;
    let versions = versions(&madison);
    seen.extend(versions.iter().cloned());
    // Newest first, as apt prints them.
    let Some(version) = versions.into_iter().find(|version| wanted(version)) else {
        return Ok(None);
    };

    progress(&format!("downloading Debian's {package} {version}"));
    apt.run(
        "apt-get",
        &["download", &format!("{package}={version}")],
        &dir,
    )?;
    let archive = fs::read_dir(&dir)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt downloaded nothing")?;
    let root = dir.join("root");
    progress(&format!("unpacking {package}"));
    process::output(
        Command::new("dpkg").arg("-x").arg(&archive).arg(&root),
        Some(STEP_LIMIT),
    )?;
    fs::remove_file(&archive)?;
    Ok(Some(Unpacked { root, version }))
}

/// The third column is where it comes from: ` rust-src | 1.95.0+dfsg1-2 | … Packages`.
fn versions(madison: &str) -> Vec<String> {
    madison
        .lines()
        .filter_map(|line| Some(line.split('|').nth(1)?.trim().to_owned()))
        .collect()
}

/// The Debian mirrors that this machine's apt is set up with.
fn mirrors() -> Result<Vec<String>> {
    let targets = process::output(
        Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)|$(ORIGIN)|$(LABEL)",
            "Created-By: Packages",
        ]),
        Some(STEP_LIMIT),
    )
    .context("this machine has no working apt")?;
    let mirrors = debian_mirrors(&targets);
    if mirrors.is_empty() {
        bail!("the apt sources of this machine name no Debian mirror");
    }
    Ok(mirrors)
}

fn debian_mirrors(targets: &str) -> Vec<String> {
    let mut mirrors: Vec<String> = Vec::new();
    for line in targets.lines() {
        let mut fields = line.split('|');
        let (Some(uri), Some(origin), Some(label)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        // Before the first `apt-get update` apt knows neither origin nor label, and leaves the
        // placeholder standing.
        let told = |text: &str| !text.is_empty() && !text.starts_with('$');
        let other = (told(origin) && origin != "Debian") || (told(label) && label != "Debian");
        if !other && !uri.contains("security") && !mirrors.iter().any(|known| known == uri) {
            mirrors.push(uri.to_owned());
        }
    }
    mirrors
}

/// apt with everything it writes below one folder.
struct Apt {
    config: PathBuf,
}

impl Apt {
    fn new(dir: &Path, mirrors: &[String], suite: &str) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial", "parts"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let signed = if Path::new(KEYRING).exists() {
            format!("[signed-by={KEYRING}] ")
        } else {
            String::new()
        };
        let mut sources = String::new();
        for mirror in mirrors {
            writeln!(sources, "deb {signed}{mirror} {suite} main")?;
        }
        fs::write(dir.join("sources.list"), sources)?;

        // Hooks are cleared because they act on the machine's own apt.
        let dir = dir.display();
        let config = format!(
            r#"#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::Etc::sourcelist "{dir}/sources.list";
Dir::Etc::sourceparts "{dir}/parts";
Dir::State::lists "{dir}/lists";
Dir::Cache "{dir}/cache";
Acquire::Languages "none";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
Acquire::Retries "2";
APT::Sandbox::User "";
"#
        );
        let path = Path::new(&dir.to_string()).join("apt.conf");
        fs::write(&path, config)?;
        Ok(Self { config: path })
    }

    fn run(&self, program: &str, args: &[&str], dir: &Path) -> Result<String> {
        process::output(
            Command::new(program)
                .arg("-q")
                .arg("-c")
                .arg(&self.config)
                .args(args)
                .current_dir(dir),
            Some(STEP_LIMIT),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_mirrors_count() {
        let targets = "http://a.example/debian/|Debian|Debian\n\
                       http://a.example/debian/|Debian|Debian\n\
                       http://a.example/debian-security/|Debian|Debian-Security\n\
                       http://other.example/node|. nodistro|. nodistro\n\
                       http://fresh.example/debian/|$(ORIGIN)|$(LABEL)\n\
                       junk\n";
        assert_eq!(
            debian_mirrors(targets),
            ["http://a.example/debian/", "http://fresh.example/debian/"]
        );
    }

    #[test]
    fn versions_are_the_second_column() {
        let madison = "  rust-src | 1.96.1+dfsg1-2~bpo13+1 | http://a suite/main amd64 Packages\n  \
                       rust-src | 1.95.0+dfsg1-2~bpo13+1 | http://a suite/main amd64 Packages\n";
        assert_eq!(
            versions(madison),
            ["1.96.1+dfsg1-2~bpo13+1", "1.95.0+dfsg1-2~bpo13+1"]
        );
    }
}
