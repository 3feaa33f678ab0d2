//! The durable store of keys and secrets: their versions, states, and encrypted material, in one SQLite file under a root key that a sealer
//! protects. Not custody: it does not know what material means. Not the audit log: the broker logs what it changes here.
//!
//! One process has the keyring open; others may read what is public. Whoever has only the disk learns names, profiles and
//! public keys, and cannot change one byte unnoticed, except by putting an older copy of the whole file in its place
//! ([`KeyringInfo::generation`] then goes back). The format is docs/adr/0003-keyring-format.md.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use claviger_core::custody::Sealer;
use claviger_core::{KeyName, KeyRef, Secret};
use jiff::Timestamp;

mod change;
mod columns;
mod envelope;
mod error;
mod folder;
mod hardware;
mod life;
mod list;
mod living;
mod open_file;
pub mod published;
mod record;
mod reseal;
mod restore;
mod secret_life;
mod secret_row;
mod secrets;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use change::Succession;
pub use change::{KeyRotation, Lock, Start};
pub use columns::{DEFAULT_OVERLAP, MAX_HARDWARE, MAX_REASON, Reason, RotationPlan};
pub(crate) use envelope::Purpose;
pub use error::KeyringError;
pub(crate) use life::after;
pub use life::{DEFAULT_WINDOW, LOCKED_WINDOW, Life, LifeError, LifeEvent, MAX_WINDOW, next};
pub(crate) use living::Living;
pub use record::{KeyRecord, KeySource, KeyState, KeyringInfo, NewKey, RootKind, RootSpec, UnknownName};
pub(crate) use reseal::Resealed;
pub(crate) use restore::{check_restored, has_use};
pub use secret_row::{NewSecret, SecretRecord};
pub use secrets::{GOOD_SECRET, MAX_SECRET_VALUE, MIN_SECRET, SecretReplacement};

use envelope::{Envelope, Meta, Row};
use folder::{DATABASE, Folder, FolderLock, UNFINISHED};
use list::{List, Listed};
use living::Shelf;
use secrets::SecretRecords;
use store::{Change, Store};

/// The folder, absolute and without links, if it is this user's alone.
///
/// # Errors
/// When it is not there, is none, or others can reach it.
pub(crate) fn private_folder(folder: &Path) -> Result<PathBuf, KeyringError> {
    Folder::check(folder).map(|folder| folder.path().to_path_buf())
}

/// The version of the file's format that this code writes. It also reads the two before: 3, whose rows did not say how a version
/// lives, and 2, which had no secrets.
pub const FORMAT: u32 = 4;
/// A keyring has at most this many versions of keys and secrets: its list is written anew with every change.
pub const MAX_KEYS: usize = 4096;
/// The settings of a root have at most this many bytes: a TCTI, a name, a path.
pub const MAX_SETTINGS: usize = 4096;

/// The root key is one of HKDF-SHA256's full strength.
const ROOT: usize = 32;
/// What the root key is sealed for.
pub const ROOT_PURPOSE: &str = "root";

type Records = Shelf<KeyRecord>;

/// An open keyring.
///
/// Its methods are synchronous and wait for the disk when they write or read material; looking up a record does not. Dropping
/// it wipes the root key and releases the folder.
pub struct Keyring {
    folder: PathBuf,
    root: Secret,
    records: RwLock<Records>,
    secrets: RwLock<SecretRecords>,
    // Declared before the lock: the database is closed before another process may open it.
    file: Mutex<OpenFile>,
    _lock: FolderLock,
}

/// The database, the keys to it, and what is known to be in it.
pub(crate) struct OpenFile {
    store: Store,
    envelope: Envelope,
    // Invariant: what `store` holds, authenticated; `info` is what it says.
    meta: Meta,
    info: KeyringInfo,
}

