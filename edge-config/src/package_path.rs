//! Paths inside a package: what may become the title of one of its files.

use std::borrow::Borrow;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// The longest path. Every file system and archive format can hold it.
const PATH_BYTES_MAX: usize = 255;

/// A relative path with `/` between its parts that stays inside its folder: it has no `..`, `.`,
/// empty part, backslash or control character, and at most 255 bytes. A `./` that was written is
/// dropped, so that two equal paths are equal texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackagePath(String);

/// A path that is none: the text says which rule it breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PackagePathError(String);

impl PackagePath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path that `relative` names when it is written in this file: a sibling of the file, or
    /// below one.
    pub fn sibling(&self, relative: &str) -> Result<Self, PackagePathError> {
        let relative = Self::from_str(relative)?;
        match self.0.rsplit_once('/') {
            Some((folder, _)) => format!("{folder}/{relative}").parse(),
            None => Ok(relative),
        }
    }
}

impl FromStr for PackagePath {
    type Err = PackagePathError;

    fn from_str(path: &str) -> Result<Self, PackagePathError> {
        let refuse = |why: &str| Err(PackagePathError(why.to_owned()));
        if path.is_empty() {
            return refuse("is empty; write a path such as models/digits.onnx");
        }
        if path.starts_with('/') {
            return refuse("is absolute; write the path from the folder of the deployment file");
        }
        if path.chars().any(|c| c == '\\' || c.is_control()) {
            return refuse("has a backslash or a control character; write / between the parts");
        }
        let parts: Vec<&str> = path.split('/').filter(|part| *part != ".").collect();
        if parts.contains(&"..") {
            return refuse(
                "leaves the folder of the deployment file; move the file there and drop the ..",
            );
        }
        if parts.is_empty() || parts.contains(&"") {
            return refuse("does not name a file; write a path such as models/digits.onnx");
        }
        let path = parts.join("/");
        if path.len() > PATH_BYTES_MAX {
            return Err(PackagePathError(format!(
                "has {} bytes; a path in a package has at most {PATH_BYTES_MAX}",
                path.len()
            )));
        }
        Ok(Self(path))
    }
}

impl fmt::Display for PackagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for PackagePath {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<Path> for PackagePath {
    fn as_ref(&self) -> &Path {
        Path::new(&self.0)
    }
}

impl Borrow<str> for PackagePath {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_inside() {
        let long = "a".repeat(255);
        for (written, meant) in [
            ("a", "a"),
            ("models/digits.onnx", "models/digits.onnx"),
            ("./models/./a b.onnx", "models/a b.onnx"),
            ("..a/b..", "..a/b.."),
            (long.as_str(), long.as_str()),
        ] {
            assert_eq!(written.parse::<PackagePath>().unwrap().as_str(), meant);
        }
    }

    #[test]
    fn paths_outside() {
        let long = "a".repeat(256);
        for bad in [
            "",
            "/",
            "/a",
            ".",
            "./",
            "..",
            "../a",
            "a/../b",
            "a/..",
            "a//b",
            "a/",
            "a\\b",
            "a\0",
            "a\nb",
            long.as_str(),
        ] {
            assert!(bad.parse::<PackagePath>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn siblings() {
        let model: PackagePath = "models/a.onnx".parse().unwrap();
        assert_eq!(
            model.sibling("a.onnx.data").unwrap().as_str(),
            "models/a.onnx.data"
        );
        assert_eq!(model.sibling("w/0").unwrap().as_str(), "models/w/0");
        assert!(model.sibling("../secret").is_err());
        assert!(model.sibling("/etc/passwd").is_err());
        let top: PackagePath = "a.onnx".parse().unwrap();
        assert_eq!(top.sibling("b").unwrap().as_str(), "b");
    }
}
