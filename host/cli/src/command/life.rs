//! `claviger key …` and `claviger secret …` about their lives: rotation, revocation, compromise, deletion.

use claviger_broker::LocalBroker;
use claviger_broker::keyring::{
    DEFAULT_OVERLAP, KeyRecord, KeyState, LifeEvent, Lock, Reason, RotationPlan, Start,
};
use claviger_broker::ledger::Usage;
use claviger_broker::local::Rotation;
use claviger_core::audit::SecretRef;
use claviger_core::key::{KeySpec, SecretSpec};
use claviger_core::{KeyName, KeyRef};

use crate::args::life::{KeyLife, Plan, SecretLife};
use crate::command::{key, secret};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{columns, shown};
use crate::overview::minute;
use crate::progress;
use crate::unlock::with_broker;

pub(crate) fn key(cx: &Context, args: KeyLife) -> Result<Exit, Failure> {
    match args {
        KeyLife::Rotate {
            name,
            overlap,
            stage,
            of,
        } => {
            let rotation = Rotation {
                of: expected(&name, of)?,
                overlap,
                start: if stage { Start::Staged } else { Start::AtOnce },
            };
            let record = with_broker(cx, async |broker| {
                let rotating = broker.rotate_key(&name, rotation);
                Ok(progress::during(&cx.out, "making the next version", rotating).await?)
            })?;
            tell(cx, &record)
        }
        KeyLife::Promote { name } => {
            let record = with_broker(cx, async |broker| Ok(broker.promote_key(&name).await?))?;
            tell(cx, &record)
        }
        KeyLife::Cancel { name } => {
            let record = with_broker(cx, async |broker| Ok(broker.cancel_key(&name).await?))?;
            tell(cx, &record)
        }
        KeyLife::Plan { name, plan } => {
            let (plan, lock) = planned(&plan);
            let records = with_broker(cx, async |broker| Ok(broker.plan_key(&name, plan, lock)?))?;
            tell_all(cx, &records)
        }
        KeyLife::Compromise { key, reason } => compromise(cx, &key, reason.as_deref()),
        KeyLife::Disable { key, reason } => {
            step_key(cx, &key, &LifeEvent::Disable(because(reason.as_deref())))
        }
        KeyLife::Enable { key } => step_key(cx, &key, &LifeEvent::Enable),
        KeyLife::Revoke { key, reason } => step_key(cx, &key, &LifeEvent::Revoke(because(reason.as_deref()))),
        KeyLife::Rm { name, window } => {
            let records = with_broker(cx, async |broker| Ok(broker.delete_key(&name, window).await?))?;
            tell_all(cx, &records)
        }
        KeyLife::Restore { name } => {
            let records = with_broker(cx, async |broker| Ok(broker.restore_key(&name).await?))?;
            tell_all(cx, &records)
        }
        KeyLife::Purge { name } => {
            let records = with_broker(cx, async |broker| Ok(broker.purge_key(&name).await?))?;
            tell_all(cx, &records)
        }
    }
}

pub(crate) fn secret(cx: &Context, args: SecretLife) -> Result<Exit, Failure> {
    let records = match args {
        SecretLife::Rotate(args) => return secret::stage(cx, args),
        SecretLife::Promote { name } => {
            vec![with_broker(cx, async |broker| {
                Ok(broker.promote_secret(&name).await?)
            })?]
        }
        SecretLife::Cancel { name } => {
            vec![with_broker(cx, async |broker| {
                Ok(broker.cancel_secret(&name).await?)
            })?]
        }
        SecretLife::Plan {
            name,
            rotate_every,
            overlap,
            purge_lock,
        } => with_broker(cx, async |broker| {
            Ok(broker.plan_secret(&name, rotate_every, overlap, purge_lock.then_some(Lock))?)
        })?,
        SecretLife::Disable { secret, reason } => {
            return step_secret(cx, &secret, &LifeEvent::Disable(because(reason.as_deref())));
        }
        SecretLife::Enable { secret } => return step_secret(cx, &secret, &LifeEvent::Enable),
        SecretLife::Revoke { secret, reason } => {
            return step_secret(cx, &secret, &LifeEvent::Revoke(because(reason.as_deref())));
        }
        SecretLife::Rm { name, window } => {
            with_broker(cx, async |broker| Ok(broker.delete_secret(&name, window).await?))?
        }
        SecretLife::Restore { name } => {
            with_broker(cx, async |broker| Ok(broker.restore_secret(&name).await?))?
        }
        SecretLife::Purge { name } => with_broker(cx, async |broker| Ok(broker.purge_secret(&name).await?))?,
    };
    for record in records {
        secret::tell(cx, &record);
    }
    Ok(Exit::Done)
}

/// A plan as the keyring has it.
pub(crate) fn planned(plan: &Plan) -> (RotationPlan, Option<Lock>) {
    let rotation = RotationPlan {
        every: plan.rotate_every,
        uses: plan.rotate_uses,
        overlap: plan.overlap.unwrap_or(DEFAULT_OVERLAP),
    };
    (rotation, plan.purge_lock.then_some(Lock))
}

/// The version that `--of` names, if it names one of this key.
fn expected(name: &KeyName, of: Option<KeySpec>) -> Result<Option<claviger_core::KeyVersion>, Failure> {
    match of {
        None => Ok(None),
        Some(spec) if spec.name == *name && spec.version.is_some() => Ok(spec.version),
        Some(spec) => Err(Failure::usage(format!(
            "`--of {spec}` names no version of `{name}`; expected one such as `{name}@v1`"
        ))),
    }
}

