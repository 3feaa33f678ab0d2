//! The keyring's SQLite database: its schema, its settings, reading and writing rows. Decides nothing and encrypts nothing.

use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, params};

use super::columns::LifeColumns;
use super::envelope::{KeyLife, Meta, Row};
use super::list::Rows;
use super::secret_row::SecretRow;
use super::{FORMAT, KeyringError};

/// "CLVG": tells a keyring from other SQLite databases.
const APPLICATION_ID: i64 = 0x434c_5647;
/// A format that had no secrets. It is read, and becomes the newest when the keyring is opened.
pub(super) const WITHOUT_SECRETS: u32 = 2;
/// A format whose rows did not say how a version lives. As above.
const WITHOUT_LIFE: u32 = 3;
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
    source TEXT NOT NULL,
    rotate_every INTEGER,
    rotate_uses INTEGER,
    overlap INTEGER NOT NULL,
    until TEXT,
    deleted TEXT,
    reason TEXT,
    locked INTEGER NOT NULL,
    hardware BLOB,
    nonce BLOB NOT NULL,
    material BLOB NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID";
const SECRETS: &str = "CREATE TABLE secrets (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    kind TEXT NOT NULL,
    origin TEXT NOT NULL,
    assurance TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    expires TEXT,
    rotate_every INTEGER,
    source TEXT NOT NULL,
    overlap INTEGER NOT NULL,
    until TEXT,
    deleted TEXT,
    reason TEXT,
    locked INTEGER NOT NULL,
    nonce BLOB NOT NULL,
    material BLOB NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID";
// Of formats 2 and 3, and of format 3.
const OLD_KEYS: &str = "CREATE TABLE keys (
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
const OLD_SECRETS: &str = "CREATE TABLE secrets (
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    state TEXT NOT NULL,
    kind TEXT NOT NULL,
    origin TEXT NOT NULL,
    assurance TEXT NOT NULL,
    created TEXT NOT NULL,
    updated TEXT NOT NULL,
    expires TEXT,
    rotate_every INTEGER,
    nonce BLOB NOT NULL,
    material BLOB NOT NULL,
    PRIMARY KEY (name, version)
) STRICT, WITHOUT ROWID";

// What is common to all formats comes first.
const OLD_SECRET_COLUMNS: &str =
    "name, version, state, kind, origin, assurance, created, updated, expires, rotate_every, nonce, material";
const OLD_COLUMNS: &str =
    "name, version, state, profile, algorithm, custody, assurance, public, created, updated, nonce, material";
const SECRET_COLUMNS: &str = "name, version, state, kind, origin, assurance, created, updated, expires, rotate_every, nonce, material, \
     source, overlap, until, deleted, reason, locked";
const COLUMNS: &str = "name, version, state, profile, algorithm, custody, assurance, public, created, updated, nonce, material, \
     source, overlap, until, deleted, reason, locked, rotate_every, rotate_uses, hardware";

