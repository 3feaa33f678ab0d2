//! The keyring, its TPM, its audit log and the clock, as far as they can be looked at without unlocking.

use std::error::Error as _;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use claviger_broker::audit::{Verified, verify};
use claviger_broker::guard::trusted_time;
use claviger_broker::keyring::{Keyring, KeyringError, KeyringInfo, RootKind};
use claviger_broker::local::AUDIT_FOLDER;
use claviger_tpm::{Tpm, TpmChoice, TpmError};
use jiff::Timestamp;

use super::Finding;
use crate::command::secret::standing;
use crate::unlock::RESTORE;

/// Files with loose modes are named up to this many.
const MAX_NAMED: usize = 8;

pub(super) fn look(folder: &Path) -> Vec<Finding> {
    let (found, info) = keyring(folder);
    let mut findings = vec![found];
    if info.is_some() {
        findings.push(modes(folder));
        findings.push(secrets(folder, Timestamp::now()));
    }
    findings.push(tpm(info.as_ref(), folder));
    findings.push(swtpm(info.as_ref()));
    let vkey = info.and_then(|info| info.vkey);
    let last = vkey.and_then(|vkey| {
        let (found, verified) = log(folder, &vkey);
        findings.push(found);
        verified?.last_time
    });
    findings.push(clock(Timestamp::now(), last));
    findings
}

fn keyring(folder: &Path) -> (Finding, Option<KeyringInfo>) {
    let name = "keyring";
    match Keyring::peek(folder) {
        Ok(info) if info.vkey.is_none() => {
            let fix = format!("remove {} and run `claviger init`", folder.display());
            (
                Finding::fail(name, "making it was interrupted; it holds no keys", fix),
                None,
            )
        }
        Ok(info) => {
            let bound = crate::bound::shown(&info.root.settings);
            let bound = bound.map_or_else(String::new, |registers| format!(", bound to {registers}"));
            let detail = format!("{}, assurance {}{bound}", folder.display(), info.assurance);
            (Finding::ok(name, detail), Some(info))
        }
        Err(KeyringError::Missing { .. }) => {
            let detail = format!("there is none in {}", folder.display());
            (Finding::warn(name, detail, "claviger init"), None)
        }
        Err(KeyringError::Insecure { path, problem, fix }) => (
            Finding::fail(name, format!("{} {problem}", path.display()), fix),
            None,
        ),
        Err(error @ (KeyringError::Database { .. } | KeyringError::Io { .. })) => {
            let cause = error
                .source()
                .map_or_else(String::new, |cause| format!(": {cause}"));
            let fix = "make room on the disk and look at the folder's permissions; nothing is lost";
            (Finding::fail(name, format!("{error}{cause}"), fix), None)
        }
        Err(error) => {
            let fix = "restore the keyring's folder from a backup, or name another with `--keyring DIR`";
            (Finding::fail(name, error.to_string(), fix), None)
        }
    }
}

/// Everything in the keyring's folder is the owner's only.
fn modes(folder: &Path) -> Finding {
    let name = "file modes";
    let mut loose = Vec::new();
    for place in [folder.to_owned(), folder.join(AUDIT_FOLDER)] {
        let entries = fs::read_dir(&place).into_iter().flatten().filter_map(Result::ok);
        loose.extend(
            std::iter::once(place)
                .chain(entries.map(|entry| entry.path()))
                .filter(|path| is_loose(path)),
        );
    }
    loose.sort();
    loose.dedup();
    if loose.is_empty() {
        return Finding::ok(name, "only you reach the keyring's files");
    }
    let named: Vec<_> = loose
        .iter()
        .take(MAX_NAMED)
        .map(|path: &PathBuf| path.display().to_string())
        .collect();
    Finding::fail(
        name,
        format!("others can reach {}", named.join(", ")),
        format!("chmod -R go-rwx {}", folder.display()),
    )
}

fn is_loose(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_symlink() && meta.mode() & 0o077 != 0)
}

/// No active secret has expired or is due for a new value.
fn secrets(folder: &Path, now: Timestamp) -> Finding {
    let name = "secrets";
    let records = match Keyring::list_public_secrets(folder) {
        Ok(records) => records,
        Err(error) => {
            let fix = "restore the keyring's folder from a backup";
            return Finding::fail(name, error.to_string(), fix);
        }
    };
    let active = records.iter().filter(|record| record.is_in_use()).count();
    let late: Vec<_> = records
        .iter()
        .filter_map(|record| standing(record, now).map(|text| (&record.secret.name, text)))
        .collect();
    let Some((first, _)) = late.first() else {
        return Finding::ok(name, format!("{active} active, none expired or due"));
    };
    let named: Vec<_> = late
        .iter()
        .take(MAX_NAMED)
        .map(|(name, text)| format!("`{name}` {text}"))
        .collect();
    let fix = format!("claviger secret replace {first}");
    Finding::warn(name, named.join(", "), fix)
}

