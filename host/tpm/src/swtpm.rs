//! A private software TPM for development: a child on a loopback port, ended with the thread that started it. Not a barrier:
//! its folder holds every key in clear, and restoring an old folder brings back what was revoked.
//!
//! It has no control channel, whose users may read all its state, loaded keys included, and stop it: `control.rs` answers in its
//! place. Its port stays ours when it dies, so that nobody else is taken for it.
//!
//! # What is left open
//! libtss2 3.2 speaks to swtpm over TCP only, so any user of this machine can connect to the port and send commands. Such a user
//! cannot use a key, whose authorisation value is random; but can fill slots, or clear the software TPM. On a machine with
//! users you do not trust, do not use it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand_core::{OsRng, RngCore as _};
use rustix::net::sockopt::set_socket_reuseaddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
use rustix::process::{Pid, Signal, kill_process};

use crate::control::Control;
use crate::error::TpmError;
use crate::process::make_private;

/// It answers within 15 ms on an idle machine; a busy one takes longer.
const START_TIMEOUT: Duration = Duration::from_secs(10);
/// It stops within 1 ms of a clean shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(1);
/// Pairs of ports to try before giving up: another program may take one between the check and the start.
const PORT_TRIES: u32 = 16;
/// Ports from here up are given out to outgoing connections, and clash with them.
const FIRST_EPHEMERAL: u16 = 32_768;
const FIRST_PORT: u16 = 10_240;
/// What the child needs of the environment: where programs and libraries are.
const KEPT_VARIABLES: [&str; 2] = ["PATH", "LD_LIBRARY_PATH"];
/// What is read of its log for a message.
const LOG_TAIL: u64 = 2_000;
/// TPM2_GetRandom of one byte (TPM 2.0 Library Part 3 §16.1): what a TPM that serves answers, whatever its state.
const PROBE: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x7B, 0, 1];
/// The header of an answer.
const PROBE_ANSWER: usize = 10;

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
    id: ChildId,
    ports: Ports,
}

/// Why one attempt failed.
enum Attempt {
    /// Another program has a port of the pair.
    PortTaken,
    Failed(TpmError),
}

