//! Where the things under test are: the binary, the packages, the clients.

use std::{
    env,
    path::{Path, PathBuf},
    sync::LazyLock,
};

/// The root of the repository, which Cargo tells at run time: clones may share a target directory.
#[must_use]
pub fn repository() -> &'static Path {
    static REPOSITORY: LazyLock<PathBuf> = LazyLock::new(|| {
        let own = from_environment("CARGO_MANIFEST_DIR")
            .unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let repository = own.parent().expect("the tests lie in the repository");
        repository.to_owned()
    });
    &REPOSITORY
}

/// The `dunlin` to test: `$DUNLIN_BINARY`, or the one beside this test in the target directory.
#[must_use]
pub fn binary() -> PathBuf {
    let path = from_environment("DUNLIN_BINARY").unwrap_or_else(|| {
        target()
            .join(profile())
            .join(format!("dunlin{}", env::consts::EXE_SUFFIX))
    });
    existing(path, "cargo build --workspace --bin dunlin")
}

/// A package as it is built from the repository: `digits`, `echo` or `misbehave`.
#[must_use]
pub fn package(name: &str) -> PathBuf {
    let packages =
        from_environment("DUNLIN_PACKAGES").unwrap_or_else(|| target().join("dunlin/packages"));
    existing(
        packages.join(name).with_extension("dunlin"),
        "cargo xtask guests",
    )
}

/// A Python with what `tests/python/requirements.txt` lists.
#[must_use]
pub fn python() -> PathBuf {
    let path = from_environment("DUNLIN_PYTHON")
        .unwrap_or_else(|| target().join("dunlin/python/client/bin/python"));
    existing(path, "cargo xtask test")
}

/// A Python with what `tests/python/otlp/requirements.txt` lists.
pub(crate) fn otlp_python() -> PathBuf {
    let path = from_environment("DUNLIN_OTLP_PYTHON")
        .unwrap_or_else(|| target().join("dunlin/python/otlp/bin/python"));
    existing(path, "cargo xtask test")
}

/// The backend folder that `cargo xtask test` makes, where it has all of `names`. None, and a line
/// that says so, on a machine that cannot have them, unless `DUNLIN_REQUIRE_BACKENDS` is set.
///
/// # Panics
/// They are required and not there.
#[must_use]
pub fn backends(names: &[&str]) -> Option<PathBuf> {
    let folder =
        from_environment("DUNLIN_BACKENDS").unwrap_or_else(|| target().join("dunlin/backends"));
    let absent = |name: &&&str| !folder.join(name).join("backend.json").is_file();
    let Some(absent) = names.iter().find(absent) else {
        return Some(folder);
    };
    let reason = format!("{} has no {absent}; run cargo xtask test", folder.display());
    skipped(&reason, "DUNLIN_REQUIRE_BACKENDS")
}

/// Triton's `perf_analyzer`, whose libraries lie beside it. None, and a line that says so, on a machine
/// that cannot have it, unless `DUNLIN_REQUIRE_PERF_ANALYZER` is set.
///
/// # Panics
/// It is required and not there.
#[must_use]
pub fn perf_analyzer() -> Option<PathBuf> {
    let program = from_environment("DUNLIN_PERF_ANALYZER")
        .unwrap_or_else(|| target().join("dunlin/perf_analyzer/perf_analyzer"));
    if program.is_file() {
        return Some(program);
    }
    let reason = format!("{} is not there; run cargo xtask test", program.display());
    skipped(&reason, "DUNLIN_REQUIRE_PERF_ANALYZER")
}

/// A Python with what `tests/python/lightning/requirements.txt` lists. None, and a line that says so,
/// where it was not asked for, unless `DUNLIN_REQUIRE_LIGHTNING` is set.
///
/// # Panics
/// It is required and not there.
#[must_use]
pub fn lightning() -> Option<PathBuf> {
    if let Some(python) = from_environment("DUNLIN_LIGHTNING_PYTHON") {
        return Some(existing(python, "cargo xtask test --with lightning"));
    }
    let reason = "there is no DUNLIN_LIGHTNING_PYTHON; run cargo xtask test --with lightning";
    skipped(reason, "DUNLIN_REQUIRE_LIGHTNING")
}

/// The folder with `prometheus` and `promtool` that `cargo xtask test` finds or makes. None, and a
/// line that says so, on a machine that cannot have them, unless `DUNLIN_REQUIRE_PROMETHEUS` is set.
///
/// # Panics
/// They are required and not there.
pub(crate) fn prometheus() -> Option<PathBuf> {
    if let Some(folder) = from_environment("DUNLIN_PROMETHEUS") {
        return Some(existing(folder, "cargo xtask test"));
    }
    let programs = unpacked("prometheus").join("usr/bin");
    if programs.join("promtool").exists() {
        return Some(programs);
    }
    skipped(
        "there is no Prometheus; run cargo xtask test",
        "DUNLIN_REQUIRE_PROMETHEUS",
    )
}

/// A browser that runs without a window, as `cargo xtask test` finds or makes it. None, and a line
/// that says so, on a machine that cannot have one, unless `DUNLIN_REQUIRE_BROWSER` is set.
///
/// # Panics
/// It is required and not there.
pub(crate) fn browser() -> Option<PathBuf> {
    if let Some(program) = from_environment("DUNLIN_BROWSER") {
        return Some(existing(program, "cargo xtask test"));
    }
    let program = unpacked(BROWSER).join("usr/lib/chromium").join(BROWSER);
    if program.exists() {
        return Some(program);
    }
    skipped(
        "there is no browser; run cargo xtask test",
        "DUNLIN_REQUIRE_BROWSER",
    )
}

/// The package of Debian's with a browser that has no window.
const BROWSER: &str = "chromium-headless-shell";

/// Where `cargo xtask test` unpacks a package of Debian's.
fn unpacked(package: &str) -> PathBuf {
    target().join("dunlin/debian").join(package).join("root")
}

/// Says why a test is skipped, or fails it where `variable` asks for that.
fn skipped<T>(reason: &str, variable: &str) -> Option<T> {
    let required = env::var_os(variable).is_some_and(|value| value == "1");
    assert!(!required, "not skipped: {reason}");
    eprintln!("skipped: {reason}");
    None
}

fn from_environment(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from)
}

fn existing(path: PathBuf, made_by: &str) -> PathBuf {
    assert!(
        path.exists(),
        "{} is not there: run {made_by}",
        path.display()
    );
    path
}

/// `<target>/<profile>/deps/<test>` is what runs.
fn profile_dir() -> PathBuf {
    let own = env::current_exe().expect("a process knows its program");
    let dir = own.parent().expect("a program lies in a folder");
    let dir = if dir.ends_with("deps") {
        dir.parent().expect("deps lies in a folder")
    } else {
        dir
    };
    dir.to_owned()
}

fn profile() -> PathBuf {
    PathBuf::from(profile_dir().file_name().expect("a profile has a name"))
}

fn target() -> PathBuf {
    profile_dir()
        .parent()
        .expect("a profile lies in the target directory")
        .to_owned()
}
