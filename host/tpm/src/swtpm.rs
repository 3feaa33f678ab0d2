//! A private software TPM for development: a child on two loopback ports, ended with the thread that started it. Not a barrier:
//! its folder holds every key in clear, and restoring an old folder brings back what was revoked.
//!
//! # What is left open
//! libtss2 3.2 speaks to swtpm over TCP only, so any user of this machine can connect to the port and send commands. Such a user
//! cannot use a key, whose authorisation value is random; but can fill slots, or clear the software TPM. On a machine with
//! users you do not trust, do not use it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand_core::{OsRng, RngCore as _};
use rustix::process::{Pid, Signal, kill_process};

use crate::error::TpmError;
use crate::process::end_with_this_thread;

/// It answers within 15 ms on an idle machine; a busy one takes longer.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// It stops within 1 ms of a clean shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);
/// Pairs of ports to try before giving up: another program may take one between the check and the start.
const PORT_TRIES: u32 = 16;
/// Ports from here up are given out to outgoing connections, and clash with them.
const FIRST_EPHEMERAL: u16 = 32_768;
const FIRST_PORT: u16 = 10_240;
/// What is read of its log for a message.
const LOG_TAIL: u64 = 2_000;

/// The process id of the running child, for whoever watches or has to kill it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ChildId(
    // Invariant: a child that was not waited for yet; collecting one and clearing this happen under the one lock.
    Arc<Mutex<Option<u32>>>,
);

impl ChildId {
    pub(crate) fn current(&self) -> Option<u32> {
        *self.lock()
    }

    /// Kills the child, if there is one. Never another process: an id is not given out again before the child is collected.
    pub(crate) fn kill(&self) {
        let id = self.lock();
        if let Some(pid) = id.and_then(|id| Pid::from_raw(id.cast_signed())) {
            kill_process(pid, Signal::KILL).ok();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running child. Dropping it kills it; [`Swtpm::stop`] lets it finish.
#[derive(Debug)]
pub(crate) struct Swtpm {
    child: Child,
    port: u16,
    id: ChildId,
}

/// Why one attempt failed.
enum Attempt {
    /// Another program has a port of the pair.
    PortTaken,
    Failed(TpmError),
}

impl Swtpm {
    /// Starts one on this folder and waits until it listens. It ends when the calling thread does.
    pub(crate) fn start(state: &Path, id: &ChildId) -> Result<Self, TpmError> {
        prepare_folder(state)?;
        for _ in 0..PORT_TRIES {
            let Some(port) = free_pair() else { continue };
            match Self::start_on(state, port, id) {
                Ok(child) => return Ok(child),
                Err(Attempt::PortTaken) => {}
                Err(Attempt::Failed(error)) => return Err(error),
            }
        }
        Err(TpmError::SwtpmFailed {
            state: state.to_owned(),
            why: format!("no two neighbouring ports are free below {FIRST_EPHEMERAL}"),
        })
    }

    /// The port for commands; the one above it is for control.
    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Waits until it has ended after TPM2_Shutdown and a closed connection; kills it if it does not end.
    pub(crate) fn stop(mut self) {
        // It has no reason to end by itself: without `--terminate` it outlives connections.
        if let Some(pid) = self.id.current().and_then(|id| Pid::from_raw(id.cast_signed())) {
            let asked = kill_process(pid, Signal::TERM);
            let until = Instant::now() + STOP_TIMEOUT;
            while asked.is_ok() && Instant::now() < until && matches!(self.ended(), Ok(None)) {
                std::thread::sleep(POLL);
            }
        }
        drop(self);
    }

    /// How it ended, if it has; it is collected then.
    fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let mut id = self.id.lock();
        let ended = self.child.try_wait()?;
        if ended.is_some() {
            *id = None;
        }
        Ok(ended)
    }

    fn start_on(state: &Path, port: u16, id: &ChildId) -> Result<Self, Attempt> {
        let failed = |why: String| {
            Attempt::Failed(TpmError::SwtpmFailed {
                state: state.to_owned(),
                why,
            })
        };
        let (log, log_path) =
            open_log(state).map_err(|e| failed(format!("its log cannot be written: {e}")))?;
        let folder = state.to_str().filter(|text| !text.contains(','));
        let folder = folder.ok_or_else(|| {
            Attempt::Failed(TpmError::SwtpmFolder {
                state: state.to_owned(),
                why: "expected a path in UTF-8 without a comma".to_owned(),
            })
        })?;
        let mut command = Command::new("swtpm");
        command
            .args([
                "socket",
                "--tpm2",
                "--tpmstate",
                &format!("dir={folder},mode=0600"),
            ])
            .args(["--server", &format!("type=tcp,port={port},bindaddr=127.0.0.1")])
            .args([
                "--ctrl",
                &format!("type=tcp,port={},bindaddr=127.0.0.1", port + 1),
            ])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        end_with_this_thread(&mut command);
        let child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Attempt::Failed(TpmError::SwtpmMissing),
            _ => failed(e.to_string()),
        })?;
        *id.lock() = Some(child.id());
        let mut running = Self {
            child,
            port,
            id: id.clone(),
        };
        let until = Instant::now() + START_TIMEOUT;
        loop {
            match running.ended() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    let log = read_tail(&log_path);
                    return Err(if log.contains("Could not lock") {
                        Attempt::Failed(TpmError::SwtpmInUse(state.to_owned()))
                    } else if log.contains("Address already in use") {
                        Attempt::PortTaken
                    } else {
                        failed(format!("it ended with {status}: {}", log.trim()))
                    });
                }
                Err(error) => return Err(failed(error.to_string())),
            }
            // The kernel says who listens, so another user's process on the same port is never taken for the child.
            if listens(running.child.id(), &[port, port + 1]) {
                return Ok(running);
            }
            if Instant::now() >= until {
                return Err(failed("it did not listen in time".to_owned()));
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        let mut id = self.id.lock();
        // Killing fails if it has ended; waiting then only collects it.
        self.child.kill().ok();
        self.child.wait().ok();
        *id = None;
    }
}

