//! Opens the keyring for a command, and closes it again however the command ends, so that the log gets its checkpoint. Does not
//! choose custody: the keyring recorded that when it was made.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use claviger_broker::LocalBroker;
use claviger_broker::audit::Durability;
use claviger_broker::custody::{KdfCost, PassphraseSealer};
use claviger_broker::keyring::{Keyring, KeyringError, KeyringInfo, RootKind};
use claviger_broker::local::Options;
use claviger_core::custody::{Custody, Sealer};
use claviger_tpm::{Tpm, TpmError};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::args;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::progress;

/// Work that does not end after the keyring was closed, such as a passphrase still being stretched, is left behind after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// A process number has at most this many digits.
const MAX_PID: u64 = 20;

/// What opens a keyring's root key, and the device that holds resident keys.
pub(crate) struct Unlocking {
    pub(crate) sealer: Arc<dyn Sealer>,
    pub(crate) resident: Option<Arc<dyn Custody>>,
}

impl Unlocking {
    /// By a TPM.
    pub(crate) fn by_tpm(tpm: &Tpm) -> Self {
        Self {
            sealer: tpm.sealer(),
            resident: Some(tpm.custody()),
        }
    }

    /// By a passphrase.
    pub(crate) fn by_passphrase(passphrase: claviger_core::Secret) -> Result<Self, Failure> {
        Ok(Self {
            sealer: Arc::new(PassphraseSealer::new(passphrase, KdfCost::STANDARD)?),
            resident: None,
        })
    }
}

/// Opens the keyring, does the work, and closes the keyring, also when the work fails or Ctrl-C, SIGTERM or SIGHUP stops it.
pub(crate) fn with_broker<T>(
    cx: &Context,
    work: impl AsyncFnOnce(&Arc<LocalBroker>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let folder = cx.keyring()?;
    let info = Keyring::peek(&folder)?;
    let unlocking = unlocking(cx, &folder, &info)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        let broker = open(cx, &folder, unlocking).await?;
        // Handlers are there before the work begins: from here on the process does not just die.
        let result = match Interruption::new() {
            Ok(mut interruption) => tokio::select! {
                done = work(&broker) => done,
                name = interruption.next() => Err(Failure::failed(format!("stopped by {name}"))),
            },
            Err(failure) => Err(failure),
        };
        let closed = progress::during(&cx.out, "closing the audit log", broker.close()).await;
        // What went wrong first is what the operator needs to know.
        let result = result?;
        closed?;
        Ok(result)
    });
    runtime.shutdown_timeout(PATIENCE);
    result
}

/// Opens the keyring and says what recovery found.
async fn open(cx: &Context, folder: &Path, unlocking: Unlocking) -> Result<Arc<LocalBroker>, Failure> {
    let options = options(cx, folder, unlocking);
    let broker = progress::during(&cx.out, "opening the keyring", LocalBroker::open(options)).await?;
    if let Some(found) = broker.recovered() {
        cx.out.note(&format!(
            "the last process did not close the audit log; {} entries are whole, {} bytes of an unfinished one were dropped, and \
             of {} uses it is not known whether they were done",
            found.entries, found.dropped_bytes, found.indeterminate
        ));
    }
    Ok(broker)
}

/// What a broker is opened with.
pub(crate) fn options(cx: &Context, folder: &Path, unlocking: Unlocking) -> Options {
    let options = Options::new(folder, unlocking.sealer).durability(match cx.durability {
        args::Durability::Sync => Durability::Sync,
        args::Durability::Process => Durability::Process,
    });
    match unlocking.resident {
        Some(custody) => options.resident(custody),
        None => options,
    }
}

/// A runtime for one command.
pub(crate) fn runtime() -> Result<Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed("the asynchronous runtime cannot be started").because(Some(&error)))
}

/// What opens this keyring, by what it says of itself. A wrong word there only makes opening fail.
fn unlocking(cx: &Context, folder: &Path, info: &KeyringInfo) -> Result<Unlocking, Failure> {
    match info.root.kind {
        RootKind::Passphrase => Unlocking::by_passphrase(cx.passphrase.read(&cx.out)?),
        RootKind::Tpm | RootKind::Swtpm => match Tpm::connect_with(&info.root.settings, folder) {
            Ok(tpm) => Ok(Unlocking::by_tpm(&tpm)),
            // The software TPM is this keyring's own: who uses it has the keyring open.
            Err(TpmError::SwtpmInUse(_)) => Err(KeyringError::InUse { pid: holder(folder) }.into()),
            Err(error) => Err(error.into()),
        },
    }
}

/// The process that last took the keyring, for a message only.
fn holder(folder: &Path) -> Option<u32> {
    let text = crate::manifest::read_bounded(&folder.join("lock"), MAX_PID, "the lock").ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}

/// The signals that end a command in order.
struct Interruption {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Interruption {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, "the process cannot listen to signals").because(Some(&error))
            })
        };
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "Ctrl-C",
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.hangup.recv() => "SIGHUP",
        }
    }
}
