//! Which interfaces exist for an agent, and what to say of an import that does not. Links nothing: `linker` does.

use claviger_core::Admission;
use claviger_core::admission::CapabilityKind;
use claviger_core::name::{escape, nearest};

use crate::error::MissingImport;

/// What all interfaces of ours start with.
const PACKAGE: &str = "claviger:credentials/";
/// Signatures: for whoever has a grant to sign.
pub(crate) const SIGNING: &str = "claviger:credentials/signing";
/// Boxes: for whoever has a grant to seal or unseal.
pub(crate) const SEALING: &str = "claviger:credentials/sealing";
/// MACs: for whoever has a grant for them.
pub(crate) const MAC: &str = "claviger:credentials/mac";
/// Evidence: for whoever has a grant for it.
pub(crate) const ATTESTATION: &str = "claviger:credentials/attestation";
/// An agent's own grants: for whoever has one.
pub(crate) const GRANTS: &str = "claviger:credentials/grants";
/// Types that all of them use.
pub(crate) const TYPES: &str = "claviger:credentials/types";

/// What the interfaces of `wasi:http` start with.
const HTTP_PACKAGE: &str = "wasi:http/";
/// Outbound requests: for whoever has a grant of `http`.
pub(crate) const HTTP_HANDLER: &str = "wasi:http/outgoing-handler";
/// What requests are made of. Not linked without a grant: what imports it, imports the handler too.
pub(crate) const HTTP_TYPES: &str = "wasi:http/types";

/// The version track of our packages: below 1.0 a minor version is one.
const CREDENTIALS_TRACK: &str = "0.1";
/// The version track of WASI.
const WASI_TRACK: &str = "0.2";

/// The closed subset of WASI. Sockets are linked because Python imports them unused; every use of them is denied.
pub(crate) const WASI: &[&str] = &[
    "wasi:cli/environment",
    "wasi:cli/exit",
    "wasi:cli/stdin",
    "wasi:cli/stdout",
    "wasi:cli/stderr",
    "wasi:cli/terminal-input",
    "wasi:cli/terminal-output",
    "wasi:cli/terminal-stdin",
    "wasi:cli/terminal-stdout",
    "wasi:cli/terminal-stderr",
    "wasi:clocks/monotonic-clock",
    "wasi:clocks/wall-clock",
    "wasi:filesystem/preopens",
    "wasi:filesystem/types",
    "wasi:io/error",
    "wasi:io/poll",
    "wasi:io/streams",
    "wasi:random/insecure",
    "wasi:random/insecure-seed",
    "wasi:random/random",
    "wasi:sockets/instance-network",
    "wasi:sockets/ip-name-lookup",
    "wasi:sockets/network",
    "wasi:sockets/tcp",
    "wasi:sockets/tcp-create-socket",
    "wasi:sockets/udp",
    "wasi:sockets/udp-create-socket",
];

/// The interfaces of an admission's capabilities.
pub(crate) fn granted(admission: &Admission) -> Vec<&'static str> {
    let mut linked = Vec::new();
    for capability in &admission.capabilities {
        linked.extend(interfaces_of(*capability));
    }
    if !linked.is_empty() {
        linked.extend([GRANTS, TYPES]);
    }
    linked
}

/// The interfaces that a capability needs; none for one that this runtime does not know, which then is not linked.
const fn interfaces_of(capability: CapabilityKind) -> &'static [&'static str] {
    match capability {
        CapabilityKind::Sign => &[SIGNING],
        CapabilityKind::Http => &[HTTP_HANDLER, HTTP_TYPES],
        CapabilityKind::Seal => &[SEALING],
        CapabilityKind::Mac => &[MAC],
        CapabilityKind::Attest => &[ATTESTATION],
    }
}

/// All imports that are not linked for this admission, each with what would change that.
pub(crate) fn missing<'a>(
    imports: impl IntoIterator<Item = &'a str>,
    admission: &Admission,
) -> Vec<MissingImport> {
    let granted = granted(admission);
    let missing: Vec<_> = imports
        .into_iter()
        .filter_map(|import| {
            hint(import, &granted).map(|hint| MissingImport {
                import: escape(import, MAX_SHOWN),
                hint,
            })
        })
        .collect();
    // Whoever imports an interface imports its types: the interface says it all.
    let said = |types: &str, package: &str| {
        let of =
            |import: &MissingImport| import.import.starts_with(package) && !import.import.starts_with(types);
        missing.iter().any(of)
    };
    let [ours, http] = [said(TYPES, PACKAGE), said(HTTP_TYPES, HTTP_PACKAGE)];
    let more = |import: &MissingImport| {
        !(ours && import.import.starts_with(TYPES) || http && import.import.starts_with(HTTP_TYPES))
    };
    missing.iter().filter(|import| more(import)).cloned().collect()
}

/// An import's name is shown up to this many characters: the component chose it.
const MAX_SHOWN: usize = 120;

/// Why an import is not linked, or nothing if it is.
fn hint(import: &str, granted: &[&str]) -> Option<String> {
    let (name, version) = import.split_once('@').unwrap_or((import, ""));
    if name.starts_with(PACKAGE) {
        return credentials_hint(name, version, granted);
    }
    if WASI.contains(&name) {
        return (!on_track(version, WASI_TRACK)).then(|| {
            format!("this host has WASI {WASI_TRACK}.x only; rebuild with `--target wasm32-wasip2`")
        });
    }
    if [HTTP_HANDLER, HTTP_TYPES].contains(&name) {
        return http_hint(name, version, granted);
    }
    if name.starts_with("wasi:sockets/") {
        return Some("raw sockets are never granted".to_owned());
    }
    if name.starts_with("wasi:") {
        return Some(
            "this interface is not in the closed subset of WASI; no manifest can grant it".to_owned(),
        );
    }
    Some(
        match nearest(name, [SIGNING, GRANTS].into_iter().chain(WASI.iter().copied())) {
            Some(near) => format!("no such interface here; did you mean `{near}`?"),
            None => "no such interface here; no manifest can grant it".to_owned(),
        },
    )
}

