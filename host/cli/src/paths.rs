//! Where Dunlin keeps its files for one user, after the XDG base directory specification, and how
//! it makes those the user asks for.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

use edge_config::Backends;
use tempfile::NamedTempFile;

use crate::exit::{Exit, Failure};

/// The file in a node's data directory that holds the token of its admin plane.
const TOKEN_FILE: &str = "admin-token";

/// The folder of a node's state where neither a flag nor node.yaml names one.
pub(crate) fn data_dir() -> Result<PathBuf, Failure> {
    below("XDG_DATA_HOME", ".local/share", |name| env::var_os(name))
}

/// Where native backends are looked for: by the environment, else by node.yaml, else in this user's
/// folder.
pub(crate) fn backends(configured: Backends) -> Result<Backends, Failure> {
    let backends = with_environment(configured, |name| env::var_os(name));
    Ok(match backends.folder {
        Some(_) => backends,
        None => Backends {
            folder: Some(data_dir()?.join("backends")),
            ..backends
        },
    })
}

fn with_environment(configured: Backends, variable: impl Fn(&str) -> Option<OsString>) -> Backends {
    // As usual for paths, an empty variable is none.
    let path = |name: &str| {
        let value = variable(name).filter(|value| !value.is_empty());
        value.map(PathBuf::from)
    };
    Backends {
        folder: path("DUNLIN_BACKENDS").or(configured.folder),
        onnxruntime: path("DUNLIN_ONNXRUNTIME_LIBRARY").or(configured.onnxruntime),
        torchscript: path("DUNLIN_TORCHSCRIPT_LIBRARY").or(configured.torchscript),
    }
}

/// The token file of a node that runs with the default data directory.
pub(crate) fn default_token_file() -> Result<PathBuf, Failure> {
    Ok(data_dir()?.join(TOKEN_FILE))
}

/// The named environments of this user.
pub(crate) fn environments_file() -> Result<PathBuf, Failure> {
    Ok(below("XDG_CONFIG_HOME", ".config", |name| env::var_os(name))?.join("environments.yaml"))
}

/// The path as it is from any folder. It need not exist.
pub(crate) fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::caused_by(
            Exit::Failed,
            format!("cannot resolve {}", path.display()),
            &error,
        )
    })
}

/// A file in the folder of `path` that is to be renamed to it once it is whole. Its permissions are
/// those of any file the user makes, not the private ones of other temporary files.
pub(crate) fn temporary_beside(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    tempfile::Builder::new()
        .prefix(".dunlin-")
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(folder.unwrap_or(Path::new(".")))
}

fn below(
    xdg: &str,
    at_home: &str,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<PathBuf, Failure> {
    // The specification: a relative path is invalid and is to be ignored.
    let absolute = |name: &str| {
        variable(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute(xdg).or_else(|| absolute("HOME").map(|home| home.join(at_home)));
    base.map(|base| base.join("dunlin")).ok_or_else(|| {
        Failure::new(
            Exit::Failed,
            format!("neither {xdg} nor HOME is an absolute path"),
        )
        .next("set HOME to your home folder")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(xdg: Option<&str>, home: Option<&str>, expected: Option<&str>) {
        let found = below("XDG_DATA_HOME", ".local/share", |name| match name {
            "XDG_DATA_HOME" => xdg.map(OsString::from),
            "HOME" => home.map(OsString::from),
            _ => None,
        });
        assert_eq!(found.ok(), expected.map(PathBuf::from), "{xdg:?} {home:?}");
    }

    #[test]
    fn the_environment_wins_over_the_file_for_each_backend() {
        let configured = Backends {
            folder: Some("/file/backends".into()),
            onnxruntime: Some("/file/libonnxruntime.so".into()),
            torchscript: None,
        };
        let found = with_environment(configured, |name| match name {
            "DUNLIN_BACKENDS" => Some("/env/backends".into()),
            "DUNLIN_ONNXRUNTIME_LIBRARY" => Some(OsString::new()),
            "DUNLIN_TORCHSCRIPT_LIBRARY" => Some("/env/libdunlin_torch.so".into()),
            _ => None,
        });
        let expected = Backends {
            folder: Some("/env/backends".into()),
            onnxruntime: Some("/file/libonnxruntime.so".into()),
            torchscript: Some("/env/libdunlin_torch.so".into()),
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn xdg_wins_over_home_where_it_is_absolute() {
        check(Some("/x"), Some("/h"), Some("/x/dunlin"));
        check(None, Some("/h"), Some("/h/.local/share/dunlin"));
        check(Some(""), Some("/h"), Some("/h/.local/share/dunlin"));
        check(Some("rel"), Some("/h"), Some("/h/.local/share/dunlin"));
        check(Some("rel"), Some("rel"), None);
        check(None, None, None);
    }
}
