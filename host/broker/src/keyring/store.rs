//! The keyring's SQLite database: its schema, its settings, reading and writing rows. Decides nothing and encrypts nothing.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};

use super::envelope::{Meta, Row};
use super::{FORMAT, KeyringError};

/// "CLVG": tells a keyring from other SQLite databases.
const APPLICATION_ID: i64 = 0x434c_5647;
/// A reader of the public part waits so long for a write to end, which takes milliseconds.
const BUSY: Duration = Duration::from_secs(2);

// Compared with what the file holds: a changed or added table, index, view or trigger is refused.
const META: &str = "CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    created TEXT NOT NULL,
    root_kind TEXT NOT NULL,
    root_settings TEXT NOT NULL,
    root BLOB NOT NULL,
    root_digest BLOB NOT NULL,
    vkey TEXT,
    log_size INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    list TEXT NOT NULL,
    mac BLOB NOT NULL
) STRICT";
const KEYS: &str = "CREATE TABLE keys (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    profile TEXT NOT NULL,
    algorithm TEXT NOT NULL,
    custody TEXT NOT NULL,
    assurance TEXT NOT NULL,
    public BLOB NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    nonce BLOB NOT NULL,
    material BLOB NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID";

const COLUMNS: &str =
    "name, version, state, profile, algorithm, custody, assurance, public, created, updated, nonce, material";

