//! What this node serves, on disk: one SQLite database, one transaction for each change.

use std::{
    fs::{File, Metadata, Permissions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use dunlin_package::Digest;
use rusqlite::{Connection, params};

use crate::error::NodeError;

/// One row: a deployment and the revision that serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) name: String,
    /// Counts up with each deploy of the name, from 1. SQLite's integers are signed.
    pub(crate) revision: i64,
    pub(crate) digest: Digest,
    /// When this revision was deployed: RFC 3339, in UTC.
    pub(crate) created_at: String,
    /// Whether it is to serve: false from an unload to the next load or deploy.
    pub(crate) loaded: bool,
    /// What the last load changed of the model's settings, as the JSON that it came in.
    pub(crate) model_config: Option<String>,
}

/// The connection is used from blocking threads only; SQLite allows one writer anyway.
pub(crate) struct State {
    connection: Mutex<Connection>,
    path: PathBuf,
    /// The file that the connection has open.
    file: FileId,
}

/// A deleted name keeps its last number in `retired`: a revision means one package, also where the
/// name was deleted in between.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS deployments (
        name       TEXT PRIMARY KEY,
        revision   INTEGER NOT NULL,
        digest     TEXT NOT NULL,
        created_at TEXT NOT NULL,
        loaded     INTEGER NOT NULL,
        model_config TEXT
    ) STRICT;
    CREATE TABLE IF NOT EXISTS retired (
        number   INTEGER PRIMARY KEY,
        name     TEXT NOT NULL UNIQUE,
        revision INTEGER NOT NULL
    ) STRICT;";

/// Of the tables: another one for each change of them.
const VERSION: i64 = 1;

/// So many deleted names are remembered; the one deleted longest ago goes first.
const RETIRED_MAX: i64 = 10_000;

impl State {
    pub(crate) fn open(path: &Path) -> Result<Self, NodeError> {
        let file = make_private(path).map_err(|source| NodeError::DataDir {
            path: path.to_owned(),
            source,
        })?;
        let unusable = |source| NodeError::StateFile {
            path: path.to_owned(),
            source,
        };
        let connection = connect(path).map_err(unusable)?;
        if let Some(found) = other_version(&connection).map_err(unusable)? {
            return Err(NodeError::StateVersion {
                path: path.to_owned(),
                found,
                known: VERSION,
            });
        }
        connection.execute_batch(SCHEMA).map_err(unusable)?;
        let marked = connection.pragma_update(None, "user_version", VERSION);
        marked.map_err(unusable)?;
        Ok(Self {
            connection: Mutex::new(connection),
            path: path.to_owned(),
            file,
        })
    }

    pub(crate) fn records(&self) -> Result<Vec<Record>, NodeError> {
        let connection = self.lock();
        let mut select = connection.prepare(
            "SELECT name, revision, digest, created_at, loaded, model_config FROM deployments
             ORDER BY name",
        )?;
        let mut rows = select.query([])?;
        let mut records = Vec::new();
        while let Some(row) = rows.next()? {
            let (name, digest): (String, String) = (row.get(0)?, row.get(2)?);
            let digest = digest
                .parse()
                .map_err(|_| NodeError::State(format!("{name} has no digest but {digest}")))?;
            records.push(Record {
                name,
                revision: row.get(1)?,
                digest,
                created_at: row.get(3)?,
                loaded: row.get(4)?,
                model_config: row.get(5)?,
            });
        }
        Ok(records)
    }

