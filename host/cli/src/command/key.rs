//! `claviger key …`: makes keys and shows their public side. Nothing here can show a private key.

use claviger_broker::keyring::{KeyRecord, KeySource};
use claviger_broker::operator::{Change, Command as Order, Reply};
use claviger_core::custody::{Assurance, CustodyKind};
use claviger_core::{KeyName, PublicKey, Secret};

use crate::args::{Key, KeyCreate};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::keys;
use crate::operate::{order, text, unexpected};
use crate::output::{columns, shown};

mod import;
mod public;
mod purpose;

pub(crate) fn run(cx: &Context, args: Key) -> Result<Exit, Failure> {
    match args {
        Key::Create(args) => create(cx, args),
        Key::Import(args) => import::run(cx, args),
        Key::List => list(cx),
        Key::Show { name } => show(cx, &name),
        Key::Disable { name } => change(cx, name, Change::Disable),
        Key::Enable { name } => change(cx, name, Change::Enable),
        Key::Revoke { name } => change(cx, name, Change::Revoke),
        Key::Csr { name, subject } => csr(cx, name, subject),
        Key::Public(args) => public::run(cx, &args),
    }
}

fn create(cx: &Context, args: KeyCreate) -> Result<Exit, Failure> {
    let profile = purpose::profile(&args.purpose)?;
    let KeyCreate {
        name,
        algorithm,
        custody,
        ..
    } = args;
    let command = Order::CreateKey {
        name,
        profile,
        algorithm,
        custody: custody.map(CustodyKind::from),
    };
    made(cx, command, None)
}

fn change(cx: &Context, name: KeyName, change: Change) -> Result<Exit, Failure> {
    made(cx, Order::ChangeKey { name, change }, None)
}

/// Has it done, and shows what the keyring has then.
fn made(cx: &Context, command: Order, value: Option<Secret>) -> Result<Exit, Failure> {
    let keys = match order(cx, command, value)? {
        Reply::Keys(keys) => keys,
        Reply::Done { .. } | Reply::Secrets(_) | Reply::Text(_) | Reply::Status(_) => {
            return Err(unexpected());
        }
    };
    let records = keys::list(cx)?;
    for record in records.iter().filter(|record| keys.contains(&record.key)) {
        cx.out.value(&to_json(record)?, |_| describe(record));
    }
    Ok(Exit::Done)
}

fn list(cx: &Context) -> Result<Exit, Failure> {
    let records = keys::list(cx)?;
    if cx.out.is_json() {
        for record in &records {
            cx.out.value(&to_json(record)?, |_| String::new());
        }
        return Ok(Exit::Done);
    }
    if records.is_empty() {
        cx.out
            .note("the keyring has no keys; `claviger key create NAME --profile …` makes one");
        return Ok(Exit::Done);
    }
    let heading = [
        "NAME",
        "VERSION",
        "STATE",
        "PROFILE",
        "ALGORITHM",
        "CUSTODY",
        "ASSURANCE",
        "SOURCE",
        "KEY ID",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(records.iter().map(|record| {
        vec![
            record.key.name.to_string(),
            record.key.version.to_string(),
            record.standing().to_owned(),
            record.profile.kind().to_owned(),
            record.algorithm.to_string(),
            record.custody.to_string(),
            record.assurance.to_string(),
            record.source.to_string(),
            record.key_id(),
        ]
    }));
    cx.out.line(&columns(&rows));
    Ok(Exit::Done)
}

fn show(cx: &Context, name: &KeyName) -> Result<Exit, Failure> {
    let records = keys::list(cx)?;
    let record = keys::find(&records, name)?;
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

fn to_json(record: &KeyRecord) -> Result<serde_json::Value, Failure> {
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
        "source": record.source.as_str(),
        "key_id": record.key_id(),
        "public_key": public.map_err(|error| Failure::of(Exit::Failed, &error))?,
        "created": record.created,
        "updated": record.updated,
    }))
}

fn describe(record: &KeyRecord) -> String {
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
        ("key id", record.key_id()),
        ("public key", public),
        ("created", record.created.to_string()),
    ];
    shown(&columns(&rows.map(|(name, value)| vec![name.to_owned(), value])))
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
