//! Compiling a component, in a process of its own where there is a program for it.
//!
//! The compiler takes tens of megabytes, of which the allocator would keep much for ever, and runs
//! on what somebody has uploaded. In a child its memory goes with it, and so does a crash.

use std::{
    ffi::OsString,
    io::{self, Read, Write},
    path::PathBuf,
    process::{Command, Stdio},
    thread,
};

use wasmtime::Engine;

use crate::engine::{SandboxConfig, engine_config};

/// A command that does what [`compile`] does: a component on its standard input, machine code for the
/// same engine on its standard output, and where it fails the reason on its standard error.
#[derive(Debug, Clone)]
pub struct Compiler {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// Reads a component, writes machine code for a [`Sandbox`](crate::Sandbox) whose guests may have so
/// much memory.
///
/// # Errors
/// It is no component, or reading or writing fails.
pub fn compile(
    guest_memory_max: u64,
    mut component: impl Read,
    mut code: impl Write,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut wasm = Vec::new();
    component.read_to_end(&mut wasm)?;
    let engine = Engine::new(&engine_config(&SandboxConfig {
        instances_max: 1,
        guest_memory_max,
        cache_dir: PathBuf::new(),
        compiler: None,
    }))?;
    code.write_all(&engine.precompile_component(&wasm)?)?;
    code.flush()?;
    Ok(())
}

impl Compiler {
    /// `None` where the command cannot be started.
    pub(crate) fn run(&self, wasm: &[u8]) -> Option<wasmtime::Result<Vec<u8>>> {
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut child = match child {
            Ok(child) => child,
            Err(error) => {
                tracing::warn!(%error, "no process for the compiler; compiling in this one");
                return None;
            }
        };
        let stdin = child.stdin.take();
        let output = thread::scope(|scope| {
            // It may end before it has read all; what it says of that is what counts.
            scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(wasm)));
            child.wait_with_output()
        });
        Some(artifact(output))
    }
}

fn artifact(output: io::Result<std::process::Output>) -> wasmtime::Result<Vec<u8>> {
    let output = output?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(match said.trim() {
        "" => wasmtime::format_err!("the compiler ended with {}", output.status),
        reason => wasmtime::Error::msg(reason.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sandbox, SandboxError};

    fn sandbox(program: &str, arguments: &[&str], cache: &tempfile::TempDir) -> Sandbox {
        Sandbox::new(SandboxConfig {
            instances_max: 4,
            guest_memory_max: 1 << 20,
            cache_dir: cache.path().to_owned(),
            compiler: Some(Compiler {
                program: program.into(),
                arguments: arguments.iter().map(OsString::from).collect(),
            }),
        })
        .unwrap()
    }

    /// The failure of a component that is none.
    async fn failure(sandbox: &Sandbox) -> String {
        match sandbox.program((*b"no wasm").into()).await {
            Err(SandboxError::Compile(error)) => format!("{error:#}"),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("that is no component"),
        }
    }

    #[tokio::test]
    async fn a_child_that_fails_is_the_compilers_failure() {
        let cache = tempfile::tempdir().unwrap();
        let said = sandbox(
            "sh",
            &["-c", "cat >/dev/null; echo ' no room ' >&2; exit 1"],
            &cache,
        );
        assert_eq!(failure(&said).await, "no room");
        let killed = sandbox("sh", &["-c", "kill -9 $$"], &cache);
        assert!(failure(&killed).await.contains("signal: 9"));
        let nonsense = sandbox("echo", &["no machine code"], &cache);
        assert!(!failure(&nonsense).await.is_empty());
        // Without the command the compiler is this process's.
        let missing = sandbox("/nonexistent/compiler", &[], &cache);
        assert!(!failure(&missing).await.contains("compiler ended"));
    }

    #[test]
    fn what_is_compiled_elsewhere_fits_the_engine() {
        let mut code = Vec::new();
        compile(64 << 20, &b"\0asm\x0d\0\x01\0"[..], &mut code).unwrap();
        let config = SandboxConfig {
            instances_max: 300,
            guest_memory_max: 64 << 20,
            cache_dir: PathBuf::new(),
            compiler: None,
        };
        let engine = Engine::new(&engine_config(&config)).unwrap();
        #[expect(
            unsafe_code,
            reason = "wasmtime cannot check machine code that it is given"
        )]
        // SAFETY: it was made just now.
        let component = unsafe { wasmtime::component::Component::deserialize(&engine, &code) };
        component.unwrap();
    }
}
