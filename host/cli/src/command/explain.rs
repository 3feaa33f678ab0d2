//! `claviger explain`: which rule allows or denies a use of a grant, or a request, by the checks that decide and the log they stand
//! on. Unlocks nothing, touches no key, sends nothing, and writes nothing.

use claviger_broker::guard::{self, Finding};
use claviger_broker::ledger::GrantState;
use claviger_core::manifest::{Capability, Grant};
use claviger_core::name::{escape, nearest};
use claviger_core::refusal::Rule;
use claviger_core::{AgentName, ComponentDigest, GrantAlias, Manifest};
use jiff::Timestamp;
use serde::Serialize;

use crate::args::{Asked, Explain};
use crate::context::Context;
use crate::exit::{Exit, Failure};
use crate::manifest::ManifestFile;
use crate::output::{Style, columns, shown_styled};
use crate::words::{self, rule_name};
use crate::{credentials, log};

mod request;

/// A request is shown with at most this many characters: what an operator typed.
const MAX_LINE: usize = 512;

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
    /// None if a request falls under no grant.
    grant: Option<&'a GrantAlias>,
    /// What was asked for, if it was a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    request: Option<String>,
    /// The route that a request falls under.
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    at: Timestamp,
    allowed: bool,
    /// The first rule that denies.
    denied_by: Option<&'a str>,
    rules: &'a [Row],
    /// Of a grant for requests: what the host attaches, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    inject: Option<String>,
    /// Of a grant for requests: every limit.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    limits: Vec<Limit>,
}

/// A limit of a grant for requests.
#[derive(Debug, Serialize)]
struct Limit {
    name: &'static str,
    value: String,
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
    let (alias, request, route) = match &args.asked {
        Asked::Grant(_) if !args.header.is_empty() || args.body.is_some() => {
            return Err(Failure::new(
                Exit::Usage,
                "`--header` and `--body` go with a request, such as 'POST https://api.example.com/v1/items'"
                    .to_owned(),
            ));
        }
        Asked::Grant(alias) => (Some(alias.clone()), None, None),
        Asked::Request { method, url } => {
            let answer = request::answer(&manifest, method, url, args)?;
            rules.extend(answer.rows);
            let line = escape(&format!("{method} {url}"), MAX_LINE);
            (
                answer.grant,
                Some(line),
                answer.route.map(|route| route.to_string()),
            )
        }
    };
    match alias.as_ref().map(|alias| (alias, manifest.grants.get(alias))) {
        None => {}
        Some((alias, None)) => rules.push(no_such_grant(&manifest, alias)),
        Some((alias, Some(grant))) => {
            let ledger = log::ledger(cx)?;
            rules.extend(credential(cx, &manifest, (alias, grant), at)?);
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
            let state = ledger.grant(&manifest.agent.name, alias);
            rules.extend(bytes(&grant.capability, &state));
            rules.extend(
                guard::explain(&grant.constraints, &state, at)
                    .into_iter()
                    .map(Row::from),
            );
            rules.extend(request::budget(grant, &state, args)?);
        }
    }
    let http = alias.as_ref().and_then(|alias| request::http(&manifest, alias));
    let denied_by = rules.iter().find(|row| !row.allows).map(|row| row.rule.as_str());
    let explanation = Explanation {
        agent: &manifest.agent.name,
        grant: alias.as_ref(),
        request,
        route,
        at,
        allowed: denied_by.is_none(),
        denied_by,
        rules: &rules,
        inject: http.and_then(|http| http.inject.as_ref()).map(words::http::slot),
        limits: http
            .map(words::http::limits)
            .unwrap_or_default()
            .into_iter()
            .map(|(name, value)| Limit { name, value })
            .collect(),
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

/// Whether what the grant uses is there, active, and made for it.
fn credential(
    cx: &Context,
    manifest: &Manifest,
    (alias, grant): (&GrantAlias, &Grant),
    at: Timestamp,
) -> Result<Vec<Row>, Failure> {
    match &grant.capability {
        Capability::Http(http) if http.inject.is_none() => return Ok(Vec::new()),
        Capability::Http(_)
        | Capability::Sign { .. }
        | Capability::Seal { .. }
        | Capability::Mac { .. }
        | Capability::Attest(_) => {}
    }
    let needs = credentials::shown(cx)?.needs(manifest, alias, at).into_iter();
    Ok(needs
        .map(|need| match need.found {
            Ok(detail) => Row::new(need.rule, true, detail),
            Err(unmet) => Row::new(need.rule, false, unmet.to_string()),
        })
        .collect())
}

/// Whether anything is left of the bytes that may be sealed and unsealed.
fn bytes(capability: &Capability, state: &GrantState) -> Option<Row> {
    let Capability::Seal { bytes, .. } = capability else {
        return None;
    };
    Some(match (guard::sealed_room(*bytes, state, 1), bytes) {
        (Err(denial), _) => Row::new(Rule::Budget, false, denial.detail),
        (Ok(()), Some(bytes)) => {
            let detail = format!("{} bytes of {bytes} were sealed and unsealed", state.sealed);
            Row::new(Rule::Budget, true, detail)
        }
        (Ok(()), None) => {
            let detail = format!("{} bytes were sealed and unsealed, no limit", state.sealed);
            Row::new(Rule::Budget, true, detail)
        }
    })
}

fn human(cx: &Context, explanation: &Explanation<'_>) -> String {
    let verdict = match explanation.denied_by {
        None => cx.out.paint(Style::Good, "allowed"),
        Some(rule) => cx.out.paint(Style::Bad, &format!("denied by `{rule}`")),
    };
    let what = match (&explanation.request, explanation.grant) {
        (Some(request), Some(grant)) => format!("{request}\nfalls under grant `{grant}`"),
        (Some(request), None) => format!("{request}\nfalls under no grant"),
        (None, Some(grant)) => format!("grant `{grant}`"),
        (None, None) => "no grant".to_owned(),
    };
    let mut out = format!(
        "{what} of agent `{}` at {}: {verdict}\n",
        explanation.agent, explanation.at
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
    if let Some(inject) = &explanation.inject {
        out.push_str(&format!("{} {inject}\n", cx.out.paint(Style::Bold, "attached")));
    }
    if !explanation.limits.is_empty() {
        out.push_str(&cx.out.paint(Style::Bold, "limits"));
        out.push('\n');
        let rows: Vec<_> = explanation
            .limits
            .iter()
            .map(|limit| vec![String::new(), limit.name.to_owned(), limit.value.clone()])
            .collect();
        out.push_str(&columns(&rows));
    }
    shown_styled(&out)
}
