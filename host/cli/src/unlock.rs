//! Opens the keyring for a command, and closes it again however the command ends, so that the log gets its checkpoint. Does not
//! choose custody: the keyring recorded that when it was made.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use claviger_broker::LocalBroker;
use claviger_broker::audit::Durability;
use claviger_broker::custody::{KdfCost, PassphraseSealer};
use claviger_broker::keyring::{Keyring, KeyringError, KeyringInfo, RootKind};
use claviger_broker::local::{OpenError, Options};
use claviger_core::custody::{Custody, CustodyError, Sealer};
use claviger_core::{Approver, Secret};
use claviger_egress::HttpsClient;
use claviger_tpm::{RecoveryCode, Tpm, TpmError};
use tokio::runtime::Runtime;

use crate::args;
use crate::bound::{INTRUDER, REBIND};
use crate::context::Context;
use crate::exit::Failure;
use crate::interruption::{Interruption, Signal};
use crate::progress;

/// Work that does not end after the keyring was closed, such as a passphrase still being stretched, is left behind after this.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// A process number has at most this many digits.
const MAX_PID: u64 = 20;

/// What opens a keyring's root key, and the device that holds resident keys.
#[derive(Clone)]
pub(crate) struct Unlocking {
    pub(crate) sealer: Arc<dyn Sealer>,
    pub(crate) resident: Option<Arc<dyn Custody>>,
    /// The TPM, if it is one.
    pub(crate) tpm: Option<Tpm>,
}

impl Unlocking {
    /// By a TPM.
    pub(crate) fn by_tpm(tpm: &Tpm) -> Self {
        Self {
            sealer: tpm.sealer(),
            resident: Some(tpm.custody()),
            tpm: Some(tpm.clone()),
        }
    }

    /// By a passphrase.
    pub(crate) fn by_passphrase(passphrase: Secret) -> Result<Self, Failure> {
        Ok(Self {
            sealer: Arc::new(PassphraseSealer::new(passphrase, KdfCost::STANDARD)?),
            resident: None,
            tpm: None,
        })
    }
}

