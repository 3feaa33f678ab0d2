//! `claviger key …` and `claviger secret …` about their lives: rotation, revocation, compromise, deletion.

use claviger_broker::keyring::{DEFAULT_OVERLAP, KeyRecord, KeyState, Lock, RotationPlan, Start};
use claviger_broker::ledger::Usage;
use claviger_broker::operator::{Change, Command as Order, Reply};
use claviger_core::KeyName;
use claviger_core::key::KeySpec;

use crate::args::life::{KeyLife, Plan, SecretLife};
use crate::command::{key, secret};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::operate::{self, order, unexpected};
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
        } => Order::RotateKey {
            of: expected(&name, of)?,
            name,
            overlap,
            start: if stage { Start::Staged } else { Start::AtOnce },
        },
        KeyLife::Promote { name } => Order::PromoteKey { name },
        KeyLife::Cancel { name } => Order::CancelKey { name },
        KeyLife::Plan { name, plan } => {
            let (plan, lock) = planned(&plan);
            let command = Order::PlanKey {
                name,
                plan,
                locked: lock.is_some(),
            };
            return all(cx, command);
        }
        KeyLife::Compromise { key, reason } => return compromise(cx, key, reason),
        KeyLife::Disable { key, reason } => Order::ChangeKey {
            key,
            change: Change::Disable { reason },
        },
        KeyLife::Enable { key } => Order::ChangeKey {
            key,
            change: Change::Enable,
        },
        KeyLife::Revoke { key, reason } => Order::ChangeKey {
            key,
            change: Change::Revoke { reason },
        },
        KeyLife::Rm { name, window } => return all(cx, Order::DeleteKey { name, window }),
        KeyLife::Restore { name } => return all(cx, Order::RestoreKey { name }),
        KeyLife::Purge { name } => return all(cx, Order::PurgeKey { name }),
    };
    key::made(cx, command)
}

pub(crate) fn secret(cx: &Context, args: SecretLife) -> Result<Exit, Failure> {
    let command = match args {
        SecretLife::Rotate(args) => return secret::stage(cx, args),
        SecretLife::Promote { name } => Order::PromoteSecret { name },
        SecretLife::Cancel { name } => Order::CancelSecret { name },
        SecretLife::Plan {
            name,
            rotate_every,
            overlap,
            purge_lock,
        } => Order::PlanSecret {
            name,
            rotate_every,
            overlap,
            locked: purge_lock,
        },
        SecretLife::Disable { secret, reason } => Order::ChangeSecret {
            secret,
            change: Change::Disable { reason },
        },
        SecretLife::Enable { secret } => Order::ChangeSecret {
            secret,
            change: Change::Enable,
        },
        SecretLife::Revoke { secret, reason } => Order::ChangeSecret {
            secret,
            change: Change::Revoke { reason },
        },
        SecretLife::Rm { name, window } => Order::DeleteSecret { name, window },
        SecretLife::Restore { name } => Order::RestoreSecret { name },
        SecretLife::Purge { name } => Order::PurgeSecret { name },
    };
    secret::made(cx, command, None)
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

/// Revokes and replaces, then says what each revoked version was used for.
fn compromise(cx: &Context, spec: KeySpec, reason: Option<String>) -> Result<Exit, Failure> {
    let name = spec.name.clone();
    let (revoked, new) = match order(cx, Order::CompromiseKey { key: spec, reason }, None)? {
        Reply::Compromised { revoked, replaced_by } => (revoked, replaced_by),
        Reply::Done { .. }
        | Reply::Keys(_)
        | Reply::Secrets(_)
        | Reply::Text(_)
        | Reply::Status(_)
        | Reply::Rotated(_) => return Err(unexpected()),
    };
    let (records, ledger) = (keys::list(cx)?, log::ledger(cx)?);
    let mut versions = Vec::new();
    let mut text = String::new();
    for record in records.iter().filter(|record| revoked.contains(&record.key)) {
        let usage = ledger.key_usage(&record.key).cloned().unwrap_or_default();
        text.push_str(&radius(record, &usage));
        versions.push(to_json(record, &usage));
    }
    match &new {
        Some(new) => text.push_str(&format!("{new} takes its place\n")),
        None => text.push_str("no version was in use among them: nothing takes their place\n"),
    }
    let json = serde_json::json!({
        "key": name,
        "revoked": versions,
        "replaced_by": new.map(|new| new.to_string()),
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

/// Has it done to a whole key, and shows the versions that are not over, or all that there are if none is left.
fn all(cx: &Context, command: Order) -> Result<Exit, Failure> {
    let records = operate::keys(cx, order(cx, command, None)?)?;
    let living = |record: &KeyRecord| record.state != KeyState::Destroyed;
    let any = records.iter().any(living);
    for record in records.iter().filter(|record| living(record) || !any) {
        cx.out.value(&key::to_json(record)?, |_| key::describe(record));
    }
    Ok(Exit::Done)
}
