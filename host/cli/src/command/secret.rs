//! `claviger secret …`: puts secrets into the keyring and takes them out of use. Nothing here can show a value.

use std::fs::File;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::time::Duration;

use claviger_broker::keyring::{
    GOOD_SECRET, KeyState, Keyring, MAX_SECRET_VALUE, SecretRecord, SecretReplacement,
};
use claviger_broker::local::{NewSecretError, SecretCreation};
use claviger_core::manifest::format_duration;
use claviger_core::name::nearest;
use claviger_core::{Secret, SecretName};
use jiff::Timestamp;

use crate::args::{Secret as Args, SecretAdd, SecretReplace, SecretValue};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::output::{columns, shown};
use crate::passphrase::{self, Source};
use crate::unlock::with_broker;

pub(crate) fn run(cx: &Context, args: Args) -> Result<Exit, Failure> {
    match args {
        Args::Add(args) => add(cx, args),
        Args::List => list(cx),
        Args::Show { name } => show(cx, &name),
        Args::Replace(args) => replace(cx, args),
        Args::Rm { name } => remove(cx, &name),
        Args::Disable { name } => change(cx, &name, KeyState::Disabled),
        Args::Enable { name } => change(cx, &name, KeyState::Active),
        Args::Revoke { name } => change(cx, &name, KeyState::Revoked),
    }
}

fn add(cx: &Context, args: SecretAdd) -> Result<Exit, Failure> {
    let value = read(cx, &args.value)?;
    let creation = SecretCreation {
        name: args.name,
        kind: args.kind,
        origin: args.origin,
        expires: args.expires,
        rotate_every: args.rotate_every,
        value,
    };
    let record = with_broker(cx, async |broker| Ok(broker.add_secret(creation).await?))?;
    Ok(tell(cx, &record))
}

fn replace(cx: &Context, args: SecretReplace) -> Result<Exit, Failure> {
    let value = read(cx, &args.value)?;
    let replacement = SecretReplacement {
        name: args.name,
        of: None,
        expires: args.expires,
        rotate_every: args.rotate_every,
        value,
    };
    let record = with_broker(cx, async |broker| Ok(broker.replace_secret(replacement).await?))?;
    Ok(tell(cx, &record))
}

fn remove(cx: &Context, name: &SecretName) -> Result<Exit, Failure> {
    let records = with_broker(cx, async |broker| Ok(broker.destroy_secret(name).await?))?;
    for record in &records {
        tell(cx, record);
    }
    Ok(Exit::Done)
}

fn change(cx: &Context, name: &SecretName, state: KeyState) -> Result<Exit, Failure> {
    let record = with_broker(cx, async |broker| {
        Ok(broker.set_secret_state(name, state).await?)
    })?;
    Ok(tell(cx, &record))
}

fn list(cx: &Context) -> Result<Exit, Failure> {
    let records = Keyring::list_public_secrets(&cx.keyring()?)?;
    let now = Timestamp::now();
    if cx.out.is_json() {
        for record in &records {
            cx.out.value(&to_json(record, now), |_| String::new());
        }
        return Ok(Exit::Done);
    }
    if records.is_empty() {
        cx.out
            .note("the keyring has no secrets; `claviger secret add NAME --kind … --origin …` adds one");
        return Ok(Exit::Done);
    }
    let heading = ["NAME", "VERSION", "STATE", "KIND", "ORIGIN", "ASSURANCE", "TIME"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(records.iter().map(|record| {
        vec![
            record.secret.name.to_string(),
            record.secret.version.to_string(),
            record.state.to_string(),
            record.kind.to_string(),
            record.origin.to_string(),
            record.assurance.to_string(),
            standing(record, now).unwrap_or_else(|| "-".to_owned()),
        ]
    }));
    cx.out.line(&columns(&rows));
    Ok(Exit::Done)
}

fn show(cx: &Context, name: &SecretName) -> Result<Exit, Failure> {
    let records = Keyring::list_public_secrets(&cx.keyring()?)?;
    let newest = records
        .iter()
        .filter(|record| record.secret.name == *name)
        .max_by_key(|record| record.secret.version);
    let Some(record) = newest else {
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
    if record.state != KeyState::Active {
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
        "state": record.state.as_str(),
        "kind": record.kind,
        "origin": record.origin,
        "assurance": record.assurance,
        "created": record.created,
        "updated": record.updated,
        "expires": record.expires,
        "rotate_every_seconds": record.rotate_every.map(|every| every.as_secs()),
        "due": record.due(),
        "standing": standing(record, now),
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
        ("state", record.state.to_string()),
        ("kind", record.kind.to_string()),
        ("origin", record.origin.to_string()),
        ("assurance", record.assurance.to_string()),
        ("expires", time(record.expires)),
        ("rotation", plan),
        ("created", format!("{:.0}", record.created)),
        ("value", "not shown, ever".to_owned()),
    ];
    shown(&columns(&rows.map(|(name, value)| vec![name.to_owned(), value])))
}

/// A rotation plan as it was probably written.
fn in_days(every: Duration) -> String {
    let seconds = every.as_secs();
    if seconds.is_multiple_of(86_400) {
        format!("{} d", seconds / 86_400)
    } else {
        format_duration(every)
    }
}

/// The value from where it was said to be. Buffers are wiped.
fn read(cx: &Context, from: &SecretValue) -> Result<Secret, Failure> {
    let cannot = |error: io::Error| Failure::failed("the secret cannot be read").because(Some(&error));
    let bytes = match (&from.file, from.fd) {
        (Some(path), _) => {
            let file = File::open(path).map_err(cannot)?;
            passphrase::warn_if_shared(&file, path, "the file of the secret", &cx.out).map_err(cannot)?;
            passphrase::read_line(file, MAX_SECRET_VALUE)
        }
        (None, Some(number)) => {
            let file = passphrase::open_descriptor(number).map_err(cannot)?;
            passphrase::read_line(file, MAX_SECRET_VALUE)
        }
        (None, None) => {
            if io::stdin().is_terminal() {
                return Err(
                    Failure::usage("a secret is not typed where it shows; stdin is a terminal")
                        .help("give it through a pipe, with `--file FILE`, or with `--fd N`"),
                );
            }
            if matches!(cx.passphrase, Source::Descriptor(0))
                || matches!(&cx.passphrase, Source::File(path) if path == Path::new("/dev/stdin"))
            {
                return Err(Failure::usage(
                    "the passphrase and the secret cannot both come from stdin",
                ));
            }
            passphrase::read_line(io::stdin().lock(), MAX_SECRET_VALUE)
        }
    };
    let mut bytes = bytes.map_err(cannot)?;
    if bytes.is_empty() {
        return Err(Failure::failed("the secret is empty"));
    }
    if bytes.len() > MAX_SECRET_VALUE {
        return Err(Failure::failed(format!(
            "a secret has at most {MAX_SECRET_VALUE} bytes"
        )));
    }
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
