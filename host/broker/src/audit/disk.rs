//! What the log does to its folder: the few operations that can fail, behind a trait so that tests make them fail, and how long it is
//! since. Not a file system: nothing here knows what an entry is.

use std::fmt::Debug;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxFlags};

use super::log::Durability;

/// The name under which a file is written before it is renamed into its place.
const TEMPORARY: &str = "tmp";

/// The file with the signed checkpoint (C2SP tlog-tiles).
pub(super) const CHECKPOINT: &str = "checkpoint";

/// No file of a log is larger than this: a journal is moved into tiles long before. Bounds what a reader allocates.
const MAX_FILE: u64 = 1 << 30;

/// The operations that change the log on disk, and the time that passes between them.
pub(super) trait Disk: Debug + Send + Sync {
    /// Writes some bytes at the end of a file; how many.
    fn write(&self, file: &File, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(file, bytes)?)
    }

    /// Makes a file's content durable.
    fn sync(&self, file: &File) -> io::Result<()> {
        Ok(rustix::fs::fdatasync(file)?)
    }

    /// Creates a file that must not exist yet; opened to append.
    fn create_new(&self, folder: &OwnedFd, path: &str) -> io::Result<File> {
        open_for_writing(folder, path, OFlags::EXCL)
    }

    /// Creates a file, or empties the one that is there; opened to append.
    fn create_or_empty(&self, folder: &OwnedFd, path: &str) -> io::Result<File> {
        open_for_writing(folder, path, OFlags::TRUNC)
    }

    /// Renames a file over whatever is there.
    fn rename(&self, folder: &OwnedFd, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(folder, from, folder, to)?)
    }

    /// Makes a directory's names durable.
    fn sync_names(&self, folder: &OwnedFd, path: &str) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(folder, path, flags, Mode::empty())?;
        Ok(rustix::fs::fsync(directory)?)
    }

    /// Removes a file, or an empty directory.
    fn remove(&self, folder: &OwnedFd, path: &str, flags: AtFlags) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(folder, path, flags)?)
    }

    /// Makes a directory.
    fn make_folder(&self, folder: &OwnedFd, path: &str) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(folder, path, FOLDER_MODE)?)
    }

    /// Cuts a file to a length.
    fn truncate(&self, file: &File, length: u64) -> io::Result<()> {
        Ok(rustix::fs::ftruncate(file, length)?)
    }

    /// A clock that never runs back, whatever happens to the time of day.
    fn now(&self) -> Instant {
        Instant::now()
    }
}

fn open_for_writing(folder: &OwnedFd, path: &str, existing: OFlags) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | existing;
    let file = rustix::fs::openat(
        folder,
        path,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        FILE_MODE,
    )?;
    Ok(file.into())
}

/// The system's.
#[derive(Debug)]
pub(super) struct SystemDisk;

impl Disk for SystemDisk {}

const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
const FOLDER_MODE: Mode = Mode::RWXU;

/// Why a folder is not fit for a log.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It cannot be opened.
    #[error("cannot open the audit log's folder {}", .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is a symbolic link or no folder at all.
    #[error("the audit log's folder {} is not a folder itself; links are not followed", .0.display())]
    NotAFolder(PathBuf),
    /// Others may write in it.
    #[error("others may write in the audit log's folder {path} (mode {mode:04o}); run: chmod 700 {path}", path = .path.display())]
    Writable {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
}

/// An open folder. Everything in it is reached through the descriptor, so a renamed parent changes nothing.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) fd: OwnedFd,
    pub(super) path: PathBuf,
}

impl Folder {
    /// Opens a folder that nobody else can write in.
    pub(super) fn open(path: &Path) -> Result<Self, FolderError> {
        let failed = |source: rustix::io::Errno| FolderError::Open {
            path: path.to_owned(),
            source: source.into(),
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                return Err(FolderError::NotAFolder(path.to_owned()));
            }
            Err(error) => return Err(failed(error)),
        };
        let stat = rustix::fs::fstat(&fd).map_err(failed)?;
        let mode = Mode::from_raw_mode(stat.st_mode);
        if mode.intersects(Mode::WGRP | Mode::WOTH) {
            return Err(FolderError::Writable {
                path: path.to_owned(),
                mode: mode.as_raw_mode(),
            });
        }
        Ok(Self {
            fd,
            path: path.to_owned(),
        })
    }

    /// Makes the folder if it is missing, and opens it. Its parent must exist.
    pub(super) fn create(path: &Path) -> Result<Self, FolderError> {
        match rustix::fs::mkdir(path, FOLDER_MODE) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => Self::open(path),
            Err(error) => Err(FolderError::Open {
                path: path.to_owned(),
                source: error.into(),
            }),
        }
    }

    /// Takes the right to write, until the folder is dropped or the process ends. False if another process has it.
    pub(super) fn lock(&self) -> io::Result<bool> {
        match rustix::fs::flock(&self.fd, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A file's content, or none if there is no such file. Links are not followed.
    pub(super) fn read(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file: File = match rustix::fs::openat(&self.fd, path, flags, Mode::empty()) {
            Ok(fd) => fd.into(),
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        let mut bytes =
            Vec::with_capacity(usize::try_from(stat.st_size.max(0)).unwrap_or(0).min(1 << 24) + 1);
        file.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    /// Opens an existing file to append to it.
    pub(super) fn open_to_append(&self, path: &str) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, path, flags, Mode::empty())?.into())
    }

    /// Whether there is something of this name.
    pub(super) fn exists(&self, path: &str) -> io::Result<bool> {
        match rustix::fs::statat(&self.fd, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(rustix::io::Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The names in a directory of the log, without `.` and `..`; none if there is no such directory.
    pub(super) fn names(&self, path: &str) -> io::Result<Vec<String>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::openat(&self.fd, path, flags, Mode::empty()) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::NOENT) => return Ok(Vec::new()),
            Err(error) => return Err(error.into()),
        };
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A program that this process is just starting has a copy of the descriptor until it runs. Closing ours alone would leave the
        // lock with it, and the log could not be opened again at once.
        rustix::fs::flock(&self.fd, rustix::fs::FlockOperation::Unlock).ok();
    }
}

