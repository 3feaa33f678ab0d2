//! `claviger pin`: approves the component's bytes by writing their digest into the manifest. Runs and compiles nothing.

use std::io::Write as _;
use std::path::Path;

use claviger_core::{ComponentDigest, Manifest};

use crate::args::Pin;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::interruption::to_its_end;
use crate::manifest::ManifestFile;

pub(crate) fn run(cx: &Context, args: &Pin) -> Result<Exit, Failure> {
    let file = ManifestFile::read_to_obey(&args.manifest.path)?;
    let (manifest, _) = parse_except_digest(cx, &file)?;
    let component = ComponentDigest::of(&file.component(&manifest)?);
    let text =
        Manifest::with_digest(&file.text, component).map_err(|problems| file.refuse(&cx.out, &problems))?;
    let changed = text != file.text;
    if changed && !args.dry_run {
        to_its_end(|| {
            replace(&file.path, &text).map_err(|error| {
                Failure::failed(format!(
                    "the manifest `{}` cannot be written; it is as it was",
                    file.path.display()
                ))
                .because(Some(&error))
            })
        })?;
    }
    let old = manifest.agent.digest.map(|digest| digest.to_string());
    let result = serde_json::json!({
        "manifest": file.path,
        "component": file.component_path(&manifest),
        "old": old,
        "new": component.to_string(),
        "changed": changed,
        "written": changed && !args.dry_run,
    });
    cx.out.value(&result, |_| {
        let old = old.as_deref().unwrap_or("not pinned");
        match (changed, args.dry_run) {
            (false, _) => format!("{component} (as before)"),
            (true, false) => format!("{old} → {component}"),
            (true, true) => format!("{old} → {component} (not written)"),
        }
    });
    Ok(Exit::Done)
}

/// The manifest, also if what stands for a digest is none: that is what is about to be replaced.
fn parse_except_digest(
    cx: &Context,
    file: &ManifestFile,
) -> Result<(Manifest, Vec<claviger_core::manifest::Problem>), Failure> {
    let placeholder = ComponentDigest::of(b"");
    match Manifest::parse(&file.text) {
        Ok(parsed) => Ok(parsed),
        Err(problems) => Manifest::with_digest(&file.text, placeholder)
            .ok()
            .and_then(|text| Manifest::parse(&text).ok())
            .map(|(mut manifest, warnings)| {
                manifest.agent.digest = None;
                (manifest, warnings)
            })
            .ok_or_else(|| file.refuse(&cx.out, &problems)),
    }
}

/// Puts the text in the file's place in one step, with the file's permissions. A link stays a link.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let path = path.canonicalize()?;
    let folder = path.parent().ok_or(std::io::ErrorKind::IsADirectory)?;
    let permissions = std::fs::metadata(&path)?.permissions();
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().set_permissions(permissions)?;
    file.as_file().sync_all()?;
    file.persist(&path).map_err(|error| error.error)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn replacing_keeps_permissions_and_links_and_leaves_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real.toml"), folder.path().join("link.toml"));
        std::fs::write(&real, "old").unwrap();
        std::fs::set_permissions(&real, PermissionsExt::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        replace(&link, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&real).unwrap(), "new");
        assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(
            std::fs::metadata(&real).unwrap().permissions().mode() & 0o777,
            0o640
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
