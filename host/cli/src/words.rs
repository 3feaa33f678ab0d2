//! A manifest in words: limits, the agent's world, and each grant as a sentence. Judges nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use claviger_core::Manifest;
use claviger_core::approval::{Approval, ApprovalMode};
use claviger_core::manifest::{
    Access, Capability, Constraints, Grant, Limits, OnViolation, Rate, format_duration,
};
use claviger_core::profile::Narrowing;
use claviger_core::profile::git::GitNarrowing;
use claviger_core::profile::ssh_auth::SshAuthNarrowing;
use claviger_core::refusal::Rule;

pub(crate) mod http;

/// Every limit: name, value, and whether it is the default.
pub(crate) fn limits(manifest: &Manifest) -> Vec<(&'static str, String, bool)> {
    let defaults = Limits::default().rows();
    manifest
        .limits
        .rows()
        .into_iter()
        .zip(defaults)
        .map(|((name, value), (_, default))| {
            let is_default = value == default;
            (name, value, is_default)
        })
        .collect()
}

/// What the agent finds: arguments, variables (their names), folders.
pub(crate) fn world(manifest: &Manifest) -> Vec<String> {
    let world = &manifest.world;
    let mut lines = Vec::new();
    if !world.args.is_empty() {
        lines.push(format!("gets {} arguments", world.args.len()));
    }
    if !world.env.is_empty() {
        let names: Vec<_> = world.env.keys().map(ToString::to_string).collect();
        lines.push(format!("sees the variables {}", names.join(", ")));
    }
    for (guest, folder) in &world.files {
        let how = match folder.access {
            Access::Read => "reads",
            Access::ReadWrite => "reads and writes",
        };
        lines.push(format!("{how} `{}` as `{guest}`", folder.host));
    }
    if let Some(rotates) = &manifest.rotates {
        lines.push(format!(
            "replaces secret `{}`, and sees no value of it: the new one is taken at `{}` from an answer under `{}`, and tried under `{}`",
            rotates.secret, rotates.capture.value, rotates.issue, rotates.probe
        ));
        match &rotates.capture.id {
            Some(id) => lines.push(format!(
                "is told, and the log is, what the provider calls it: what is at `{id}`"
            )),
            None => lines.push(
                "withdraws nothing at the provider: the manifest does not say where its `id` is".to_owned(),
            ),
        }
    }
    if lines.is_empty() {
        lines.push("sees no arguments, variables or files".to_owned());
    }
    lines
}

/// What a grant allows, in one sentence.
pub(crate) fn grant(grant: &Grant) -> String {
    format!(
        "{}; {}",
        capability(&grant.capability),
        constraints(&grant.constraints, &grant.capability)
    )
}

fn capability(capability: &Capability) -> String {
    match capability {
        Capability::Sign { key, narrowing } => format!("may sign with key `{key}`{}", narrowed(narrowing)),
        Capability::Http(http) => http::sentence(http),
        Capability::Attest(attest) => format!(
            "may have itself attested to {} with key `{}`, each time for {}",
            list(attest.audiences.iter()),
            attest.key,
            format_duration(Duration::from_secs(u64::from(attest.ttl)))
        ),
        Capability::Seal { key, allow, bytes } => {
            let all = bytes.map_or("any number of bytes".to_owned(), |bytes| {
                format!("{bytes} in all")
            });
            format!("may {} with key `{key}`, {all}", both(allow))
        }
        Capability::Mac { key, label, allow } => {
            let label = label.as_ref().map(|label| format!(" under label `{label}`"));
            format!(
                "may {} MACs with key `{key}`{}",
                both(allow),
                label.unwrap_or_default()
            )
        }
    }
}

/// Names in quotes.
fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    let quoted: Vec<_> = items.map(|item| format!("`{}`", item.to_string())).collect();
    quoted.join(", ")
}

/// The rights of a grant: one, or one and the other.
fn both<T: ToString>(rights: &BTreeSet<T>) -> String {
    let names: Vec<_> = rights.iter().map(ToString::to_string).collect();
    names.join(" and ")
}

fn narrowed(narrowing: &Narrowing) -> String {
    let Narrowing {
        namespace,
        audience,
        subject,
        ttl,
        label,
        git: GitNarrowing { object, mail, tag },
        ssh: SshAuthNarrowing { user, host_keys },
    } = narrowing;
    let host_keys: Vec<_> = host_keys.iter().map(|it| format!("`{it}`")).collect();
    let parts = [
        namespace.as_ref().map(|it| format!("namespace `{it}`")),
        audience.as_ref().map(|it| format!("audience `{it}`")),
        subject.as_ref().map(|it| format!("subject `{it}`")),
        ttl.map(|seconds| format!("tokens of {seconds} s")),
        label.as_ref().map(|it| format!("label `{it}`")),
        object.as_ref().map(|it| format!("git {it}s")),
        mail.as_ref().map(|it| format!("mail addresses `{it}`")),
        tag.as_ref().map(|it| format!("tags `{it}`")),
        user.as_ref().map(|it| format!("logins as `{it}`")),
        (!host_keys.is_empty()).then(|| format!("host keys {}", host_keys.join(", "))),
    ];
    let parts: Vec<_> = parts.into_iter().flatten().collect();
    if parts.is_empty() {
        String::new()
    } else {
        format!(" for {}", parts.join(", "))
    }
}

