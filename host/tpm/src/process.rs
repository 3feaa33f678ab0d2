//! The two things that Rust cannot check here: what a child is before it becomes another program, and quiet libtss2. Beside
//! `esys.rs` the only file of this crate with `unsafe`. Not the software TPM: `swtpm.rs` starts it.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Makes the child that `command` spawns get SIGTERM when the *thread* that spawns it ends, however it ends, and keep none of this
/// process's descriptors but its standard ones: not a passphrase's, and not a socket's.
pub(crate) fn make_private(command: &mut Command) {
    let parent: Pid = getpid();
    let in_child = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // The parent may have died before the line above: then nobody will send the signal, and the child must not start.
        if getppid() != Some(parent) {
            return Err(io::Error::from(Errno::SRCH));
        }
        close_others_on_exec()
    };
    #[expect(
        unsafe_code,
        reason = "what a child is can only be settled by the child, between fork and exec"
    )]
    // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes raw system calls (prctl, getppid,
    // open, getdents64, fcntl, close) with buffers on its own stack and copies of a `Pid`; it allocates nothing and takes no lock:
    // an `io::Error` made from a number is that number.
    unsafe {
        command.pre_exec(in_child);
    }
}

/// Has every descriptor above the standard three closed when this process becomes another program. Allocates nothing.
fn close_others_on_exec() -> io::Result<()> {
    let folder = rustix::fs::open(
        c"/proc/self/fd",
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let mut space = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(&folder, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        // `.` and `..` are no numbers.
        let number =
            std::str::from_utf8(entry.file_name().to_bytes()).map_or(None, |n| n.parse::<i32>().ok());
        let Some(number) = number.filter(|number| *number > 2) else {
            continue;
        };
        #[expect(unsafe_code, reason = "the kernel names descriptors by number")]
        // SAFETY: the kernel has just listed this descriptor of this process, which has one thread between fork and exec, and
        // this loop closes none. It is borrowed for the one call.
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    Ok(())
}

/// Keeps libtss2 from writing to stderr, by setting `TSS2_LOG=all+NONE` unless the variable is set already.
///
/// Call it first in `main`: it does nothing once the process has a second thread. Returns whether libtss2 is now told what to
/// write.
#[must_use]
pub fn quiet_libtss2() -> bool {
    const VARIABLE: &str = "TSS2_LOG";
    if std::env::var_os(VARIABLE).is_some() {
        return true;
    }
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count);
    if !matches!(threads, Ok(1)) {
        return false;
    }
    #[expect(unsafe_code, reason = "changing the environment is unsafe in edition 2024")]
    // SAFETY: the environment may only be changed while no other thread reads it. The kernel has just said that this process
    // has one thread, this one, and a thread that does not exist cannot start another in between.
    unsafe {
        std::env::set_var(VARIABLE, "all+NONE");
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_not_touched_once_there_are_threads() {
        // The test harness always has more than one.
        if std::env::var_os("TSS2_LOG").is_none() {
            assert!(!quiet_libtss2());
            assert!(std::env::var_os("TSS2_LOG").is_none());
        }
    }

    #[test]
    fn the_child_ends_with_the_thread_that_spawned_it() {
        let mut child = std::thread::spawn(|| {
            let mut command = Command::new("sleep");
            command.arg("600");
            make_private(&mut command);
            command.spawn().unwrap()
        })
        .join()
        .unwrap();
        let status = child.wait().unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    }
    #[test]
    fn the_child_gets_the_standard_descriptors_and_no_other() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        // As a shell leaves it that started us with `3<passphrase`.
        fcntl_setfd(&theirs, FdFlags::empty()).unwrap();
        let held = |private: bool| {
            let mut command = Command::new("sleep");
            command.arg("600").stdin(std::process::Stdio::null());
            if private {
                make_private(&mut command);
            }
            let mut child = command.spawn().unwrap();
            let mut held: Vec<i32> = std::fs::read_dir(format!("/proc/{}/fd", child.id()))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
                .collect();
            held.sort_unstable();
            child.kill().unwrap();
            child.wait().unwrap();
            held
        };
        assert_eq!(held(true), [0, 1, 2]);
        use std::os::fd::AsRawFd as _;
        assert!(held(false).contains(&theirs.as_raw_fd()), "the control");
        drop(ours);
    }
}