impl Keyring {
    /// Makes a keyring in this folder and opens it. The folder and its parents are made where they are missing.
    ///
    /// Dropping the future, or a crash, leaves no keyring or a whole one.
    ///
    /// # Errors
    /// When there is one already, when the sealer is not of the kind that `spec` names or fails, or when the folder is not
    /// the user's alone.
    pub async fn create(
        folder: &Path,
        spec: RootSpec,
        sealer: &dyn Sealer,
        now: Timestamp,
    ) -> Result<Self, KeyringError> {
        offered(spec.kind, sealer)?;
        if spec.settings.len() > MAX_SETTINGS {
            return Err(KeyringError::TooLong {
                what: "the text of the root's settings",
                allowed: MAX_SETTINGS,
                sent: spec.settings.len(),
            });
        }
        refuse_existing(folder)?;
        let root = envelope::random(ROOT)?;
        let sealed = sealer
            .seal(ROOT_PURPOSE, &root)
            .await
            .map_err(KeyringError::Root)?;
        // A root key that does not open again would take every key with it. Better to know now.
        let again = sealer
            .unseal(ROOT_PURPOSE, &sealed)
            .await
            .map_err(KeyringError::Root)?;
        if !again.equals(root.expose()) {
            return Err(KeyringError::Root(claviger_core::custody::CustodyError::Fault(
                "the sealer opened something else than it sealed".to_owned(),
            )));
        }
        let envelope = Envelope::new(&root)?;
        let mut meta = Meta {
            format: FORMAT,
            created: now.to_string(),
            root_kind: spec.kind.to_string(),
            root_settings: spec.settings,
            root: sealed,
            root_digest: Vec::new(),
            vkey: None,
            log_size: 0,
            generation: 1,
            list: List::default().written()?,
            mac: Vec::new(),
        };
        meta.root_digest = meta.digest_of_root().to_vec();
        envelope.authenticate(&mut meta)?;
        let folder = Folder::make(folder)?;
        let lock = folder.lock()?;
        // Again, now that nobody else can make one.
        refuse_existing(folder.path())?;
        publish(&folder, &meta)?;
        Self::verified(&folder, lock, Store::open(&folder.database()?)?, meta, root)
    }

    /// Opens the keyring in this folder for this process alone, and checks every row.
    ///
    /// # Errors
    /// When there is none, another process has it, others can reach it, the sealer does not open its root key, or anything
    /// in it was changed.
    pub async fn open(folder: &Path, sealer: &dyn Sealer) -> Result<Self, KeyringError> {
        let folder = Folder::check(folder)?;
        let database = folder.database()?;
        let lock = folder.lock()?;
        let store = Store::open(&database)?;
        let meta = store.meta()?;
        // Before the sealer: it cannot tell damage from a wrong passphrase or another TPM.
        meta.check_root()?;
        offered(meta.info()?.root.kind, sealer)?;
        let root = sealer
            .unseal(ROOT_PURPOSE, &meta.root)
            .await
            .map_err(KeyringError::Root)?;
        if root.len() != ROOT {
            return Err(KeyringError::integrity("its root key has a wrong length"));
        }
        Self::verified(&folder, lock, store, meta, root)
    }

    /// What the keyring says of itself, without opening it: which sealer to make.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    ///
    /// # Security
    /// Nothing is authenticated. Opening with the wrong sealer fails; nothing else may hang on this.
    pub fn peek(folder: &Path) -> Result<KeyringInfo, KeyringError> {
        let meta = Store::open_read_only(&Folder::check(folder)?.database()?)?.meta()?;
        meta.check_root()?;
        meta.info()
    }

    /// Every version of every key, without opening the keyring, also while another process has it open.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    ///
    /// # Security
    /// For showing. Nothing is authenticated: whoever can write the file can change what this shows.
    pub fn list_public(folder: &Path) -> Result<Vec<KeyRecord>, KeyringError> {
        let store = Store::open_read_only(&Folder::check(folder)?.database()?)?;
        store.rows()?.keys.iter().map(Row::record).collect()
    }

