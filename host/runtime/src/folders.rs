//! The folders of `[files]`, opened once at load. Gives no file to an agent: the run's WASI context does, from these.

use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use claviger_core::manifest::{Access, World};

use crate::error::LoadError;

/// An open folder, and what the agent may do in it.
#[derive(Debug)]
pub(crate) struct OpenFolder {
    pub(crate) guest: String,
    pub(crate) access: Access,
    host: PathBuf,
    dir: Dir,
}

impl OpenFolder {
    /// Opens every folder, relative to the manifest's.
    pub(crate) fn open_all(world: &World, manifest_dir: &Path) -> Result<Vec<Self>, LoadError> {
        let open = |(guest, folder): (&String, &claviger_core::manifest::Folder)| {
            let host = manifest_dir.join(&folder.host);
            match Dir::open_ambient_dir(&host, ambient_authority()) {
                Ok(dir) => Ok(Self {
                    guest: guest.clone(),
                    access: folder.access,
                    host,
                    dir,
                }),
                Err(source) => Err(LoadError::Folder {
                    guest: guest.clone(),
                    host,
                    source,
                }),
            }
        };
        world.files.iter().map(open).collect()
    }

    /// A path to the very folder that was opened at load, whatever its name leads to by now.
    #[cfg(target_os = "linux")]
    pub(crate) fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        // The name at load is the fallback where /proc is not mounted.
        let pinned = PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()));
        if pinned.exists() {
            pinned
        } else {
            self.host.clone()
        }
    }

    /// The folder's path, where an open folder has no name of its own.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn path(&self) -> PathBuf {
        let _ = &self.dir;
        self.host.clone()
    }
}
