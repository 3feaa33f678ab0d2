//! One entry of the audit log as one line for people, and as JSON with its index. Trusts no text of it: what reads a damaged log must
//! not obey it.

use claviger_core::approval::AnsweredBy;
use claviger_core::audit::{
    ApprovalEnd, Event, InstanceEnd, RequestLine, RequestPurpose, SecretSource, Settlement, Traffic, Use,
};
use claviger_core::{ContentDigest, Entry, EntryIndex};

use crate::output::{Output, Style, shown};
use crate::words::rule_name;

/// Digests are shown up to this many characters after `sha256:`; `audit show` has all of them.
const SHORT: usize = 12;

/// An entry with its index, as programs get it.
pub(crate) fn to_json(index: EntryIndex, entry: &Entry) -> serde_json::Value {
    let mut json = serde_json::json!({ "index": index });
    if let (Some(object), Ok(serde_json::Value::Object(fields))) =
        (json.as_object_mut(), serde_json::to_value(entry))
    {
        object.extend(fields);
    }
    json
}

/// An entry on one line.
pub(crate) fn line(out: &Output, index: EntryIndex, entry: &Entry) -> String {
    let (word, text) = words(&entry.event);
    let style = match &entry.event {
        Event::Denied { .. }
        | Event::NotAdmitted { .. }
        | Event::Suspended { .. }
        | Event::AgentSuspended { .. }
        | Event::RotationFailed { .. }
        | Event::SecretRotationFailed { .. }
        | Event::Panic
        | Event::Alert { .. } => Style::Warn,
        Event::Settled {
            settlement: Settlement::Failed | Settlement::Mismatch | Settlement::Indeterminate,
            ..
        } => Style::Warn,
        Event::Ended {
            end: InstanceEnd::Trapped { .. } | InstanceEnd::Stopped { .. },
            ..
        } => Style::Warn,
        Event::BackupRequested { .. } | Event::RestoreRequested { .. } | Event::ResealRequested { .. } => {
            Style::Warn
        }
        Event::Allowed(_) | Event::CertificateRequested { .. } | Event::ProofRequested { .. } => Style::Good,
        Event::ApprovalRequested(_) | Event::ApprovalEnded { .. } | Event::GrantProposed { .. } => {
            Style::Bold
        }
        Event::HostStarted { .. }
        | Event::HostStopped
        | Event::KeyStateChanged { .. }
        | Event::KeyCreated { .. }
        | Event::SecretAdded { .. }
        | Event::SecretIssued { .. }
        | Event::SecretWithdrawn { .. }
        | Event::SecretStateChanged { .. }
        | Event::Admitted { .. }
        | Event::Started { .. }
        | Event::Ended { .. }
        | Event::Settled { .. }
        | Event::ClockAccepted
        | Event::ProposalDismissed { .. }
        | Event::AgentResumed { .. }
        | Event::PanicLifted
        | Event::Resumed { .. } => Style::Dim,
    };
    // One line whatever the entry holds.
    let text = shown(&text).replace('\n', "\\u{a}");
    format!(
        "{index:>6}  {:.3}  {}  {text}",
        entry.time,
        out.paint(style, &format!("{word:<12}"))
    )
}