    /// Adds a key, which is active at once and on disk when this returns.
    ///
    /// # Errors
    /// When the key has an active version, its version is not the next one, its parameters are out of bounds, or the disk
    /// fails; then the keyring is as it was.
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the material is wiped when this returns"
    )]
    pub fn insert(&self, new: NewKey, now: Timestamp) -> Result<Arc<KeyRecord>, KeyringError> {
        let key = new.key.clone();
        let fits = new
            .profile
            .validate()
            .and_then(|()| new.profile.accept(new.algorithm));
        fits.map_err(|problem| KeyringError::Profile {
            key: key.clone(),
            problem,
        })?;
        if !new.identity.fits(new.algorithm) {
            return Err(KeyringError::Algorithm { key });
        }
        if let Some(hardware) = new.hardware.as_ref().filter(|bytes| bytes.len() > MAX_HARDWARE) {
            return Err(KeyringError::TooLong {
                what: "what a custody keeps about a key",
                allowed: MAX_HARDWARE,
                sent: hardware.len(),
            });
        }
        new.plan.check()?;
        let mut file = self.file();
        self.refuse_version(&key)?;
        let mut list = file.meta.list()?;
        if list.len() >= MAX_KEYS {
            return Err(KeyringError::Full);
        }
        let record = change::new_record(&new, now);
        let mut row = Row::new(&record)?;
        file.envelope.seal(&mut row, &new.material)?;
        list.keys.push(Listed {
            key,
            digest: row.digest(),
        });
        file.write(&[Change::Insert(&row)], &list)?;
        Ok(self.remember(record))
    }

    /// Moves a version of a key to another state: an active one can be disabled or revoked, a disabled one enabled or revoked.
    ///
    /// # Errors
    /// When there is no such key, it cannot become that, another version is active, or the disk fails; then it is as it was.
    #[cfg(test)]
    pub(crate) fn set_state(
        &self,
        key: &KeyRef,
        state: KeyState,
        now: Timestamp,
    ) -> Result<Arc<KeyRecord>, KeyringError> {
        let record = || {
            self.record(key)
                .ok_or_else(|| KeyringError::NoKey { key: key.clone() })
        };
        let from = record()?.state;
        let event = state.asked().ok_or_else(|| KeyringError::Transition {
            key: key.clone(),
            from,
            to: state,
        })?;
        self.step(key, &event, now)?;
        record()
    }

    /// Records which audit log belongs to the keyring; the same one again changes nothing.
    ///
    /// # Errors
    /// When another log is recorded, the text has over [`MAX_SETTINGS`] bytes, or the disk fails.
    pub fn set_vkey(&self, vkey: &str) -> Result<(), KeyringError> {
        let mut file = self.file();
        match &file.meta.vkey {
            Some(recorded) if recorded == vkey => return Ok(()),
            Some(recorded) => {
                return Err(KeyringError::OtherLog {
                    recorded: recorded.clone(),
                    offered: claviger_core::name::escape(vkey, 200),
                });
            }
            None => {}
        }
        if vkey.len() > MAX_SETTINGS {
            return Err(KeyringError::TooLong {
                what: "the audit log's public key",
                allowed: MAX_SETTINGS,
                sent: vkey.len(),
            });
        }
        let list = file.meta.list()?;
        let next = Meta {
            vkey: Some(vkey.to_owned()),
            ..file.meta.next(&list)?
        };
        file.write_meta(&[], next)
    }

    /// Records that the audit log has a durable signed checkpoint over so many entries. Fewer than before changes nothing.
    ///
    /// # Errors
    /// When the disk fails.
    pub(crate) fn set_log_size(&self, size: u64) -> Result<(), KeyringError> {
        let mut file = self.file();
        if size <= file.meta.log_size {
            return Ok(());
        }
        let list = file.meta.list()?;
        let next = Meta {
            log_size: size,
            ..file.meta.next(&list)?
        };
        file.write_meta(&[], next)
    }

    /// The active version of a key. Cheap: for every use.
    #[must_use]
    pub fn key(&self, name: &KeyName) -> Option<Arc<KeyRecord>> {
        self.in_use(name)
    }

    /// One version of a key, whatever its state. Cheap.
    #[must_use]
    pub fn record(&self, key: &KeyRef) -> Option<Arc<KeyRecord>> {
        self.version_of(&key.name, key.version)
    }

    /// Every version of every key, by name and version.
    #[must_use]
    pub fn keys(&self) -> Vec<Arc<KeyRecord>> {
        self.records()
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect()
    }

    /// The material of one version of a key, for custody to open. Reads the disk.
    ///
    /// # Errors
    /// When there is no such key, it is destroyed, or its row is not the one that was written last.
    pub(crate) fn material(&self, key: &KeyRef) -> Result<Secret, KeyringError> {
        if self
            .record(key)
            .is_some_and(|record| record.state == KeyState::Destroyed)
        {
            return Err(KeyringError::Gone { key: key.clone() });
        }
        let file = self.file();
        file.envelope.open(&file.row(key)?)
    }

    /// A key of `len` bytes (1 to 8160) for this purpose, the same each time.
    ///
    /// # Errors
    /// When the length is out of bounds or memory cannot be locked.
    pub(crate) fn subkey(&self, purpose: Purpose, len: usize) -> Result<Secret, KeyringError> {
        envelope::subkey(&self.root, purpose, len)
    }

    /// What the keyring says of itself, now authenticated.
    #[must_use]
    pub fn info(&self) -> KeyringInfo {
        self.file().info.clone()
    }

    /// Where it is.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn verified(
        folder: &Folder,
        lock: FolderLock,
        store: Store,
        meta: Meta,
        root: Secret,
    ) -> Result<Self, KeyringError> {
        let envelope = Envelope::new(&root)?;
        let rows = store.rows()?;
        envelope.verify(&meta, &rows)?;
        let mut file = OpenFile {
            store,
            envelope,
            info: meta.info()?,
            meta,
        };
        // Only what has just been authenticated is taken over into the newest format.
        let rows = if file.meta.format < FORMAT {
            file.convert(&rows)?
        } else {
            rows
        };
        let mut records = Records::new();
        for row in &rows.keys {
            let record = row.record()?;
            records
                .entry(record.key.name.clone())
                .or_default()
                .insert(record.key.version, Arc::new(record));
        }
        let secrets = secrets::read(&rows.secrets)?;
        Ok(Self {
            folder: folder.path().to_path_buf(),
            root,
            records: RwLock::new(records),
            secrets: RwLock::new(secrets),
            file: Mutex::new(file),
            _lock: lock,
        })
    }

    /// At most one version is active, and versions count up by one: a number is never used twice.
    fn refuse_version(&self, key: &KeyRef) -> Result<(), KeyringError> {
        let next = self.next_version(&key.name);
        let taken = self.versions(&key.name).into_iter().find(|record| {
            record.deleted.is_some() || matches!(record.state, KeyState::Active | KeyState::Pending)
        });
        let problem = match taken {
            Some(record) => format!("`{}` is {}", record.key, record.standing()),
            None if key.version != next => format!("its next version is {next}"),
            None => return Ok(()),
        };
        Err(KeyringError::KeyExists {
            key: key.clone(),
            problem,
        })
    }

    fn remember(&self, record: KeyRecord) -> Arc<KeyRecord> {
        let record = Arc::new(record);
        self.records
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(record.key.name.clone())
            .or_default()
            .insert(record.key.version, Arc::clone(&record));
        record
    }

    /// As [`Keyring::remember`], of several at once: nobody sees a key between two versions.
    fn remember_all(&self, records: Vec<KeyRecord>) -> Vec<Arc<KeyRecord>> {
        let mut known = self.records.write().unwrap_or_else(PoisonError::into_inner);
        records
            .into_iter()
            .map(|record| {
                let record = Arc::new(record);
                known
                    .entry(record.key.name.clone())
                    .or_default()
                    .insert(record.key.version, Arc::clone(&record));
                record
            })
            .collect()
    }

    // A panic elsewhere leaves both locks' data whole: each is changed in one step, after the disk.
    fn records(&self) -> RwLockReadGuard<'_, Records> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self) -> MutexGuard<'_, OpenFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

