//! The admin plane's bearer token: made at the first start, kept in a file only its owner reads.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use subtle::ConstantTimeEq;

use crate::error::NodeError;

/// Random bytes in a token: as many as a session key has.
const TOKEN_BYTES: usize = 32;

pub(crate) struct AdminToken {
    token: String,
    file: PathBuf,
}

impl AdminToken {
    /// Reads the token of `data_dir`, or makes one.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, NodeError> {
        let file = data_dir.join("admin-token");
        let unusable = |source| NodeError::DataDir {
            path: file.clone(),
            source,
        };
        let token = match std::fs::read_to_string(&file) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                write_new(data_dir, &file).map_err(unusable)?
            }
            Err(error) => return Err(unusable(error)),
        };
        if token.len() < 2 * TOKEN_BYTES {
            return Err(unusable(std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "the file holds no token; delete it, and the next start makes a new one",
            )));
        }
        restrict(&file).map_err(unusable)?;
        Ok(Self { token, file })
    }

    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    /// Compares in a time that does not depend on where the first difference is.
    pub(crate) fn matches(&self, presented: &str) -> bool {
        self.token.as_bytes().ct_eq(presented.as_bytes()).into()
    }
}

/// A start that is interrupted leaves no half-written token: the file appears whole.
fn write_new(data_dir: &Path, file: &Path) -> std::io::Result<String> {
    let mut bytes = [0; TOKEN_BYTES];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut temporary = tempfile::NamedTempFile::new_in(data_dir)?;
    writeln!(temporary, "{token}")?;
    temporary.as_file().sync_all()?;
    temporary.persist(file)?;
    Ok(token)
}

#[cfg(unix)]
fn restrict(file: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))
}

#[cfg(not(unix))]
fn restrict(_file: &Path) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_stays_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = AdminToken::open(dir.path()).unwrap();
        let second = AdminToken::open(dir.path()).unwrap();
        assert!(second.matches(&first.token));
        assert!(!second.matches(&first.token[1..]));
        assert!(!second.matches(""));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = std::fs::metadata(first.file())
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn an_empty_token_file_is_no_token() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("admin-token"), "\n").unwrap();
        assert!(AdminToken::open(dir.path()).is_err());
    }
}