fn words(event: &Event) -> (&'static str, String) {
    match event {
        Event::HostStarted {
            version,
            keyring,
            recovered,
        } => {
            let after = recovered.as_ref().map_or_else(String::new, |found| {
                format!(
                    ", after an unclean stop: {} entries kept, {} bytes dropped, {} uses indeterminate",
                    found.entries, found.dropped_bytes, found.indeterminate
                )
            });
            (
                "started",
                format!("host, version {version}, keyring generation {keyring}{after}"),
            )
        }
        Event::KeyStateChanged {
            key, state, reason, ..
        } => (
            "key-state",
            format!(
                "{key} is {} from now on{}",
                shown(state),
                because(reason.as_deref())
            ),
        ),
        Event::RotationFailed { key, detail } => (
            "not-rotated",
            format!("{key} was due and is not rotated: {}", shown(detail)),
        ),
        Event::SecretRotationFailed { secret, detail } => {
            ("not-rotated", format!("secret {secret}: {}", shown(detail)))
        }
        Event::SecretIssued { secret, id, agent } => {
            let id = id
                .as_ref()
                .map_or_else(String::new, |id| format!(" as {}", shown(id.as_str())));
            (
                "issued",
                format!("{secret} by its provider{id}, asked by {agent}"),
            )
        }
        Event::SecretWithdrawn { secret, id, refused } => {
            let seen = match refused {
                Some(true) => "and was seen to refuse it",
                Some(false) => "and was seen to take it",
                None => "and was not tried again",
            };
            (
                "withdrawn",
                format!("{secret} ({}): its provider agreed {seen}", shown(id.as_str())),
            )
        }
        Event::CertificateRequested { key, subject } => (
            "certify",
            format!("key {key}: a certificate for {subject} is asked for"),
        ),
        Event::BackupRequested {
            by,
            recipients,
            keys,
            secrets,
            left_out,
        } => (
            "backup",
            format!(
                "{by} has {keys} keys and {secrets} secrets written for {}; {left_out} keys live in a TPM",
                recipients.join(", ")
            ),
        ),
        Event::RestoreRequested {
            by,
            made,
            of,
            keys,
            secrets,
            weaken,
        } => {
            let weaken = if *weaken { ", weaker if need be" } else { "" };
            (
                "restore",
                format!("{by} restores {keys} keys and {secrets} secrets of {of} as of {made:.0}{weaken}"),
            )
        }
        Event::ResealRequested { by, from, to, keys } => (
            "reseal",
            format!(
                "{by} has the root key, until now under {from}, sealed under {to}, and {keys} keys with it"
            ),
        ),
        Event::ProofRequested { key, by } => (
            "prove",
            format!("key {key}: a proof by {by} that it lives in the TPM is asked for"),
        ),
        Event::HostStopped => ("stopped", "host, in order".to_owned()),
        Event::KeyCreated {
            key,
            profile,
            algorithm,
            custody,
            assurance,
            key_id,
            source,
        } => (
            "key-created",
            format!(
                "{key} {profile} {algorithm} in {custody} ({assurance}{}), id {key_id}",
                source
                    .as_ref()
                    .map_or_else(String::new, |source| format!(", {}", shown(source)))
            ),
        ),
        Event::Admitted {
            agent,
            component,
            grants,
            ..
        } => {
            let grants: Vec<_> = grants.iter().map(ToString::to_string).collect();
            let grants = if grants.is_empty() {
                "nothing".to_owned()
            } else {
                grants.join(", ")
            };
            (
                "admitted",
                format!("{agent} ({}), granted {grants}", short(component)),
            )
        }
        Event::NotAdmitted {
            agent,
            component,
            reasons,
            ..
        } => (
            "not-admitted",
            format!("{agent} ({}): {}", short(component), reasons.join("; ")),
        ),
        Event::Started { instance, agent, .. } => {
            ("agent", format!("{agent} started as instance {instance}"))
        }
        Event::Ended { instance, agent, end } => {
            ("agent", format!("{agent}, instance {instance}, {}", ending(end)))
        }
        Event::Allowed(used) => (
            "allowed",
            format!(
                "{} use {} of {} {}({}), {} bytes {}{}",
                used.agent,
                used.number,
                used.grant,
                credential(used),
                used.operation
                    .map_or_else(|| used.profile.clone(), |operation| name(&operation)),
                used.size,
                short_content(&used.content),
                used.request.as_ref().map_or_else(String::new, requested)
            ),
        ),
        Event::Denied {
            agent,
            grant,
            refusal,
            rule,
            detail,
            count,
            ..
        } => {
            let times = if *count == 1 {
                String::new()
            } else {
                format!(" ({count} times)")
            };
            (
                "denied",
                format!(
                    "{agent} {grant}: {refusal} by {}{times}: {detail}",
                    rule_name(*rule)
                ),
            )
        }
        Event::Settled {
            of,
            settlement,
            traffic,
        } => (
            "settled",
            format!(
                "{of}: {}{}",
                settled(*settlement),
                traffic.as_ref().map_or_else(String::new, moved)
            ),
        ),
        Event::Alert {
            agent,
            grant,
            rule,
            detail,
        } => (
            "alert",
            format!("{agent} {grant}: {} ({})", detail, rule_name(*rule)),
        ),
        Event::SecretAdded {
            secret,
            kind,
            origin,
            assurance,
            by,
        } => {
            let by = match by {
                SecretSource::Operator => "an operator",
                SecretSource::Server => "the server that rotated it",
                SecretSource::Rotator => "its provider, asked by a rotator",
            };
            (
                "secret-added",
                format!("{secret} {kind} for {origin} ({assurance}) by {by}"),
            )
        }
        Event::SecretStateChanged {
            secret,
            state,
            reason,
            ..
        } => (
            "secret-state",
            format!(
                "{secret} is {} from now on{}",
                shown(state),
                because(reason.as_deref())
            ),
        ),
        Event::Suspended { agent, grant, cause } => {
            let by = cause.map_or_else(
                || "an operator".to_owned(),
                |rule| format!("a violation of {}", rule_name(rule)),
            );
            ("suspended", format!("{agent} {grant} by {by}"))
        }
        Event::ClockAccepted => ("clock", "an operator vouched for the clock".to_owned()),
        Event::Resumed { agent, grant } => ("resumed", format!("{agent} {grant} by an operator")),
        Event::ApprovalRequested(request) => (
            "approval",
            format!(
                "{} asked for {} {}, {}, until {}",
                request.id,
                request.agent,
                request.grant,
                cut(&request.request.to_string()),
                request.expires
            ),
        ),
        Event::ApprovalEnded { request, end } => (
            "approval",
            format!(
                "{} {}, {} {}",
                request.id,
                ended(end),
                request.agent,
                request.grant
            ),
        ),
        Event::GrantProposed {
            agent,
            grant,
            wish,
            reason,
            ..
        } => {
            let lines = wish.lines(grant);
            let lines = lines.trim_end().replace('\n', " ");
            ("proposal", format!("{agent} asks for {lines}, because: {reason}"))
        }
        Event::ProposalDismissed { agent, grant } => {
            ("proposal", format!("{agent} {grant} put aside by an operator"))
        }
        Event::AgentSuspended { agent } => ("suspended", format!("{agent}, all of it, by an operator")),
        Event::AgentResumed { agent } => ("resumed", format!("{agent}, by an operator")),
        Event::Panic => (
            "panic",
            "an operator stopped all use of every credential".to_owned(),
        ),
        Event::PanicLifted => ("lifted", "an operator lets credentials be used again".to_owned()),
    }
}

