//! `claviger secret …`: puts secrets into the keyring and takes them out of use. Nothing here can show a value.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use claviger_broker::keyring::{GOOD_SECRET, Keyring, Lock, MAX_SECRET_VALUE, SecretRecord};
use claviger_broker::local::NewSecretError;
use claviger_broker::operator::{Command as Order, Reply};
use claviger_core::Secret;
use claviger_core::audit::SecretRef;
use claviger_core::key::SecretSpec;
use claviger_core::manifest::format_duration;
use claviger_core::name::nearest;
use jiff::Timestamp;
use zeroize::Zeroizing;

use crate::args::{Secret as Args, SecretAdd, SecretReplace, SecretValue};
use crate::command::life;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::keys;
use crate::operate::{order, unexpected};
use crate::output::{columns, shown};
use crate::overview;
use crate::passphrase::{self, Source};

pub(crate) fn run(cx: &Context, args: Args) -> Result<Exit, Failure> {
    match args {
        Args::Add(args) => add(cx, args),
        Args::List => list(cx),
        Args::Show { secret } => show(cx, &secret),
        Args::Replace(args) => replace(cx, args),
        Args::Life(args) => life::secret(cx, args),
    }
}

fn add(cx: &Context, args: SecretAdd) -> Result<Exit, Failure> {
    let value = read(cx, &args.value)?;
    let command = Order::AddSecret {
        name: args.name,
        kind: args.kind,
        origin: args.origin,
        expires: args.expires,
        rotate_every: args.rotate_every,
        overlap: args.overlap,
        lock: args.purge_lock.then_some(Lock::ForGood),
    };
    made(cx, command, Some(value))
}

fn replace(cx: &Context, args: SecretReplace) -> Result<Exit, Failure> {
    if args.stage {
        return stage(cx, args);
    }
    let value = read(cx, &args.value)?;
    let command = Order::ReplaceSecret {
        name: args.name,
        expires: args.expires,
        rotate_every: args.rotate_every,
    };
    made(cx, command, Some(value))
}

/// Adds a value that waits.
pub(crate) fn stage(cx: &Context, args: SecretReplace) -> Result<Exit, Failure> {
    let value = read(cx, &args.value)?;
    let command = Order::StageSecret {
        name: args.name,
        expires: args.expires,
        rotate_every: args.rotate_every,
    };
    made(cx, command, Some(value))
}

/// Has it done, and shows what the keyring has then.
pub(crate) fn made(cx: &Context, command: Order, value: Option<Secret>) -> Result<Exit, Failure> {
    let secrets = secrets_of(order(cx, command, value)?)?;
    let records = Keyring::list_public_secrets(&cx.keyring()?)?;
    for record in records.iter().filter(|record| secrets.contains(&record.secret)) {
        tell(cx, record);
    }
    Ok(Exit::Done)
}