/// A change to one row of `keys`, made together with the change of `meta`.
pub(super) enum Change<'a> {
    Insert(&'a Row),
    Replace(&'a Row),
    None,
}

/// An open database.
#[derive(Debug)]
pub(super) struct Store {
    // Invariant: of the format and schema of this file.
    connection: Connection,
}

impl Store {
    /// Makes a database in an empty file that exists.
    pub(super) fn create(path: &Path, meta: &Meta) -> Result<(), KeyringError> {
        let making = |e| KeyringError::database("make", e);
        let mut connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(making)?;
        let transaction = connection.transaction().map_err(making)?;
        transaction
            .pragma_update(None, "application_id", APPLICATION_ID)
            .and_then(|()| transaction.pragma_update(None, "user_version", FORMAT))
            .and_then(|()| transaction.execute_batch(&format!("{META};\n{KEYS};")))
            .and_then(|()| {
                transaction.execute(
                    "INSERT INTO meta VALUES (1, ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                    params![
                        meta.created,
                        meta.root_kind,
                        meta.root_settings,
                        meta.root,
                        meta.root_digest,
                        meta.vkey,
                        signed(meta.log_size),
                        signed(meta.generation),
                        meta.list,
                        meta.mac
                    ],
                )
            })
            .map_err(making)?;
        transaction.commit().map_err(making)?;
        connection.close().map_err(|(_, e)| making(e))
    }

    /// Opens the database to change it, and checks all of its structure.
    pub(super) fn open(path: &Path) -> Result<Self, KeyringError> {
        let opening = |e| KeyringError::database("open", e);
        let connection = connect(path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(opening)?;
        check_format(&connection)?;
        let mut problems = Vec::new();
        connection
            .pragma_query(None, "integrity_check", |row| {
                problems.push(row.get::<_, String>(0)?);
                Ok(())
            })
            .map_err(opening)?;
        if problems != ["ok"] {
            let first = problems.first().map_or("no answer", String::as_str);
            return Err(KeyringError::integrity(format!(
                "the database is damaged ({})",
                claviger_core::name::escape(first, 200)
            )));
        }
        connection
            .pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))
            .map_err(opening)?;
        Ok(Self { connection })
    }

    /// Opens the database to read what needs no root key. Works while another process has it open.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, KeyringError> {
        let connection =
            connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|e| KeyringError::database("open", e))?;
        check_format(&connection)?;
        Ok(Self { connection })
    }

    /// Writes a generation of the keyring: all of it or nothing.
    pub(super) fn write(&mut self, change: &Change<'_>, meta: &Meta) -> Result<(), KeyringError> {
        let writing = |e| KeyringError::database("write", e);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(writing)?;
        let verb = match change {
            Change::Insert(row) => Some(("INSERT", row)),
            Change::Replace(row) => Some(("REPLACE", row)),
            Change::None => None,
        };
        if let Some((verb, row)) = verb {
            transaction
                .execute(
                    &format!(
                        "{verb} INTO keys ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)"
                    ),
                    params![
                        row.name,
                        row.version,
                        row.state,
                        row.profile,
                        row.algorithm,
                        row.custody,
                        row.assurance,
                        row.public,
                        row.created,
                        row.updated,
                        row.nonce,
                        row.material
                    ],
                )
                .map_err(writing)?;
        }
        let changed = transaction
            .execute(
                "UPDATE meta SET vkey = ?1, log_size = ?2, generation = ?3, list = ?4, mac = ?5 WHERE id = 1 AND generation = ?6",
                params![
                    meta.vkey,
                    signed(meta.log_size),
                    signed(meta.generation),
                    meta.list,
                    meta.mac,
                    signed(meta.generation).saturating_sub(1)
                ],
            )
            .map_err(writing)?;
        if changed != 1 {
            return Err(KeyringError::integrity("another process wrote to it"));
        }
        transaction.commit().map_err(writing)
    }

    pub(super) fn meta(&self) -> Result<Meta, KeyringError> {
        self.connection
            .query_row(
                "SELECT created, root_kind, root_settings, root, root_digest, vkey, log_size, generation, list, mac \
                 FROM meta WHERE id = 1",
                [],
                |row| {
                    Ok(Meta {
                        created: row.get(0)?,
                        root_kind: row.get(1)?,
                        root_settings: row.get(2)?,
                        root: row.get(3)?,
                        root_digest: row.get(4)?,
                        vkey: row.get(5)?,
                        log_size: row.get::<_, i64>(6)?.unsigned_abs(),
                        generation: row.get::<_, i64>(7)?.unsigned_abs(),
                        list: row.get(8)?,
                        mac: row.get(9)?,
                    })
                },
            )
            .map_err(|e| KeyringError::database("read", e))
    }

    /// Every row, by name and version.
    pub(super) fn rows(&self) -> Result<Vec<Row>, KeyringError> {
        let reading = |e| KeyringError::database("read", e);
        let sql = format!("SELECT {COLUMNS} FROM keys ORDER BY name, version");
        let mut statement = self.connection.prepare(&sql).map_err(reading)?;
        let rows = statement.query_map([], read_row).map_err(reading)?;
        rows.collect::<Result<_, _>>().map_err(reading)
    }

    /// One row, if it is there.
    pub(super) fn row(&self, name: &str, version: u32) -> Result<Option<Row>, KeyringError> {
        use rusqlite::OptionalExtension as _;
        let sql = format!("SELECT {COLUMNS} FROM keys WHERE name = ?1 AND version = ?2");
        self.connection
            .query_row(&sql, params![name, version], read_row)
            .optional()
            .map_err(|e| KeyringError::database("read", e))
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn connect(path: &Path, access: OpenFlags) -> Result<Connection, rusqlite::Error> {
    // Without SQLITE_OPEN_CREATE and SQLITE_OPEN_URI: the path is a path, and a file that is not there is an error.
    let flags = access | OpenFlags::SQLITE_OPEN_NOFOLLOW | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    connection.execute_batch(
        "PRAGMA cell_size_check = ON; PRAGMA foreign_keys = ON; PRAGMA mmap_size = 0; PRAGMA secure_delete = ON;
         PRAGMA temp_store = MEMORY; PRAGMA synchronous = FULL;",
    )?;
    Ok(connection)
}

fn check_format(connection: &Connection) -> Result<(), KeyringError> {
    let opening = |e| KeyringError::database("open", e);
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if number("application_id").map_err(opening)? != APPLICATION_ID {
        return Err(KeyringError::Format {
            found: "the file is another program's database".to_owned(),
        });
    }
    let format = number("user_version").map_err(opening)?;
    if format != i64::from(FORMAT) {
        return Err(KeyringError::Format {
            found: format!("the keyring has format {format}"),
        });
    }
    let mut statement = connection
        .prepare("SELECT sql FROM sqlite_schema ORDER BY name")
        .map_err(opening)?;
    let schema: Vec<Option<String>> = statement
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .map_err(opening)?;
    if schema != [Some(KEYS.to_owned()), Some(META.to_owned())] {
        return Err(KeyringError::integrity(
            "the database's tables are not a keyring's",
        ));
    }
    Ok(())
}

fn read_row(row: &rusqlite::Row<'_>) -> Result<Row, rusqlite::Error> {
    Ok(Row {
        name: row.get(0)?,
        version: row.get(1)?,
        state: row.get(2)?,
        profile: row.get(3)?,
        algorithm: row.get(4)?,
        custody: row.get(5)?,
        assurance: row.get(6)?,
        public: row.get(7)?,
        created: row.get(8)?,
        updated: row.get(9)?,
        nonce: row.get(10)?,
        material: row.get(11)?,
    })
}

/// SQLite's integers have a sign. A keyring is not changed 2^63 times.
fn signed(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}