impl Swtpm {
    /// Starts one on this folder and waits until it serves. It ends when the calling thread does.
    pub(crate) fn start(state: &Path, id: &ChildId) -> Result<Self, TpmError> {
        prepare_folder(state)?;
        for _ in 0..PORT_TRIES {
            let Some(ports) = Ports::take() else { continue };
            match Self::start_on(state, ports, id) {
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

    /// The port for commands; libtss2 expects control on the one above it.
    pub(crate) const fn port(&self) -> u16 {
        self.ports.port
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

    fn start_on(state: &Path, ports: Ports, id: &ChildId) -> Result<Self, Attempt> {
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
        let note = state.join("swtpm.pid");
        match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error.to_string())),
            Ok(()) | Err(_) => {}
        }
        let mut command = Command::new("swtpm");
        command
            .args(["socket", "--tpm2"])
            .args(["--tpmstate", &format!("dir={folder},mode=0600")])
            .args([
                "--server",
                &format!("type=tcp,port={},bindaddr=127.0.0.1", ports.port),
            ])
            .args(["--pid", &format!("file={folder}/swtpm.pid")])
            .args(["--flags", "not-need-init,startup-clear"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        // What the variables hold is not its business, and TPM_PATH or TPM_PORT would have it do something else.
        command.env_clear().envs(
            KEPT_VARIABLES
                .iter()
                .filter_map(|name| Some((name, std::env::var_os(name)?))),
        );
        // Ctrl-C is for the host, which ends the child when it needs it no more.
        command.process_group(0);
        make_private(&mut command);
        let child = command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Attempt::Failed(TpmError::SwtpmMissing),
            _ => failed(e.to_string()),
        })?;
        *id.lock() = Some(child.id());
        let mut running = Self {
            child,
            id: id.clone(),
            ports,
        };
        let until = Instant::now() + START_TIMEOUT;
        let mut served = false;
        loop {
            match running.ended() {
                Ok(None) if served => {
                    running.ports.keep().map_err(|e| failed(e.to_string()))?;
                    // It has served; swtpm does not mind that it is gone.
                    fs::remove_file(&note).ok();
                    return Ok(running);
                }
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
            if Instant::now() >= until {
                return Err(failed("it did not answer in time".to_owned()));
            }
            // It writes the note when it has the port, and ends if another process has it: so nobody else is taken for it.
            let has_port =
                fs::read_to_string(&note).is_ok_and(|pid| pid.trim() == running.child.id().to_string());
            served = has_port && answers(running.ports.port, until).is_ok();
            if !served {
                std::thread::sleep(POLL);
            }
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

/// Whether a TPM serves this port.
fn answers(port: u16, until: Instant) -> io::Result<()> {
    let left = until.saturating_duration_since(Instant::now()).max(POLL);
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(left))?;
    stream.write_all(&PROBE)?;
    stream.read_exact(&mut [0; PROBE_ANSWER])
}

/// Two neighbouring ports.
#[derive(Debug)]
struct Ports {
    port: u16,
    /// Has the port without listening on it.
    guard: OwnedFd,
    /// Has the port above it. Stopped when this is dropped.
    _control: Control,
}

impl Ports {
    /// Takes two that are free.
    fn take() -> Option<Self> {
        let span = u32::from(FIRST_EPHEMERAL - FIRST_PORT) / 2;
        let offset = u16::try_from(OsRng.next_u32() % span).ok()?;
        Self::take_these(FIRST_PORT + 2 * offset).ok()
    }

    fn take_these(port: u16) -> io::Result<Self> {
        let guard = socket_with(
            AddressFamily::INET,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        )?;
        // For now whoever reuses addresses may share the port as long as nobody listens: the child does.
        set_socket_reuseaddr(&guard, true)?;
        bind(&guard, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
        let control = Control::start(port + 1)?;
        Ok(Self {
            port,
            guard,
            _control: control,
        })
    }

    /// Lets no more process have the port of the child, which listens now: not even when the child is gone.
    fn keep(&self) -> io::Result<()> {
        Ok(set_socket_reuseaddr(&self.guard, false)?)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What works as soon as no child that another test just forked holds a copy of our socket any more.
    fn soon<T>(mut attempt: impl FnMut() -> io::Result<T>) -> T {
        let until = Instant::now() + START_TIMEOUT;
        loop {
            match attempt() {
                Ok(done) => return done,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
            std::thread::yield_now();
        }
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
        let ports = (0..100).find_map(|_| Ports::take()).unwrap();
        let port = ports.port;
        assert!(
            TcpListener::bind(("127.0.0.1", port + 1)).is_err(),
            "control is ours"
        );
        // Between taking the port and the child's start, one that reuses addresses can come before it.
        let squatter = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let attempt = Swtpm::start_on(folder.path(), ports, &ChildId::default());
        assert!(matches!(attempt, Err(Attempt::PortTaken)));
        assert!(Ports::take_these(port).is_err(), "it is taken");
        drop(squatter);
        let ports = soon(|| Ports::take_these(port));
        assert!(
            Swtpm::start_on(folder.path(), ports, &ChildId::default()).is_ok(),
            "the control"
        );
    }

    #[test]
    fn nobody_gets_the_port_of_one_that_died() {
        let folder = tempfile::tempdir().unwrap();
        let mut swtpm =
            Swtpm::start(folder.path(), &ChildId::default()).expect("needs swtpm: apt-get install swtpm");
        let port = swtpm.port();
        swtpm.child.kill().unwrap();
        swtpm.child.wait().unwrap();
        for _ in 0..2 {
            let error = TcpListener::bind(("127.0.0.1", port)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "nobody listens");
        }
        drop(swtpm);
        drop(soon(|| TcpListener::bind(("127.0.0.1", port))));
    }

    #[test]
    fn there_is_no_control_channel_and_its_stand_in_knows_one_command() {
        let folder = tempfile::tempdir().unwrap();
        let swtpm =
            Swtpm::start(folder.path(), &ChildId::default()).expect("needs swtpm: apt-get install swtpm");
        let arguments = fs::read_to_string(format!("/proc/{}/cmdline", swtpm.child.id())).unwrap();
        assert!(arguments.contains("--server"), "the control");
        assert!(!arguments.contains("--ctrl"));
        let say = |command: &[u8]| {
            let mut stream = TcpStream::connect(("127.0.0.1", swtpm.port() + 1)).unwrap();
            stream.write_all(command).unwrap();
            // It may have gone already.
            stream.shutdown(std::net::Shutdown::Write).ok();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).ok();
            answer
        };
        assert_eq!(
            say(&[0, 0, 0, 5, 0]),
            [0; 4],
            "locality 0, which libtss2 asks for"
        );
        // CMD_GET_STATEBLOB of the permanent state, CMD_STORE_VOLATILE, CMD_SHUTDOWN, another locality.
        let state = [0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        for command in [&state[..], &[0, 0, 0, 10], &[0, 0, 0, 3], &[0, 0, 0, 5, 3], &[]] {
            assert_eq!(say(command), [] as [u8; 0], "{command:?}");
        }
        answers(swtpm.port(), Instant::now() + START_TIMEOUT).expect("it still serves");
    }

    #[test]
    fn it_inherits_no_variable_and_no_terminal_signal() {
        let folder = tempfile::tempdir().unwrap();
        let swtpm =
            Swtpm::start(folder.path(), &ChildId::default()).expect("needs swtpm: apt-get install swtpm");
        let pid = swtpm.child.id();
        let variables = fs::read_to_string(format!("/proc/{pid}/environ")).unwrap();
        assert!(
            variables.starts_with("PATH=") || variables.contains("\0PATH="),
            "the control"
        );
        for variable in variables.split_terminator('\0') {
            let name = variable.split('=').next().unwrap();
            assert!(KEPT_VARIABLES.contains(&name), "{name}");
        }
        assert!(
            std::env::var_os("CARGO_MANIFEST_DIR").is_some(),
            "the control: this process has others"
        );
        let group = rustix::process::getpgid(Pid::from_raw(pid.cast_signed())).unwrap();
        assert_eq!(group.as_raw_nonzero().get(), pid.cast_signed());
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