/// Opens the keyring, does the work, and closes the keyring, also when the work fails or Ctrl-C, SIGTERM or SIGHUP stops it. A second
/// signal does not wait for that.
pub(crate) fn with_broker<T>(
    cx: &Context,
    work: impl AsyncFnOnce(&Arc<LocalBroker>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_all(cx, (Vec::new(), None), async |broker, _| work(broker).await)
}

/// As [`with_broker`], with these to be asked for approvals.
pub(crate) fn with_broker_asking<T>(
    cx: &Context,
    approvers: Vec<Arc<dyn Approver>>,
    work: impl AsyncFnOnce(&Arc<LocalBroker>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_all(cx, (approvers, None), async |broker, _| work(broker).await)
}

/// As [`with_broker`], with what opened the keyring: the recovery code, if there is one.
pub(crate) fn with_unlocked<T>(
    cx: &Context,
    code: Option<RecoveryCode>,
    work: impl AsyncFnOnce(&Arc<LocalBroker>, &Unlocking) -> Result<T, Failure>,
) -> Result<T, Failure> {
    with_all(cx, (Vec::new(), code), work)
}

fn with_all<T>(
    cx: &Context,
    (approvers, code): (Vec<Arc<dyn Approver>>, Option<RecoveryCode>),
    work: impl AsyncFnOnce(&Arc<LocalBroker>, &Unlocking) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let folder = cx.keyring()?;
    let info = Keyring::peek(&folder)?;
    let runtime = runtime()?;
    let result = runtime.block_on(async {
        // Nothing is open while a passphrase is read: until then a signal may end the process by itself.
        let passphrase = match info.root.kind {
            RootKind::Passphrase => Some(cx.passphrase.read(&cx.out)?),
            RootKind::Tpm | RootKind::Swtpm => None,
        };
        let mut interruption = Interruption::new()?;
        let opened = open(
            cx,
            &folder,
            &info,
            (passphrase, code, approvers),
            &mut interruption,
        )
        .await?;
        let (broker, unlocking) = opened;
        let result = tokio::select! {
            done = work(&broker, &unlocking) => done,
            signal = interruption.next() => Err(signal.stopped()),
        };
        let closed = tokio::select! {
            closed = progress::during(&cx.out, "closing the audit log", broker.close()) => closed,
            signal = interruption.next() => return Err(not_closed(signal)),
        };
        // What went wrong first is what the operator needs to know.
        let result = result?;
        closed?;
        Ok(result)
    });
    runtime.shutdown_timeout(PATIENCE);
    result
}

/// Opens the keyring and says what recovery found. A signal lets it be opened to its end, and closed again: halves are for power cuts.
async fn open(
    cx: &Context,
    folder: &Path,
    info: &KeyringInfo,
    (passphrase, code, approvers): (Option<Secret>, Option<RecoveryCode>, Vec<Arc<dyn Approver>>),
    interruption: &mut Interruption,
) -> Result<(Arc<LocalBroker>, Unlocking), Failure> {
    let opening = async {
        let unlocking = unlocking(folder, info, passphrase, code).await?;
        let options = approvers
            .into_iter()
            .fold(options(cx, folder, unlocking.clone()), Options::approver);
        let broker = LocalBroker::open(options)
            .await
            .map_err(|error| not_opened(info.root.kind, error))?;
        Ok::<_, Failure>((broker, unlocking))
    };
    let mut opening = pin!(progress::during(&cx.out, "opening the keyring", opening));
    let (broker, unlocking) = tokio::select! {
        opened = &mut opening => opened?,
        signal = interruption.next() => {
            let closing = async {
                match opening.await {
                    Ok((broker, _)) => broker.close().await.is_ok(),
                    Err(_) => true,
                }
            };
            return Err(tokio::select! {
                closed = tokio::time::timeout(PATIENCE, closing) => match closed {
                    Ok(true) => signal.stopped(),
                    Ok(false) | Err(_) => not_closed(signal),
                },
                again = interruption.next() => not_closed(again),
            });
        }
    };
    if let Some(found) = broker.recovered() {
        cx.out.note(&format!(
            "the last process did not close the audit log; {} entries are whole, {} bytes of an unfinished one were dropped, and \
             of {} uses it is not known whether they were done",
            found.entries, found.dropped_bytes, found.indeterminate
        ));
    }
    for left in broker.unenforced() {
        cx.out
            .note(&format!("the TPM does not refuse a revoked key yet: {left}"));
    }
    Ok((broker, unlocking))
}

fn not_closed(signal: Signal) -> Failure {
    signal
        .stopped()
        .help("the audit log was not closed; whatever opens it next says what it found")
}

/// What a broker is opened with.
pub(crate) fn options(cx: &Context, folder: &Path, unlocking: Unlocking) -> Options {
    let options = Options::new(folder, unlocking.sealer)
        .durability(match cx.durability {
            args::Durability::Sync => Durability::Sync,
            args::Durability::Process => Durability::Process,
        })
        .egress(Arc::new(HttpsClient::new()));
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
async fn unlocking(
    folder: &Path,
    info: &KeyringInfo,
    passphrase: Option<Secret>,
    code: Option<RecoveryCode>,
) -> Result<Unlocking, Failure> {
    if let Some(passphrase) = passphrase {
        return Unlocking::by_passphrase(passphrase);
    }
    let (settings, place) = (info.root.settings.clone(), folder.to_owned());
    match aside(move || Tpm::connect_with(&settings, &place)).await? {
        Ok(tpm) => Ok(Unlocking::by_tpm(&match code {
            Some(code) => tpm.recovering(code),
            None => tpm,
        })),
        // The software TPM is this keyring's own: who uses it has the keyring open.
        Err(TpmError::SwtpmInUse(_)) => Err(KeyringError::InUse { pid: holder(folder) }.into()),
        Err(error) => Err(without_tpm(error)),
    }
}

/// Why the keyring's TPM cannot be used, and what there is to do if it does not come back.
fn without_tpm(error: TpmError) -> Failure {
    let gone = match &error {
        TpmError::NotOurs { .. } => Some(
            "if it is the same TPM, it was cleared, by `tpm2_clear` or in the firmware's set-up, and what it had sealed is gone; if the \
             folder was copied or the board replaced, the keyring opens where it was made and nowhere else",
        ),
        TpmError::NoDevice(_) => Some(
            "if the disk came from another machine, or the TPM was taken out or switched off: the keyring opens with that TPM and with \
             nothing else",
        ),
        _ => None,
    };
    let failure = Failure::from(error);
    match gone {
        Some(gone) => failure.help(gone).help(RESTORE),
        None => failure,
    }
}

/// The same for what shows only when the root key is opened.
fn not_opened(root: RootKind, error: OpenError) -> Failure {
    let sealed_elsewhere = matches!(
        &error,
        OpenError::Keyring(KeyringError::Root(CustodyError::NotOurs(_)))
    );
    let started_otherwise = matches!(
        &error,
        OpenError::Keyring(KeyringError::Root(CustodyError::StartChanged(_)))
    );
    let failure = Failure::from(error);
    match root {
        RootKind::Tpm | RootKind::Swtpm if started_otherwise => {
            failure.help(REBIND).help(INTRUDER).help(RESTORE)
        }
        RootKind::Tpm | RootKind::Swtpm if sealed_elsewhere => failure.help(RESTORE),
        RootKind::Tpm | RootKind::Swtpm | RootKind::Passphrase => failure,
    }
}

/// What is left when a TPM is.
pub(crate) const RESTORE: &str = "from a backup: `claviger --keyring NEW init`, then `claviger --keyring NEW backup restore BACKUP \
     --identity-file FILE`; keys that lived in the TPM are made anew, and the restore names them";

/// Does what blocks beside what listens to signals. Goes on to its end if nobody waits any more.
pub(crate) async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Failure::failed("a part of this command ended early").because(Some(&error)))
}

/// The process that last took the keyring, for a message only.
fn holder(folder: &Path) -> Option<u32> {
    let text = crate::file::read_bounded(&folder.join("lock"), MAX_PID, "the lock").ok()?;
    std::str::from_utf8(&text).ok()?.trim().parse().ok()
}