/// Which file this is, to notice that another one has its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    /// Of an open file.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let stat = rustix::fs::fstat(file.as_fd())?;
        Ok(Self {
            device: stat.st_dev,
            inode: stat.st_ino,
        })
    }

    /// Checks that the file of this name is this one and has this length.
    pub(super) fn check(self, folder: &OwnedFd, name: &str, length: u64) -> io::Result<()> {
        let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(rustix::io::Errno::NOENT) => return Err(tampered(name, "removed")),
            Err(error) => return Err(error.into()),
        };
        if stat.st_dev != self.device || stat.st_ino != self.inode {
            return Err(tampered(name, "replaced"));
        }
        if u64::try_from(stat.st_size) == Ok(length) {
            Ok(())
        } else {
            Err(tampered(name, "changed"))
        }
    }
}

/// Checks that an open file still has a name, whichever it is, and this length. Cheaper than a look at the name: no path is walked.
pub(super) fn check_open(file: &File, name: &str, length: u64) -> io::Result<()> {
    let (names, found) = names_and_length(file)?;
    if names == 0 {
        return Err(tampered(name, "removed"));
    }
    if found == length {
        Ok(())
    } else {
        Err(tampered(name, "changed"))
    }
}

/// Asks for nothing else: a file whose times were looked at gets exact ones at the next write, which makes that write dearer.
fn names_and_length(file: &File) -> io::Result<(u64, u64)> {
    const WANTED: StatxFlags = StatxFlags::NLINK.union(StatxFlags::SIZE);
    match rustix::fs::statx(file, c"", AtFlags::EMPTY_PATH, WANTED) {
        Ok(found) if StatxFlags::from_bits_retain(found.stx_mask).contains(WANTED) => {
            Ok((found.stx_nlink.into(), found.stx_size))
        }
        Ok(_) | Err(rustix::io::Errno::NOSYS) => {
            let stat = rustix::fs::fstat(file)?;
            // A length below zero does not exist; it would not be the expected one.
            Ok((stat.st_nlink, u64::try_from(stat.st_size).unwrap_or(u64::MAX)))
        }
        Err(error) => Err(error.into()),
    }
}

fn tampered(name: &str, what: &str) -> io::Error {
    io::Error::other(format!("the file `{name}` was {what} while the log is open"))
}

/// Replaces files whole: written under another name, made durable, then renamed. One writer at a time.
#[derive(Debug)]
pub(super) struct Replacer<'a> {
    pub(super) disk: &'a dyn Disk,
    pub(super) folder: &'a OwnedFd,
    /// What a replacement survives.
    durability: Durability,
    /// Directories with new names that are not durable yet.
    touched: Vec<String>,
}

impl<'a> Replacer<'a> {
    pub(super) const fn new(disk: &'a dyn Disk, folder: &'a OwnedFd, durability: Durability) -> Self {
        Self {
            disk,
            folder,
            durability,
            touched: Vec::new(),
        }
    }

    /// Puts a file in its place, making the directories it needs.
    pub(super) fn put(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.create_or_empty(self.folder, TEMPORARY)?;
        write_all(self.disk, &file, bytes)?;
        match self.durability {
            Durability::Sync => self.disk.sync(&file)?,
            Durability::Process => {}
        }
        drop(file);
        match self.disk.rename(self.folder, TEMPORARY, path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make_parents(path)?;
                self.disk.rename(self.folder, TEMPORARY, path)?;
            }
            result => result?,
        }
        self.touch(parent(path));
        Ok(())
    }

    /// Makes all names durable.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        match self.durability {
            Durability::Sync => {
                // Deepest first: a directory's own content before the name that leads to it.
                self.touched.sort_by_key(|path| std::cmp::Reverse(path.len()));
                for path in &self.touched {
                    self.disk.sync_names(self.folder, path)?;
                }
            }
            Durability::Process => {}
        }
        self.touched.clear();
        Ok(())
    }

    fn make_parents(&mut self, path: &str) -> io::Result<()> {
        for (at, _) in path.match_indices('/') {
            let Some(directory) = path.get(..at) else { continue };
            match self.disk.make_folder(self.folder, directory) {
                Ok(()) => self.touch(parent(directory)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn touch(&mut self, directory: &str) {
        if !self.touched.iter().any(|known| known == directory) {
            self.touched.push(directory.to_owned());
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or(".", |(parent, _)| parent)
}

/// Writes all of the bytes. One call unless the system takes fewer.
pub(super) fn write_all(disk: &dyn Disk, file: &File, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match disk.write(file, bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_folder_although_a_starting_program_has_a_copy() {
        let place = tempfile::tempdir().unwrap();
        let folder = Folder::create(&place.path().join("log")).unwrap();
        assert!(folder.lock().unwrap());
        let copy = folder.fd.try_clone().unwrap();
        let next = Folder::open(&folder.path).unwrap();
        assert!(!next.lock().unwrap(), "the control: one at a time");
        drop(folder);
        assert!(next.lock().unwrap());
        drop(copy);
    }
}
