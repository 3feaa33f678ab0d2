//! The folders of `[files]`, opened once at load. Gives no file to an agent: the run's WASI context does, from these.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use claviger_core::manifest::{Access, Folder, World};

use crate::error::LoadError;
use crate::kernel;

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

    /// By real paths, without symbolic links: why the folder is not given. A path that cannot be followed stands against it.
    fn overlap(&self, found: &OpenFolder, others: &[OpenFolder], component: &Path) -> Option<String> {
        self.compare(found, others, component).unwrap_or_else(|error| {
            Some(format!(
                "cannot be told from what no agent may see or write: {error}"
            ))
        })
    }

    fn compare(
        &self,
        found: &OpenFolder,
        others: &[OpenFolder],
        component: &Path,
    ) -> std::io::Result<Option<String>> {
        // The folder that was opened, not the one that its name leads to by now.
        let folder = found.path().canonicalize()?;
        if let Some(why) = kernel::shown_in(&found.dir, &folder)? {
            return Ok(Some(why));
        }
        for hidden in &self.hidden {
            let path = real_or_to_come(hidden)?;
            if path.starts_with(&folder) || folder.starts_with(&path) {
                return Ok(Some(format!(
                    "overlaps `{}`, which no agent may see",
                    path.display()
                )));
            }
        }
        if found.access == Access::ReadWrite {
            for unwritable in self.unwritable.iter().map(PathBuf::as_path).chain([component]) {
                if let Some(path) = real(unwritable)?
                    && path.starts_with(&folder)
                {
                    return Ok(Some(format!(
                        "holds `{}`, which no agent may write",
                        path.display()
                    )));
                }
            }
        }
        // One agent's name for a folder that another name leads into could move that folder between two loads.
        for other in others {
            let path = other.path().canonicalize()?;
            let nested = path.starts_with(&folder) || folder.starts_with(&path);
            if nested && (other.access == Access::ReadWrite || found.access == Access::ReadWrite) {
                return Ok(Some(format!(
                    "overlaps the folder that the agent has as `{}`",
                    other.guest
                )));
            }
        }
        Ok(None)
    }
}

/// A path without symbolic links, if there is something at it.
fn real(path: &Path) -> std::io::Result<Option<PathBuf>> {
    match path.canonicalize() {
        Ok(real) => Ok(Some(real)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// A path without symbolic links; what is not there yet is placed in the nearest folder that is, since it may be made later.
fn real_or_to_come(path: &Path) -> std::io::Result<PathBuf> {
    let path = std::path::absolute(path)?;
    for there in path.ancestors() {
        if let Some(real) = real(there)? {
            let rest = path.strip_prefix(there).map_err(std::io::Error::other)?;
            // Joining nothing would add a slash, which would be shown.
            return Ok(rest.components().fold(real, |path, part| path.join(part)));
        }
    }
    Err(ErrorKind::NotFound.into())
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
    fn no_folder_gives_an_agent_what_the_kernel_shows() {
        for host in [
            "/proc",
            "/proc/self",
            "/proc/self/task",
            "/sys",
            "/dev",
            "/",
            "data/../proc",
            "data/sys",
        ] {
            let root = tempfile::tempdir().unwrap();
            std::fs::create_dir(root.path().join("data")).unwrap();
            std::os::unix::fs::symlink("/proc", root.path().join("proc")).unwrap();
            std::os::unix::fs::symlink("/sys/kernel", root.path().join("data/sys")).unwrap();
            let (manifest, _) = Manifest::parse(&format!(
                "schema = 1\n[agent]\nname = \"a\"\ncomponent = \"agent.wasm\"\n[files]\n\"/d\" = {{ host = \"{host}\", access = \"read\" }}"
            ))
            .unwrap();
            let refused = Guarded::default()
                .open_all(&manifest.world, root.path(), Path::new("elsewhere"))
                .unwrap_err();
            assert!(
                refused.to_string().contains("the kernel shows"),
                "{host}: {refused}"
            );
        }
    }

    #[test]
    fn what_is_to_be_hidden_is_hidden_before_it_is_made() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("data")).unwrap();
        std::fs::create_dir(root.path().join("other")).unwrap();
        std::os::unix::fs::symlink(root.path().join("data"), root.path().join("link")).unwrap();
        let open = |folder: &str, hidden: &str| {
            let (manifest, _) = Manifest::parse(&format!(
                "schema = 1\n[agent]\nname = \"a\"\ncomponent = \"agent.wasm\"\n[files]\n\"/d\" = {{ host = \"{folder}\", access = \"read\" }}"
            ))
            .unwrap();
            let guarded = Guarded {
                hidden: vec![root.path().join(hidden)],
                unwritable: Vec::new(),
            };
            guarded.open_all(&manifest.world, root.path(), Path::new("elsewhere"))
        };
        for hidden in ["data/keys", "data/a/b/keys", "link/keys"] {
            let refused = open("data", hidden).unwrap_err();
            assert!(
                refused.to_string().contains("no agent may see"),
                "{hidden}: {refused}"
            );
            assert!(open("other", hidden).is_ok(), "the control: {hidden}");
        }
        // A file on the way cannot be followed, and what cannot be compared is not given.
        std::fs::write(root.path().join("file"), "").unwrap();
        let refused = open("data", "file/keys").unwrap_err();
        assert!(refused.to_string().contains("cannot be told from"), "{refused}");
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