fn offered(recorded: RootKind, sealer: &dyn Sealer) -> Result<(), KeyringError> {
    if recorded.assurance() == sealer.assurance() {
        return Ok(());
    }
    Err(KeyringError::OtherRoot {
        recorded,
        offered: sealer.assurance(),
    })
}

fn refuse_existing(folder: &Path) -> Result<(), KeyringError> {
    let path = folder.join(DATABASE);
    match std::fs::symlink_metadata(&path) {
        Ok(_) => Err(KeyringError::Exists {
            folder: folder.to_path_buf(),
        }),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(KeyringError::io("look at", &path, e)),
    }
}

/// Writes the database under another name and renames it when it is whole and on disk. The folder is locked.
fn publish(folder: &Folder, meta: &Meta) -> Result<(), KeyringError> {
    let unfinished = folder.path().join(UNFINISHED);
    let finished = folder.path().join(DATABASE);
    // What a crash left behind was never a keyring.
    for suffix in ["", "-journal", "-wal", "-shm"] {
        folder::remove_if_there(&folder.path().join(format!("{UNFINISHED}{suffix}")))?;
    }
    folder::make_file(&unfinished)?;
    Store::create(&unfinished, meta)?;
    rustix::fs::renameat_with(
        rustix::fs::CWD,
        &unfinished,
        rustix::fs::CWD,
        &finished,
        rustix::fs::RenameFlags::NOREPLACE,
    )
    .map_err(|e| KeyringError::io("put in place", &finished, e.into()))?;
    folder.sync()
}