/// A change to one row, made together with the change of `meta`.
pub(super) enum Change<'a> {
    Insert(&'a Row),
    Replace(&'a Row),
    /// A row of `secrets`, new or in the place of the one that was.
    Secret(&'a SecretRow),
    /// A row of `secrets` that is no longer kept.
    Forget(&'a SecretRow),
}

/// An open database.
#[derive(Debug)]
pub(super) struct Store {
    // Invariant: of a format that this code reads, and of its schema.
    connection: Connection,
    // Invariant: which one.
    format: u32,
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
            .and_then(|()| transaction.execute_batch(&format!("{META};\n{KEYS};\n{SECRETS};")))
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
        let format = check_format(&connection)?;
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
        Ok(Self { connection, format })
    }

    /// Opens the database to read what needs no root key. Works while another process has it open.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, KeyringError> {
        let connection =
            connect(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(|e| KeyringError::database("open", e))?;
        let format = check_format(&connection)?;
        Ok(Self { connection, format })
    }

    /// Makes a file of an earlier format one of the newest, with these rows in the place of all that there are: all of it or nothing.
    pub(super) fn convert(&mut self, rows: &Rows, meta: &Meta) -> Result<(), KeyringError> {
        let converting = |e| KeyringError::database("convert", e);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(converting)?;
        // Not altered: the schema's text is compared, and altering leaves another text than making.
        transaction
            .execute_batch(&format!(
                "DROP TABLE IF EXISTS secrets; DROP TABLE keys;\n{KEYS};\n{SECRETS};"
            ))
            .and_then(|()| transaction.pragma_update(None, "user_version", FORMAT))
            .map_err(converting)?;
        for row in &rows.keys {
            write_key(&transaction, "INSERT", row).map_err(converting)?;
        }
        for row in &rows.secrets {
            write_secret(&transaction, row).map_err(converting)?;
        }
        write_meta(&transaction, meta)?;
        transaction.commit().map_err(converting)?;
        self.format = FORMAT;
        Ok(())
    }

    /// Writes a generation of the keyring: all of it or nothing. The file has the newest format.
    pub(super) fn write(&mut self, changes: &[Change<'_>], meta: &Meta) -> Result<(), KeyringError> {
        let writing = |e| KeyringError::database("write", e);
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)
            .map_err(writing)?;
        for change in changes {
            match change {
                Change::Insert(row) => write_key(&transaction, "INSERT", row),
                Change::Replace(row) => write_key(&transaction, "REPLACE", row),
                Change::Secret(row) => write_secret(&transaction, row),
                Change::Forget(row) => transaction.execute(
                    "DELETE FROM secrets WHERE name = ?1 AND version = ?2",
                    params![row.name, row.version],
                ),
            }
            .map_err(writing)?;
        }
        write_meta(&transaction, meta)?;
        transaction.commit().map_err(writing)
    }

    /// Overwrites what the write-ahead log still holds of what was destroyed. While somebody reads, the log is emptied later.
    pub(super) fn scrub(&self) -> Result<(), KeyringError> {
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(|e| KeyringError::database("empty the log of", e))
    }

    pub(super) fn meta(&self) -> Result<Meta, KeyringError> {
        self.connection
            .query_row(
                "SELECT created, root_kind, root_settings, root, root_digest, vkey, log_size, generation, list, mac \
                 FROM meta WHERE id = 1",
                [],
                |row| {
                    Ok(Meta {
                        format: self.format,
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
    pub(super) fn rows(&self) -> Result<Rows, KeyringError> {
        let reading = |e| KeyringError::database("read", e);
        let (columns, secret_columns) = if self.format < FORMAT {
            (OLD_COLUMNS, OLD_SECRET_COLUMNS)
        } else {
            (COLUMNS, SECRET_COLUMNS)
        };
        let sql = format!("SELECT {columns} FROM keys ORDER BY name, version");
        let mut statement = self.connection.prepare(&sql).map_err(reading)?;
        let keys = statement
            .query_map([], |row| read_row(row, self.format))
            .map_err(reading)?;
        let keys = keys.collect::<Result<_, _>>().map_err(reading)?;
        if self.format <= WITHOUT_SECRETS {
            return Ok(Rows {
                keys,
                secrets: Vec::new(),
            });
        }
        let sql = format!("SELECT {secret_columns} FROM secrets ORDER BY name, version");
        let mut statement = self.connection.prepare(&sql).map_err(reading)?;
        let secrets = statement
            .query_map([], |row| read_secret(row, self.format))
            .map_err(reading)?;
        let secrets = secrets.collect::<Result<_, _>>().map_err(reading)?;
        Ok(Rows { keys, secrets })
    }

    /// One row of a secret, if it is there.
    pub(super) fn secret_row(&self, name: &str, version: u32) -> Result<Option<SecretRow>, KeyringError> {
        use rusqlite::OptionalExtension as _;
        let sql = format!("SELECT {SECRET_COLUMNS} FROM secrets WHERE name = ?1 AND version = ?2");
        self.connection
            .query_row(&sql, params![name, version], |row| read_secret(row, FORMAT))
            .optional()
            .map_err(|e| KeyringError::database("read", e))
    }

    /// One row, if it is there.
    pub(super) fn row(&self, name: &str, version: u32) -> Result<Option<Row>, KeyringError> {
        use rusqlite::OptionalExtension as _;
        let sql = format!("SELECT {COLUMNS} FROM keys WHERE name = ?1 AND version = ?2");
        self.connection
            .query_row(&sql, params![name, version], |row| read_row(row, FORMAT))
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

/// Writes the settings of a generation over those of the one before.
fn write_meta(transaction: &Connection, meta: &Meta) -> Result<(), KeyringError> {
    let changed = transaction
        .execute(
            "UPDATE meta SET vkey = ?1, log_size = ?2, generation = ?3, list = ?4, mac = ?5, root_kind = ?7, \
             root_settings = ?8, root = ?9, root_digest = ?10 WHERE id = 1 AND generation = ?6",
            params![
                meta.vkey,
                signed(meta.log_size),
                signed(meta.generation),
                meta.list,
                meta.mac,
                signed(meta.generation).saturating_sub(1),
                meta.root_kind,
                meta.root_settings,
                meta.root,
                meta.root_digest
            ],
        )
        .map_err(|e| KeyringError::database("write", e))?;
    if changed != 1 {
        return Err(KeyringError::integrity("another process wrote to it"));
    }
    Ok(())
}

fn write_key(transaction: &Connection, verb: &str, row: &Row) -> Result<usize, rusqlite::Error> {
    let life = row.life.as_ref();
    let shared = life.map(|life| &life.shared);
    transaction.execute(
        &format!(
            "{verb} INTO keys ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, \
             ?19, ?20, ?21)"
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
            row.material,
            shared.map(|shared| &shared.source),
            shared.map(|shared| shared.overlap),
            shared.and_then(|shared| shared.until.as_ref()),
            shared.and_then(|shared| shared.deleted.as_ref()),
            shared.and_then(|shared| shared.reason.as_ref()),
            shared.map(|shared| shared.locked),
            life.and_then(|life| life.rotate_every),
            life.and_then(|life| life.rotate_uses),
            life.and_then(|life| life.hardware.as_ref())
        ],
    )
}

fn write_secret(transaction: &Connection, row: &SecretRow) -> Result<usize, rusqlite::Error> {
    let life = row.life.as_ref();
    transaction.execute(
        &format!(
            "REPLACE INTO secrets ({SECRET_COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, \
             ?17, ?18)"
        ),
        params![
            row.name,
            row.version,
            row.state,
            row.kind,
            row.origin,
            row.assurance,
            row.created,
            row.updated,
            row.expires,
            row.rotate_every,
            row.nonce,
            row.material,
            life.map(|life| &life.source),
            life.map(|life| life.overlap),
            life.and_then(|life| life.until.as_ref()),
            life.and_then(|life| life.deleted.as_ref()),
            life.and_then(|life| life.reason.as_ref()),
            life.map(|life| life.locked)
        ],
    )
}

/// The format of the file, if it is one that this code reads and the schema is that format's.
fn check_format(connection: &Connection) -> Result<u32, KeyringError> {
    let opening = |e| KeyringError::database("open", e);
    let number = |name| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    if number("application_id").map_err(opening)? != APPLICATION_ID {
        return Err(KeyringError::Format {
            found: "the file is another program's database".to_owned(),
        });
    }
    let found = number("user_version").map_err(opening)?;
    let (format, expected): (_, &[&str]) = if found == i64::from(FORMAT) {
        (FORMAT, &[KEYS, META, SECRETS])
    } else if found == i64::from(WITHOUT_LIFE) {
        (WITHOUT_LIFE, &[OLD_KEYS, META, OLD_SECRETS])
    } else if found == i64::from(WITHOUT_SECRETS) {
        (WITHOUT_SECRETS, &[OLD_KEYS, META])
    } else {
        return Err(KeyringError::Format {
            found: format!("the keyring has format {found}"),
        });
    };
    let mut statement = connection
        .prepare("SELECT sql FROM sqlite_schema ORDER BY name")
        .map_err(opening)?;
    let schema: Vec<Option<String>> = statement
        .query_map([], |row| row.get(0))
        .and_then(Iterator::collect)
        .map_err(opening)?;
    if !schema
        .iter()
        .map(Option::as_deref)
        .eq(expected.iter().map(|sql| Some(*sql)))
    {
        return Err(KeyringError::integrity(
            "the database's tables are not a keyring's",
        ));
    }
    Ok(format)
}

fn read_secret(row: &rusqlite::Row<'_>, format: u32) -> Result<SecretRow, rusqlite::Error> {
    Ok(SecretRow {
        name: row.get(0)?,
        version: row.get(1)?,
        state: row.get(2)?,
        kind: row.get(3)?,
        origin: row.get(4)?,
        assurance: row.get(5)?,
        created: row.get(6)?,
        updated: row.get(7)?,
        expires: row.get(8)?,
        rotate_every: row.get(9)?,
        life: read_life(row, format)?,
        nonce: row.get(10)?,
        material: row.get(11)?,
    })
}

/// What a row says of its life; nothing before the newest format.
fn read_life(row: &rusqlite::Row<'_>, format: u32) -> Result<Option<LifeColumns>, rusqlite::Error> {
    if format < FORMAT {
        return Ok(None);
    }
    Ok(Some(LifeColumns {
        source: row.get(12)?,
        overlap: row.get(13)?,
        until: row.get(14)?,
        deleted: row.get(15)?,
        reason: row.get(16)?,
        locked: row.get(17)?,
    }))
}

fn read_row(row: &rusqlite::Row<'_>, format: u32) -> Result<Row, rusqlite::Error> {
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
        life: match read_life(row, format)? {
            None => None,
            Some(shared) => Some(KeyLife {
                shared,
                rotate_every: row.get(18)?,
                rotate_uses: row.get(19)?,
                hardware: row.get(20)?,
            }),
        },
        nonce: row.get(10)?,
        material: row.get(11)?,
    })
}

/// SQLite's integers have a sign. A keyring is not changed 2^63 times.
fn signed(generation: u64) -> i64 {
    i64::try_from(generation).unwrap_or(i64::MAX)
}
