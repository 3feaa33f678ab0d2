//! `claviger explain`: which rule allows or denies a use of a grant, by the checks that decide and the log they stand on. Unlocks
//! nothing, touches no key, and writes nothing.

use claviger_broker::guard::{self, Finding};
use claviger_broker::keyring::KeyState;
use claviger_core::manifest::{Capability, Grant};
use claviger_core::name::nearest;
use claviger_core::refusal::Rule;
use claviger_core::{AgentName, ComponentDigest, GrantAlias, Manifest};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::Explain;
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::manifest::ManifestFile;
use crate::output::{Style, columns, shown_styled};
use crate::words::rule_name;
use crate::{keys, log};

/// A rule and what it says.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Row {
    rule: String,
    allows: bool,
    detail: String,
}

/// The whole answer.
#[derive(Debug, Serialize)]
struct Explanation<'a> {
    agent: &'a AgentName,
    grant: &'a GrantAlias,
    at: Timestamp,
    allowed: bool,
    /// The first rule that denies.
    denied_by: Option<&'a str>,
    rules: &'a [Row],
}

pub(crate) fn run(cx: &Context, args: &Explain) -> Result<Exit, Failure> {
    let file = ManifestFile::read(&args.manifest.path)?;
    let (manifest, _) = file.parse(&cx.out)?;
    let mut rules = Vec::new();
    if let Some(problem) = file.writers.problem() {
        rules.push(Row::beside(
            "manifest",
            false,
            format!("it {problem}; {}", file.closing()),
        ));
    }
    rules.push(component(&file, &manifest));
    let mut at = args.at.unwrap_or_else(Timestamp::now);
    match manifest.grants.get(&args.grant) {
        None => rules.push(no_such_grant(&manifest, &args.grant)),
        Some(grant) => {
            let ledger = log::ledger(cx)?;
            rules.push(key(cx, grant)?);
            if args.at.is_none() {
                let row = match guard::trusted_time(at, ledger.latest()) {
                    Ok(trusted) => {
                        at = trusted;
                        Row::new(Rule::Clock, true, "the clock is not behind the log".to_owned())
                    }
                    Err(denial) => Row::new(Rule::Clock, false, denial.detail),
                };
                rules.push(row);
            }
            let state = ledger.grant(&manifest.agent.name, &args.grant);
            rules.extend(
                guard::explain(&grant.constraints, &state, at)
                    .into_iter()
                    .map(Row::from),
            );
        }
    }
    let denied_by = rules.iter().find(|row| !row.allows).map(|row| row.rule.as_str());
    let explanation = Explanation {
        agent: &manifest.agent.name,
        grant: &args.grant,
        at,
        allowed: denied_by.is_none(),
        denied_by,
        rules: &rules,
    };
    cx.out.value(&explanation, |explanation| human(cx, explanation));
    Ok(if explanation.allowed {
        Exit::Done
    } else {
        Exit::Denied
    })
}

impl Row {
    /// What stands beside the rules of a grant.
    fn beside(what: &str, allows: bool, detail: String) -> Self {
        Self {
            rule: what.to_owned(),
            allows,
            detail,
        }
    }

    fn new(rule: Rule, allows: bool, detail: String) -> Self {
        Self {
            rule: rule_name(rule),
            allows,
            detail,
        }
    }
}

impl From<Finding> for Row {
    fn from(finding: Finding) -> Self {
        Self::new(finding.rule, finding.allows, finding.detail)
    }
}

/// Whether the agent would be admitted with the bytes that are there.
fn component(file: &ManifestFile, manifest: &Manifest) -> Row {
    let row = |allows, detail| Row::beside("component", allows, detail);
    let digest = match file.component(manifest) {
        Ok(bytes) => ComponentDigest::of(&bytes),
        Err(failure) => return row(false, failure.message),
    };
    match manifest.agent.digest {
        Some(pinned) if pinned == digest => row(true, format!("{digest} is pinned")),
        Some(pinned) => row(
            false,
            format!("the component is {digest}, the manifest pins {pinned}"),
        ),
        None => row(
            false,
            "the manifest pins no digest; run `claviger pin` to approve these bytes".to_owned(),
        ),
    }
}

fn no_such_grant(manifest: &Manifest, alias: &GrantAlias) -> Row {
    let detail = match nearest(alias.as_str(), manifest.grants.keys().map(GrantAlias::as_str)) {
        Some(near) => format!("the manifest has no grant `{alias}`; did you mean `{near}`?"),
        None => format!("the manifest has no grant `{alias}`"),
    };
    Row::new(Rule::Grant, false, detail)
}

/// Whether the key is there, active, and made for what the grant asks.
fn key(cx: &Context, grant: &Grant) -> Result<Row, Failure> {
    let row = |allows, detail| Row::new(Rule::KeyState, allows, detail);
    let Capability::Sign { key, narrowing } = &grant.capability else {
        return Ok(row(true, "no key signs under it".to_owned()));
    };
    let records = keys::list(cx)?;
    Ok(match keys::find(&records, key) {
        Err(failure) => row(false, failure.message),
        Ok(record) if record.state != KeyState::Active => row(
            false,
            format!("key `{}` is {}, only active keys sign", record.key, record.state),
        ),
        Ok(record) => match record.profile.narrow(narrowing) {
            Err(error) => row(false, format!("key `{key}`: {error}")),
            Ok(_) => row(
                true,
                format!("key `{}` is active, for {}", record.key, record.profile.kind()),
            ),
        },
    })
}

fn human(cx: &Context, explanation: &Explanation<'_>) -> String {
    let verdict = match explanation.denied_by {
        None => cx.out.paint(Style::Good, "allowed"),
        Some(rule) => cx.out.paint(Style::Bad, &format!("denied by `{rule}`")),
    };
    let mut out = format!(
        "grant `{}` of agent `{}` at {}: {verdict}\n",
        explanation.grant, explanation.agent, explanation.at
    );
    let rows: Vec<_> = explanation
        .rules
        .iter()
        .map(|row| {
            let word = if row.allows { "allows" } else { "denies" };
            vec![
                String::new(),
                word.to_owned(),
                row.rule.clone(),
                row.detail.clone(),
            ]
        })
        .collect();
    out.push_str(&columns(&rows));
    shown_styled(&out)
}
