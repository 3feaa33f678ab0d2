//! `claviger key …`: makes keys and shows their public side. Nothing here can show a private key.

use claviger_broker::keyring::{KeyRecord, KeySource};
use claviger_broker::local::Enforced;
use claviger_broker::operator::{Command as Order, Reply};
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::key::KeySpec;
use claviger_core::{KeyName, KeyRef, PublicKey, Secret};
use jiff::Timestamp;

use crate::args::{Key, KeyCreate, Revocation};
use crate::command::{attest, life, secret};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::keys;
use crate::operate::{order, text, unexpected};
use crate::output::{columns, shown};
use crate::overview;

mod import;
mod public;
mod purpose;

pub(crate) fn run(cx: &Context, args: Key) -> Result<Exit, Failure> {
    match args {
        Key::Create(args) => create(cx, args),
        Key::Import(args) => import::run(cx, args),
        Key::List => list(cx),
        Key::Show { key } => show(cx, &key),
        Key::Life(args) => life::key(cx, args),
        Key::Attest(args) => attest::run(cx, &args),
        Key::Csr { name, subject } => csr(cx, name, subject),
        Key::Public(args) => public::run(cx, &args),
    }
}

fn create(cx: &Context, args: KeyCreate) -> Result<Exit, Failure> {
    let profile = purpose::profile(&args.purpose)?;
    let (plan, lock) = life::plan_of(&args.plan);
    let KeyCreate {
        name,
        algorithm,
        custody,
        revocation,
        ..
    } = args;
    let command = Order::CreateKey {
        name,
        profile,
        algorithm,
        custody: custody.map(CustodyKind::from),
        enforced: match revocation {
            Revocation::Keyring => Enforced::Keyring,
            Revocation::Hardware => Enforced::Hardware,
        },
        plan,
        lock,
    };
    made(cx, command, None)
}

/// Has it done, and shows what the keyring has then.
pub(crate) fn made(cx: &Context, command: Order, value: Option<Secret>) -> Result<Exit, Failure> {
    let keys = keys_of(order(cx, command, value)?)?;
    let records = keys::list(cx)?;
    for record in records.iter().filter(|record| keys.contains(&record.key)) {
        cx.out.value(&to_json(record)?, |_| describe(record));
    }
    Ok(Exit::Done)
}

/// The keys that a reply is about.
pub(crate) fn keys_of(reply: Reply) -> Result<Vec<KeyRef>, Failure> {
    match reply {
        Reply::Keys(keys) => Ok(keys),
        Reply::Done { .. }
        | Reply::Secrets(_)
        | Reply::Rotated { .. }
        | Reply::SecretRotated(_)
        | Reply::Text(_)
        | Reply::Status(_)
        | Reply::Approvals(_)
        | Reply::BackedUp(_)
        | Reply::Approval(_) => Err(unexpected()),
    }
}

