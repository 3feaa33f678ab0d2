//! `claviger keyring …`: changes what protects the root key. Not a new keyring, and not a new root key.

use claviger_broker::keyring::{Keyring, RootKind, RootSpec};
use claviger_broker::local::{NewRoot, ResealError, Resealing};
use claviger_core::Secret;

use claviger_tpm::{Registers, Tpm};

use super::init::{Choice, choose, root_on_tpm, rooted};
use crate::args::{KeyringCommand, Reseal, Root};
use crate::bound::{NewBinding, read_code};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::file::who;
use crate::passphrase::Source;
use crate::progress;
use crate::unlock::{Unlocking, aside, runtime, with_unlocked};

pub(crate) fn run(cx: &Context, command: KeyringCommand) -> Result<Exit, Failure> {
    match command {
        KeyringCommand::Reseal(args) => reseal(cx, &args),
    }
}

/// By what the root key is sealed.
enum Wanted {
    /// By the TPM that sealed it before, and bound as it was before.
    Again,
    /// By the TPM that sealed it before, bound otherwise or not at all.
    Rebound,
    Other(Choice),
    Passphrase(Secret),
}

fn reseal(cx: &Context, args: &Reseal) -> Result<Exit, Failure> {
    let folder = cx.keyring()?;
    let info = Keyring::peek(&folder)?;
    let wanted = wanted(cx, args, info.root.kind, bound_now(&info.root)?)?;
    let code = args.recovery_file.as_deref();
    let code = code.map(|file| read_code(file, &cx.out)).transpose()?;
    let mut binding = match (args.pcr, &args.recovery_out) {
        (Some(registers), Some(file)) => Some(NewBinding::make(registers, file)?),
        (_, _) => None,
    };
    let bound = binding
        .as_mut()
        .map(|binding| Ok::<_, Failure>((binding.registers, binding.take_code()?)))
        .transpose()?;
    let by = who();
    let done = with_unlocked(cx, code, async |broker, unlocking| {
        let root = match wanted {
            Wanted::Again => new_root(broker.keyring().info().root, unlocking.clone()),
            Wanted::Rebound => {
                let tpm = unlocking.tpm.clone();
                let tpm = tpm.ok_or_else(|| Failure::failed("the keyring is not on a TPM"))?;
                let kind = broker.keyring().info().root.kind;
                let (spec, unlocking) = rooted(tpm.unbound(), kind, &folder, bound)?;
                new_root(spec, unlocking)
            }
            Wanted::Passphrase(passphrase) => {
                let spec = RootSpec {
                    kind: RootKind::Passphrase,
                    settings: String::new(),
                };
                new_root(spec, Unlocking::by_passphrase(passphrase)?)
            }
            Wanted::Other(choice) => {
                let (choice, kind) = match choice {
                    Choice::Tpm(choice) => (choice, RootKind::Tpm),
                    Choice::Swtpm(choice) => (choice, RootKind::Swtpm),
                    // Was read before.
                    Choice::Passphrase => return Err(Failure::failed("the new passphrase is missing")),
                };
                let place = folder.clone();
                let (spec, unlocking) = aside(move || root_on_tpm(choice, kind, &place, bound)).await??;
                new_root(spec, unlocking)
            }
        };
        let sealing = broker.reseal(root, args.weaken, &by);
        Ok(progress::during(&cx.out, "sealing the root key", sealing).await?)
    });
    let done = done.inspect_err(|_| {
        // Once the new code may open the keyring, its file stays.
        if let (Some(binding), Ok(now)) = (&binding, Keyring::peek(&folder))
            && now.generation == info.generation
        {
            binding.undo();
        }
    })?;
    tell(cx, &done, binding.as_ref())
}

/// The registers that the keyring is bound to now.
fn bound_now(root: &RootSpec) -> Result<Option<Registers>, Failure> {
    match root.kind {
        RootKind::Tpm | RootKind::Swtpm => Ok(Tpm::bound_to(&root.settings)?),
        RootKind::Passphrase => Ok(None),
    }
}

