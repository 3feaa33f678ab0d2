//! `claviger key compromise` and `claviger secret compromise`: what somebody else may have is revoked first, then replaced, and what it was
//! used for is said, by the log. Not the revoking: the broker does that.

use claviger_broker::keyring::{KeyRecord, KeyState, Keyring, SecretRecord};
use claviger_broker::ledger::{Ledger, Usage};
use claviger_broker::operator::{Command as Order, LifeCommand};
use claviger_core::key::{KeySpec, KeyVersion, SecretSpec};
use claviger_core::{KeyName, SecretName};

use crate::args::SecretValue;
use crate::command::{key, secret};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::operate::order;
use crate::output::{columns, shown};
use crate::overview::minute;
use crate::{keys, log};

pub(super) fn key(cx: &Context, spec: KeySpec, reason: Option<String>) -> Result<Exit, Failure> {
    let name = spec.name.clone();
    let command = LifeCommand::CompromiseKey {
        name: spec.name,
        version: spec.version,
        reason,
    };
    let about = match order(cx, Order::Life(command), None) {
        Ok(reply) => key::keys_of(reply)?,
        Err(failure) => return Err(after_all(cx, &name, spec.version, failure)),
    };
    let ledger = log::ledger(cx)?;
    let records = keys::list(cx)?;
    let mut radius = Radius::default();
    let mut new = None;
    let mut certified = false;
    for record in records.iter().filter(|record| about.contains(&record.key)) {
        if record.state == KeyState::Revoked {
            radius.key(record, &ledger);
            certified |= record.lacks_successor();
        } else {
            new = Some(record.key.to_string());
        }
    }
    let next = certified.then(|| format!("claviger key rotate {name} --stage"));
    let json = serde_json::json!({ "key": name, "revoked": radius.json, "replaced_by": new, "next": next });
    radius.say(cx, &json, new.as_deref(), next.as_deref());
    Ok(Exit::Done)
}

/// What was revoked is said also when something else failed: its successor, or telling the TPM.
fn after_all(cx: &Context, name: &KeyName, version: Option<KeyVersion>, failure: Failure) -> Failure {
    let (Ok(ledger), Ok(records)) = (log::ledger(cx), keys::list(cx)) else {
        return failure;
    };
    let mut radius = Radius::default();
    let affected = |record: &&KeyRecord| {
        record.key.name == *name && version.is_none_or(|version| record.key.version == version)
    };
    for record in records
        .iter()
        .filter(affected)
        .filter(|record| record.state == KeyState::Revoked)
    {
        radius.key(record, &ledger);
    }
    if !radius.json.is_empty() {
        let json =
            serde_json::json!({ "key": name, "revoked": radius.json, "replaced_by": null, "next": null });
        radius.say(cx, &json, None, None);
    }
    failure
}

pub(super) fn secret(
    cx: &Context,
    spec: SecretSpec,
    reason: Option<String>,
    value: Option<&SecretValue>,
) -> Result<Exit, Failure> {
    let name = spec.name.clone();
    let command = LifeCommand::CompromiseSecret {
        name: spec.name,
        version: spec.version,
        reason,
    };
    // Before the new value is read: it may be a while in coming.
    let revoked = secret::secrets_of(order(cx, Order::Life(command), None)?)?;
    let lacks = |records: &[SecretRecord]| {
        let mut versions = records.iter().filter(|record| record.secret.name == name);
        versions.any(SecretRecord::lacks_successor)
    };
    let list = || -> Result<Vec<SecretRecord>, Failure> { Ok(Keyring::list_public_secrets(&cx.keyring()?)?) };
    let new = match value {
        Some(_) if !lacks(&list()?) => {
            cx.out.warn(&format!(
                "the new value was not taken: no version was in use among them; `claviger secret replace {name}` takes it"
            ));
            None
        }
        Some(value) => Some(replace(cx, &name, value).map_err(|failure| {
            failure.help(format!(
                "secret `{name}` is revoked, and nothing has taken its place yet; `claviger secret replace {name}` takes a new value"
            ))
        })?),
        None => None,
    };
    let ledger = log::ledger(cx)?;
    let records = list()?;
    let mut radius = Radius::default();
    let versions = records.iter().filter(|record| record.secret.name == name);
    for record in versions.clone().filter(|record| revoked.contains(&record.secret)) {
        radius.secret(record, &ledger);
    }
    let mut versions = versions;
    let waiting = versions.find(|record| record.state == KeyState::Pending);
    let next = match waiting {
        _ if !lacks(&records) => None,
        Some(_) => Some(format!(
            "claviger secret promote {name}, or claviger secret cancel {name}"
        )),
        None => Some(format!("claviger secret replace {name}")),
    };
    let json = serde_json::json!({
        "secret": name,
        "revoked": radius.json,
        "replaced_by": new,
        "waiting": waiting.map(|record| record.secret.to_string()),
        "next": next,
    });
    radius.say(cx, &json, new.as_deref(), next.as_deref());
    Ok(Exit::Done)
}