fn list(cx: &Context) -> Result<Exit, Failure> {
    let overview = overview::read(cx)?;
    if cx.out.is_json() {
        for record in &overview.keys {
            let tally = overview.key_tally(record);
            let mut json = to_json(record)?;
            if let Some(json) = json.as_object_mut() {
                json.extend([
                    ("uses".to_owned(), tally.uses.into()),
                    ("last_use".to_owned(), serde_json::json!(tally.last)),
                    (
                        "used_by".to_owned(),
                        serde_json::json!(overview.holders_of_key(record)),
                    ),
                ]);
            }
            cx.out.value(&json, |_| String::new());
        }
        return Ok(Exit::Done);
    }
    if overview.keys.is_empty() {
        cx.out
            .note("the keyring has no keys; `claviger key create NAME --profile …` makes one");
        return Ok(Exit::Done);
    }
    let heading = [
        "NAME",
        "VERSION",
        "STATE",
        "AGE",
        "PROFILE",
        "ALGORITHM",
        "CUSTODY",
        "ASSURANCE",
        "NEXT ROTATION",
        "LAST USE",
        "USED BY",
        "SOURCE",
        "KEY ID",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(overview.keys.iter().map(|record| {
        vec![
            record.key.name.to_string(),
            record.key.version.to_string(),
            record.standing().to_owned(),
            overview.age(record.created),
            record.profile.kind().to_owned(),
            record.algorithm.to_string(),
            record.custody.to_string(),
            record.assurance.to_string(),
            overview.next_rotation(record),
            overview::minute(overview.key_tally(record).last),
            overview::holders(&overview.holders_of_key(record)),
            record.source.to_string(),
            record.key_id(),
        ]
    }));
    cx.out.line(&columns(&rows));
    Ok(Exit::Done)
}

fn show(cx: &Context, key: &KeySpec) -> Result<Exit, Failure> {
    let records = keys::list(cx)?;
    let record = keys::named(&records, key)?;
    cx.out.value(&to_json(record)?, |_| describe(record));
    Ok(Exit::Done)
}

/// The public half of a key that has one.
fn public_half(record: &KeyRecord) -> Result<&PublicKey, Failure> {
    record.public().ok_or_else(|| {
        Failure::failed(format!(
            "key `{}` is symmetric and has no public half",
            record.key
        ))
    })
}

fn csr(cx: &Context, name: KeyName, subject: String) -> Result<Exit, Failure> {
    let pem = text(order(cx, Order::RequestCertificate { name, subject }, None)?)?;
    cx.out
        .value(&serde_json::json!({ "format": "pem", "request": pem }), |_| {
            pem.clone()
        });
    Ok(Exit::Done)
}

pub(crate) fn to_json(record: &KeyRecord) -> Result<serde_json::Value, Failure> {
    let public = record
        .public()
        .map(|key| key.to_openssh(record.key.name.as_str()))
        .transpose();
    Ok(serde_json::json!({
        "name": record.key.name,
        "version": record.key.version,
        "state": record.standing(),
        "profile": record.profile,
        "algorithm": record.algorithm,
        "custody": record.custody,
        "assurance": record.assurance,
        "revocation": refused_by(record),
        "key_id": record.key_id(),
        "public_key": public.map_err(|error| Failure::of(Exit::Failed, &error))?,
        "created": record.created,
        "updated": record.updated,
        "source": record.source.as_str(),
        "rotate_every_seconds": record.plan.every.map(|every| every.as_secs()),
        "rotate_uses": record.plan.uses,
        "overlap_seconds": record.plan.overlap.as_secs(),
        "due": record.due(Timestamp::now()),
        "until": record.until.filter(|_| !record.lacks_successor()),
        "lacks_successor": record.lacks_successor(),
        "deleted": record.deleted,
        "reason": record.reason,
        "purge_lock": record.locked,
    }))
}

/// Who refuses the key once it is revoked.
const fn refused_by(record: &KeyRecord) -> &'static str {
    if record.hardware.is_some() {
        "hardware"
    } else {
        "keyring"
    }
}

pub(crate) fn describe(record: &KeyRecord) -> String {
    let public = record.public().map_or_else(
        || "none: the key is symmetric".to_owned(),
        |key| {
            key.to_openssh(record.key.name.as_str())
                .unwrap_or_else(|error| error.to_string())
        },
    );
    let rows = [
        ("key", record.key.to_string()),
        ("state", record.standing().to_owned()),
        ("profile", purpose::words(&record.profile)),
        ("algorithm", record.algorithm.to_string()),
        ("custody", custody(record.custody, record.assurance)),
        ("source", source(record.source).to_owned()),
        ("revocation", refused_by(record).to_owned()),
        ("key id", record.key_id()),
        ("public key", public),
        ("created", record.created.to_string()),
    ];
    let until = record.until.filter(|_| !record.lacks_successor());
    let more = [
        ("until", until.map(|until| until.to_string())),
        (
            "successor",
            record.lacks_successor().then(|| "none yet".to_owned()),
        ),
        ("reason", record.reason.as_ref().map(ToString::to_string)),
        ("rotation", rotation(record)),
        (
            "purge",
            record.locked.then(|| "locked: at least 30 days".to_owned()),
        ),
    ];
    let rows = rows
        .into_iter()
        .chain(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let rows: Vec<_> = rows.map(|(name, value)| vec![name.to_owned(), value]).collect();
    shown(&columns(&rows))
}

/// A plan in words, if there is one.
fn rotation(record: &KeyRecord) -> Option<String> {
    let every = record
        .plan
        .every
        .map(|every| format!("every {}", secret::in_days(every)));
    let uses = record.plan.uses.map(|uses| format!("after {uses} uses"));
    let when: Vec<_> = every.into_iter().chain(uses).collect();
    (!when.is_empty()).then(|| {
        format!(
            "{}; the old version is good for {} more",
            when.join(" or "),
            secret::in_days(record.plan.overlap)
        )
    })
}

fn custody(custody: CustodyKind, assurance: Assurance) -> String {
    format!("{custody}, assurance {assurance}")
}

/// Where a key comes from, and what that means.
const fn source(source: KeySource) -> &'static str {
    match source {
        KeySource::Generated => "generated by its custody",
        KeySource::Imported => "imported: whoever had the key before may have it still",
        KeySource::Restored => "restored: whoever has the backup, and an identity that opens it, has the key",
    }
}
