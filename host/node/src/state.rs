//! What this node serves, on disk: one SQLite database, one transaction for each change.

use std::{path::Path, sync::Mutex};

use dunlin_package::Digest;
use rusqlite::{Connection, OptionalExtension, params};

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
}

/// The connection is used from blocking threads only; SQLite allows one writer anyway.
pub(crate) struct State(Mutex<Connection>);

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS deployments (
        name       TEXT PRIMARY KEY,
        revision   INTEGER NOT NULL,
        digest     TEXT NOT NULL,
        created_at TEXT NOT NULL
    ) STRICT;";

impl State {
    pub(crate) fn open(path: &Path) -> Result<Self, NodeError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        // A deploy that was acknowledged is there after a power cut.
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.execute_batch(SCHEMA)?;
        Ok(Self(Mutex::new(connection)))
    }

    pub(crate) fn records(&self) -> Result<Vec<Record>, NodeError> {
        let connection = self.lock();
        let mut select = connection
            .prepare("SELECT name, revision, digest, created_at FROM deployments ORDER BY name")?;
        let rows = select.query_map([], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, i64>(1)?,
                row.get::<_, String>(2)?,
                row.get::<_, String>(3)?,
            ))
        })?;
        rows.map(|row| {
            let (name, revision, digest, created_at) = row?;
            let digest = digest
                .parse()
                .map_err(|_| NodeError::State(format!("{name} has no digest but {digest}")))?;
            Ok(Record {
                name,
                revision,
                digest,
                created_at,
            })
        })
        .collect()
    }

    /// The number that the next revision of `name` gets.
    pub(crate) fn next_revision(&self, name: &str) -> Result<i64, NodeError> {
        let last: Option<i64> = self
            .lock()
            .query_row(
                "SELECT revision FROM deployments WHERE name = ?1",
                [name],
                |row| row.get(0),
            )
            .optional()?;
        Ok(last.unwrap_or(0) + 1)
    }

    /// From here on the deployment is this revision, also after a crash.
    pub(crate) fn put(&self, record: &Record) -> Result<(), NodeError> {
        self.lock().execute(
            "INSERT INTO deployments (name, revision, digest, created_at) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (name) DO UPDATE SET
                 revision = excluded.revision,
                 digest = excluded.digest,
                 created_at = excluded.created_at",
            params![
                record.name,
                record.revision,
                record.digest.to_string(),
                record.created_at
            ],
        )?;
        Ok(())
    }

    pub(crate) fn delete(&self, name: &str) -> Result<(), NodeError> {
        self.lock()
            .execute("DELETE FROM deployments WHERE name = ?1", [name])?;
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Connection> {
        // SQLite rolls an unfinished statement back by itself.
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
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
        }
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
        state.delete("echo").unwrap();
        drop(state);

        let state = State::open(&path).unwrap();
        assert_eq!(state.records().unwrap(), [record("digits", 2)]);
        assert_eq!(state.next_revision("digits").unwrap(), 3);
    }
}
