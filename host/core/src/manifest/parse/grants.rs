//! `[grants.…]`: what the agent may do with credentials. Does not know which keys exist: admission does.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::Arc;

use jiff::Timestamp;
use toml::de::{DeTable, DeValue};

use super::section::{Section, kind, quoted};
use super::{attest, http, symmetric};
use crate::http::overlapping;
use crate::manifest::fields::{self, Field};
use crate::manifest::problem::{Report, code};
use crate::manifest::quantity::{format_duration, parse_duration};
use crate::manifest::{Capability, Constraints, Grant, Hours, Limits, MAX_GRANTS, MAX_HOURS, OnViolation};
use crate::name::GrantAlias;
use crate::profile::git::GitNarrowing;
use crate::profile::ssh_auth::{HostKeyId, MAX_LISTED, SshAuthNarrowing};
use crate::profile::{MAX_TOKEN_LIFE, Narrowing};

/// Which profile each narrowing field belongs to.
const PROFILES: [(Field, &str); 10] = [
    (fields::NAMESPACE, "sshsig"),
    (fields::AUDIENCE, "jws"),
    (fields::SUBJECT, "jws"),
    (fields::TTL, "jws"),
    (fields::LABEL, "labeled"),
    (fields::OBJECT, "git"),
    (fields::MAIL, "git"),
    (fields::TAG, "git"),
    (fields::LOGIN_USER, "ssh-auth"),
    (fields::HOST_KEYS, "ssh-auth"),
];

/// What a grant can be for; it has exactly one.
const CAPABILITIES: [Field; 5] = [
    fields::SIGN_TABLE,
    fields::HTTP_TABLE,
    fields::SEAL_TABLE,
    fields::MAC_TABLE,
    fields::ATTEST_TABLE,
];

/// The grants that can be had; the report holds an error for every other.
pub(super) fn read(
    top: &Section<'_, '_>,
    limits: &Limits,
    report: &mut Report,
) -> BTreeMap<GrantAlias, Grant> {
    let mut grants = BTreeMap::new();
    let mut routes = Vec::new();
    let mut audiences = Vec::new();
    let Some((table, span)) = top.table(fields::GRANTS_TABLE, report) else {
        return grants;
    };
    if table.len() > MAX_GRANTS {
        report.error(
            code::WRONG_VALUE,
            span,
            format!(
                "the manifest has {} grants; expected at most {MAX_GRANTS}",
                table.len()
            ),
            "too many",
            None,
        );
    }
    for (key, value) in table.iter() {
        let shown = quoted(key.get_ref());
        let alias: Result<GrantAlias, _> = key.get_ref().parse();
        if let Err(why) = &alias {
            report.error(
                code::WRONG_VALUE,
                key.span(),
                format!("a grant has the alias `{shown}`; {why}"),
                "not an alias",
                None,
            );
        }
        let Some(grant) = value.get_ref().as_table() else {
            report.error(
                code::WRONG_TYPE,
                value.span(),
                format!(
                    "`{shown}` in [grants] is {}; expected a table",
                    kind(value.get_ref())
                ),
                format!("{}, not a table", kind(value.get_ref())),
                Some(format!(
                    "for example `[grants.sign-release]` and below it `sign = {}`",
                    fields::SIGN_TABLE.example
                )),
            );
            continue;
        };
        let Some(read) = read_grant(grant, value.span(), &shown, limits, report) else {
            continue;
        };
        if let Ok(alias) = alias {
            routes.push((alias.clone(), read.routes));
            audiences.push((alias.clone(), read.audiences));
            grants.insert(alias, read.grant);
        }
    }
    refuse_overlaps(&grants, &routes, report);
    attest::refuse_overlaps(&grants, &audiences, report);
    grants
}

/// A grant, and where each of its routes and audiences is; none if it has none.
struct Read {
    grant: Grant,
    routes: Vec<Range<usize>>,
    audiences: Vec<Range<usize>>,
}

