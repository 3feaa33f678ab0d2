//! `claviger status` and `claviger rotate --due`: what is due, stuck, expiring, weak, suspended or deleted, and rotating what is due.

use claviger_broker::local::Due;
use claviger_broker::operator::{LifeCommand, Reply};

use crate::args::life::Rotate;
use crate::command::rotator;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::operate::unexpected;
use crate::output::{columns, shown};
use crate::overview::{self, Concern};

pub(crate) fn status(cx: &Context) -> Result<Exit, Failure> {
    let overview = overview::read(cx)?;
    let matters = overview.matters();
    if cx.out.is_json() {
        let json = serde_json::json!({ "at": overview.now, "matters": matters });
        cx.out.value(&json, |_| String::new());
        return Ok(Exit::Done);
    }
    if matters.is_empty() {
        cx.out
            .line("nothing is due, stuck, expiring, weak, suspended or deleted");
        return Ok(Exit::Done);
    }
    let rows: Vec<_> = matters
        .into_iter()
        .map(|matter| {
            vec![
                word(matter.concern).to_owned(),
                matter.of,
                matter.detail,
                matter.help,
            ]
        })
        .collect();
    cx.out.line(&shown(&columns(&rows)));
    Ok(Exit::Done)
}

pub(crate) fn rotate(cx: &Context, args: &Rotate) -> Result<Exit, Failure> {
    if args.dry_run {
        return dry_run(cx);
    }
    let files = rotator::read(cx, &args.with)?;
    let (done, secrets) = match rotator::order_with(
        cx,
        LifeCommand::RotateDue {
            secrets: rotator::secrets(&files),
        },
        &files,
    )? {
        Reply::Rotated { keys, secrets } => (keys, secrets),
        Reply::Done { .. }
        | Reply::Keys(_)
        | Reply::Secrets(_)
        | Reply::SecretRotated(_)
        | Reply::Text(_)
        | Reply::Status(_)
        | Reply::Approvals(_)
        | Reply::BackedUp(_)
        | Reply::Approval(_) => return Err(unexpected()),
    };
    let mut exit = Exit::Done;
    for one in &done {
        if one.problem.is_some() {
            exit = Exit::Failed;
        }
        cx.out.value(one, |one| {
            let what = match (&one.new, &one.problem) {
                (Some(new), _) => new.to_string(),
                (None, problem) => format!("not rotated: {}", problem.as_deref().unwrap_or_default()),
            };
            shown(&format!("{} {}: {what}", one.key, why(one.due)))
        });
    }
    for one in &secrets {
        match rotator::tell(cx, one) {
            Exit::Done => {}
            other => exit = other,
        }
    }
    if done.is_empty() && secrets.is_empty() && !cx.out.is_json() {
        cx.out.note(if files.is_empty() {
            "no key is due"
        } else {
            "no key and no secret is due"
        });
    }
    Ok(exit)
}

fn dry_run(cx: &Context) -> Result<Exit, Failure> {
    let overview = overview::read(cx)?;
    let mut any = false;
    for record in &overview.keys {
        let uses = overview.key_tally(record).uses;
        let Some(due) = claviger_broker::local::due(record, uses, overview.now) else {
            continue;
        };
        any = true;
        let json = serde_json::json!({ "key": record.key.to_string(), "due": due });
        cx.out.value(&json, |_| format!("{} {}", record.key, why(due)));
    }
    for record in &overview.secrets {
        let Some(since) = claviger_broker::local::due_secret(record, overview.now) else {
            continue;
        };
        any = true;
        let json = serde_json::json!({ "secret": record.secret.to_string(), "since": since });
        cx.out.value(&json, |_| {
            format!("{} was due {}", record.secret, overview::day(since))
        });
    }
    if !any && !cx.out.is_json() {
        cx.out.note("no key and no secret is due");
    }
    Ok(Exit::Done)
}

fn why(due: Due) -> String {
    match due {
        Due::Age { since } => format!("was due {}", overview::day(since)),
        Due::Uses { uses, plan } => format!("was used {uses} times of {plan}"),
    }
}

const fn word(concern: Concern) -> &'static str {
    match concern {
        Concern::Due => "due",
        Concern::Stuck => "stuck",
        Concern::Expiring => "expiring",
        Concern::Weak => "weak",
        Concern::Suspended => "suspended",
        Concern::Deleted => "deleted",
    }
}
