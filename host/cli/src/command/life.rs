//! `claviger key …` and `claviger secret …` about their lives: rotation, revocation, deletion. Compromise is a file of its own.

use claviger_broker::keyring::{DEFAULT_OVERLAP, Lock, RotationPlan, Start};
use claviger_broker::operator::{Act, Command as Order, End, LifeCommand};
use claviger_core::key::{KeySpec, KeyVersion};
use claviger_core::{KeyName, SecretName};

use crate::args::SecretValue;
use crate::args::life::{KeyLife, Plan, SecretLife};
use crate::command::{key, rotator, secret};
use crate::context::Context;
use crate::exit::{Exit, Failure};

mod compromise;

pub(crate) fn key(cx: &Context, args: KeyLife) -> Result<Exit, Failure> {
    let command = match args {
        KeyLife::Rotate {
            name,
            overlap,
            stage,
            of,
        } => LifeCommand::RotateKey {
            of: expected(&name, of)?,
            name,
            overlap,
            start: if stage { Start::Staged } else { Start::AtOnce },
        },
        KeyLife::Promote { name } => LifeCommand::PromoteKey { name },
        KeyLife::Cancel { name } => LifeCommand::CancelKey { name },
        KeyLife::Plan { name, plan } => {
            let (RotationPlan { every, uses, overlap }, lock) = plan_of(&plan);
            LifeCommand::PlanKey {
                name,
                every,
                uses,
                overlap,
                lock,
            }
        }
        KeyLife::Compromise { key, reason } => return compromise::key(cx, key, reason),
        KeyLife::Disable { key, reason } => act(key, Act::Disable { reason }),
        KeyLife::Enable { key } => act(key, Act::Enable),
        KeyLife::Revoke { key, reason } => act(key, Act::Revoke { reason }),
        KeyLife::Rm { name, window } => LifeCommand::EndKey {
            name,
            end: End::Delete { window },
        },
        KeyLife::Restore { name } => LifeCommand::EndKey {
            name,
            end: End::Restore,
        },
        KeyLife::Purge { name } => LifeCommand::EndKey {
            name,
            end: End::Purge,
        },
    };
    key::made(cx, Order::Life(command), None)
}

pub(crate) fn secret(cx: &Context, args: SecretLife) -> Result<Exit, Failure> {
    let end = |name: SecretName, end| LifeCommand::EndSecret { name, end };
    let command = match args {
        SecretLife::Rotate(args) => {
            return match args.with {
                Some(manifest) => rotator::rotate(cx, args.value.name, &manifest),
                None => secret::stage(cx, args.value),
            };
        }
        SecretLife::Promote { name } => LifeCommand::PromoteSecret { name },
        SecretLife::Cancel { name } => LifeCommand::CancelSecret { name },
        SecretLife::Plan {
            name,
            rotate_every,
            overlap,
            purge_lock,
        } => LifeCommand::PlanSecret {
            name,
            every: rotate_every,
            overlap,
            lock: purge_lock.then_some(Lock::ForGood),
        },
        SecretLife::Compromise {
            secret,
            reason,
            file,
            fd,
        } => {
            let value = (file.is_some() || fd.is_some()).then_some(SecretValue { file, fd });
            return compromise::secret(cx, secret, reason, value.as_ref());
        }
        SecretLife::Disable { secret, reason } => LifeCommand::ActSecret {
            name: secret.name,
            version: secret.version,
            act: Act::Disable { reason },
        },
        SecretLife::Enable { secret } => LifeCommand::ActSecret {
            name: secret.name,
            version: secret.version,
            act: Act::Enable,
        },
        SecretLife::Revoke { secret, reason } => LifeCommand::ActSecret {
            name: secret.name,
            version: secret.version,
            act: Act::Revoke { reason },
        },
        SecretLife::Rm { name, window } => end(name, End::Delete { window }),
        SecretLife::Restore { name } => end(name, End::Restore),
        SecretLife::Purge { name } => end(name, End::Purge),
    };
    secret::made(cx, Order::Life(command), None)
}

/// The plan that was said, and whether the purge is locked.
pub(crate) fn plan_of(plan: &Plan) -> (RotationPlan, Option<Lock>) {
    let lock = plan.purge_lock.then_some(Lock::ForGood);
    let plan = RotationPlan {
        every: plan.rotate_every,
        uses: plan.rotate_uses,
        overlap: plan.overlap.unwrap_or(DEFAULT_OVERLAP),
    };
    (plan, lock)
}

fn act(key: KeySpec, act: Act) -> LifeCommand {
    LifeCommand::ActKey {
        name: key.name,
        version: key.version,
        act,
    }
}

/// The version that `--of` names, if it names one of this key.
fn expected(name: &KeyName, of: Option<KeySpec>) -> Result<Option<KeyVersion>, Failure> {
    match of {
        None => Ok(None),
        Some(spec) if spec.name == *name && spec.version.is_some() => Ok(spec.version),
        Some(spec) => Err(Failure::usage(format!(
            "`--of {spec}` names no version of `{name}`; expected one such as `{name}@v1`"
        ))),
    }
}
