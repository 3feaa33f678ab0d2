//! Folders in which the kernel shows processes, devices and itself. Whoever reads there is in no folder: `/proc/self/mem` is the memory
//! of this process, keys included. Opens nothing, and knows no agent.

use std::io;
use std::path::Path;

use cap_std::fs::Dir;

/// Where such folders are by custom. Neither these, nor what is in them, nor what holds them is given: `/dev` has a file system of the
/// ordinary kind, so that its place is all there is to tell it by.
const PLACES: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The kernel's own file systems, by the number that statfs(2) gives, wherever they are mounted.
#[cfg(target_os = "linux")]
const KINDS: [(u32, &str); 18] = [
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x1cd1, "devpts"),
    (0x6462_6720, "debugfs"),
    (0x7472_6163, "tracefs"),
    (0x7363_6673, "securityfs"),
    (0x0027_e0eb, "cgroup"),
    (0x6367_7270, "cgroup2"),
    (0xcafe_4a11, "bpf"),
    (0x6e73_6673, "nsfs"),
    (0x5049_4446, "pidfs"),
    (0xf97c_ff8c, "selinuxfs"),
    (0x4341_5d53, "smackfs"),
    (0x6165_676c, "pstore"),
    (0xde5e_81e4, "efivarfs"),
    (0x6265_6570, "configfs"),
    (0x4249_4e4d, "binfmt_misc"),
    (0x6573_5546, "fusectl"),
];

/// Why an open folder shows what no agent may see, if it does; `real` is its path without symbolic links.
pub(crate) fn shown_in(dir: &Dir, real: &Path) -> io::Result<Option<String>> {
    if let Some(place) = PLACES
        .iter()
        .find(|place| real.starts_with(place) || Path::new(place).starts_with(real))
    {
        return Ok(Some(format!(
            "overlaps `{place}`, in which the kernel shows processes and devices"
        )));
    }
    Ok(kind(dir)?.map(|kind| {
        format!("is of the file system `{kind}`, in which the kernel shows processes and devices")
    }))
}

#[cfg(target_os = "linux")]
fn kind(dir: &Dir) -> io::Result<Option<&'static str>> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the numbers have 32 bits; the field is wider or narrower, signed or not, by architecture"
    )]
    let number = rustix::fs::fstatfs(dir)?.f_type as u32;
    Ok(KINDS
        .iter()
        .find(|(known, _)| *known == number)
        .map(|(_, name)| *name))
}

#[cfg(not(target_os = "linux"))]
fn kind(_: &Dir) -> io::Result<Option<&'static str>> {
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, told_by: &str, expected: Option<&str>) {
        let dir = Dir::open_ambient_dir(path, cap_std::ambient_authority()).unwrap();
        let why = shown_in(&dir, Path::new(told_by)).unwrap();
        match (&why, expected) {
            (None, None) => {}
            (Some(why), Some(expected)) if why.contains(expected) => {}
            _ => panic!("{path} as {told_by}: {why:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn the_kernels_folders_are_told_by_what_they_are_and_by_where_they_are() {
        // As if mounted elsewhere: told by the file system alone.
        check("/proc", "/srv/jail/proc", Some("`proc`"));
        check("/proc/self", "/srv/jail/proc/1", Some("`proc`"));
        check("/proc/self/task", "/srv", Some("`proc`"));
        check("/sys", "/srv/jail/sys", Some("`sysfs`"));
        // Told by the place.
        for place in ["/", "/dev", "/dev/shm", "/proc/1", "/sys/kernel"] {
            check("/", place, Some("overlaps"));
        }
        let ordinary = tempfile::tempdir().unwrap();
        let ordinary = ordinary.path().to_str().unwrap();
        check(ordinary, ordinary, None);
        check(ordinary, "/device", None);
        check(ordinary, "/srv/proc", None);
    }
}