fn ended(end: &ApprovalEnd) -> String {
    match end {
        ApprovalEnd::Approved { by } => format!("approved by {}", answered_by(by)),
        ApprovalEnd::Denied { by, reason } if reason.is_empty() => format!("denied by {}", answered_by(by)),
        ApprovalEnd::Denied { by, reason } => format!("denied by {}: {reason}", answered_by(by)),
        ApprovalEnd::Expired => "expired, nobody answered".to_owned(),
        ApprovalEnd::Withdrawn => "withdrawn, who asked is gone".to_owned(),
    }
}

fn answered_by(by: &AnsweredBy) -> String {
    match by {
        AnsweredBy::Operator { uid } => format!("user {uid}"),
        AnsweredBy::Terminal { uid } => format!("user {uid} at the terminal"),
        AnsweredBy::Webhook { origin } => format!("the webhook at {origin}"),
    }
}

/// Why something was done, if anybody said.
fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |reason| format!(": {}", shown(reason)))
}

/// Which key or secret a use is of, with a space behind it.
fn credential(used: &Use) -> String {
    match (&used.key, &used.secret) {
        (Some(key), Some(secret)) => format!("with {key} and {secret} "),
        (Some(key), None) => format!("with {key} "),
        (None, Some(secret)) => format!("with {secret} "),
        (None, None) => String::new(),
    }
}