/// Under which of two grants a request falls would be a guess, and so would its limits and its credential.
fn refuse_overlaps(
    grants: &BTreeMap<GrantAlias, Grant>,
    routes: &[(GrantAlias, Vec<Range<usize>>)],
    report: &mut Report,
) {
    let requests: Vec<_> = routes
        .iter()
        .filter_map(|(alias, spans)| match &grants.get(alias)?.capability {
            Capability::Http(http) => Some((alias, http, spans)),
            Capability::Sign { .. }
            | Capability::Attest(_)
            | Capability::Seal { .. }
            | Capability::Mac { .. } => None,
        })
        .collect();
    for (index, (one, left, left_spans)) in requests.iter().enumerate() {
        for (two, right, right_spans) in requests.iter().skip(index + 1) {
            if left.origin != right.origin {
                continue;
            }
            let Some((a, b)) = overlapping(&left.allow, &right.allow) else {
                continue;
            };
            let place = |routes: &[crate::http::Route], spans: &[Range<usize>], route| {
                let at = routes.iter().position(|other| other == route);
                at.and_then(|at| spans.get(at).cloned()).unwrap_or_default()
            };
            // At the later one, and the message leads to the earlier one.
            let (a_at, b_at) = (
                place(&left.allow, left_spans, a),
                place(&right.allow, right_spans, b),
            );
            let ((first, first_route), (alias, route), at) = if a_at.start < b_at.start {
                ((one, a), (two, b), b_at)
            } else {
                ((two, b), (one, a), a_at)
            };
            let (shown, first_shown) = (quoted(&route.to_string()), quoted(&first_route.to_string()));
            report.error(
                code::CONFLICT,
                at,
                format!(
                    "[grants.{alias}] allows `{shown}` and [grants.{first}] `{first_shown}` on {}: some requests fall under both; \
                     expected each under one grant",
                    left.origin
                ),
                format!("also in [grants.{first}]"),
                Some("narrow one of the two: which limits and which credential hold would be a guess".to_owned()),
            );
        }
    }
}

fn read_grant(
    table: &DeTable<'_>,
    span: Range<usize>,
    alias: &str,
    limits: &Limits,
    report: &mut Report,
) -> Option<Read> {
    let place = format!("[grants.{alias}]");
    let grant = Section::open(table, span, place, fields::GRANT, &[], report);
    let inject = grant.get(fields::INJECT_TABLE).is_some();
    if !CAPABILITIES.iter().any(|field| grant.has(*field)) && !inject {
        report.error(
            code::MISSING_FIELD,
            grant.span.clone(),
            format!(
                "{} has none of `sign`, `http`, `seal`, `mac` and `attest`; expected one of them",
                grant.place
            ),
            "what does it allow?",
            Some(format!(
                "for example `sign = {}` or `http = {}`",
                fields::SIGN_TABLE.example,
                fields::HTTP_TABLE.example
            )),
        );
    }
    let mut given = CAPABILITIES
        .into_iter()
        .filter(|field| grant.get(*field).is_some());
    if let Some(first) = given.next() {
        for second in given {
            let why = format!(
                "it is there beside `{}`; expected one capability in one grant",
                first.name
            );
            let help = "make two grants: each has limits of its own";
            grant.conflict(second, &why, "a second capability", help, report);
        }
    }
    if inject && !grant.has(fields::HTTP_TABLE) {
        let why = "it is there without `http`; expected the request that the credential is for beside it";
        grant.conflict(fields::INJECT_TABLE, &why, "nothing to attach it to", "", report);
    }
    let sign = read_sign(&grant, alias, report);
    let http = http::read(&grant, alias, report);
    let attest = attest::read(&grant, alias, report);
    let seal = symmetric::read_seal(&grant, alias, report);
    let mac = symmetric::read_mac(&grant, alias, report);
    let constraints = read_constraints(&grant, report);
    warn(&grant, report);
    super::approval::warn(&grant, constraints.approval.as_ref(), limits, report);
    // Of two there is an error already.
    let (capability, routes, audiences) = match (sign.or(seal).or(mac), http, attest) {
        (Some(capability), _, _) => (capability, Vec::new(), Vec::new()),
        (None, Some(read), _) => (Capability::Http(Arc::new(read.http)), read.routes, Vec::new()),
        (None, None, Some((attest, audiences))) => (attest, Vec::new(), audiences),
        (None, None, None) => return None,
    };
    Some(Read {
        grant: Grant {
            capability,
            constraints,
        },
        routes,
        audiences,
    })
}

