//! The library file: checked, and then handed to `ort`.

use std::ffi::CStr;
use std::panic::catch_unwind;
use std::path::Path;
use std::sync::Arc;

use libloading::Library;
use ort::environment::Environment;
use ort::logging::LogLevel;
use tracing::Level;

use crate::backend::locate::open_library;
use crate::error::panic_text;

/// What `ort` was told of the library: `api-17`.
const MINOR_MIN: u32 = ort::MINOR_VERSION;

/// The process's only one.
#[derive(Clone)]
pub(super) struct Opened {
    pub(super) environment: Environment,
    pub(super) version: String,
}

/// An ONNX Runtime that can be used. Open, so that to open it again costs nothing.
pub(super) struct Checked {
    _library: Library,
    version: String,
}

/// Opens the file, which was checked.
pub(super) fn open(path: &Path, checked: Checked) -> Result<Opened, String> {
    let environment = catch_unwind(|| environment(path))
        .unwrap_or_else(|payload| Err(format!("it cannot be used: {}", panic_text(&*payload))))?;
    Ok(Opened {
        environment,
        version: checked.version,
    })
}

/// Whether the file is an ONNX Runtime that can be used: asks it for its version. `ort` asks too, but
/// stops the process where the answer is not what it expects. The text says what is wrong.
pub(super) fn check(path: &Path) -> Result<Checked, String> {
    let library = open_library(path)?;
    #[expect(unsafe_code, reason = "the library speaks C")]
    let version = {
        // SAFETY: every version of ONNX Runtime exports this function with this type.
        let base = unsafe {
            library.get::<unsafe extern "system" fn() -> *const ort::sys::OrtApiBase>(
                b"OrtGetApiBase\0",
            )
        };
        let base = base.map_err(|_| "it is a library, but not ONNX Runtime's".to_owned())?;
        // SAFETY: the function takes nothing and gives a pointer to a constant of the library.
        let base = unsafe { base() };
        // SAFETY: as above; the library is open meanwhile.
        let base = unsafe { base.as_ref() };
        let base = base.ok_or("it gives no interface")?;
        // SAFETY: the second function of that constant since ONNX Runtime 1.0.
        let version = unsafe { (base.GetVersionString)() };
        if version.is_null() {
            return Err("it does not say its version".to_owned());
        }
        // SAFETY: not null, and a constant C string of the library.
        unsafe { CStr::from_ptr(version) }
            .to_string_lossy()
            .into_owned()
    };
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(1), Some(minor)) if minor >= MINOR_MIN => Ok(Checked {
            _library: library,
            version,
        }),
        (Some(1), Some(_)) => Err(format!(
            "it is ONNX Runtime {version}; 1.{MINOR_MIN} or newer is needed"
        )),
        _ => Err(format!(
            "it is ONNX Runtime {version:?}; a version 1, 1.{MINOR_MIN} or newer, is needed"
        )),
    }
}

fn environment(path: &Path) -> Result<Environment, String> {
    let environment = ort::init_from(path)
        .map_err(|error| error.to_string())?
        .with_name("dunlin")
        .with_telemetry(false)
        .with_logger(Arc::new(log))
        .build()
        .map_err(|error| error.to_string())?;
    // A message that nobody reads still costs its making.
    environment.set_log_level(if tracing::enabled!(Level::TRACE) {
        LogLevel::Verbose
    } else if tracing::enabled!(Level::DEBUG) {
        LogLevel::Info
    } else {
        LogLevel::Fatal
    });
    Ok(environment)
}

/// What ONNX Runtime reports as an error it also returns as one, and that is logged where it is
/// handled; many of its warnings come with every run. So both are for who looks into a model.
fn log(level: LogLevel, category: &str, _id: &str, at: &str, message: &str) {
    match level {
        LogLevel::Fatal => tracing::error!(category, at, message, "ONNX Runtime"),
        LogLevel::Error | LogLevel::Warning => {
            tracing::debug!(category, at, message, "ONNX Runtime");
        }
        LogLevel::Info | LogLevel::Verbose => {
            tracing::trace!(category, at, message, "ONNX Runtime");
        }
    }
}
