//! The keyring's folder: who may reach it, and who has it open. Not its content.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::KeyringError;

/// The database's name in the folder.
pub(super) const DATABASE: &str = "keyring.db";
/// The name under which a new database is made before it is renamed.
pub(super) const UNFINISHED: &str = "keyring.db.new";
const LOCK: &str = "lock";
/// A program that another thread is just starting holds a copy of every open file until it runs, a lock included: what looks taken may
/// be free in a moment.
const LOCK_RETRIES: u32 = 10;
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// A larger file is not a keyring: 4096 keys take some 10 MiB.
const MAX_DATABASE: u64 = 256 * 1024 * 1024;
/// A process number has at most this many digits.
const MAX_PID: u64 = 20;

/// A folder that only its owner reaches.
#[derive(Debug)]
pub(super) struct Folder {
    // Invariant: absolute, without symbolic links; a folder of this user with mode 0700 or stricter when it was checked.
    path: PathBuf,
}

impl Folder {
    /// Makes the folder and its parents where they are missing, for the owner only, and checks it.
    pub(super) fn make(path: &Path) -> Result<Self, KeyringError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| KeyringError::io("make the folder", path, e))?;
        Self::check(path)
    }

    /// Checks the folder.
    pub(super) fn check(path: &Path) -> Result<Self, KeyringError> {
        let meta = match std::fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(KeyringError::Missing {
                    folder: path.to_path_buf(),
                });
            }
            Err(e) => return Err(KeyringError::io("look at", path, e)),
        };
        if !meta.is_dir() {
            return Err(KeyringError::Insecure {
                path: path.to_path_buf(),
                problem: if meta.is_symlink() {
                    "is a symbolic link"
                } else {
                    "is not a folder"
                },
                fix: "name the folder itself".to_owned(),
            });
        }
        owner_only(path, &meta, "chmod 700")?;
        // Parents may be links (a home folder often is); the database is opened without following any.
        let path = path
            .canonicalize()
            .map_err(|e| KeyringError::io("look at", path, e))?;
        Ok(Self { path })
    }

    /// Checks that the database is there, a plain file, and the owner's only; returns its path.
    pub(super) fn database(&self) -> Result<PathBuf, KeyringError> {
        let path = self.path.join(DATABASE);
        let meta = match std::fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Err(KeyringError::Missing {
                    folder: self.path.clone(),
                });
            }
            Err(e) => return Err(KeyringError::io("look at", &path, e)),
        };
        if !meta.is_file() {
            return Err(KeyringError::Insecure {
                path,
                problem: "is not a plain file",
                fix: "put the keyring's file itself there".to_owned(),
            });
        }
        owner_only(&path, &meta, "chmod 600")?;
        if meta.len() > MAX_DATABASE {
            return Err(KeyringError::Format {
                found: format!("the file has {} bytes", meta.len()),
            });
        }
        Ok(path)
    }

    /// Takes the folder for this process, or says who has it.
    pub(super) fn lock(&self) -> Result<FolderLock, KeyringError> {
        let path = self.path.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(no_follow())
            .open(&path)
            .map_err(|e| KeyringError::io("open", &path, e))?;
        let mut locked = file.try_lock();
        for _ in 0..LOCK_RETRIES {
            if !matches!(locked, Err(std::fs::TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(LOCK_PAUSE);
            locked = file.try_lock();
        }
        match locked {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                let mut text = String::new();
                // Who it is only helps the reader; that it is somebody is known already.
                let read = (&mut file).take(MAX_PID).read_to_string(&mut text);
                let pid = read.ok().and_then(|_| text.trim().parse().ok());
                return Err(KeyringError::InUse { pid });
            }
            Err(std::fs::TryLockError::Error(e)) => return Err(KeyringError::io("lock", &path, e)),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(|e| KeyringError::io("write", &path, e))?;
        Ok(FolderLock { _file: file })
    }

    /// Makes the renaming of a file in the folder durable.
    pub(super) fn sync(&self) -> Result<(), KeyringError> {
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| KeyringError::io("sync", &self.path, e))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The folder is this process's until this is dropped. The file stays: removing it would let two processes lock two files.
#[derive(Debug)]
pub(super) struct FolderLock {
    // Invariant: holds an exclusive flock; released with the descriptor, also when the process is killed.
    _file: File,
}

/// Makes a new, empty file that only the owner reaches.
pub(super) fn make_file(path: &Path) -> Result<(), KeyringError> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(no_follow())
        .open(path)
        .map(drop)
        .map_err(|e| KeyringError::io("make", path, e))
}

/// Removes a file if it is there.
pub(super) fn remove_if_there(path: &Path) -> Result<(), KeyringError> {
    match std::fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(KeyringError::io("remove", path, e)),
    }
}

fn owner_only(path: &Path, meta: &std::fs::Metadata, chmod: &str) -> Result<(), KeyringError> {
    if meta.uid() != rustix::process::geteuid().as_raw() {
        return Err(KeyringError::Insecure {
            path: path.to_path_buf(),
            problem: "belongs to another user",
            fix: "run as its owner".to_owned(),
        });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(KeyringError::Insecure {
            path: path.to_path_buf(),
            problem: "can be reached by other users",
            fix: format!("run `{chmod} {}`", path.display()),
        });
    }
    Ok(())
}

fn no_follow() -> i32 {
    (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::CLOEXEC)
        .bits()
        .cast_signed()
}
