//! `claviger key …` and `claviger secret …` about their lives: rotation, revocation, compromise, deletion.

use claviger_broker::keyring::{DEFAULT_OVERLAP, KeyRecord, KeyState, Lock, Start};
use claviger_broker::ledger::Usage;
use claviger_broker::operator::{Act, Command as Order, End, LifeCommand};
use claviger_core::key::{KeySpec, KeyVersion};
use claviger_core::{KeyName, SecretName};

use crate::args::life::{KeyLife, Plan, SecretLife};
use crate::command::{key, secret};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::operate::order;
use crate::output::{columns, shown};
use crate::overview::minute;
use crate::{keys, log};

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
        KeyLife::Plan { name, plan } => plan_of(&name, &plan),
        KeyLife::Compromise { key, reason } => return compromise(cx, key, reason),
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
        SecretLife::Rotate(args) => return secret::stage(cx, args),
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

/// The plan of a new key, if anything was said of one.
pub(crate) fn planned(name: &KeyName, plan: &Plan) -> Option<LifeCommand> {
    let said = plan.rotate_every.is_some()
        || plan.rotate_uses.is_some()
        || plan.overlap.is_some()
        || plan.purge_lock;
    said.then(|| plan_of(name, plan))
}

fn plan_of(name: &KeyName, plan: &Plan) -> LifeCommand {
    LifeCommand::PlanKey {
        name: name.clone(),
        every: plan.rotate_every,
        uses: plan.rotate_uses,
        overlap: plan.overlap.unwrap_or(DEFAULT_OVERLAP),
        lock: plan.purge_lock.then_some(Lock::ForGood),
    }
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

/// Revokes and replaces, then says what each revoked version was used for, by the log.
fn compromise(cx: &Context, spec: KeySpec, reason: Option<String>) -> Result<Exit, Failure> {
    let name = spec.name.clone();
    let command = LifeCommand::CompromiseKey {
        name: spec.name,
        version: spec.version,
        reason,
    };
    let about = key::keys_of(order(cx, Order::Life(command), None)?)?;
    let ledger = log::ledger(cx)?;
    let records = keys::list(cx)?;
    let mut new = None;
    let mut versions = Vec::new();
    let mut text = String::new();
    for record in records.iter().filter(|record| about.contains(&record.key)) {
        if record.state != KeyState::Revoked {
            new = Some(record.key.to_string());
            continue;
        }
        let usage = ledger.key_usage(&record.key).cloned().unwrap_or_default();
        text.push_str(&radius(record, &usage));
        versions.push(to_json(record, &usage));
    }
    match &new {
        Some(new) => text.push_str(&format!("{new} takes its place\n")),
        None => text.push_str("no version was in use among them: nothing takes their place\n"),
    }
    let json = serde_json::json!({ "key": name, "revoked": versions, "replaced_by": new });
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
