//! The two things that Rust cannot check here: a child that dies with its parent's thread, and quiet libtss2. The only file of
//! this crate with `unsafe`. Not the software TPM: `swtpm.rs` starts it.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

/// Makes the child that `command` spawns get SIGTERM when the *thread* that spawns it ends, however it ends.
pub(crate) fn end_with_this_thread(command: &mut Command) {
    let parent: Pid = getpid();
    let in_child = move || -> io::Result<()> {
        set_parent_process_death_signal(Some(Signal::TERM))?;
        // The parent may have died before the line above: then nobody will send the signal, and the child must not start.
        if getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(
                rustix::io::Errno::SRCH.raw_os_error(),
            ))
        }
    };
    #[expect(
        unsafe_code,
        reason = "the parent-death signal can only be asked for by the child, between fork and exec"
    )]
    // SAFETY: between fork and exec only async-signal-safe work is allowed. The closure makes two raw system calls (prctl and
    // getppid), allocates nothing, takes no lock, and owns one integer.
    unsafe {
        command.pre_exec(in_child);
    }
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
            end_with_this_thread(&mut command);
            command.spawn().unwrap()
        })
        .join()
        .unwrap();
        let status = child.wait().unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(status.signal(), Some(Signal::TERM.as_raw()));
    }
}