/// Puts the new value in place; its version.
fn replace(cx: &Context, name: &SecretName, value: &SecretValue) -> Result<String, Failure> {
    let value = secret::read(cx, value)?;
    let command = Order::ReplaceSecret {
        name: name.clone(),
        expires: None,
        rotate_every: None,
    };
    let new = secret::secrets_of(order(cx, command, Some(value))?)?;
    Ok(new.first().map(ToString::to_string).unwrap_or_default())
}

/// What revoked versions were used for, in words and as JSON.
#[derive(Default)]
struct Radius {
    text: String,
    json: Vec<serde_json::Value>,
}

impl Radius {
    fn key(&mut self, record: &KeyRecord, ledger: &Ledger) {
        let usage = ledger.key_usage(&record.key).cloned().unwrap_or_default();
        let mut json = self.add(&record.key.to_string(), &usage);
        if let Some(json) = json.as_object_mut() {
            json.insert("key_id".to_owned(), record.key_id().into());
            json.insert("reason".to_owned(), serde_json::json!(record.reason));
            json.insert("certificates".to_owned(), usage.certificates.into());
        }
        self.json.push(json);
    }

    fn secret(&mut self, record: &SecretRecord, ledger: &Ledger) {
        let usage = ledger.secret_usage(&record.secret).cloned().unwrap_or_default();
        let mut json = self.add(&record.secret.to_string(), &usage);
        if let Some(json) = json.as_object_mut() {
            json.insert("origin".to_owned(), record.origin.to_string().into());
            json.insert("reason".to_owned(), serde_json::json!(record.reason));
        }
        self.json.push(json);
    }

    fn add(&mut self, version: &str, usage: &Usage) -> serde_json::Value {
        let all = usage.all;
        self.text.push_str(&format!(
            "{version} is revoked; it was used {} times, first {}, last {}\n",
            all.uses,
            minute(all.first),
            minute(all.last)
        ));
        if usage.certificates > 0 {
            self.text.push_str(&format!(
                "  {} requests for certificates were signed with it\n",
                usage.certificates
            ));
        }
        let each = || {
            usage
                .by
                .iter()
                .flat_map(|(agent, grants)| grants.iter().map(move |(grant, tally)| (agent, grant, tally)))
        };
        let rows: Vec<Vec<String>> = each()
            .map(|(agent, grant, tally)| {
                vec![
                    String::new(),
                    format!("{agent}/{grant}"),
                    format!("{} uses", tally.uses),
                    format!("first {}", minute(tally.first)),
                    format!("last {}", minute(tally.last)),
                ]
            })
            .collect();
        if !rows.is_empty() {
            self.text.push_str(columns(&rows).trim_end_matches('\n'));
            self.text.push('\n');
        }
        let by: Vec<_> = each()
            .map(|(agent, grant, tally)| {
                serde_json::json!({
                    "agent": agent, "grant": grant, "uses": tally.uses, "first": tally.first, "last": tally.last,
                })
            })
            .collect();
        serde_json::json!({ "version": version, "uses": all.uses, "first": all.first, "last": all.last, "by": by })
    }

    /// Says it, with what took the place of the old, or what to type for that.
    fn say(mut self, cx: &Context, json: &serde_json::Value, new: Option<&str>, next: Option<&str>) {
        self.text.push_str(&match (new, next) {
            (Some(new), _) => format!("{new} takes its place"),
            (None, Some(next)) => format!("nothing has taken its place yet: {next}"),
            (None, None) => "no version was in use among them: nothing takes their place".to_owned(),
        });
        cx.out.value(json, |_| shown(&self.text));
    }
}
