//! The lethal mix: an agent that reads private data, reads what others write, and can send. Each alone is fine; together, a text that
//! somebody else wrote can make the agent send the data away. A warning, not an error: many useful agents have it, and then their
//! operator says so. Looks at what is granted, not at what an agent does.
//!
//! - Private data: `[files]`, or a `GET` with a credential.
//! - What others write: any `GET`, except with a credential into a private network.
//! - A way out: any method that writes, or a reading one with a key of the query whose value the agent chooses.
//!
//! Not counted: open segments of a path, which only the origin itself sees; what is signed or sealed, which does not leave by itself; and what
//! is unsealed, whose box the agent must have read first.

use std::ops::Range;
use std::str::FromStr;

use toml::Spanned;

use crate::http::{HttpGrant, Method};
use crate::manifest::problem::{Report, code};
use crate::manifest::{Capability, Manifest};

/// A warning that an operator has thought over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Acknowledgement {
    LethalMix,
}

impl FromStr for Acknowledgement {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "lethal-mix" => Ok(Self::LethalMix),
            _ => Err("expected `lethal-mix`: other warnings cannot be acknowledged"),
        }
    }
}

/// Warns of the mix, unless it is acknowledged. An acknowledgement of what is not there is an error: it would hide the mix from
/// whoever adds to the manifest later.
pub(super) fn judge(
    manifest: &Manifest,
    acknowledged: &[Spanned<Acknowledgement>],
    grants: Range<usize>,
    report: &mut Report,
) {
    // Of half a manifest it cannot be said what is not in it.
    if report.has_errors() {
        return;
    }
    let spoken = acknowledged
        .iter()
        .find(|one| *one.get_ref() == Acknowledgement::LethalMix);
    match (mix(manifest), spoken) {
        (Some(mix), None) => report.warning(
            code::LETHAL_MIX,
            grants,
            format!(
                "the agent reads private data ({}), reads what others write ({}) and can send ({}): a text can make it send the data away",
                mix.private, mix.foreign, mix.out
            ),
            "the lethal mix",
            "split the agent in two, or say `acknowledged = [\"lethal-mix\"]` in [agent]",
        ),
        (None, Some(spoken)) => report.error(
            code::CONFLICT,
            spoken.span(),
            "`acknowledged` in [agent] names `lethal-mix`, which this manifest does not have; expected only what is there".to_owned(),
            "not there",
            Some("remove it: it would hide the mix from whoever adds a grant".to_owned()),
        ),
        (Some(_), Some(_)) | (None, None) => {}
    }
}

/// Where each of the three comes from.
struct Mix {
    private: String,
    foreign: String,
    out: String,
}

fn mix(manifest: &Manifest) -> Option<Mix> {
    let first = |holds: fn(&HttpGrant) -> bool| {
        manifest
            .grants
            .iter()
            .find_map(|(alias, grant)| match &grant.capability {
                Capability::Http(http) if holds(http) => Some(format!("[grants.{alias}]")),
                Capability::Http(_)
                | Capability::Sign { .. }
                | Capability::Attest(_)
                | Capability::Seal { .. }
                | Capability::Mac { .. } => None,
            })
    };
    let files = (!manifest.world.files.is_empty()).then(|| "[files]".to_owned());
    Some(Mix {
        private: files.or_else(|| first(reads_with_a_credential))?,
        foreign: first(reads_what_others_write)?,
        out: first(sends)?,
    })
}

fn reads(http: &HttpGrant) -> bool {
    http.allow.iter().any(|route| route.method == Method::Get)
}

fn reads_with_a_credential(http: &HttpGrant) -> bool {
    reads(http) && http.inject.is_some()
}

fn reads_what_others_write(http: &HttpGrant) -> bool {
    reads(http) && (http.inject.is_none() || http.private_networks.is_empty())
}

fn sends(http: &HttpGrant) -> bool {
    let free = http.query.iter().any(|key| key.values.is_empty());
    free || http.allow.iter().any(|route| route.method.writes())
}
