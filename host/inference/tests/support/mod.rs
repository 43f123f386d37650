//! Where the native libraries of the machine are, for the tests that need one.

use std::fmt;

use dunlin_inference::{BackendKind, BackendPaths, BackendState, Backends, Registry};

/// A registry with the library of `kind` in it, from the folder that `DUNLIN_BACKENDS` names. None,
/// and a line that says why, where the machine has no such folder: a skipped test, unless
/// `DUNLIN_REQUIRE_BACKENDS` is set.
pub(crate) fn registry(kind: BackendKind) -> Option<Registry> {
    let name = kind.name();
    let Some(folder) = std::env::var_os("DUNLIN_BACKENDS").filter(|folder| !folder.is_empty())
    else {
        return skipped(&format!(
            "DUNLIN_BACKENDS names no folder with backend {name}; \
             run `dunlin backend install {name}` and set it to the folder that it says"
        ));
    };
    let backends = Backends::new(BackendPaths {
        folder: Some(folder.into()),
        ..BackendPaths::default()
    });
    let report = backends.report();
    let state = report.iter().find(|report| report.name == name);
    match state.map(|report| &report.state) {
        Some(BackendState::Ready { .. }) => Some(Registry::new(backends)),
        state => skipped(&format!("backend {name} is {state:?}")),
    }
}

/// A line of a test's output, which the test's runner shows or keeps.
#[expect(clippy::print_stdout, reason = "the output of a test")]
pub(crate) fn say(line: fmt::Arguments<'_>) {
    println!("{line}");
}

pub(crate) fn skipped<T>(reason: &str) -> Option<T> {
    let required = std::env::var_os("DUNLIN_REQUIRE_BACKENDS").is_some_and(|value| value == "1");
    assert!(
        !required,
        "not skipped, by DUNLIN_REQUIRE_BACKENDS: {reason}"
    );
    say(format_args!("skipped: {reason}"));
    None
}
