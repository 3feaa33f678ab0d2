//! The public halves of a key's versions, for those who verify: a JWK Set, and the allowed signers of SSH. Reads records alone; nothing
//! here is authenticated, and nothing private is in reach.

use std::fmt;
use std::str::FromStr;

use claviger_core::profile::Profile;
use claviger_core::profile::git::MailPattern;
use jiff::Timestamp;

use super::{KeyRecord, KeyState};

/// Whom an allowed signer is: a name or a mail address, or a pattern with `*` and `?` (ssh-keygen(1), ALLOWED SIGNERS). Without what
/// separates fields and names, or negates them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignerName(
    // Invariant: 1 to 254 visible ASCII characters, none of them a comma, a quote, a backslash, `!` or `#`.
    String,
);

impl FromStr for SignerName {
    type Err = PublishError;
    fn from_str(text: &str) -> Result<Self, PublishError> {
        let allowed = |b: u8| b.is_ascii_graphic() && !b",\"\\!#".contains(&b);
        if text.is_empty() || text.len() > 254 || !text.bytes().all(allowed) {
            return Err(PublishError::Name);
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for SignerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Why there is nothing to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// Not a name.
    #[error(
        "expected a name or a mail address of at most 254 characters, without `,`, `\"`, `\\`, `!` and `#`"
    )]
    Name,
    /// No version of it verifies anything now.
    #[error(
        "no version of the key is one that verifiers should have: all are pending, disabled, revoked, deleted, or without a public half"
    )]
    Nothing,
    /// Its signatures are not SSH's.
    #[error("allowed signers are those of keys with profile `git` or `sshsig`")]
    NotSsh,
    /// Nobody said who signs.
    #[error("expected whose signatures these are, such as `--principal bot@acme.example`")]
    NoPrincipal,
    /// A public half that cannot be written down, which the types exclude.
    #[error("a public key cannot be encoded")]
    Encoding,
}

/// The active and the retiring versions, as a JWK Set (RFC 7517 §5), newest first: what a server fetches to verify tokens. A version that
/// is retired is not there, so that what it signed is refused from then on.
///
/// # Errors
/// When there is none.
pub fn jwks(versions: &[&KeyRecord]) -> Result<serde_json::Value, PublishError> {
    let mut keys: Vec<_> = versions
        .iter()
        .filter(|record| {
            record.deleted.is_none() && matches!(record.state, KeyState::Active | KeyState::Retiring)
        })
        .filter_map(|record| Some((record.key.version, record.public()?.to_jwk())))
        .collect();
    if keys.is_empty() {
        return Err(PublishError::Nothing);
    }
    keys.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    let keys: Vec<_> = keys.into_iter().map(|(_, jwk)| jwk).collect();
    Ok(serde_json::json!({ "keys": keys }))
}

/// The versions that sign or signed, as allowed signers (ssh-keygen(1)), oldest first: each for the namespaces of its profile, from when it
/// was made and, if it signs no more, to when that was on record. What is disabled, revoked or deleted is left out.
///
/// Without names, those of a key with profile `git` are its mail addresses.
///
/// # Errors
/// When no version is left, the profile is another, or nobody says whose signatures they are.
pub fn allowed_signers(versions: &[&KeyRecord], names: &[SignerName]) -> Result<String, PublishError> {
    let mut versions: Vec<_> = versions
        .iter()
        .filter(|record| record.deleted.is_none())
        .filter_map(|record| match record.state {
            KeyState::Active => Some((record, None)),
            KeyState::Retiring | KeyState::Retired => Some((record, Some(record.updated))),
            KeyState::Pending | KeyState::Disabled | KeyState::Revoked | KeyState::Destroyed => None,
        })
        .collect();
    versions.sort_by_key(|(record, _)| record.key.version);
    let mut lines = String::new();
    for (record, until) in versions {
        let Some(public) = record.public() else { continue };
        let (own, namespaces) = signer(&record.profile)?;
        let own = own
            .iter()
            .map(|name| name.parse())
            .collect::<Result<Vec<SignerName>, _>>()?;
        let names: Vec<_> = if names.is_empty() { &own } else { names }
            .iter()
            .map(ToString::to_string)
            .collect();
        if names.is_empty() {
            return Err(PublishError::NoPrincipal);
        }
        let key = public
            .to_openssh(&record.key.to_string())
            .map_err(|_| PublishError::Encoding)?;
        let from = moment(record.created);
        // Seconds are cut off: the last one counts as a whole.
        let until = until.and_then(|until| until.checked_add(jiff::SignedDuration::from_secs(1)).ok());
        let until = until.map_or_else(String::new, |until| {
            format!(",valid-before=\"{}\"", moment(until))
        });
        lines.push_str(&format!(
            "{} namespaces=\"{}\",valid-after=\"{from}\"{until} {key}\n",
            names.join(","),
            namespaces.join(","),
        ));
    }
    if lines.is_empty() {
        return Err(PublishError::Nothing);
    }
    Ok(lines)
}

/// Whose signatures a profile makes, as far as it says, and under which namespaces.
fn signer(profile: &Profile) -> Result<(Vec<String>, Vec<String>), PublishError> {
    match profile {
        Profile::Git { mails, .. } => Ok((
            mails.iter().map(MailPattern::to_string).collect(),
            vec!["git".to_owned()],
        )),
        Profile::Sshsig { namespaces } => Ok((
            Vec::new(),
            // No grant uses it any more under such a profile.
            namespaces
                .iter()
                .map(ToString::to_string)
                .filter(|namespace| namespace != "git")
                .collect(),
        )),
        Profile::Jws { .. }
        | Profile::Labeled { .. }
        | Profile::HttpSignature { .. }
        | Profile::Dpop {}
        | Profile::ClientAssertion { .. }
        | Profile::GithubApp { .. }
        | Profile::Mtls {}
        | Profile::SshAuth { .. }
        | Profile::Attest {}
        | Profile::Seal {}
        | Profile::Mac { .. } => Err(PublishError::NotSsh),
    }
}

/// `YYYYMMDDHHMMSSZ`: UTC, whatever zone the verifier is in.
fn moment(time: Timestamp) -> String {
    time.strftime("%Y%m%d%H%M%SZ").to_string()
}
