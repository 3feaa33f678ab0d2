//! The folders of `[files]`, opened once at load. Gives no file to an agent: the run's WASI context does, from these.

use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use claviger_core::manifest::{Access, Folder, World};

use crate::error::LoadError;

/// An open folder, and what the agent may do in it.
#[derive(Debug)]
pub(crate) struct OpenFolder {
    pub(crate) guest: String,
    pub(crate) access: Access,
    host: PathBuf,
    dir: Dir,
}

/// What no folder of an agent may hold: that which decides over agents.
#[derive(Debug, Default)]
pub(crate) struct Guarded {
    /// Neither to read nor to write.
    pub(crate) hidden: Vec<PathBuf>,
    /// Not to write.
    pub(crate) unwritable: Vec<PathBuf>,
}

impl Guarded {
    /// Opens every folder, relative to the manifest's; `component` is not to be written either.
    pub(crate) fn open_all(
        &self,
        world: &World,
        manifest_dir: &Path,
        component: &Path,
    ) -> Result<Vec<OpenFolder>, LoadError> {
        let mut open: Vec<OpenFolder> = Vec::new();
        for (guest, folder) in &world.files {
            let found = OpenFolder::open(guest, folder, manifest_dir)?;
            if let Some(why) = self.overlap(&found, &open, component) {
                return Err(LoadError::FolderOverlaps {
                    guest: guest.clone(),
                    host: found.host,
                    why,
                });
            }
            open.push(found);
        }
        Ok(open)
    }

    /// By real paths, without symbolic links. What is not there cannot be reached through a folder.
    fn overlap(&self, found: &OpenFolder, others: &[OpenFolder], component: &Path) -> Option<String> {
        let real = |path: &Path| path.canonicalize().ok();
        let folder = real(&found.host)?;
        let hidden = self.hidden.iter().filter_map(|path| real(path));
        for path in hidden {
            if path.starts_with(&folder) || folder.starts_with(&path) {
                return Some(format!("overlaps `{}`, which no agent may see", path.display()));
            }
        }
        let unwritable = self
            .unwritable
            .iter()
            .map(PathBuf::as_path)
            .chain([component])
            .filter_map(real);
        if let (Access::ReadWrite, Some(path)) = (
            found.access,
            unwritable.into_iter().find(|path| path.starts_with(&folder)),
        ) {
            return Some(format!("holds `{}`, which no agent may write", path.display()));
        }
        // One agent's name for a folder that another name leads into could move that folder between two loads.
        others.iter().find_map(|other| {
            let path = real(&other.host)?;
            let nested = path.starts_with(&folder) || folder.starts_with(&path);
            let writes = other.access == Access::ReadWrite || found.access == Access::ReadWrite;
            (nested && writes).then(|| format!("overlaps the folder that the agent has as `{}`", other.guest))
        })
    }
}

impl OpenFolder {
    fn open(guest: &str, folder: &Folder, manifest_dir: &Path) -> Result<Self, LoadError> {
        let host = manifest_dir.join(&folder.host);
        match Dir::open_ambient_dir(&host, ambient_authority()) {
            Ok(dir) => Ok(Self {
                guest: guest.to_owned(),
                access: folder.access,
                host,
                dir,
            }),
            Err(source) => Err(LoadError::Folder {
                guest: guest.to_owned(),
                host,
                source,
            }),
        }
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

#[cfg(test)]
mod tests {
    use claviger_core::manifest::Manifest;

    use super::*;

    fn check(files: &str, expected: Option<&str>) {
        let root = tempfile::tempdir().unwrap();
        for folder in ["keys", "dist/in", "data"] {
            std::fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        std::fs::write(root.path().join("agent.wasm"), "").unwrap();
        std::fs::write(root.path().join("manifest.toml"), "").unwrap();
        std::os::unix::fs::symlink(root.path().join("keys"), root.path().join("data/link")).unwrap();
        let text = format!("schema = 1\n[agent]\nname = \"a\"\ncomponent = \"agent.wasm\"\n[files]\n{files}");
        let (manifest, _) = Manifest::parse(&text).unwrap();
        let guarded = Guarded {
            hidden: vec![root.path().join("keys")],
            unwritable: vec![root.path().join("manifest.toml")],
        };
        let opened = guarded.open_all(&manifest.world, root.path(), &root.path().join("agent.wasm"));
        match (opened, expected) {
            (Ok(_), None) => {}
            (Err(error), Some(expected)) if error.to_string().contains(expected) => {}
            (other, _) => panic!("{files}: {other:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn no_folder_gives_an_agent_what_decides_over_it() {
        check("\"/d\" = { host = \"dist\", access = \"read-write\" }", None);
        check(
            "\"/k\" = { host = \"keys\", access = \"read\" }",
            Some("no agent may see"),
        );
        check(
            "\"/k\" = { host = \"data/link\", access = \"read\" }",
            Some("no agent may see"),
        );
        check(
            "\"/all\" = { host = \".\", access = \"read\" }",
            Some("no agent may see"),
        );
        check(
            "\"/up\" = { host = \"dist/..\", access = \"read-write\" }",
            Some("no agent may see"),
        );
    }

    #[test]
    fn two_names_for_one_folder_are_refused_if_one_can_write() {
        let both = |first: &str, second: &str| {
            format!(
                "\"/a\" = {{ host = \"dist\", access = \"{first}\" }}\n\"/b\" = {{ host = \"dist/in\", access = \"{second}\" }}"
            )
        };
        check(&both("read", "read"), None);
        check(&both("read-write", "read"), Some("overlaps the folder"));
        check(&both("read", "read-write"), Some("overlaps the folder"));
    }

    #[test]
    fn an_agent_cannot_be_given_its_manifest_or_its_component_to_write() {
        let root = tempfile::tempdir().unwrap();
        for name in ["manifest.toml", "agent.wasm"] {
            std::fs::write(root.path().join(name), "").unwrap();
        }
        let (manifest, _) = Manifest::parse(
            "schema = 1\n[agent]\nname = \"a\"\ncomponent = \"agent.wasm\"\n[files]\n\"/all\" = { host = \".\", access = \"read-write\" }",
        )
        .unwrap();
        let component = root.path().join("agent.wasm");
        let none = Guarded::default();
        let refused = none
            .open_all(&manifest.world, root.path(), &component)
            .unwrap_err();
        assert!(refused.to_string().contains("agent.wasm"), "{refused}");
        let guarded = Guarded {
            hidden: Vec::new(),
            unwritable: vec![root.path().join("manifest.toml")],
        };
        let refused = guarded
            .open_all(&manifest.world, root.path(), Path::new("elsewhere"))
            .unwrap_err();
        assert!(refused.to_string().contains("manifest.toml"), "{refused}");
    }
}
