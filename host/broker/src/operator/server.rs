//! The control socket of a running host: who may connect, how many at once, how long they may take, and its file. Not the commands.
//!
//! It lies in the keyring's folder, which its owner alone reaches and no agent is given. Whoever connects as the same user could take the
//! keys themselves; the checks here keep everybody else out, and keep a broken or hostile peer from costing the host anything.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use claviger_core::Secret;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::Command;
use super::backup::Beside;
use super::error::Problem;
use super::wire::{self, Answer, Hello, PROTOCOL, WireError};
use crate::LocalBroker;

/// The socket's name in the keyring's folder.
pub const SOCKET: &str = "control.sock";
/// So many peers are attended to at once; more wait in the kernel's queue.
pub const MAX_CONNECTIONS: usize = 16;
/// A peer that has not sent its command within this time, or does not take the answer, is let go. Ours sends it at once.
const PATIENCE: Duration = Duration::from_secs(5);
/// A file that goes beside an answer is taken within this time, or not at all.
const SENT: Duration = Duration::from_secs(600);
/// What stopped the host from taking a connection, such as too many open files, is likely over after this.
const PAUSE: Duration = Duration::from_millis(100);
/// The address of a socket has at most this many bytes (unix(7), without the closing zero).
const MAX_ADDRESS: usize = 107;

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ControlError {
    /// This broker serves it already.
    #[error("the control socket is served already")]
    Serving,
    /// There is no asynchronous runtime around the call.
    #[error("the control socket needs a tokio runtime with I/O around it")]
    NoRuntime,
    /// Something else than a socket has its name.
    #[error("`{}` is not a socket; move it away", .0.display())]
    NotASocket(PathBuf),
    /// The system failed.
    #[error("cannot {action} `{}`", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

/// A control socket that is served, until this is dropped.
#[derive(Debug)]
pub(crate) struct Control {
    path: PathBuf,
    // The device and inode of the socket that was made here: another one in its place is not removed.
    file: (u64, u64),
    accepting: JoinHandle<()>,
    stop: watch::Sender<bool>,
    slots: Arc<Semaphore>,
}

impl Control {
    /// Serves the socket in this folder. Whoever calls this holds the keyring's lock, so a socket that is there already is a dead one's.
    pub(crate) fn bind(folder: &Path, broker: Weak<LocalBroker>) -> Result<Self, ControlError> {
        Self::bind_with(folder, broker, PATIENCE)
    }

    pub(crate) fn bind_with(
        folder: &Path,
        broker: Weak<LocalBroker>,
        patience: Duration,
    ) -> Result<Self, ControlError> {
        let runtime = tokio::runtime::Handle::try_current().map_err(|_| ControlError::NoRuntime)?;
        let path = folder.join(SOCKET);
        let failed = |action| {
            let path = path.clone();
            move |source| ControlError::Io { action, path, source }
        };
        remove_stale(&path)?;
        let listener = Address::of(folder)
            .and_then(|address| StdListener::bind(address.path()))
            .map_err(failed("make the socket"))?;
        // The folder is its owner's alone, so nobody was faster.
        let file = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))
            .and_then(|()| identity(&path))
            .map_err(failed("protect"))?;
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .map_err(failed("listen on"))?;
        let (stop, stopped) = watch::channel(false);
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let attending = Attending {
            broker,
            stopped,
            patience,
        };
        let accepting = runtime.spawn(accept(listener, Arc::clone(&slots), attending));
        Ok(Self {
            path,
            file,
            accepting,
            stop,
            slots,
        })
    }

    /// Takes no more commands, waits a bounded time for those that are being done, and removes the socket.
    pub(crate) async fn close(self) {
        // Nobody listens to it if nobody is attended to.
        self.stop.send_replace(true);
        self.accepting.abort();
        let all = u32::try_from(MAX_CONNECTIONS).unwrap_or(u32::MAX);
        // What takes longer goes on, and finds the log closed.
        drop(timeout(PATIENCE, self.slots.acquire_many(all)).await);
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.accepting.abort();
        if identity(&self.path).is_ok_and(|file| file == self.file) {
            // A dead socket that stays is removed by the next host.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

/// What everybody who connects is attended to with.
#[derive(Clone)]
struct Attending {
    // Not held open by a peer that says nothing.
    broker: Weak<LocalBroker>,
    stopped: watch::Receiver<bool>,
    patience: Duration,
}

async fn accept(listener: UnixListener, slots: Arc<Semaphore>, attending: Attending) {
    // A slot before the connection: who waits, waits in the kernel's queue.
    while let Ok(slot) = Arc::clone(&slots).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Not waited for: it ends by its deadlines, or by the command's end.
                drop(tokio::spawn(attend(stream, slot, attending.clone())));
            }
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// One peer, one command. A peer that goes away meanwhile takes nothing back: a command that was read whole is done to its end.
async fn attend(mut stream: UnixStream, _slot: OwnedSemaphorePermit, attending: Attending) {
    let Attending {
        broker,
        mut stopped,
        patience,
    } = attending;
    if !stream.peer_cred().is_ok_and(|peer| is_ours(peer.uid())) {
        return;
    }
    let received = tokio::select! {
        biased;
        _ = stopped.wait_for(|stopped| *stopped) => return,
        received = timeout(patience, receive(&mut stream)) => received,
    };
    let (answer, beside) = match received {
        Ok(Ok((command, value))) => obey(&broker, command, value).await,
        Ok(Err(WireError::Io(_))) | Err(_) => return,
        Ok(Err(
            error @ (WireError::Length { .. }
            | WireError::Json(_)
            | WireError::Protocol(_)
            | WireError::Memory(_)),
        )) => (Answer::Failed(Problem::usage(&error.to_string())), None),
    };
    // Whoever does not take it does without.
    let told = timeout(patience, wire::write(&mut stream, &answer)).await;
    if let (Ok(Ok(())), Some(beside)) = (told, beside) {
        drop(timeout(SENT, wire::write_file(&mut stream, beside)).await);
    }
}

async fn receive(stream: &mut UnixStream) -> Result<(Command, Option<Secret>), WireError> {
    let hello = Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
    };
    wire::write(stream, &hello).await?;
    wire::read_order(stream).await
}

async fn obey(
    broker: &Weak<LocalBroker>,
    command: Command,
    value: Option<Secret>,
) -> (Answer, Option<Beside>) {
    let Some(broker) = broker.upgrade() else {
        return (Answer::Failed(Problem::closing()), None);
    };
    let done = if command.gives_file() {
        let done = broker.command_beside(command).await;
        done.map(|(reply, beside)| {
            let length = beside.length;
            (Answer::DoneWithFile { reply, length }, Some(beside))
        })
    } else {
        let done = broker.command(command, value).await;
        done.map(|reply| (Answer::Done(reply), None))
    };
    done.unwrap_or_else(|error| (Answer::Failed(Problem::from(&error)), None))
}

/// Whether a process of this user is at the other end.
pub(crate) fn is_ours(uid: u32) -> bool {
    uid == rustix::process::geteuid().as_raw()
}

fn remove_stale(path: &Path) -> Result<(), ControlError> {
    let failed = |action| {
        let path = path.to_owned();
        move |source| ControlError::Io { action, path, source }
    };
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => {
            std::fs::remove_file(path).map_err(failed("remove the socket of a host that died"))
        }
        Ok(_) => Err(ControlError::NotASocket(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed("look at")(error)),
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino()))
}

/// The socket's address: its path or, where that is too long for one, the way to it through the open folder.
pub(super) struct Address {
    path: PathBuf,
    // Open as long as the address is used.
    _folder: Option<std::fs::File>,
}

impl Address {
    pub(super) fn of(folder: &Path) -> io::Result<Self> {
        let path = folder.join(SOCKET);
        if path.as_os_str().len() <= MAX_ADDRESS {
            return Ok(Self { path, _folder: None });
        }
        let open = std::fs::File::open(folder)?;
        let number = std::os::fd::AsRawFd::as_raw_fd(&open);
        Ok(Self {
            path: PathBuf::from(format!("/proc/self/fd/{number}")).join(SOCKET),
            _folder: Some(open),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