/// The new passphrase is read while nothing is open.
fn wanted(cx: &Context, args: &Reseal, now: RootKind, bound: Option<Registers>) -> Result<Wanted, Failure> {
    let gives_passphrase = args.new_passphrase_file.is_some() || args.new_passphrase_fd.is_some();
    let custody = args.custody.unwrap_or(match now {
        RootKind::Passphrase => Root::Passphrase,
        RootKind::Tpm => Root::Tpm,
        RootKind::Swtpm => Root::Swtpm,
    });
    let same = match (custody, now) {
        (Root::Tpm, RootKind::Tpm) | (Root::Swtpm, RootKind::Swtpm) => args.tcti.is_none(),
        (
            Root::Passphrase | Root::Tpm | Root::Swtpm,
            RootKind::Passphrase | RootKind::Tpm | RootKind::Swtpm,
        ) => false,
    };
    if gives_passphrase && custody != Root::Passphrase {
        return Err(Failure::usage(
            "a new passphrase was given, and a TPM needs none; `--custody passphrase` seals under a passphrase",
        ));
    }
    match (bound, &args.recovery_file) {
        (None, Some(_)) => {
            return Err(Failure::usage(
                "the keyring is bound to no registers, so there is no recovery code for it",
            ));
        }
        (None, None) if args.no_pcr => {
            return Err(Failure::usage("the keyring is bound to no registers"));
        }
        (Some(registers), _) if !same && args.pcr.is_none() && !args.no_pcr => {
            return Err(Failure::usage(format!(
                "the keyring is bound to {registers}, and another root would not be"
            ))
            .help("bind it there, too: `--pcr REGISTERS --recovery-out FILE`")
            .help("or say that it shall be bound no more: `--no-pcr --weaken`"));
        }
        (_, _) => {}
    }
    if custody == Root::Passphrase && args.pcr.is_some() {
        return Err(Failure::usage(
            "`--pcr` binds a keyring to a TPM's registers, and a passphrase uses no TPM",
        ));
    }
    if same {
        return Ok(if args.pcr.is_some() || args.no_pcr {
            Wanted::Rebound
        } else {
            Wanted::Again
        });
    }
    match choose(Some(custody), args.tcti.clone(), &cx.keyring()?)? {
        Choice::Passphrase => {
            let source = match (&args.new_passphrase_file, args.new_passphrase_fd) {
                (Some(file), _) => Source::File(file.clone()),
                (None, Some(number)) => Source::Descriptor(number),
                (None, None) => Source::Terminal,
            };
            let passphrase = runtime()?
                .block_on(async { source.read_new(&cx.out) })
                .map_err(|failure| match source {
                    Source::Terminal => {
                        failure.help("the new one: `--new-passphrase-file FILE` or `--new-passphrase-fd N`")
                    }
                    Source::File(_) | Source::Descriptor(_) => failure,
                })?;
            Ok(Wanted::Passphrase(passphrase))
        }
        choice @ (Choice::Tpm(_) | Choice::Swtpm(_)) => Ok(Wanted::Other(choice)),
    }
}

fn new_root(spec: RootSpec, unlocking: Unlocking) -> NewRoot {
    NewRoot {
        spec,
        sealer: unlocking.sealer,
        resident: unlocking.resident,
    }
}

fn tell(cx: &Context, done: &Resealing, binding: Option<&NewBinding>) -> Result<Exit, Failure> {
    let bound = bound_now(&Keyring::peek(&cx.keyring()?)?.root)?;
    let bound = bound.map(|registers| registers.to_string());
    let keys: Vec<_> = done.keys.iter().map(ToString::to_string).collect();
    let weakened: Vec<_> = done.weakened.iter().map(ToString::to_string).collect();
    let json = serde_json::json!({
        "from": done.from.as_str(),
        "to": done.to.as_str(),
        "keys": keys,
        "weakened": weakened,
        "pcr": bound,
        "recovery_file": binding.map(NewBinding::file),
    });
    cx.out.value(&json, |_| {
        format!(
            "the root key was under `{}` and is now under `{}`{}; {} keys were sealed anew with it",
            done.from,
            done.to,
            bound.as_ref().map_or_else(String::new, |registers| format!(
                ", bound to {registers} as they are now"
            )),
            keys.len()
        )
    });
    if let Some(binding) = binding {
        binding.tell(&cx.out);
    }
    if !weakened.is_empty() {
        cx.out
            .warn(&format!("no TPM seals {} any more", weakened.join(", ")));
    }
    if !cx.out.is_json() {
        cx.out.note(
            "the root key itself is the same: an old copy of the keyring's folder still opens by what opened it then, so remove those",
        );
    }
    Ok(Exit::Done)
}

impl From<ResealError> for Failure {
    fn from(error: ResealError) -> Self {
        match error {
            ResealError::Weaker { .. } => Self::of(Exit::Failed, &error)
                .help("`--weaken` does it all the same; what was harder says so no longer"),
            ResealError::Resident(_) => Self::of(Exit::Failed, &error)
                .help("revoke them, and make new ones after `reseal`: `claviger key revoke NAME`")
                .help(
                    "or move: `claviger backup create`, `claviger --keyring NEW init`, `claviger --keyring NEW backup restore`, which \
                     names the keys to be made anew",
                ),
            ResealError::Keyring(error) => error.into(),
            ResealError::Audit(error) => error.into(),
            other => Self::of(Exit::Failed, &other),
        }
    }
}