    /// The number that the next revision of `name` gets: no number is given twice.
    pub(crate) fn next_revision(&self, name: &str) -> Result<i64, NodeError> {
        let last: i64 = self.lock().query_row(
            "SELECT coalesce(max(revision), 0) FROM (
                 SELECT revision FROM deployments WHERE name = ?1
                 UNION ALL SELECT revision FROM retired WHERE name = ?1)",
            [name],
            |row| row.get(0),
        )?;
        Ok(last + 1)
    }

    /// From here on the deployment is this revision, also after a crash.
    pub(crate) fn put(&self, record: &Record) -> Result<(), NodeError> {
        let connection = self.to_write()?;
        connection.execute(
            "INSERT OR REPLACE INTO deployments
                 (name, revision, digest, created_at, loaded, model_config)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            params![
                record.name,
                record.revision,
                record.digest.to_string(),
                record.created_at,
                record.loaded,
                record.model_config
            ],
        )?;
        Ok(())
    }

    pub(crate) fn delete(&self, name: &str) -> Result<(), NodeError> {
        let mut connection = self.to_write()?;
        let transaction = connection.transaction()?;
        transaction.execute(
            "INSERT OR REPLACE INTO retired (name, revision)
             SELECT name, revision FROM deployments WHERE name = ?1",
            [name],
        )?;
        transaction.execute(
            "DELETE FROM retired WHERE number <= (SELECT max(number) FROM retired) - ?1",
            [RETIRED_MAX],
        )?;
        transaction.execute("DELETE FROM deployments WHERE name = ?1", [name])?;
        transaction.commit()?;
        Ok(())
    }

    /// Lets the next change be written over what the database no longer needs of its journal: on a
    /// full disk that may be all the room there is.
    pub(crate) fn reuse_journal(&self) -> Result<(), NodeError> {
        let connection = self.lock();
        connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()))?;
        Ok(())
    }

    /// The connection, for a change. What is written into a file that is no longer the one at its
    /// path would be gone with the next start.
    fn to_write(&self) -> Result<MutexGuard<'_, Connection>, NodeError> {
        match std::fs::metadata(&self.path) {
            Ok(metadata) if FileId::of(&metadata) == self.file => Ok(self.lock()),
            _ => Err(NodeError::StateLost {
                path: self.path.clone(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // SQLite rolls an unfinished statement back by itself.
        self.connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Device and inode: no other file has the same two while this one is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId(u64, u64);

impl FileId {
    fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}

/// The file, which only its owner may read; SQLite gives the files beside it the same mode.
fn make_private(path: &Path) -> io::Result<FileId> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    Ok(FileId::of(&file.metadata()?))
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    // A deploy that was acknowledged is there after a power cut.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // The file has a row for each deployment: looking through it takes no time, and what is damaged
    // is better found now than at some later change.
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found != "ok" {
        return Err(rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
            Some(found),
        ));
    }
    Ok(connection)
}

/// The version of tables that this node does not know.
fn other_version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    let version = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let tables: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE name = 'deployments'",
        [],
        |row| row.get(0),
    )?;
    Ok((tables > 0 && version != VERSION).then_some(version))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, revision: i64) -> Record {
        Record {
            name: name.to_owned(),
            revision,
            digest: format!("sha256:{}", "0a".repeat(32)).parse().unwrap(),
            created_at: "2026-01-02T03:04:05Z".to_owned(),
            loaded: true,
            model_config: None,
        }
    }

    #[test]
    fn tables_of_another_version_are_told_of_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        drop(State::open(&path).unwrap());
        let connection = Connection::open(&path).unwrap();
        let newer = VERSION + 1;
        connection
            .pragma_update(None, "user_version", newer)
            .unwrap();
        drop(connection);
        let Err(NodeError::StateVersion { found, .. }) = State::open(&path) else {
            unreachable!("it is of another version");
        };
        assert_eq!(found, newer);
    }

    #[test]
    fn what_was_put_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let state = State::open(&path).unwrap();
        assert_eq!(state.next_revision("digits").unwrap(), 1);
        state.put(&record("digits", 1)).unwrap();
        state.put(&record("echo", 1)).unwrap();
        state.put(&record("digits", 2)).unwrap();
        let unloaded = Record {
            loaded: false,
            model_config: Some("{}".to_owned()),
            ..record("digits", 2)
        };
        state.put(&unloaded).unwrap();
        state.delete("echo").unwrap();
        drop(state);

        let state = State::open(&path).unwrap();
        assert_eq!(state.records().unwrap(), [unloaded]);
        assert_eq!(state.next_revision("digits").unwrap(), 3);
    }

    #[test]
    fn a_name_that_comes_back_counts_on() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.db")).unwrap();
        state.put(&record("digits", 4)).unwrap();
        for expected in [5, 6] {
            state.delete("digits").unwrap();
            assert_eq!(state.next_revision("digits").unwrap(), expected);
            state.put(&record("digits", expected)).unwrap();
        }
        state.delete("nobody").unwrap();
        assert_eq!(state.next_revision("nobody").unwrap(), 1);
    }

    #[test]
    fn a_state_that_was_taken_away_is_not_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let state = State::open(&path).unwrap();
        state.put(&record("digits", 1)).unwrap();
        let aside = dir.path().join("aside.db");
        std::fs::rename(&path, &aside).unwrap();
        for replaced in [false, true] {
            if replaced {
                std::fs::copy(&aside, &path).unwrap();
            }
            for change in [state.put(&record("digits", 2)), state.delete("digits")] {
                let said = change.unwrap_err().to_string();
                assert!(said.contains(path.to_str().unwrap()), "{said}");
            }
        }
        std::fs::rename(&aside, &path).unwrap();
        state.put(&record("digits", 2)).unwrap();
    }

    #[test]
    fn only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let state = State::open(&path).unwrap();
        state.put(&record("digits", 1)).unwrap();
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let entry = entry.unwrap();
            let mode = entry.metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{}", entry.path().display());
        }
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let state = State::open(&path).unwrap();
        for number in 0..100 {
            state.put(&record(&format!("d{number}"), 1)).unwrap();
        }
        drop(state);
        let whole = std::fs::read(&path).unwrap();
        let mut torn = whole.clone();
        torn[4096..].fill(0x5a);
        for damaged in [
            b"this is no database, whatever its name says".to_vec(),
            torn,
        ] {
            std::fs::write(&path, damaged).unwrap();
            let error = State::open(&path).err().expect("it is damaged");
            assert!(matches!(&error, NodeError::StateFile { path: named, .. } if *named == path));
        }
        std::fs::write(&path, whole).unwrap();
        assert_eq!(State::open(&path).unwrap().records().unwrap().len(), 100);
    }

    #[test]
    fn a_full_disk_is_told_from_other_failures() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.db");
        let state = State::open(&path).unwrap();
        let bound = |state: &State| {
            let pages = state
                .lock()
                .query_row("PRAGMA max_page_count = 8", [], |row| row.get(0));
            assert_eq!(pages, Ok(8));
        };
        bound(&state);
        let full = (0..1000).find_map(|number| state.put(&record(&format!("d{number}"), 1)).err());
        let full = full.expect("1000 rows are more than 8 pages");
        assert!(full.is_out_of_space(), "{full:?}");
        state.reuse_journal().unwrap();
        state.delete("d0").unwrap();
        assert!(!NodeError::State("damaged".to_owned()).is_out_of_space());
    }
}
