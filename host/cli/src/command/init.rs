//! `claviger init`: makes a keyring and its audit log. Falls back to nothing: what is not there is an error with the choices.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::pin::pin;

use claviger_broker::LocalBroker;
use claviger_broker::keyring::{Keyring, KeyringError, KeyringInfo, ROOT_PURPOSE, RootKind, RootSpec};
use claviger_broker::local::OpenError;
use claviger_core::Secret;
use claviger_core::custody::Assurance;
use claviger_tpm::{RecoveryCode, Registers, Tpm, TpmChoice, TpmError};

use crate::args::{Init, Root};
use crate::bound::NewBinding;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::interruption::Interruption;
use crate::progress;
use crate::unlock::{PATIENCE, Unlocking, aside, options, runtime};

/// The software TPM's folder in the keyring's.
const SWTPM_FOLDER: &str = "tpm";

pub(crate) fn run(cx: &Context, args: &Init) -> Result<Exit, Failure> {
    let folder = cx.keyring()?;
    match Keyring::peek(&folder) {
        Err(KeyringError::Missing { .. }) => {}
        Ok(info) if info.vkey.is_none() => return Err(OpenError::Unfinished(folder).into()),
        Ok(_) => return Err(KeyringError::Exists { folder }.into()),
        Err(error) => return Err(error.into()),
    }
    let choice = choose(args.custody, args.tcti.clone(), &folder)?;
    let mut binding = match (&choice, args.pcr, &args.recovery_out) {
        (Choice::Passphrase, Some(_), _) => {
            return Err(Failure::usage(
                "`--pcr` binds a keyring to a TPM's registers, and `--custody passphrase` uses no TPM",
            ));
        }
        (Choice::Tpm(_) | Choice::Swtpm(_), Some(registers), Some(file)) => {
            Some(NewBinding::make(registers, file)?)
        }
        (_, _, _) => None,
    };
    let before = Before::look(&folder);
    let info = make(cx, &folder, choice, binding.as_mut()).map_err(|stopped| {
        if !stopped.leave {
            before.restore(&folder);
            if let Some(binding) = &binding {
                binding.undo();
            }
        }
        stopped.failure
    })?;
    let bound = binding.as_ref().map(|binding| binding.registers.to_string());
    let json = serde_json::json!({
        "keyring": folder,
        "custody": info.root.kind.as_str(),
        "assurance": info.assurance,
        "vkey": info.vkey,
        "pcr": bound,
        "recovery_file": binding.as_ref().map(NewBinding::file),
    });
    cx.out.value(&json, |_| {
        let vkey = info.vkey.as_deref().unwrap_or("-");
        let bound = bound.as_ref().map_or_else(String::new, |registers| {
            format!("\nbound to   {registers}: another start of this machine opens nothing")
        });
        format!(
            "keyring    {}\nassurance  {}: {}{bound}\nvkey       {vkey}",
            folder.display(),
            info.assurance,
            meaning(info.assurance)
        )
    });
    if let Some(binding) = &binding {
        binding.tell(&cx.out);
    }
    if !cx.out.is_json() {
        cx.out.note(
            "keep the vkey somewhere else: with `claviger audit verify --key VKEY` it proves that the log is this one",
        );
    }
    Ok(Exit::Done)
}

/// What an assurance means, in one sentence.
const fn meaning(assurance: Assurance) -> &'static str {
    match assurance {
        Assurance::Hardware => "the keys are useless without this machine's TPM",
        Assurance::Swtpm => {
            "for development; the software TPM's state is a file in the keyring, and who has the folder has the keys"
        }
        Assurance::Passphrase => {
            "as strong as the passphrase; who has the folder may guess at it for as long as they like"
        }
    }
}

/// What was chosen, not yet connected.
pub(super) enum Choice {
    Passphrase,
    Tpm(TpmChoice),
    Swtpm(TpmChoice),
}

pub(super) fn choose(custody: Option<Root>, tcti: Option<String>, folder: &Path) -> Result<Choice, Failure> {
    match (custody, tcti.map(TpmChoice::Tcti)) {
        (Some(Root::Passphrase), Some(_)) => {
            Err(Failure::usage("`--tcti` names a TPM, and `--custody passphrase` uses none"))
        }
        (Some(Root::Passphrase), None) => Ok(Choice::Passphrase),
        (Some(Root::Swtpm), Some(tcti)) => Ok(Choice::Swtpm(tcti)),
        (Some(Root::Swtpm), None) => Ok(Choice::Swtpm(TpmChoice::Swtpm { state: folder.join(SWTPM_FOLDER) })),
        (Some(Root::Tpm) | None, Some(tcti)) => Ok(Choice::Tpm(tcti)),
        (Some(Root::Tpm), None) => Ok(Choice::Tpm(TpmChoice::detect()?)),
        (None, None) => match TpmChoice::detect() {
            Ok(tpm) => Ok(Choice::Tpm(tpm)),
            Err(error) => Err(Failure::failed(
                "this machine's TPM cannot be used, and nothing weaker is taken without being asked for; nothing was made",
            )
            .because(Some(&error))
            .help("`claviger init --custody passphrase` protects the keys with a passphrase")
            .help("`claviger init --custody swtpm` makes a software TPM, for development")
            .help("`claviger init --custody tpm --tcti TCTI` uses a TPM elsewhere")),
        },
    }
}

