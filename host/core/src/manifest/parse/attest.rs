//! `attest` of a grant: for whom the host gives evidence of the agent. Does not know which keys exist: admission does.

use std::collections::BTreeMap;
use std::ops::Range;

use super::section::{Section, quoted};
use crate::attest::MAX_EVIDENCE_LIFE;
use crate::manifest::fields;
use crate::manifest::problem::{Report, code};
use crate::manifest::quantity::{format_duration, parse_duration};
use crate::manifest::{AttestGrant, Capability, DEFAULT_EVIDENCE_LIFE, Grant, MAX_AUDIENCES};
use crate::name::{GrantAlias, Principal};

/// The grant, if it has one, and where each of its audiences is.
pub(super) fn read(
    grant: &Section<'_, '_>,
    alias: &str,
    report: &mut Report,
) -> Option<(Capability, Vec<Range<usize>>)> {
    let place = format!("`attest` of [grants.{alias}]");
    let attest = grant.section(fields::ATTEST_TABLE, place, fields::ATTEST, report)?;
    attest.require(&[fields::ATTEST_KEY, fields::AUDIENCES], report);
    let key = attest.parsed(fields::ATTEST_KEY, report);
    let audiences = attest.list(fields::AUDIENCES, 1..=MAX_AUDIENCES, report, |text| {
        text.parse::<Principal>().map_err(|error| error.to_string())
    });
    let ttl = attest.read(fields::EVIDENCE_TTL, report, |text| {
        let duration = parse_duration(text).map_err(|error| error.to_string())?;
        match u32::try_from(duration.as_secs()) {
            Ok(seconds @ 1..=MAX_EVIDENCE_LIFE) if duration.subsec_nanos() == 0 => Ok(seconds),
            Ok(_) | Err(_) => {
                let max = format_duration(std::time::Duration::from_secs(u64::from(MAX_EVIDENCE_LIFE)));
                Err(format!("expected whole seconds from 1 s to {max}"))
            }
        }
    });
    let spans = audiences.iter().map(toml::Spanned::span).collect();
    let capability = Capability::Attest(AttestGrant {
        key: key?.into_inner(),
        audiences: audiences.into_iter().map(toml::Spanned::into_inner).collect(),
        ttl: ttl.map_or(DEFAULT_EVIDENCE_LIFE, toml::Spanned::into_inner),
    });
    Some((capability, spans))
}

/// An agent asks for evidence by its audience: under which of two grants it would be given would be a guess, and so would its key and
/// its limits.
pub(super) fn refuse_overlaps(
    grants: &BTreeMap<GrantAlias, Grant>,
    places: &[(GrantAlias, Vec<Range<usize>>)],
    report: &mut Report,
) {
    let mut first: BTreeMap<&Principal, &GrantAlias> = BTreeMap::new();
    for (alias, spans) in places {
        let Some(Capability::Attest(grant)) = grants.get(alias).map(|grant| &grant.capability) else {
            continue;
        };
        for audience in &grant.audiences {
            let Some(other) = first.insert(audience, alias) else {
                continue;
            };
            report.error(
                code::CONFLICT,
                spans.first().cloned().unwrap_or_default(),
                format!(
                    "[grants.{alias}] and [grants.{other}] both attest for `{}`; expected each audience under one grant",
                    quoted(audience.as_str())
                ),
                format!("also in [grants.{other}]"),
                Some("take it out of one of the two: which key and which limits hold would be a guess".to_owned()),
            );
        }
    }
}
