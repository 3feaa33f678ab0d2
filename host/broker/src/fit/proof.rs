//! Whether a key makes the proofs that a grant of outbound HTTP needs, by framing one for a trial. Signs nothing.

use claviger_core::http::{Injection, Method, Origin, PathEncoding, Target};
use claviger_core::profile::proof::{
    RequestParts, certificate_is_for, client_assertion, github_app, http_signature,
};
use claviger_core::profile::{FrameContext, FrameError, Profile};

use crate::keyring::KeyRecord;

/// Checks that a key of the right kind makes the proofs that a grant needs: the reason why not is for the operator who admits.
pub(super) fn fits(inject: &Injection, origin: &Origin, record: &KeyRecord) -> Result<(), String> {
    let key = record
        .public()
        .ok_or_else(|| format!("key `{}` signs nothing: it has no public half", record.key))?;
    let context = FrameContext {
        key,
        now: jiff::Timestamp::UNIX_EPOCH,
        nonce: [0; 16],
    };
    let profile = &record.profile;
    // Framed for a trial: what the profile refuses then it refuses now.
    let framed = match profile {
        Profile::HttpSignature { .. } => {
            let (Injection::HttpSignature { lifetime, .. }, Ok(target)) = (
                inject,
                Target::parse(&format!("{origin}/"), PathEncoding::Refused),
            ) else {
                return Err(misplaced(record));
            };
            let request = RequestParts {
                method: Method::Get,
                target: &target,
                body: None,
            };
            http_signature(profile, *lifetime, &request, &context).map(drop)
        }
        Profile::ClientAssertion { client_id, .. } => {
            let oauth = inject.oauth2().ok_or_else(|| misplaced(record))?;
            if client_id.as_str() != oauth.client_id {
                return Err(format!(
                    "key `{}` is for the client `{client_id}`, the grant names another one",
                    record.key.name
                ));
            }
            client_assertion(profile, oauth.endpoint.origin(), &context).map(drop)
        }
        Profile::GithubApp { .. } => github_app(profile, origin, &context).map(drop),
        Profile::Mtls {} => match inject {
            Injection::Mtls { chain, .. } => chain
                .first()
                .ok_or(FrameError::Certificate)
                .and_then(|first| certificate_is_for(first, key)),
            Injection::Bearer { .. }
            | Injection::Basic { .. }
            | Injection::Header { .. }
            | Injection::Query { .. }
            | Injection::OAuth2(_)
            | Injection::GithubApp(_)
            | Injection::AwsSigV4(_)
            | Injection::HttpSignature { .. }
            | Injection::Dpop { .. }
            | Injection::WebhookHmac { .. } => return Err(misplaced(record)),
        },
        Profile::Dpop {} => Ok(()),
        Profile::Sshsig { .. }
        | Profile::Jws { .. }
        | Profile::Labeled { .. }
        | Profile::Git { .. }
        | Profile::SshAuth { .. }
        | Profile::Seal {}
        | Profile::Mac { .. }
        | Profile::Attest {} => return Err(misplaced(record)),
    };
    framed.map_err(|error| format!("key `{}`: {error}", record.key.name))
}

fn misplaced(record: &KeyRecord) -> String {
    format!(
        "key `{}` is for `{}`, which this grant has no use for",
        record.key.name,
        record.profile.kind()
    )
}

/// What to do about a key of this profile that makes other proofs.
pub(super) fn fix(profile: &str) -> String {
    match profile {
        "mtls" => "put the certificate of this key into `certificate`, or name the key that it is for".to_owned(),
        "client-assertion" => {
            "correct `client-id` or the endpoint, or make a key for them: `claviger key create NAME --profile client-assertion \
             --client-id CLIENT --audience ENDPOINT`"
                .to_owned()
        }
        other => format!("correct the grant, or name one {}", super::made_for(other)),
    }
}
