//! The workspace as `cargo metadata` tells it. Resolves no dependencies: `tidy::crates` asks `cargo tree` for those.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::step::cargo;

/// The members of the workspace.
#[derive(Debug)]
pub struct Workspace {
    /// Where cargo puts what it builds.
    pub target: PathBuf,
    /// The members.
    pub packages: Vec<Package>,
}

/// One member.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its folder, relative to the root, with `/`.
    pub folder: String,
    /// Whether its manifest has `[package.metadata.claviger] guest = true`.
    pub guest: bool,
    /// What it depends on directly, of any kind.
    pub dependencies: Vec<Dependency>,
    /// The names of its binary and `cdylib` targets: what becomes a component.
    pub artifacts: Vec<String>,
}

/// One direct dependency.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// The package's name.
    pub name: String,
    /// The folder of one of ours, absolute.
    pub path: Option<PathBuf>,
}

/// The root of the workspace.
///
/// # Errors
/// When this crate was moved away from its place below the root.
pub fn root() -> anyhow::Result<PathBuf> {
    // Cargo sets it for `cargo run` and `cargo test`; the compiled-in path would be wrong for a copied checkout.
    let own = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    let root = own
        .ancestors()
        .find(|folder| folder.join("xtask/Cargo.toml").is_file() && folder.join("wit").is_dir())
        .context("cannot find the root of the workspace: run `cargo xtask` inside it")?;
    Ok(root.to_owned())
}

/// Reads the members of the workspace.
///
/// # Errors
/// When cargo cannot read a manifest.
pub fn workspace(root: &Path) -> anyhow::Result<Workspace> {
    let out = Command::new(cargo())
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root)
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo")?;
    if !out.status.success() {
        bail!(
            "`cargo metadata` failed: {}",
            String::from_utf8_lossy(&out.stderr).trim()
        );
    }
    let value: Value = serde_json::from_slice(&out.stdout).context("`cargo metadata` did not print JSON")?;
    parse(&value, root)
}

fn parse(value: &Value, root: &Path) -> anyhow::Result<Workspace> {
    let target = text(value, "target_directory")?.into();
    let mut packages = Vec::new();
    for package in list(value, "packages") {
        let manifest = PathBuf::from(text(package, "manifest_path")?);
        let folder = manifest.parent().context("a manifest has a folder")?;
        let folder = folder.strip_prefix(root).unwrap_or(folder);
        let declared = package.pointer("/metadata/claviger/guest") == Some(&Value::Bool(true));
        packages.push(Package {
            name: text(package, "name")?.to_owned(),
            folder: folder.to_string_lossy().replace('\\', "/"),
            guest: declared || folder.starts_with("tests/guests"),
            dependencies: list(package, "dependencies")
                .map(|dependency| {
                    Ok(Dependency {
                        name: text(dependency, "name")?.to_owned(),
                        path: dependency.get("path").and_then(Value::as_str).map(PathBuf::from),
                    })
                })
                .collect::<anyhow::Result<_>>()?,
            artifacts: list(package, "targets").filter_map(artifact).collect(),
        });
    }
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Workspace { target, packages })
}

/// The file name, without `.wasm`, of what a target becomes.
fn artifact(target: &Value) -> Option<String> {
    let name = target.get("name")?.as_str()?;
    let is = |kind: &str| list(target, "kind").any(|value| value == kind);
    if is("cdylib") {
        return Some(name.replace('-', "_"));
    }
    is("bin").then(|| name.to_owned())
}

fn text<'a>(value: &'a Value, field: &str) -> anyhow::Result<&'a str> {
    value
        .get(field)
        .and_then(Value::as_str)
        .with_context(|| format!("`cargo metadata` printed no `{field}`"))
}

fn list<'a>(value: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    value.get(field).and_then(Value::as_array).into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_is_read() {
        let root = root().unwrap();
        let workspace = workspace(&root).unwrap();
        let own = workspace
            .packages
            .iter()
            .find(|package| package.name == "xtask")
            .unwrap();
        assert_eq!(own.folder, "xtask");
        assert_eq!(own.artifacts, ["xtask"]);
        assert!(!own.guest);
        assert!(
            own.dependencies
                .iter()
                .any(|dependency| dependency.name == "anyhow")
        );
    }

    #[test]
    fn a_guest_and_its_components_are_recognised() {
        let value = serde_json::json!({
            "target_directory": "/t",
            "packages": [{
                "name": "bot", "manifest_path": "/r/examples/bot/Cargo.toml",
                "metadata": { "claviger": { "guest": true } },
                "dependencies": [{ "name": "claviger-sdk", "path": "/r/guest-sdk" }],
                "targets": [
                    { "name": "my-bot", "kind": ["cdylib"] },
                    { "name": "my-tool", "kind": ["bin"] },
                    { "name": "all", "kind": ["test"] },
                ],
            }],
        });
        let workspace = parse(&value, Path::new("/r")).unwrap();
        let bot = &workspace.packages[0];
        assert!(bot.guest);
        assert_eq!(bot.folder, "examples/bot");
        assert_eq!(bot.artifacts, ["my_bot", "my-tool"]);
    }
}
