//! `claviger keyring …`: changes what protects the root key. Not a new keyring, and not a new root key.

use claviger_broker::keyring::{Keyring, RootKind, RootSpec};
use claviger_broker::local::{NewRoot, ResealError, Resealing};
use claviger_core::Secret;

use super::init::{Choice, choose, root_on_tpm};
use crate::args::{KeyringCommand, Reseal, Root};
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
    /// By the TPM that sealed it before.
    Again,
    Other(Choice),
    Passphrase(Secret),
}

fn reseal(cx: &Context, args: &Reseal) -> Result<Exit, Failure> {
    let folder = cx.keyring()?;
    let info = Keyring::peek(&folder)?;
    let wanted = wanted(cx, args, info.root.kind)?;
    let by = who();
    let done = with_unlocked(cx, async |broker, unlocking| {
        let root = match wanted {
            Wanted::Again => new_root(broker.keyring().info().root, unlocking.clone()),
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
                let (spec, unlocking) = aside(move || root_on_tpm(choice, kind, &place)).await??;
                new_root(spec, unlocking)
            }
        };
        let sealing = broker.reseal(root, args.weaken, &by);
        Ok(progress::during(&cx.out, "sealing the root key", sealing).await?)
    })?;
    tell(cx, &done)
}

/// The new passphrase is read while nothing is open.
fn wanted(cx: &Context, args: &Reseal, now: RootKind) -> Result<Wanted, Failure> {
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
    if same {
        return Ok(Wanted::Again);
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

fn tell(cx: &Context, done: &Resealing) -> Result<Exit, Failure> {
    let keys: Vec<_> = done.keys.iter().map(ToString::to_string).collect();
    let weakened: Vec<_> = done.weakened.iter().map(ToString::to_string).collect();
    let json = serde_json::json!({
        "from": done.from.as_str(),
        "to": done.to.as_str(),
        "keys": keys,
        "weakened": weakened,
    });
    cx.out.value(&json, |_| {
        format!(
            "the root key was under `{}` and is now under `{}`; {} keys were sealed anew with it",
            done.from,
            done.to,
            keys.len()
        )
    });
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