/// Why nothing was made, and whether what is in the folder is to be left there: it may be another process's, which is making one, too.
struct Stopped {
    failure: Failure,
    leave: bool,
}

impl From<Failure> for Stopped {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            leave: false,
        }
    }
}

impl From<KeyringError> for Stopped {
    fn from(error: KeyringError) -> Self {
        let leave = matches!(error, KeyringError::Exists { .. } | KeyringError::InUse { .. });
        Self {
            failure: error.into(),
            leave,
        }
    }
}

impl From<TpmError> for Stopped {
    fn from(error: TpmError) -> Self {
        let leave = matches!(error, TpmError::SwtpmInUse(_));
        Self {
            failure: error.into(),
            leave,
        }
    }
}

impl From<OpenError> for Stopped {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Keyring(error) => error.into(),
            other => Failure::from(other).into(),
        }
    }
}

fn make(
    cx: &Context,
    folder: &Path,
    choice: Choice,
    binding: Option<&mut NewBinding>,
) -> Result<KeyringInfo, Stopped> {
    let bound = binding
        .map(|binding| Ok::<_, Failure>((binding.registers, binding.take_code()?)))
        .transpose()?;
    let runtime = runtime()?;
    let made = runtime.block_on(async {
        // Nothing is made while a passphrase is read: until then a signal may end the process by itself.
        let passphrase = match choice {
            Choice::Passphrase => Some(cx.passphrase.read_new(&cx.out)?),
            Choice::Tpm(_) | Choice::Swtpm(_) => None,
        };
        let mut interruption = Interruption::new()?;
        let making = async {
            let (spec, unlocking) = root(choice, passphrase, folder, bound).await?;
            let broker = LocalBroker::create(options(cx, folder, unlocking), spec).await?;
            let info = broker.keyring().info();
            broker.close().await.map_err(Failure::from)?;
            Ok(info)
        };
        let mut making = pin!(progress::during(&cx.out, "making the keyring", making));
        tokio::select! {
            made = &mut making => made,
            // Taking away what is still being made would leave halves: it is awaited, but not for ever.
            signal = interruption.next() => Err(match tokio::time::timeout(PATIENCE, making).await {
                Ok(Ok(_)) => Stopped {
                    failure: signal
                        .stopped()
                        .help("the keyring was made all the same; `claviger doctor` looks at it"),
                    leave: true,
                },
                Ok(Err(stopped)) => Stopped { failure: signal.stopped(), ..stopped },
                Err(_) => Stopped {
                    failure: signal
                        .stopped()
                        .help("the keyring was not finished; `claviger doctor` says what to remove"),
                    leave: true,
                },
            }),
        }
    });
    runtime.shutdown_timeout(PATIENCE);
    made
}

async fn root(
    choice: Choice,
    passphrase: Option<Secret>,
    folder: &Path,
    bound: Option<(Registers, RecoveryCode)>,
) -> Result<(RootSpec, Unlocking), Stopped> {
    let (choice, kind) = match (choice, passphrase) {
        (Choice::Tpm(choice), _) => (choice, RootKind::Tpm),
        (Choice::Swtpm(choice), _) => (choice, RootKind::Swtpm),
        (Choice::Passphrase, Some(passphrase)) => {
            let spec = RootSpec {
                kind: RootKind::Passphrase,
                settings: String::new(),
            };
            return Ok((spec, Unlocking::by_passphrase(passphrase)?));
        }
        (Choice::Passphrase, None) => return Err(Failure::failed("the passphrase is missing").into()),
    };
    let folder = folder.to_owned();
    aside(move || connect(choice, kind, &folder, bound)).await?
}

/// Connects to a TPM that shall protect a keyring in this folder, of the hardness that was asked for.
pub(super) fn root_on_tpm(
    choice: TpmChoice,
    kind: RootKind,
    folder: &Path,
    bound: Option<(Registers, RecoveryCode)>,
) -> Result<(RootSpec, Unlocking), Failure> {
    connect(choice, kind, folder, bound).map_err(|stopped| stopped.failure)
}

