//! `[rotates]`: which secret the agent replaces, and under which of its grants. Does not know which secrets exist: admission does.

use std::collections::BTreeMap;

use toml::Spanned;

use super::inject;
use super::section::{Section, quoted};
use crate::http::{Capture, HttpGrant, Injection, JsonPlace};
use crate::manifest::fields::{self, Field};
use crate::manifest::problem::Report;
use crate::manifest::{Capability, Grant, Rotates};
use crate::name::{GrantAlias, SecretName};

pub(super) fn read(
    top: &Section<'_, '_>,
    grants: &BTreeMap<GrantAlias, Grant>,
    report: &mut Report,
) -> Option<Rotates> {
    let rotates = top.section(
        fields::ROTATES_TABLE,
        "[rotates]".to_owned(),
        fields::ROTATES,
        report,
    )?;
    rotates.require(
        &[fields::ROTATED, fields::ISSUE, fields::PROBE, fields::VALUE_AT],
        report,
    );
    let secret = inject::secret(&rotates, fields::ROTATED, report);
    let issue = grant(&rotates, fields::ISSUE, grants, report);
    let probe = grant(&rotates, fields::PROBE, grants, report);
    let capture = Capture {
        value: place(&rotates, fields::VALUE_AT, report)?,
        id: place(&rotates, fields::ID_AT, report),
        lifetime: place(&rotates, fields::LIFETIME_AT, report),
    };
    let ((issue, issuing), (probe, probing), secret) = (issue?, probe?, secret?);
    let rotates_with = |issue, probe| Rotates {
        secret: secret.clone(),
        issue,
        probe,
        capture,
    };
    if report.has_errors() {
        // What a grant with an error of its own attaches is a guess.
        return Some(rotates_with(issue, probe));
    }
    if issue == probe {
        let why = "it is the grant of `issue`, too; expected another";
        let help = "the answer of the one holds the new value, the other shows whether the provider takes it";
        rotates.conflict(fields::PROBE, &why, "the same grant", help, report);
    }
    if let Some(http) = probing {
        must_attach(&rotates, http, &secret, report);
    }
    if let Some(http) = issuing
        && !http.answer.headers.is_empty()
    {
        let why = format!(
            "[grants.{issue}] has `answer-headers`, and of its answers nothing but the status is given to the agent; expected none"
        );
        rotates.conflict(
            fields::ISSUE,
            &why,
            "gives nothing of its answers",
            "remove them from the grant",
            report,
        );
    }
    Some(rotates_with(issue, probe))
}

/// The grant of an alias, if the manifest has it and it is one of `http`. Of one with an error of its own nothing more is said.
fn grant<'g>(
    rotates: &Section<'_, '_>,
    field: Field,
    grants: &'g BTreeMap<GrantAlias, Grant>,
    report: &mut Report,
) -> Option<(GrantAlias, Option<&'g HttpGrant>)> {
    let alias = rotates.parsed::<GrantAlias>(field, report)?;
    let http = match grants.get(alias.get_ref()).map(|grant| &grant.capability) {
        Some(Capability::Http(http)) => Some(http.as_ref()),
        Some(
            Capability::Sign { .. }
            | Capability::Attest(_)
            | Capability::Seal { .. }
            | Capability::Mac { .. },
        ) => {
            let why = format!("[grants.{}] is none of `http`; expected one", alias.get_ref());
            rotates.wrong_value(field, alias.span(), &why, "sends no request", report);
            None
        }
        None if report.has_errors() => None,
        None => {
            let why = format!(
                "the manifest has no [grants.{}]; expected the alias of one of its grants",
                quoted(alias.get_ref().as_str())
            );
            rotates.wrong_value(field, alias.span(), &why, "no such grant", report);
            None
        }
    };
    Some((alias.into_inner(), http))
}

/// A version that is not in use can be attached as it is, and to nothing that is obtained or signed with it.
fn must_attach(rotates: &Section<'_, '_>, http: &HttpGrant, secret: &SecretName, report: &mut Report) {
    let attached = match &http.inject {
        Some(
            Injection::Bearer { secret }
            | Injection::Basic { secret, .. }
            | Injection::Header { secret, .. }
            | Injection::Query { secret, .. },
        ) => Some(secret),
        Some(
            Injection::OAuth2(_)
            | Injection::GithubApp(_)
            | Injection::AwsSigV4(_)
            | Injection::HttpSignature { .. }
            | Injection::Dpop { .. }
            | Injection::WebhookHmac { .. }
            | Injection::Mtls { .. },
        )
        | None => None,
    };
    if attached != Some(secret) {
        let why = format!(
            "its grant does not attach `{secret}`; expected `inject` with `bearer`, `basic`, `header` or `query` and this secret"
        );
        let help =
            "the host attaches the version that is tried there, and sees by the status whether it is taken";
        rotates.conflict(
            fields::PROBE,
            &why,
            "attaches another credential, or none",
            help,
            report,
        );
    }
}

fn place(rotates: &Section<'_, '_>, field: Field, report: &mut Report) -> Option<JsonPlace> {
    rotates
        .read(field, report, |text| {
            let place: JsonPlace = text
                .parse()
                .map_err(|error: crate::http::NotAPlace| error.to_string())?;
            if place.is_one() {
                Ok(place)
            } else {
                Err("expected one place: `*` is every item of an array".to_owned())
            }
        })
        .map(Spanned::into_inner)
}
