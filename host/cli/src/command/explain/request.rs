//! What the decision by a request's head says, in rows. The decision is the broker's own; nothing is sent, resolved or unlocked.

use claviger_broker::guard::{self, BodyLength};
use claviger_broker::ledger::GrantState;
use claviger_core::egress::RequestHead;
use claviger_core::http::{
    BodyPresence, ByteBudget, Decided, HttpGrant, Method, NotDecided, Route, Router, Target, decide,
};
use claviger_core::manifest::{Capability, Grant, MAX_WHOLE_BODY};
use claviger_core::name::escape;
use claviger_core::refusal::Rule;
use claviger_core::{GrantAlias, Manifest};

use super::Row;
use crate::args::Explain;
use crate::exit::Failure;
use crate::file::read_bounded;

/// What was found of a request.
pub(super) struct Answer {
    /// The grant it falls under.
    pub(super) grant: Option<GrantAlias>,
    /// That grant's route.
    pub(super) route: Option<Route>,
    pub(super) rows: Vec<Row>,
}

/// Decides a request as the broker would.
pub(super) fn answer(
    manifest: &Manifest,
    method: &str,
    url: &str,
    args: &Explain,
) -> Result<Answer, Failure> {
    let body = match &args.body {
        None => None,
        Some(path) => Some(read_bounded(path, MAX_WHOLE_BODY.0, "the body")?),
    };
    let mut head = RequestHead {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: args
            .header
            .iter()
            .map(|(name, value)| (name.clone(), value.clone().into_bytes()))
            .collect(),
    };
    if let Some(body) = &body {
        let length = ("content-length".to_owned(), body.len().to_string().into_bytes());
        head.headers.push(length);
    }
    let router = router(manifest);
    let grant = |alias: &GrantAlias| http(manifest, alias);
    let presence = if body.is_some() {
        BodyPresence::Present
    } else {
        BodyPresence::Absent
    };
    let mut unknown = false;
    let mut decided = decide(&router, grant, &head, presence);
    if body.is_none() && decided.as_ref().is_err_and(|no| no.denial.rule == Rule::Body) {
        // Of a body that was not given nothing is said but what it must be.
        unknown = true;
        assume_a_type(&mut head, &decided, manifest);
        decided = decide(&router, grant, &head, BodyPresence::Present);
    }
    Ok(match decided {
        Ok(decided) => allowed(&decided, body.as_deref(), unknown),
        Err(no) => refused(&router, &head, no),
    })
}

fn router(manifest: &Manifest) -> Router {
    let mut router = Router::default();
    for alias in manifest.grants.keys() {
        if let Some(http) = http(manifest, alias) {
            router.add(alias, &http.origin, &http.allow);
        }
    }
    router
}

pub(super) fn http<'a>(manifest: &'a Manifest, alias: &GrantAlias) -> Option<&'a HttpGrant> {
    match &manifest.grants.get(alias)?.capability {
        Capability::Http(http) => Some(http),
        Capability::Sign { .. }
        | Capability::Seal { .. }
        | Capability::Mac { .. }
        | Capability::Attest(_) => None,
    }
}

/// Whether the byte budget of a grant for requests has room for one, with the body that was given or else the smallest.
pub(super) fn budget(grant: &Grant, state: &GrantState, args: &Explain) -> Result<Option<Row>, Failure> {
    let Capability::Http(http) = &grant.capability else {
        return Ok(None);
    };
    if http.budget == ByteBudget::default() {
        return Ok(None);
    }
    let length = match &args.body {
        None => 0,
        Some(path) => read_bounded(path, MAX_WHOLE_BODY.0, "the body")?.len(),
    };
    let body = BodyLength::Known(u64::try_from(length).unwrap_or(u64::MAX));
    let finding = guard::explain_budget(&http.budget, state, body, http.answer.max.0);
    Ok(Some(Row::from(finding)))
}

/// The type that a body of this grant would have, if none was named.
fn assume_a_type(head: &mut RequestHead, decided: &Result<Decided<'_>, NotDecided>, manifest: &Manifest) {
    let named = head
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let alias = match decided {
        Ok(_) => None,
        Err(no) => no.grant.as_ref(),
    };
    let grant = alias.and_then(|alias| http(manifest, alias));
    if let (false, Some(grant)) = (named, grant) {
        let assumed = grant
            .body
            .content_types
            .first()
            .map_or("application/json", String::as_str);
        head.headers
            .push(("content-type".to_owned(), assumed.as_bytes().to_vec()));
    }
}

fn allowed(decided: &Decided<'_>, body: Option<&[u8]>, unknown: bool) -> Answer {
    let list = |names: Vec<String>, none: &str| match names.as_slice() {
        [] => none.to_owned(),
        some => some.join(", "),
    };
    let keys = decided.target.query().map(|(key, _)| escape(key, 64)).collect();
    let fields = decided.headers.iter().map(|(name, _)| name.to_string()).collect();
    Answer {
        grant: Some(decided.alias.clone()),
        route: Some(decided.route.clone()),
        rows: vec![
            under(decided.alias, decided.route),
            Row::new(Rule::Query, true, list(keys, "no query")),
            Row::new(Rule::Header, true, list(fields, "none of the agent's")),
            look_at_body(decided, body, unknown),
        ],
    }
}

fn look_at_body(decided: &Decided<'_>, body: Option<&[u8]>, unknown: bool) -> Row {
    let row = |allows, detail: String| Row::new(Rule::Body, allows, detail);
    let Some(body) = body else {
        let detail = if unknown {
            "depends on the body, which `--body` would name".to_owned()
        } else if decided.body_must_be_empty() {
            format!("none, as a {} request has", decided.method)
        } else {
            format!("none given; one of up to {} is allowed", decided.grant.body.max)
        };
        return row(true, detail);
    };
    match &decided.grant.body.json {
        None => row(true, format!("{} bytes, not looked into", body.len())),
        Some(rule) => match rule.check(body) {
            Ok(_) => row(true, format!("{} bytes of JSON that fit every rule", body.len())),
            Err(error) => row(false, error.to_string()),
        },
    }
}

fn refused(router: &Router, head: &RequestHead, no: NotDecided) -> Answer {
    let mut rows = Vec::new();
    let target = Target::parse(&head.url, claviger_core::http::PathEncoding::Allowed).ok();
    let method: Option<Method> = head.method.parse().ok();
    let found = method
        .zip(target.as_ref())
        .and_then(|(method, target)| router.find(method, target));
    if let (Some(found), Some(_)) = (&found, &no.grant) {
        rows.push(under(found.alias, found.route));
    }
    let route = found.map(|found| found.route.clone());
    rows.push(Row::new(no.denial.rule, false, no.denial.detail));
    Answer {
        grant: no.grant,
        route,
        rows,
    }
}

fn under(alias: &GrantAlias, route: &Route) -> Row {
    Row::new(Rule::Route, true, format!("`{route}` of grant `{alias}`"))
}