fn because(reason: Option<&str>) -> Option<Reason> {
    reason.and_then(Reason::new)
}

/// The version that a specification means: of a bare name, the one in use, else the newest that was.
fn which(broker: &LocalBroker, spec: &KeySpec) -> Result<KeyRef, Failure> {
    let version = match spec.version {
        Some(version) => version,
        None => broker
            .keyring()
            .current(&spec.name)
            .map(|record| record.key.version)
            .ok_or_else(|| {
                Failure::failed(format!("the keyring has no key `{}`", spec.name))
                    .help("`claviger key list` shows the keys there are")
            })?,
    };
    Ok(KeyRef {
        name: spec.name.clone(),
        version,
    })
}

fn step_key(cx: &Context, spec: &KeySpec, event: &LifeEvent) -> Result<Exit, Failure> {
    let record = with_broker(cx, async |broker| {
        let key = which(broker, spec)?;
        Ok(broker.step_key(&key, event).await?)
    })?;
    tell(cx, &record)
}

fn step_secret(cx: &Context, spec: &SecretSpec, event: &LifeEvent) -> Result<Exit, Failure> {
    let record = with_broker(cx, async |broker| {
        let version = match spec.version {
            Some(version) => version,
            None => broker.keyring().current_secret(&spec.name)?.secret.version,
        };
        let secret = SecretRef {
            name: spec.name.clone(),
            version,
        };
        Ok(broker.step_secret(&secret, event).await?)
    })?;
    Ok(secret::tell(cx, &record))
}

/// Revokes and replaces, then says what each revoked version was used for.
fn compromise(cx: &Context, spec: &KeySpec, reason: Option<&str>) -> Result<Exit, Failure> {
    let (compromise, ledger) = with_broker(cx, async |broker| {
        let done = broker.compromise_key(&spec.name, spec.version, because(reason));
        let done = progress::during(&cx.out, "making the next version", done).await?;
        Ok((done, broker.snapshot()))
    })?;
    let mut versions = Vec::new();
    let mut text = String::new();
    for record in &compromise.revoked {
        let usage = ledger.key_usage(&record.key).cloned().unwrap_or_default();
        text.push_str(&radius(record, &usage));
        versions.push(to_json(record, &usage));
    }
    let new = compromise.replaced_by;
    match &new {
        Some(new) => text.push_str(&format!("{} takes its place\n", new.key)),
        None => text.push_str("no version was in use among them: nothing takes their place\n"),
    }
    let json = serde_json::json!({
        "key": spec.name,
        "revoked": versions,
        "replaced_by": new.map(|new| new.key.to_string()),
    });
    cx.out.value(&json, |_| shown(text.trim_end()));
    Ok(Exit::Done)
}

/// What a version did, in words.
fn radius(record: &KeyRecord, usage: &Usage) -> String {
    let all = usage.all;
    let mut text = format!(
        "{} is revoked; it was used {} times, first {}, last {}\n",
        record.key,
        all.uses,
        minute(all.first),
        minute(all.last)
    );
    if usage.certificates > 0 {
        text.push_str(&format!(
            "  {} requests for certificates were signed with it\n",
            usage.certificates
        ));
    }
    let rows: Vec<Vec<String>> = usage
        .by
        .iter()
        .flat_map(|(agent, grants)| {
            grants.iter().map(move |(grant, tally)| {
                vec![
                    String::new(),
                    format!("{agent}/{grant}"),
                    format!("{} uses", tally.uses),
                    format!("first {}", minute(tally.first)),
                    format!("last {}", minute(tally.last)),
                ]
            })
        })
        .collect();
    if !rows.is_empty() {
        text.push_str(&columns(&rows));
        if !text.ends_with('\n') {
            text.push('\n');
        }
    }
    text
}

fn to_json(record: &KeyRecord, usage: &Usage) -> serde_json::Value {
    let by: Vec<_> = usage
        .by
        .iter()
        .flat_map(|(agent, grants)| {
            grants.iter().map(move |(grant, tally)| {
                serde_json::json!({
                    "agent": agent, "grant": grant, "uses": tally.uses, "first": tally.first, "last": tally.last,
                })
            })
        })
        .collect();
    serde_json::json!({
        "version": record.key.to_string(),
        "key_id": record.key_id(),
        "reason": record.reason,
        "uses": usage.all.uses,
        "first": usage.all.first,
        "last": usage.all.last,
        "certificates": usage.certificates,
        "by": by,
    })
}

fn tell(cx: &Context, record: &KeyRecord) -> Result<Exit, Failure> {
    cx.out.value(&key::to_json(record)?, |_| key::describe(record));
    Ok(Exit::Done)
}

/// The versions that are not over, or all that there are if none is left.
fn tell_all<R: AsRef<KeyRecord>>(cx: &Context, records: &[R]) -> Result<Exit, Failure> {
    let living = |record: &KeyRecord| record.state != KeyState::Destroyed;
    let any = records.iter().any(|record| living(record.as_ref()));
    for record in records.iter().map(AsRef::as_ref) {
        if living(record) || !any {
            tell(cx, record)?;
        }
    }
    Ok(Exit::Done)
}
