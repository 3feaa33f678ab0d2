//! Compiled components on disk, authenticated with a key. Trusts no byte of the folder: who can write there gains nothing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{Hash as _, Hasher};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use claviger_core::{ComponentDigest, Secret};
use hmac::{Hmac, Mac as _};
use sha2::{Digest as _, Sha256};
use wasmtime::Engine;

use crate::native::OwnCode;

/// Compiled code in the cache has at most this many bytes: that of CPython has 33 MiB.
pub(crate) const MAX_CODE: usize = 256 * 1024 * 1024;

/// Separates this use of the key from any other.
const TAG: &[u8] = b"claviger compiled component v1\0";

const MAC: usize = 32;

/// What the cache did for one load. A rejected entry may be an attack: it is for the operator's eyes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CacheEvent {
    /// The host has no cache.
    Off,
    /// An authentic entry was used.
    Hit,
    /// There was no entry; one was made.
    Miss,
    /// There was an entry that this host did not make, or not for this component and engine. It was replaced.
    Rejected {
        /// What was wrong with it.
        why: String,
    },
    /// There was no entry that could be used, and the new one could not be written. The next load compiles again.
    NotStored {
        /// What stood against it.
        why: String,
    },
}

/// A folder of compiled components and the key that authenticates them.
pub(crate) struct Cache {
    folder: PathBuf,
    key: Secret,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cache({})", self.folder.display())
    }
}

/// What an entry is for. Part of what is authenticated, so an entry cannot stand for another one.
pub(crate) struct Entry {
    component: ComponentDigest,
    engine: [u8; 32],
}

impl Entry {
    pub(crate) fn new(component: ComponentDigest, engine: &Engine) -> Self {
        let mut hasher = Sha256Hasher(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self {
            component,
            engine: hasher.0.finalize().into(),
        }
    }

    fn file_name(&self) -> String {
        let engine = self.engine.get(..8).unwrap_or_default();
        format!(
            "{}-{}.cwasm",
            hex::encode(self.component.as_bytes()),
            hex::encode(engine)
        )
    }
}

/// Why an entry was not used.
#[derive(Debug)]
pub(crate) enum NoEntry {
    Absent,
    Rejected(String),
}

impl Cache {
    /// Uses this folder, which is made if it is not there, readable by its owner only.
    pub(crate) fn open(folder: &Path, key: Secret) -> std::io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            key,
        })
    }

    /// Reads an entry into memory and authenticates those bytes.
    pub(crate) fn read(&self, entry: &Entry) -> Result<OwnCode, NoEntry> {
        let rejected = |why: &str| NoEntry::Rejected(why.to_owned());
        let path = self.folder.join(entry.file_name());
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(no_follow())
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(NoEntry::Absent),
            Err(error) => return Err(rejected(&format!("it cannot be read: {error}"))),
        };
        let bytes = read_bounded(file).map_err(|error| rejected(&format!("it cannot be read: {error}")))?;
        let Some((mac, code)) = bytes.split_at_checked(MAC) else {
            return Err(rejected("it is too short to be an entry"));
        };
        self.mac(entry, code)
            .and_then(|expected| expected.verify_slice(mac).ok())
            .ok_or_else(|| rejected("this host did not make it for this component and engine"))?;
        Ok(OwnCode::authenticated(code.to_vec()))
    }

    /// Writes an entry beside its place and moves it there, so that no reader sees half of one.
    pub(crate) fn write(&self, entry: &Entry, code: &OwnCode) -> std::io::Result<()> {
        let mac = self
            .mac(entry, code.bytes())
            .ok_or_else(|| std::io::Error::other("the cache's key cannot be used"))?;
        // tempfile creates it with mode 0600.
        let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
        file.write_all(&mac.finalize().into_bytes())?;
        file.write_all(code.bytes())?;
        file.persist(self.folder.join(entry.file_name()))
            .map_err(|error| error.error)?;
        Ok(())
    }

    fn mac(&self, entry: &Entry, code: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(self.key.expose()).ok()?;
        // Every part but the last has a fixed length: the input is unambiguous.
        mac.update(TAG);
        mac.update(entry.component.as_bytes());
        mac.update(&entry.engine);
        mac.update(code);
        Some(mac)
    }
}

fn no_follow() -> i32 {
    i32::try_from((rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits()).unwrap_or(0)
}

fn read_bounded(file: File) -> std::io::Result<Vec<u8>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::other("it is not a regular file"));
    }
    let bound = MAX_CODE + MAC;
    let mut bytes = Vec::new();
    file.take(bound as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > bound {
        return Err(std::io::Error::other(format!("it has more than {bound} bytes")));
    }
    Ok(bytes)
}

/// Feeds what `Hash` says of the engine into SHA-256: the standard hasher has 64 bits and no promise between versions.
struct Sha256Hasher(Sha256);

impl Hasher for Sha256Hasher {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        0 // Never asked: the digest is taken from the field.
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn cache(folder: &Path, key: u8) -> Cache {
        Cache::open(folder, Secret::take(&mut [key; 32]).unwrap()).unwrap()
    }

    fn entry(component: &[u8]) -> Entry {
        Entry {
            component: ComponentDigest::of(component),
            engine: [7; 32],
        }
    }

    #[test]
    fn an_entry_is_used_only_as_it_was_written_for_what_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let ours = cache(folder.path(), 1);
        let one = entry(b"one");
        assert!(matches!(ours.read(&one), Err(NoEntry::Absent)));
        ours.write(&one, &OwnCode::compiled(b"code".to_vec())).unwrap();
        assert_eq!(ours.read(&one).ok().unwrap().bytes(), b"code");

        let path = folder.path().join(one.file_name());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let good = std::fs::read(&path).unwrap();
        let rejects = |cache: &Cache, entry: &Entry| matches!(cache.read(entry), Err(NoEntry::Rejected(_)));

        for position in 0..good.len() {
            let mut flipped = good.clone();
            flipped[position] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            assert!(rejects(&ours, &one), "byte {position}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(rejects(&ours, &one), "{length} bytes");
        }
        std::fs::write(&path, &good).unwrap();
        assert!(
            rejects(&cache(folder.path(), 2), &one),
            "another host's key is foreign"
        );
        let two = entry(b"two");
        std::fs::copy(&path, folder.path().join(two.file_name())).unwrap();
        assert!(rejects(&ours, &two), "one component's code for another");
        std::fs::rename(&path, folder.path().join("aside")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("aside"), &path).unwrap();
        assert!(rejects(&ours, &one), "a symbolic link");
    }
}