fn constraints(constraints: &Constraints, capability: &Capability) -> String {
    let hours: Vec<_> = constraints.hours.iter().map(ToString::to_string).collect();
    let parts = [
        constraints
            .uses
            .map_or("any number of uses".to_owned(), |uses| match uses.get() {
                1 => "1 use in all".to_owned(),
                uses => format!("{uses} uses in all"),
            }),
        constraints
            .rate
            .map_or("at any rate".to_owned(), |rate: Rate| format!("at most {rate}")),
        if hours.is_empty() {
            "at any hour".to_owned()
        } else {
            format!("only {}", hours.join(" or "))
        },
        constraints
            .expires
            .map_or("without end".to_owned(), |at| format!("until {at}")),
        match constraints.on_violation {
            OnViolation::Deny => "a violation is refused".to_owned(),
            OnViolation::Suspend => "a violation suspends it".to_owned(),
        },
    ];
    let approval = constraints.approval.map(|terms| approval(terms, capability));
    parts.into_iter().chain(approval).collect::<Vec<_>>().join(", ")
}

fn approval(approval: Approval, capability: &Capability) -> String {
    let which = match (approval.mode, capability) {
        (ApprovalMode::Each, _) => "each use",
        (ApprovalMode::FirstUse, Capability::Seal { .. } | Capability::Mac { .. }) => {
            "the first use of each right"
        }
        (ApprovalMode::FirstUse, Capability::Sign { .. } | Capability::Http(_) | Capability::Attest(_)) => {
            "its first use"
        }
    };
    let timeout = format_duration(approval.timeout);
    format!("{which} waits up to {timeout} for an approval")
}

/// The name that the audit log has for the rule.
pub(crate) fn rule_name(rule: Rule) -> String {
    serde_json::to_value(rule)
        .ok()
        .and_then(|value| Some(value.as_str()?.to_owned()))
        .unwrap_or_else(|| format!("{rule:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = r#"
schema = 1
[agent]
name = "bot"
component = "bot.wasm"
[limits]
cpu = "5 s"
[grants.sign-release]
sign = { key = "release", namespace = "file" }
uses = 500
rate = "30/hour"
expires = 2027-01-01T00:00:00Z
on-violation = "suspend"
"#;

    #[test]
    fn a_grant_is_one_sentence_with_every_constraint() {
        let (manifest, _) = Manifest::parse(MANIFEST).unwrap();
        let sentences: Vec<_> = manifest.grants.values().map(grant).collect();
        let approved = MANIFEST.replace("uses = 500", "uses = 500\napproval = \"each\"");
        let (manifest, _) = Manifest::parse(&approved).unwrap();
        let sentence = manifest.grants.values().map(grant).collect::<String>();
        assert!(
            sentence.ends_with("suspends it, each use waits up to 5 min for an approval"),
            "{sentence}"
        );
        assert_eq!(
            sentences,
            [
                "may sign with key `release` for namespace `file`; 500 uses in all, at most 30/hour, at any hour, until \
                 2027-01-01T00:00:00Z, a violation suspends it"
            ]
        );
    }

    #[test]
    fn the_rights_of_a_grant_are_in_its_sentence() {
        let head = MANIFEST.split("[grants").next().unwrap();
        let grants = "[grants.a]\nseal = { key = \"state\", allow = [\"unseal\", \"seal\"], bytes = \"10 MiB\" }\n\
                      [grants.b]\nseal = { key = \"state\", allow = [\"unseal\"] }\n\
                      [grants.c]\nmac = { key = \"hook\", allow = [\"verify\"] }\n\
                      [grants.d]\nmac = { key = \"hook\", label = \"acme/hook\", allow = [\"generate\", \"verify\"] }\n";
        let (manifest, _) = Manifest::parse(&format!("{head}{grants}")).unwrap();
        let said: Vec<_> = manifest
            .grants
            .values()
            .map(|grant| capability(&grant.capability))
            .collect();
        assert_eq!(
            said,
            [
                "may seal and unseal with key `state`, 10 MiB in all",
                "may unseal with key `state`, any number of bytes",
                "may verify MACs with key `hook`",
                "may generate and verify MACs with key `hook` under label `acme/hook`",
            ]
        );
    }

    #[test]
    fn defaults_are_told_from_what_was_set() {
        let (manifest, _) = Manifest::parse(MANIFEST).unwrap();
        let limits = limits(&manifest);
        assert_eq!(limits.iter().filter(|(_, _, default)| *default).count(), 3);
        assert!(limits.contains(&("cpu", "5 s".to_owned(), false)));
    }

    #[test]
    fn rules_have_the_names_that_the_log_has() {
        assert_eq!(rule_name(Rule::KeyState), "key-state");
        assert_eq!(rule_name(Rule::Uses), "uses");
    }
}