fn http_hint(name: &str, version: &str, granted: &[&str]) -> Option<String> {
    if !on_track(version, WASI_TRACK) {
        return Some(format!(
            "this host has wasi:http {WASI_TRACK}.x only; rebuild with a library of that version"
        ));
    }
    (!granted.contains(&name)).then(|| HTTP_NOT_GRANTED.to_owned())
}

/// Of an agent without a grant of `http`; StarlingMonkey, which runs JavaScript, imports it unless it is told not to.
const HTTP_NOT_GRANTED: &str = "the manifest grants no outbound HTTP; add `[grants.<alias>]` with \
`http = { origin = \"…\", allow = [ … ] }`, or build without it (for JavaScript: `-d http fetch-event`)";

fn credentials_hint(name: &str, version: &str, granted: &[&str]) -> Option<String> {
    let how = match name {
        SIGNING => {
            "the manifest grants nothing to sign; add `[grants.<alias>]` with `sign = { key = \"…\" }`"
        }
        SEALING => {
            "the manifest grants nothing to seal; add `[grants.<alias>]` with `seal = { key = \"…\", allow = [ … ] }`"
        }
        MAC => {
            "the manifest grants no MACs; add `[grants.<alias>]` with `mac = { key = \"…\", allow = [ … ] }`"
        }
        ATTESTATION => {
            "the manifest grants no evidence; add `[grants.<alias>]` with `attest = { key = \"…\", audiences = [ … ] }`"
        }
        GRANTS | TYPES => "the manifest grants nothing; add `[grants.<alias>]` with a capability",
        other => {
            return Some(
                match nearest(other, [SIGNING, SEALING, MAC, ATTESTATION, GRANTS, TYPES]) {
                    Some(near) => format!("this version has no such interface; did you mean `{near}`?"),
                    None => "this version has no such interface".to_owned(),
                },
            );
        }
    };
    if !on_track(version, CREDENTIALS_TRACK) {
        return Some(format!(
            "this host has versions {CREDENTIALS_TRACK}.x of it; rebuild with the SDK of such a version"
        ));
    }
    (!granted.contains(&name)).then(|| how.to_owned())
}

/// Whether a version is one of the track, as the linker matches them: never a pre-release.
fn on_track(version: &str, track: &str) -> bool {
    version
        .strip_prefix(track)
        .and_then(|rest| rest.strip_prefix('.'))
        .is_some_and(|patch| !patch.is_empty() && patch.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(import: &str, granted: &[&str], expected: Option<&str>) {
        let hint = hint(import, granted);
        match (&hint, expected) {
            (None, None) => {}
            (Some(hint), Some(expected)) if hint.contains(expected) => {}
            _ => panic!("{import}: {hint:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn an_import_is_linked_or_there_is_a_hint_that_helps() {
        let all = &[SIGNING, GRANTS, TYPES][..];
        check("claviger:credentials/signing@0.1.0", all, None);
        check("claviger:credentials/signing@0.1.7", all, None);
        check(
            "claviger:credentials/signing@0.1.0",
            &[],
            Some("sign = { key = \"…\" }"),
        );
        check("claviger:credentials/grants@0.1.0", &[], Some("[grants.<alias>]"));
        check("claviger:credentials/signing@0.2.0", all, Some("0.1.x"));
        check("claviger:credentials/signing@0.1.0-rc.1", all, Some("0.1.x"));
        check("claviger:credentials/signin@0.1.0", all, Some("did you mean"));
        check(
            "claviger:credentials/oracles@0.1.0",
            all,
            Some("no such interface"),
        );
        check(
            "claviger:credentials/sealing@0.1.0",
            all,
            Some("seal = { key = \"…\""),
        );
        check("claviger:credentials/mac@0.1.0", all, Some("mac = { key = \"…\""));
        check(
            "claviger:credentials/attestation@0.1.0",
            all,
            Some("attest = { key = \"…\""),
        );
        check("claviger:credentials/attestation@0.1.0", &[ATTESTATION], None);
        check("claviger:credentials/sealing@0.1.0", &[SEALING], None);
        check("claviger:credentials/mac@0.1.3", &[MAC], None);
        check("claviger:credentials/macs@0.1.0", all, Some("did you mean"));
        check("wasi:cli/stdout@0.2.6", &[], None);
        check("wasi:sockets/tcp@0.2.0", &[], None);
        check("wasi:cli/stdout@0.3.0", &[], Some("wasm32-wasip2"));
        check("wasi:cli/stdout", &[], Some("wasm32-wasip2"));
        let http = &[HTTP_HANDLER, HTTP_TYPES][..];
        check(
            "wasi:http/outgoing-handler@0.2.0",
            all,
            Some("http = { origin = \"…\""),
        );
        check("wasi:http/types@0.2.4", all, Some("allow = [ … ]"));
        check("wasi:http/outgoing-handler@0.2.12", http, None);
        check("wasi:http/types@0.2.0", http, None);
        check("wasi:http/outgoing-handler@0.3.0", http, Some("0.2.x only"));
        check("wasi:http/handler@0.3.0", http, Some("closed subset"));
        check("wasi:http/incoming-handler@0.2.0", http, Some("closed subset"));
        check("wasi:sockets/raw@0.2.0", all, Some("never granted"));
        check("wasi:config/store@0.2.0-draft", all, Some("closed subset"));
        check("acme:db/query@1.0.0", all, Some("no manifest"));
    }
}