fn tpm(info: Option<&KeyringInfo>, folder: &Path) -> Finding {
    let name = "tpm";
    match info.map(|info| (info.root.kind, &info.root.settings)) {
        Some((RootKind::Tpm | RootKind::Swtpm, settings)) => match Tpm::connect_with(settings, folder) {
            Ok(tpm) => Finding::ok(
                name,
                format!("the keyring's TPM answers, assurance {}", tpm.assurance()),
            ),
            Err(TpmError::SwtpmInUse(_)) => {
                Finding::ok(name, "the keyring's software TPM is in use by another process")
            }
            Err(error @ (TpmError::NotOurs { .. } | TpmError::NoDevice(_))) => {
                let fix = format!(
                    "the keys of this keyring need the TPM that it was made on; without it, {RESTORE}"
                );
                Finding::fail(name, error.to_string(), fix)
            }
            Err(error) => Finding::fail(name, error.to_string(), "the keys of this keyring need that TPM"),
        },
        Some((RootKind::Passphrase, _)) | None => match TpmChoice::detect() {
            Ok(_) => Finding::ok(name, "/dev/tpmrm0 can be opened; `claviger init` uses it"),
            Err(error) => Finding::warn(
                name,
                error.to_string(),
                "without one, keys are as hard as a passphrase: `claviger init --custody passphrase`",
            ),
        },
    }
}

fn swtpm(info: Option<&KeyringInfo>) -> Finding {
    let name = "swtpm";
    let found = std::env::var_os("PATH")
        .into_iter()
        .flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>())
        .map(|folder| folder.join("swtpm"))
        .find(|path| path.is_file());
    let needed = info.is_some_and(|info| info.root.kind == RootKind::Swtpm);
    match found {
        Some(path) => Finding::ok(name, format!("{} (for development)", path.display())),
        None if needed => Finding::fail(
            name,
            "this keyring needs it, and it is not installed",
            "sudo apt-get install swtpm",
        ),
        None => Finding::ok(
            name,
            "not installed; only `claviger init --custody swtpm` needs it",
        ),
    }
}

fn log(folder: &Path, vkey: &str) -> (Finding, Option<Verified>) {
    let name = "audit log";
    let found = match verify(&folder.join(AUDIT_FOLDER), vkey) {
        Ok(verified) => verified,
        Err(error) => {
            let fix = "restore the keyring's folder from a backup; `claviger audit verify` says more";
            return (Finding::fail(name, error.to_string(), fix), None);
        }
    };
    let finding = if found.unsigned_tail == 0 && found.torn_bytes == 0 {
        Finding::ok(
            name,
            format!(
                "{} entries verify, all under the signed checkpoint",
                found.entries
            ),
        )
    } else {
        let detail = format!(
            "{} entries verify; the last {} are not signed: a process has the log open, or was killed",
            found.entries, found.unsigned_tail
        );
        Finding::warn(name, detail, "claviger audit checkpoint")
    };
    (finding, Some(found))
}

fn clock(now: Timestamp, last: Option<Timestamp>) -> Finding {
    let name = "clock";
    match trusted_time(now, last) {
        Ok(_) => Finding::ok(
            name,
            format!("{now:.0}, not behind the log; whether NTP keeps it is not known"),
        ),
        Err(denial) => Finding::fail(
            name,
            denial.detail,
            "`timedatectl set-ntp true`, or `claviger audit accept-clock`",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Status;

    #[test]
    fn a_folder_without_a_keyring_is_a_warning_and_an_open_one_a_failure() {
        use std::os::unix::fs::PermissionsExt;
        let root = tempfile::tempdir().unwrap();
        assert_eq!(keyring(&root.path().join("none")).0.status, Status::Warn);
        fs::set_permissions(root.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let found = keyring(root.path()).0;
        assert_eq!(found.status, Status::Fail);
        assert!(found.fix.is_some_and(|fix| fix.contains("chmod 700")));
        assert_eq!(modes(root.path()).status, Status::Fail);
        fs::set_permissions(root.path(), PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!(modes(root.path()).status, Status::Ok);
    }

    #[test]
    fn a_clock_behind_the_log_fails() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        assert_eq!(clock(now, None).status, Status::Ok);
        assert_eq!(clock(now, Some(now)).status, Status::Ok);
        let later = now.saturating_add(jiff::SignedDuration::from_hours(1)).unwrap();
        assert_eq!(clock(now, Some(later)).status, Status::Fail);
    }
}