fn read_sign(grant: &Section<'_, '_>, alias: &str, report: &mut Report) -> Option<Capability> {
    let place = format!("`sign` of [grants.{alias}]");
    let sign = grant.section(fields::SIGN_TABLE, place, fields::SIGN, report)?;
    if sign.get(fields::KEY).is_none() {
        sign.missing(fields::KEY, report);
    }
    let key = sign.parsed(fields::KEY, report);
    let narrowing = Narrowing {
        namespace: sign
            .parsed(fields::NAMESPACE, report)
            .map(toml::Spanned::into_inner),
        audience: sign
            .parsed(fields::AUDIENCE, report)
            .map(toml::Spanned::into_inner),
        subject: sign
            .parsed(fields::SUBJECT, report)
            .map(toml::Spanned::into_inner),
        ttl: sign
            .read(fields::TTL, report, read_ttl)
            .map(toml::Spanned::into_inner),
        label: sign.parsed(fields::LABEL, report).map(toml::Spanned::into_inner),
        git: GitNarrowing {
            object: sign.parsed(fields::OBJECT, report).map(toml::Spanned::into_inner),
            mail: sign.parsed(fields::MAIL, report).map(toml::Spanned::into_inner),
            tag: sign.parsed(fields::TAG, report).map(toml::Spanned::into_inner),
        },
        ssh: SshAuthNarrowing {
            user: sign
                .parsed(fields::LOGIN_USER, report)
                .map(toml::Spanned::into_inner),
            host_keys: sign
                .list(fields::HOST_KEYS, 1..=MAX_LISTED, report, |text| {
                    text.parse::<HostKeyId>().map_err(|error| error.to_string())
                })
                .into_iter()
                .map(toml::Spanned::into_inner)
                .collect(),
        },
    };
    refuse_mixed_profiles(&sign, report);
    Some(Capability::Sign {
        key: key?.into_inner(),
        narrowing,
    })
}

/// No key has two profiles: fields of two can never be admitted together.
fn refuse_mixed_profiles(sign: &Section<'_, '_>, report: &mut Report) {
    let mut given = PROFILES
        .into_iter()
        .filter(|(field, _)| sign.get(*field).is_some());
    let Some((first, profile)) = given.next() else {
        return;
    };
    for (field, other) in given.filter(|(_, other)| *other != profile) {
        report.error(
            code::CONFLICT,
            sign.key_span(field),
            format!(
"{} has `{}`, which is for profile `{profile}`, and `{}`, which is for profile `{other}`; expected fields of one profile",
                sign.place, first.name, field.name
            ),
            "of another profile",
            Some("`claviger key list` shows the profile of each key".to_owned()),
        );
    }
}

fn read_ttl(text: &str) -> Result<u32, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    let seconds = u32::try_from(duration.as_secs()).unwrap_or(u32::MAX);
    if duration.subsec_nanos() != 0 || seconds == 0 || seconds > MAX_TOKEN_LIFE {
        let max = format_duration(std::time::Duration::from_secs(u64::from(MAX_TOKEN_LIFE)));
        return Err(format!("expected whole seconds from 1 s to {max}"));
    }
    Ok(seconds)
}

