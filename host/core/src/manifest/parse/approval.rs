//! `approval` and `approval-timeout` of a grant. Asks nobody.

use super::section::Section;
use crate::approval::{Approval, ApprovalMode, DEFAULT_TIMEOUT, MAX_TIMEOUT, MIN_TIMEOUT};
use crate::http::HttpGrant;
use crate::manifest::fields;
use crate::manifest::problem::{Report, code};
use crate::manifest::quantity::{format_duration, parse_duration};
use crate::manifest::{Limits, MAX_WHOLE_BODY};

/// Which uses must be approved, if any.
pub(super) fn read(grant: &Section<'_, '_>, report: &mut Report) -> Option<Approval> {
    let mode = grant.read(fields::APPROVAL, report, |text| match text {
        "each" => Ok(ApprovalMode::Each),
        "first-use" => Ok(ApprovalMode::FirstUse),
        _ => Err("expected `each` or `first-use`".to_owned()),
    });
    let timeout = grant.read(fields::APPROVAL_TIMEOUT, report, |text| {
        let timeout = parse_duration(text).map_err(|error| error.to_string())?;
        if (MIN_TIMEOUT..=MAX_TIMEOUT).contains(&timeout) {
            return Ok(timeout);
        }
        Err(format!(
            "expected {} to {}",
            format_duration(MIN_TIMEOUT),
            format_duration(MAX_TIMEOUT)
        ))
    });
    if !grant.has(fields::APPROVAL) && grant.get(fields::APPROVAL_TIMEOUT).is_some() {
        let why = "it is there without `approval`; expected what it is for beside it";
        grant.conflict(
            fields::APPROVAL_TIMEOUT,
            &why,
            "nothing waits",
            "for example `approval = \"each\"`",
            report,
        );
    }
    Some(Approval {
        mode: mode?.into_inner(),
        timeout: timeout.map_or(DEFAULT_TIMEOUT, toml::Spanned::into_inner),
    })
}

/// Who approves a request approves its body, which is held until then.
pub(super) fn refuse_large(
    grant: &Section<'_, '_>,
    section: &Section<'_, '_>,
    http: &HttpGrant,
    report: &mut Report,
) {
    // Where a rule reads the body whole, that is said already.
    if grant.get(fields::APPROVAL).is_some() && !http.needs_whole_body() && http.body.max > MAX_WHOLE_BODY {
        let why = format!(
            "it is {}, and the body is read whole before it is approved; expected at most {MAX_WHOLE_BODY}",
            http.body.max
        );
        section.conflict(
            fields::MAX_REQUEST,
            &why,
            "too large to be held in memory",
            "",
            report,
        );
    }
}

/// An agent that waits longer than it may run is stopped before anybody answers.
pub(super) fn warn(
    grant: &Section<'_, '_>,
    approval: Option<&Approval>,
    limits: &Limits,
    report: &mut Report,
) {
    let Some(approval) = approval.filter(|approval| approval.timeout > limits.deadline) else {
        return;
    };
    report.warning(
        code::APPROVAL_TOO_SLOW,
        grant.key_span(fields::APPROVAL),
        format!(
            "{} waits up to {} for an approval, and its agent is stopped after {}",
            grant.place,
            format_duration(approval.timeout),
            format_duration(limits.deadline)
        ),
        "the agent may be gone before the answer",
        "raise `deadline` in [limits], or lower `approval-timeout`",
    );
}
