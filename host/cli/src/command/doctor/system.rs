//! The machine: core dumps, locked memory, swap, disk. Looks only.

use std::path::Path;

use claviger_core::Secret;
use rustix::process::{DumpableBehavior, Resource, dumpable_behavior, getrlimit};

use super::Finding;
use crate::file::read_bounded;

/// A file of /proc is read up to here.
const MAX_PROC: u64 = 64 * 1024;
/// Enough locked memory for some hundred open keys, each on a page of its own.
const GOOD_MEMLOCK: u64 = 1024 * 1024;
/// Below this the log may not take another day.
const GOOD_DISK: u64 = 1024 * 1024 * 1024;
/// Below this the next entry may fail, and everything is refused then.
const LEAST_DISK: u64 = 16 * 1024 * 1024;

pub(super) fn look(folder: &Path) -> Vec<Finding> {
    vec![
        core_dumps(),
        locked_memory(getrlimit(Resource::Memlock).current),
        swap(proc("/proc/swaps").as_deref()),
        disk(folder),
    ]
}

fn proc(path: &str) -> Option<String> {
    let bytes = read_bounded(Path::new(path), MAX_PROC, path).ok()?;
    String::from_utf8(bytes).ok()
}

/// The limit alone does not stop a pattern that pipes dumps to a program; not being dumpable does.
fn core_dumps() -> Finding {
    let name = "core dumps";
    let limited = getrlimit(Resource::Core).current == Some(0);
    let undumpable = dumpable_behavior() == Ok(DumpableBehavior::NotDumpable);
    let pattern = proc("/proc/sys/kernel/core_pattern").unwrap_or_default();
    let pattern = pattern.trim();
    if limited && undumpable {
        return Finding::ok(
            name,
            format!("off for this command (core_pattern is `{pattern}`)"),
        );
    }
    Finding::fail(
        name,
        format!("the system refused to turn them off for this command (core_pattern is `{pattern}`)"),
        "ulimit -c 0; sudo sysctl kernel.core_pattern=core",
    )
}

fn locked_memory(limit: Option<u64>) -> Finding {
    let name = "locked memory";
    let fix =
        "`ulimit -l 65536`, and `* - memlock 65536` in /etc/security/limits.conf (systemd: LimitMEMLOCK=64M)";
    if let Err(error) = Secret::take(&mut [0; 32]) {
        return Finding::fail(name, error.to_string(), fix);
    }
    match limit {
        None => Finding::ok(name, "not limited"),
        Some(bytes) if bytes >= GOOD_MEMLOCK => {
            Finding::ok(name, format!("{} KiB may be locked", bytes / 1024))
        }
        Some(bytes) => Finding::warn(
            name,
            format!("only {} KiB may be locked: some keys at once", bytes / 1024),
            fix,
        ),
    }
}

fn swap(swaps: Option<&str>) -> Finding {
    let name = "swap";
    let Some(swaps) = swaps else {
        return Finding::ok(name, "none that the system shows");
    };
    // The first line is the heading. Compressed memory is not a disk.
    let areas: Vec<_> = swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .filter(|area| !area.starts_with("/dev/zram"))
        .collect();
    if areas.is_empty() {
        return Finding::ok(name, "no swap on a disk");
    }
    Finding::warn(
        name,
        format!(
            "{} is in use: keys are locked into memory, what agents work on is not",
            areas.join(", ")
        ),
        "encrypt it, or `sudo swapoff -a`",
    )
}

fn disk(folder: &Path) -> Finding {
    let name = "disk";
    let there = folder
        .ancestors()
        .find(|place| place.exists())
        .unwrap_or(Path::new("/"));
    match rustix::fs::statvfs(there) {
        Ok(stat) => room(stat.f_bavail.saturating_mul(stat.f_frsize), there),
        Err(error) => Finding::warn(
            name,
            format!("{} cannot be looked at: {error}", there.display()),
            "df -h",
        ),
    }
}

fn room(free: u64, place: &Path) -> Finding {
    let name = "disk";
    let detail = format!("{} MiB free for {}", free >> 20, place.display());
    let fix = "make room: without it the audit log cannot be written, and nothing is signed";
    if free < LEAST_DISK {
        Finding::fail(name, detail, fix)
    } else if free < GOOD_DISK {
        Finding::warn(name, detail, fix)
    } else {
        Finding::ok(name, detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Status;

    #[test]
    fn each_check_can_fail_or_warn() {
        assert_eq!(room(1024, Path::new("/")).status, Status::Fail);
        assert_eq!(room(LEAST_DISK, Path::new("/")).status, Status::Warn);
        assert_eq!(room(GOOD_DISK, Path::new("/")).status, Status::Ok);
        let heading = "Filename Type Size Used Priority\n";
        assert_eq!(swap(Some(heading)).status, Status::Ok);
        assert_eq!(
            swap(Some(&format!("{heading}/dev/zram0 partition 1 0 100\n"))).status,
            Status::Ok
        );
        assert_eq!(
            swap(Some(&format!("{heading}/swapfile file 1 0 -2\n"))).status,
            Status::Warn
        );
        assert_eq!(locked_memory(Some(64 * 1024)).status, Status::Warn);
        assert_eq!(locked_memory(None).status, Status::Ok);
    }

    #[test]
    fn core_dumps_are_off_once_the_process_was_hardened() {
        crate::harden::process();
        assert_eq!(core_dumps().status, Status::Ok);
    }
}
