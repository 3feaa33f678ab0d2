//! `seal` and `mac` of a grant: a key without a public half, and which operations the agent may have of it. Does not know which keys exist.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

use super::section::Section;
use crate::manifest::fields::{self, Field};
use crate::manifest::problem::Report;
use crate::manifest::{Bytes, Capability};

pub(super) fn read_seal(grant: &Section<'_, '_>, alias: &str, report: &mut Report) -> Option<Capability> {
    let place = format!("`seal` of [grants.{alias}]");
    let seal = grant.section(fields::SEAL_TABLE, place, fields::SEAL, report)?;
    seal.require(&[fields::SEAL_KEY, fields::SEAL_ALLOW], report);
    let key = seal.parsed(fields::SEAL_KEY, report);
    let allow = rights(&seal, fields::SEAL_ALLOW, report);
    let bytes = read_bytes(&seal, report);
    Some(Capability::Seal {
        key: key?.into_inner(),
        allow: allow?,
        bytes,
    })
}

pub(super) fn read_mac(grant: &Section<'_, '_>, alias: &str, report: &mut Report) -> Option<Capability> {
    let place = format!("`mac` of [grants.{alias}]");
    let mac = grant.section(fields::MAC_TABLE, place, fields::MAC, report)?;
    mac.require(&[fields::MAC_KEY, fields::MAC_ALLOW], report);
    let key = mac.parsed(fields::MAC_KEY, report);
    let label = mac.parsed(fields::MAC_LABEL, report);
    let allow = rights(&mac, fields::MAC_ALLOW, report);
    Some(Capability::Mac {
        key: key?.into_inner(),
        label: label.map(toml::Spanned::into_inner),
        allow: allow?,
    })
}

/// The rights; none if there is none that can be had, which is reported. There is no default: each right is written down.
fn rights<T: FromStr<Err: Display> + Ord>(
    section: &Section<'_, '_>,
    field: Field,
    report: &mut Report,
) -> Option<BTreeSet<T>> {
    let read = |text: &str| text.parse().map_err(|error: T::Err| error.to_string());
    let rights: BTreeSet<T> = section
        .list(field, 1..=2, report, read)
        .into_iter()
        .map(toml::Spanned::into_inner)
        .collect();
    (!rights.is_empty()).then_some(rights)
}

fn read_bytes(section: &Section<'_, '_>, report: &mut Report) -> Option<Bytes> {
    let bytes: toml::Spanned<Bytes> = section.parsed(fields::SEAL_BYTES, report)?;
    if bytes.get_ref().0 == 0 {
        let why = "it is 0 B; expected at least 1 B";
        section.wrong_value(
            fields::SEAL_BYTES,
            bytes.span(),
            &why,
            "nothing would fit",
            report,
        );
    }
    Some(bytes.into_inner())
}