/// Makes the folder, or checks that it is ours and shuts others out.
fn prepare_folder(state: &Path) -> Result<(), TpmError> {
    let bad = |why: String| TpmError::SwtpmFolder {
        state: state.to_owned(),
        why,
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(|e| bad(e.to_string()))?;
    let about = fs::symlink_metadata(state).map_err(|e| bad(e.to_string()))?;
    if !about.is_dir() {
        return Err(bad("expected a folder".to_owned()));
    }
    if about.uid() != rustix::process::geteuid().as_raw() {
        return Err(bad("expected a folder of the user who runs this".to_owned()));
    }
    if about.mode() & 0o077 != 0 {
        fs::set_permissions(state, fs::Permissions::from_mode(0o700)).map_err(|e| bad(e.to_string()))?;
    }
    Ok(())
}

/// What swtpm writes to stderr goes to a file: a pipe that nobody reads would fill.
fn open_log(state: &Path) -> io::Result<(File, PathBuf)> {
    let path = state.join("swtpm.log");
    let file = OpenOptions::new()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)?;
    Ok((file, path))
}

fn read_tail(path: &Path) -> String {
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(LOG_TAIL).read_to_end(&mut text)) {
        Ok(_) => String::from_utf8_lossy(&text).into_owned(),
        Err(_) => String::new(),
    }
}

/// Two neighbouring ports that are free now.
fn free_pair() -> Option<u16> {
    let span = u32::from(FIRST_EPHEMERAL - FIRST_PORT) / 2;
    let offset = u16::try_from(OsRng.next_u32() % span).ok()?;
    let port = FIRST_PORT + 2 * offset;
    let free = |port| TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    match (free(port), free(port + 1)) {
        (Ok(_), Ok(_)) => Some(port),
        (Ok(_) | Err(_), Ok(_) | Err(_)) => None,
    }
}

/// Whether this process holds listening sockets on these ports of 127.0.0.1 (proc(5): `/proc/net/tcp`).
fn listens(pid: u32, ports: &[u16]) -> bool {
    const LISTENING: &str = "0A";
    let Ok(table) = fs::read_to_string("/proc/net/tcp") else {
        return false;
    };
    let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return false;
    };
    let held: Vec<PathBuf> = descriptors
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .collect();
    let loopback = format!("{:08X}", u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets()));
    ports.iter().all(|port| {
        let address = format!("{loopback}:{port:04X}");
        table.lines().any(|line| {
            let mut fields = line.split_whitespace();
            let (local, state) = (fields.nth(1), fields.nth(1));
            let inode = fields.nth(5);
            local == Some(address.as_str())
                && state == Some(LISTENING)
                && inode.is_some_and(|inode| held.contains(&PathBuf::from(format!("socket:[{inode}]"))))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_known_by_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(listens(std::process::id(), &[port]));
        assert!(!listens(1, &[port]), "another process does not hold it");
        drop(listener);
        assert!(!listens(std::process::id(), &[port]));
    }

    #[test]
    fn it_starts_privately_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("tpm");
        let id = ChildId::default();
        let swtpm = Swtpm::start(&state, &id).expect("needs swtpm: apt-get install swtpm");
        let pid = id.current().unwrap();
        assert!(swtpm.port() + 1 < FIRST_EPHEMERAL);
        assert_eq!(fs::metadata(&state).unwrap().mode() & 0o777, 0o700);
        for name in ["tpm2-00.permall", "swtpm.log"] {
            let mode = fs::metadata(state.join(name)).unwrap().mode();
            assert_eq!(mode & 0o077, 0, "{name} is {mode:o}");
        }
        swtpm.stop();
        assert_eq!(id.current(), None);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_second_one_on_the_same_folder_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let first =
            Swtpm::start(folder.path(), &ChildId::default()).expect("needs swtpm: apt-get install swtpm");
        let second = Swtpm::start(folder.path(), &ChildId::default());
        assert!(matches!(second, Err(TpmError::SwtpmInUse(_))), "{second:?}");
        drop(first);
        drop(Swtpm::start(folder.path(), &ChildId::default()).expect("the lock went with the first"));
    }

    #[test]
    fn a_port_that_another_program_took_is_told_from_a_failure() {
        let folder = tempfile::tempdir().unwrap();
        let port = (0..100).find_map(|_| free_pair()).unwrap();
        for taken in [port, port + 1] {
            let squatter = TcpListener::bind(("127.0.0.1", taken)).unwrap();
            let attempt = Swtpm::start_on(folder.path(), port, &ChildId::default());
            assert!(matches!(attempt, Err(Attempt::PortTaken)), "{taken}");
            drop(squatter);
        }
        assert!(
            Swtpm::start_on(folder.path(), port, &ChildId::default()).is_ok(),
            "the control"
        );
    }

    #[test]
    fn a_folder_that_is_not_one_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&elsewhere, &link).unwrap();
        for bad in [link, folder.path().join("a,b")] {
            let error = Swtpm::start(&bad, &ChildId::default()).unwrap_err();
            assert!(matches!(error, TpmError::SwtpmFolder { .. }), "{error}");
        }
    }
}