fn read_constraints(grant: &Section<'_, '_>, report: &mut Report) -> Constraints {
    Constraints {
        uses: read_uses(grant, report),
        rate: grant.parsed(fields::RATE, report).map(toml::Spanned::into_inner),
        hours: read_hours(grant, report),
        expires: read_expires(grant, report),
        on_violation: grant
            .read(fields::ON_VIOLATION, report, |text| match text {
                "deny" => Ok(OnViolation::Deny),
                "suspend" => Ok(OnViolation::Suspend),
                _ => Err("expected `deny` or `suspend`".to_owned()),
            })
            .map(toml::Spanned::into_inner)
            .unwrap_or_default(),
        approval: super::approval::read(grant, report),
    }
}

fn read_uses(grant: &Section<'_, '_>, report: &mut Report) -> Option<NonZeroU64> {
    let field = fields::USES;
    let value = grant.get(field)?;
    let Some(number) = value.get_ref().as_integer() else {
        grant.wrong_type(field, value, report);
        return None;
    };
    // TOML 1.1 §Integer: 64-bit signed; what is beyond them no other reader would take.
    let uses = i64::from_str_radix(number.as_str(), number.radix())
        .ok()
        .and_then(|number| NonZeroU64::new(u64::try_from(number).ok()?));
    if uses.is_none() {
        let why = format!(
            "it is {}; expected a whole number from 1 to {}",
            quoted(&number.to_string()),
            i64::MAX
        );
        grant.wrong_value(field, value.span(), &why, "out of range", report);
    }
    uses
}

fn read_hours(grant: &Section<'_, '_>, report: &mut Report) -> Vec<Hours> {
    let field = fields::HOURS;
    let Some(value) = grant.get(field) else {
        return Vec::new();
    };
    let items = match value.get_ref() {
        DeValue::String(_) => std::slice::from_ref(value),
        DeValue::Array(items) => {
            if items.is_empty() || items.len() > MAX_HOURS {
                let why = format!("the list has {} windows; expected 1 to {MAX_HOURS}", items.len());
                grant.wrong_value(field, value.span(), &why, "none or too many", report);
                return Vec::new();
            }
            items
        }
        DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Table(_) => {
            grant.wrong_type(field, value, report);
            return Vec::new();
        }
    };
    let mut hours = Vec::new();
    for item in items {
        let Some(text) = item.get_ref().as_str() else {
            grant.wrong_type(field, item, report);
            continue;
        };
        match text.parse() {
            Ok(window) => hours.push(window),
            Err(why) => grant.wrong_value(field, item.span(), &why, "not a window", report),
        }
    }
    hours
}

fn read_expires(grant: &Section<'_, '_>, report: &mut Report) -> Option<Timestamp> {
    let field = fields::EXPIRES;
    let value = grant.get(field)?;
    let Some(time) = value.get_ref().as_datetime() else {
        grant.wrong_type(field, value, report);
        return None;
    };
    if time.date.is_none() || time.time.is_none() || time.offset.is_none() {
        let why = format!(
            "`{time}` is no moment: it lacks a date, a time or the offset; add what is missing and `Z` for UTC"
        );
        grant.wrong_value(field, value.span(), &why, "not a moment", report);
        return None;
    }
    match time.to_string().parse() {
        Ok(moment) => Some(moment),
        Err(_) => {
            let why = format!("`{time}` is out of range; expected a moment before the year 10000");
            grant.wrong_value(field, value.span(), &why, "out of range", report);
            None
        }
    }
}

/// What is allowed and should be thought over.
fn warn(grant: &Section<'_, '_>, report: &mut Report) {
    if grant.get(fields::EXPIRES).is_none() {
        report.warning(
            code::NO_EXPIRY,
            grant.span.clone(),
            format!("{} never expires", grant.place),
            "no `expires`",
            "for example `expires = 2027-01-01T00:00:00Z`",
        );
    }
    if grant.get(fields::USES).is_none() && grant.get(fields::RATE).is_none() {
        report.warning(
            code::UNLIMITED,
            grant.span.clone(),
            format!("{} limits neither the number of uses nor their rate", grant.place),
            "no `uses` and no `rate`",
            "for example `rate = \"30/hour\"`",
        );
    }
}