/// The secrets that a reply is about.
pub(crate) fn secrets_of(reply: Reply) -> Result<Vec<SecretRef>, Failure> {
    match reply {
        Reply::Secrets(secrets) => Ok(secrets),
        Reply::Done { .. }
        | Reply::Keys(_)
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
    let now = overview.now;
    if cx.out.is_json() {
        for record in &overview.secrets {
            let tally = overview.secret_tally(record);
            let mut json = to_json(record, now);
            if let Some(json) = json.as_object_mut() {
                json.extend([
                    ("uses".to_owned(), tally.uses.into()),
                    ("last_use".to_owned(), serde_json::json!(tally.last)),
                    (
                        "used_by".to_owned(),
                        serde_json::json!(overview.holders_of_secret(record)),
                    ),
                ]);
            }
            cx.out.value(&json, |_| String::new());
        }
        return Ok(Exit::Done);
    }
    if overview.secrets.is_empty() {
        cx.out
            .note("the keyring has no secrets; `claviger secret add NAME --kind … --origin …` adds one");
        return Ok(Exit::Done);
    }
    let heading = [
        "NAME",
        "VERSION",
        "STATE",
        "AGE",
        "KIND",
        "ORIGIN",
        "ASSURANCE",
        "LAST USE",
        "USED BY",
        "TIME",
    ];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(overview.secrets.iter().map(|record| {
        vec![
            record.secret.name.to_string(),
            record.secret.version.to_string(),
            record.standing().to_owned(),
            overview.age(record.created),
            record.kind.to_string(),
            record.origin.to_string(),
            record.assurance.to_string(),
            overview::minute(overview.secret_tally(record).last),
            overview::holders(&overview.holders_of_secret(record)),
            standing(record, now).unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    cx.out.line(&columns(&rows));
    Ok(Exit::Done)
}

fn show(cx: &Context, spec: &SecretSpec) -> Result<Exit, Failure> {
    let records = Keyring::list_public_secrets(&cx.keyring()?)?;
    let name = &spec.name;
    let versions = || records.iter().filter(|record| record.secret.name == *name);
    let found = match spec.version {
        Some(version) => versions().find(|record| record.secret.version == version),
        None => versions()
            .find(|record| record.is_in_use())
            .or_else(|| versions().max_by_key(|record| record.secret.version)),
    };
    let Some(record) = found else {
        if versions().next().is_some() {
            let there = versions().map(|record| (record.secret.version, record.standing()));
            return Err(
                Failure::failed(format!("there is no secret `{spec}`")).help(keys::those_there(there))
            );
        }
        let failure = Failure::failed(format!("the keyring has no secret `{name}`"));
        let names = records.iter().map(|record| record.secret.name.as_str());
        return Err(match nearest(name.as_str(), names) {
            Some(near) => failure.help(format!("did you mean `{near}`?")),
            None => failure.help("`claviger secret list` shows the secrets there are"),
        });
    };
    Ok(tell(cx, record))
}

/// What an operator has to do about an active secret because of the time, if anything.
pub(crate) fn standing(record: &SecretRecord, now: Timestamp) -> Option<String> {
    if !record.is_in_use() {
        return None;
    }
    if let Some(expires) = record.expires.filter(|_| record.is_expired(now)) {
        return Some(format!("expired {expires:.0}"));
    }
    match record.due() {
        Some(due) if now >= due => Some(format!("due for a new value since {due:.0}")),
        Some(_) | None => None,
    }
}

fn tell(cx: &Context, record: &SecretRecord) -> Exit {
    cx.out
        .value(&to_json(record, Timestamp::now()), |_| describe(record));
    Exit::Done
}

fn to_json(record: &SecretRecord, now: Timestamp) -> serde_json::Value {
    serde_json::json!({
        "name": record.secret.name,
        "version": record.secret.version,
        "state": record.standing(),
        "kind": record.kind,
        "origin": record.origin,
        "assurance": record.assurance,
        "created": record.created,
        "updated": record.updated,
        "expires": record.expires,
        "rotate_every_seconds": record.rotate_every.map(|every| every.as_secs()),
        "due": record.due(),
        "standing": standing(record, now),
        "overlap_seconds": record.overlap.as_secs(),
        "source": record.source.as_str(),
        "until": record.until.filter(|_| !record.lacks_successor()),
        "lacks_successor": record.lacks_successor(),
        "deleted": record.deleted,
        "reason": record.reason,
        "purge_lock": record.locked,
    })
}

fn describe(record: &SecretRecord) -> String {
    let time = |at: Option<Timestamp>| at.map_or_else(|| "never".to_owned(), |at| format!("{at:.0}"));
    let plan = match (record.rotate_every, record.due()) {
        (Some(every), Some(due)) => format!("every {}, next {due:.0}", in_days(every)),
        (Some(_), None) | (None, Some(_)) | (None, None) => "no plan".to_owned(),
    };
    let rows = [
        ("secret", record.secret.to_string()),
        ("state", record.standing().to_owned()),
        ("kind", record.kind.to_string()),
        ("origin", record.origin.to_string()),
        ("assurance", record.assurance.to_string()),
        ("expires", time(record.expires)),
        ("rotation", plan),
        ("created", format!("{:.0}", record.created)),
    ];
    let until = record.until.filter(|_| !record.lacks_successor());
    let more = [
        ("until", until.map(|until| format!("{until:.0}"))),
        (
            "successor",
            record.lacks_successor().then(|| "none yet".to_owned()),
        ),
        ("reason", record.reason.as_ref().map(ToString::to_string)),
        ("value", Some("not shown, ever".to_owned())),
    ];
    let rows = rows
        .into_iter()
        .chain(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
    let rows: Vec<_> = rows.map(|(name, value)| vec![name.to_owned(), value]).collect();
    shown(&columns(&rows))
}

/// A rotation plan as it was probably written.
pub(crate) fn in_days(every: Duration) -> String {
    let seconds = every.as_secs();
    if seconds.is_multiple_of(86_400) {
        format!("{} d", seconds / 86_400)
    } else {
        format_duration(every)
    }
}

/// The value from where it was said to be. Buffers are wiped.
/// Reads at most `max` bytes, or tells of too much, from where the arguments say; `what` is what it is, as in "the secret".
pub(crate) fn read_value(
    cx: &Context,
    from: &SecretValue,
    max: usize,
    what: &str,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let cannot =
        |error: io::Error| Failure::failed(format!("the {what} cannot be read")).because(Some(&error));
    let bytes = match (&from.file, from.fd) {
        (Some(path), _) => {
            let file = File::open(path).map_err(cannot)?;
            passphrase::warn_if_shared(&file, path, "the file of the secret", &cx.out).map_err(cannot)?;
            passphrase::read_line(file, max)
        }
        (None, Some(number)) => {
            let file = passphrase::open_descriptor(number).map_err(cannot)?;
            passphrase::read_line(file, max)
        }
        (None, None) => {
            if io::stdin().is_terminal() {
                return Err(Failure::usage(format!(
                    "a {what} is not typed where it shows; stdin is a terminal"
                ))
                .help("give it through a pipe, with `--file FILE`, or with `--fd N`"));
            }
            if matches!(cx.passphrase, Source::Descriptor(0))
                || matches!(&cx.passphrase, Source::File(path) if path == Path::new("/dev/stdin"))
            {
                return Err(Failure::usage(format!(
                    "the passphrase and the {what} cannot both come from stdin"
                )));
            }
            passphrase::read_line(io::stdin().lock(), max)
        }
    };
    let bytes = bytes.map_err(cannot)?;
    if bytes.is_empty() {
        return Err(Failure::failed(format!("the {what} is empty")));
    }
    if bytes.len() > max {
        return Err(Failure::failed(format!("a {what} has at most {max} bytes")));
    }
    Ok(bytes)
}

pub(crate) fn read(cx: &Context, from: &SecretValue) -> Result<Secret, Failure> {
    let mut bytes = read_value(cx, from, MAX_SECRET_VALUE, "secret")?;
    if bytes.len() < GOOD_SECRET {
        cx.out.warn(&format!(
            "the secret has under {GOOD_SECRET} bytes: it can be guessed, and what looks for it in answers can be wrong"
        ));
    }
    Secret::take(&mut bytes).map_err(|error| Failure::of(Exit::Failed, &error))
}

impl From<NewSecretError> for Failure {
    fn from(error: NewSecretError) -> Self {
        match error {
            NewSecretError::Keyring(error) => error.into(),
            NewSecretError::Audit(error) => error.into(),
            other => Self::of(Exit::Failed, &other),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Arguments, Command};

    #[test]
    fn a_value_cannot_be_an_argument_and_a_plan_is_read_in_days() {
        let parse = |text: &str| Arguments::try_parse_from(text.split(' '));
        let add = "claviger secret add github --kind bearer --origin https://api.github.com";
        for more in ["", " --file f", " --fd 3", " --expires 2027-01-01T00:00:00Z"] {
            assert!(parse(&format!("{add}{more}")).is_ok(), "{more}");
        }
        for more in [
            " ghp_value",
            " --value ghp_value",
            " --file f --fd 3",
            " --rotate-every 0d",
            " --rotate-every 90",
            " --expires tomorrow",
        ] {
            assert!(parse(&format!("{add}{more}")).is_err(), "{more}");
        }
        for (text, days) in [("90d", 90), ("24h", 1)] {
            let parsed = parse(&format!("{add} --rotate-every {text}")).unwrap();
            let Command::Secret(Args::Add(args)) = parsed.command else {
                panic!("another command");
            };
            assert_eq!(args.rotate_every.unwrap().as_secs(), days * 86_400);
        }
        assert!(parse("claviger secret add g --kind cookie --origin https://a.test").is_err());
        assert!(parse("claviger secret add g --kind bearer --origin http://a.test").is_err());
    }
}