fn requested(line: &RequestLine) -> String {
    let purpose = match line.purpose {
        RequestPurpose::Agent => "",
        RequestPurpose::Token => "for a token ",
        RequestPurpose::Approval => "for an approval ",
        RequestPurpose::Proof => "as a proof ",
    };
    format!(" to {} {purpose}by `{}`", line.origin, line.route)
}

fn moved(traffic: &Traffic) -> String {
    let status = traffic
        .status
        .map_or_else(|| "no answer".to_owned(), |status| format!("status {status}"));
    let fault = traffic
        .fault
        .map_or_else(String::new, |fault| format!(", {fault}"));
    let injected = if traffic.injected {
        ", credential attached"
    } else {
        ""
    };
    format!(
        ", {status}, {} bytes sent, {} received{injected}{fault}",
        traffic.sent, traffic.received
    )
}

const fn settled(settlement: Settlement) -> &'static str {
    match settlement {
        Settlement::Released => "released to the agent",
        Settlement::Failed => "failed, nothing released",
        Settlement::Mismatch => "did not open or match, as the agent learned",
        Settlement::Abandoned => "abandoned by the agent",
        Settlement::Indeterminate => "not known: the host died in between",
    }
}

fn ending(end: &InstanceEnd) -> String {
    match end {
        InstanceEnd::Finished => "finished".to_owned(),
        InstanceEnd::Failed => "ended with an error of its own".to_owned(),
        InstanceEnd::Stopped { limit } => format!("stopped at its limit of {}", name(limit)),
        InstanceEnd::Trapped { trap } => format!("trapped: {trap}"),
        InstanceEnd::Dropped => "dropped by the host".to_owned(),
    }
}

fn name(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        Ok(_) | Err(_) => String::new(),
    }
}

fn short(digest: &claviger_core::ComponentDigest) -> String {
    cut(&digest.to_string())
}

fn short_content(digest: &ContentDigest) -> String {
    cut(&digest.to_string())
}

fn cut(digest: &str) -> String {
    let end = "sha256:".len() + SHORT;
    digest
        .get(..end)
        .map_or_else(|| digest.to_owned(), |start| format!("{start}…"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(json: &str, expected: &Expect) {
        let entry: Entry = serde_json::from_str(json).unwrap();
        expected.assert_eq(&line(&Output::new(true), 7, &entry));
        let back = to_json(7, &entry);
        assert_eq!(back["index"], 7);
        assert_eq!(
            back["event"],
            serde_json::from_str::<serde_json::Value>(json).unwrap()["event"]
        );
    }

    #[test]
    fn entries_are_one_readable_line() {
        check(
            r#"{"time":"2026-06-01T12:00:00.123456Z","event":"host-stopped"}"#,
            &expect!["     7  2026-06-01T12:00:00.123Z  stopped       host, in order"],
        );
        check(
            r#"{"time":"2026-06-01T12:00:00Z","event":"denied","instance":1,"agent":"bot","grant":"sign","refusal":"over-budget",
               "rule":"uses","detail":"5 of 5 uses are spent","count":3}"#,
            &expect![
                "     7  2026-06-01T12:00:00.000Z  denied        bot sign: over budget by uses (3 times): 5 of 5 uses are spent"
            ],
        );
        check(
            r#"{"time":"2026-06-01T12:00:00Z","event":"suspended","agent":"bot","grant":"sign"}"#,
            &expect!["     7  2026-06-01T12:00:00.000Z  suspended     bot sign by an operator"],
        );
    }

    #[test]
    fn a_hostile_entry_stays_on_its_line() {
        check(
            r#"{"time":"2026-06-01T12:00:00Z","event":"denied","instance":1,"agent":"bot","grant":"x\n9 allowed \u001b[2J",
               "refusal":"not-granted","rule":"grant","detail":"","count":1}"#,
            &expect![
                "     7  2026-06-01T12:00:00.000Z  denied        bot x\\u{a}9 allowed \\u{1b}[2J: not granted by grant: "
            ],
        );
    }
}