fn connect(
    choice: TpmChoice,
    kind: RootKind,
    folder: &Path,
    bound: Option<(Registers, RecoveryCode)>,
) -> Result<(RootSpec, Unlocking), Stopped> {
    let tpm = Tpm::connect(choice)?;
    match (kind.assurance(), tpm.assurance()) {
        (asked, found) if asked == found => {}
        (_, Assurance::Swtpm) => {
            return Err(Failure::failed(
                "this is a software TPM, as a virtual machine has one, or of a maker that is not known, and a hardware TPM was \
                 asked for; nothing was made",
            )
            .help("if that is what you want, say `--custody swtpm` and name it, such as `--tcti device:/dev/tpmrm0`")
            .into());
        }
        (_, found) => {
            return Err(Failure::failed(format!(
                "a software TPM was asked for, and this one is `{found}`; nothing was made"
            ))
            .help("say `--custody tpm`")
            .into());
        }
    }
    Ok(rooted(tpm, kind, folder, bound)?)
}

/// A root on this TPM, bound to how the machine starts if that was asked for.
pub(super) fn rooted(
    tpm: Tpm,
    kind: RootKind,
    folder: &Path,
    bound: Option<(Registers, RecoveryCode)>,
) -> Result<(RootSpec, Unlocking), Failure> {
    let tpm = match bound {
        Some((registers, code)) => tpm.bound(registers, ROOT_PURPOSE, code),
        None => tpm,
    };
    let spec = RootSpec {
        kind,
        settings: tpm.settings(folder)?,
    };
    Ok((spec, Unlocking::by_tpm(&tpm)))
}

/// What was in the folder before, so that a failure leaves nothing more there.
enum Before {
    Absent,
    Holding(BTreeSet<OsString>),
    Unknown,
}

impl Before {
    fn look(folder: &Path) -> Self {
        match fs::read_dir(folder) {
            Ok(entries) => Self::Holding(
                entries
                    .filter_map(|entry| Some(entry.ok()?.file_name()))
                    .collect(),
            ),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self::Absent,
            Err(_) => Self::Unknown,
        }
    }

    /// Takes away what was made since. What cannot be taken away is named by the next `init`.
    fn restore(&self, folder: &Path) {
        // Another process may have made a keyring here since, or be making one: that is not ours to take away.
        let unfinished = matches!(Keyring::peek(folder), Ok(KeyringInfo { vkey: None, .. }));
        let finished = folder.join("keyring.db").exists() && !unfinished;
        if finished || is_locked(folder) {
            return;
        }
        let names = match self {
            Self::Absent => {
                fs::remove_dir_all(folder).ok();
                return;
            }
            Self::Holding(names) => names,
            Self::Unknown => return,
        };
        for entry in fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok) {
            if names.contains(&entry.file_name()) {
                continue;
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                fs::remove_dir_all(entry.path()).ok();
            } else {
                fs::remove_file(entry.path()).ok();
            }
        }
    }
}

/// Whether a process has the keyring in this folder.
fn is_locked(folder: &Path) -> bool {
    let Ok(file) = fs::File::open(folder.join("lock")) else {
        return false;
    };
    rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_leaves_the_folder_as_it_was() {
        let root = tempfile::tempdir().unwrap();
        let new = root.path().join("new");
        let before = Before::look(&new);
        fs::create_dir_all(new.join("audit")).unwrap();
        before.restore(&new);
        assert!(!new.exists());

        // Held by another process, which is making a keyring.
        fs::create_dir_all(&new).unwrap();
        let lock = fs::File::create(new.join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        before.restore(&new);
        assert!(new.exists());
        drop(lock);
        // Not readable as a keyring that is unfinished: whatever it is, it is not ours.
        fs::write(new.join("keyring.db"), "something").unwrap();
        before.restore(&new);
        assert!(new.exists());

        let old = root.path().join("old");
        fs::create_dir_all(old.join("mine")).unwrap();
        let before = Before::look(&old);
        fs::create_dir_all(old.join("audit/tile")).unwrap();
        fs::write(old.join("keyring.db.new"), "").unwrap();
        before.restore(&old);
        let left: Vec<_> = fs::read_dir(&old)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["mine"]);
    }

    #[test]
    fn a_passphrase_and_a_tpm_are_not_chosen_together() {
        let tcti = Some("device:/dev/tpm0".to_owned());
        assert_eq!(
            choose(Some(Root::Passphrase), tcti, Path::new("/k"))
                .err()
                .map(|failure| failure.exit),
            Some(Exit::Usage)
        );
    }
}
