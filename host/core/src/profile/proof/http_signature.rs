//! HTTP message signatures (RFC 9421) with fixed components, and the digest of the body (RFC 9530). Not a general signer of fields: what
//! is covered is the same for every request, and no component or parameter is the agent's.

use base64ct::{Base64UrlUnpadded, Encoding as _};
use sfv::{DictSerializer, KeyRef, ListSerializer, StringRef};
use sha2::{Digest as _, Sha256};

use super::RequestParts;
use crate::http::HeaderName;
use crate::key::{Algorithm, KeyError, Signature};
use crate::profile::{Finish, FrameContext, FrameError, Framed, Profile};

/// The name of our signature among the fields (RFC 9421 §4.1). A verifier that demands one can be told this.
const LABEL: &str = "sig1";

/// The fields that carry a signature, but for the signature.
#[derive(Debug, Clone)]
pub struct SignatureFields {
    algorithm: Algorithm,
    input: String,
    digest: Option<String>,
}

impl SignatureFields {
    /// The fields `signature-input`, `signature` and, where there is a body, `content-digest`.
    ///
    /// # Errors
    /// When the signature is of another algorithm than the key.
    pub fn finish(&self, signature: &Signature) -> Result<Vec<(HeaderName, String)>, KeyError> {
        if signature.algorithm() != self.algorithm {
            return Err(KeyError::BadSignature(self.algorithm));
        }
        let field = |name: &str| name.parse::<HeaderName>().map_err(|_| KeyError::Encoding);
        let mut fields = vec![
            (field("signature-input")?, format!("{LABEL}={}", self.input)),
            (field("signature")?, member(LABEL, signature.as_bytes())?),
        ];
        if let Some(digest) = &self.digest {
            fields.push((field("content-digest")?, digest.clone()));
        }
        Ok(fields)
    }
}

/// Frames a request for a key of the profile `http-signature`. Covered are the method, the authority, the path, the query if there is one,
/// and the digest of the body if there is one.
///
/// # Errors
/// When the key is for something else, or `lifetime` is not 1 to what the profile allows.
pub fn http_signature(
    profile: &Profile,
    lifetime: u32,
    request: &RequestParts<'_>,
    context: &FrameContext<'_>,
) -> Result<(Framed, SignatureFields), FrameError> {
    let Profile::HttpSignature { tag, max_lifetime } = profile else {
        return Err(FrameError::Profile {
            expected: "http-signature",
            found: profile.kind(),
        });
    };
    if lifetime == 0 || lifetime > (*max_lifetime).min(super::MAX_LIFETIME) {
        return Err(FrameError::Lifetime {
            asked: lifetime,
            allowed: (*max_lifetime).min(super::MAX_LIFETIME),
        });
    }
    let algorithm = context.key.algorithm();
    let alg = match algorithm {
        Algorithm::Ed25519 => "ed25519",        // RFC 9421 §3.3.6
        Algorithm::P256 => "ecdsa-p256-sha256", // RFC 9421 §3.3.4
        Algorithm::Rsa2048 => return Err(FrameError::Algorithm(algorithm)),
    };
    let digest = request.body.map(content_digest).transpose()?;
    let target = request.target;
    let whole = target.origin_form();
    let query = whole
        .strip_prefix(target.path())
        .filter(|query| !query.is_empty());
    let components = [
        Some(("@method", request.method.as_str())),
        Some(("@authority", &*target.origin().authority())),
        Some(("@path", target.path())),
        query.map(|query| ("@query", query)),
        digest.as_deref().map(|digest| ("content-digest", digest)),
    ]
    .map(|component| component.map(|(name, value)| (name, value.to_owned())));
    let components: Vec<_> = components.into_iter().flatten().collect();

    let created = context.now.as_second();
    let nonce = Base64UrlUnpadded::encode_string(&context.nonce);
    let keyid = context.key.thumbprint();
    let mut list = ListSerializer::new();
    {
        let mut inner = list.inner_list();
        for (name, _) in &components {
            inner.bare_item(text(name)?);
        }
        let parameters = inner
            .finish()
            .parameter(key("created")?, integer(created)?)
            .parameter(
                key("expires")?,
                integer(created.saturating_add(i64::from(lifetime)))?,
            )
            .parameter(key("nonce")?, text(&nonce)?)
            .parameter(key("alg")?, text(alg)?)
            .parameter(key("keyid")?, text(&keyid)?);
        if let Some(tag) = tag {
            parameters.parameter(key("tag")?, text(tag.as_str())?);
        }
    }
    let input = list.finish().ok_or(FrameError::Encoding)?;

    // RFC 9421 §2.5. No value holds a line break: targets, digests and names are of characters that have none.
    let mut base = String::new();
    for (name, value) in &components {
        base.push_str(&format!("\"{name}\": {value}\n"));
    }
    base.push_str(&format!("\"@signature-params\": {input}"));
    let framed = Framed::new(
        base.into_bytes(),
        Finish::Raw,
        context.key,
        request.body.unwrap_or_default(),
    );
    let fields = SignatureFields {
        algorithm,
        input,
        digest,
    };
    Ok((framed, fields))
}

fn content_digest(body: &[u8]) -> Result<String, FrameError> {
    member("sha-256", &Sha256::digest(body)).map_err(FrameError::from)
}

/// A dictionary of one member, which is a byte sequence.
fn member(name: &str, bytes: &[u8]) -> Result<String, KeyError> {
    let mut dictionary = DictSerializer::new();
    dictionary.bare_item(KeyRef::from_str(name).map_err(|_| KeyError::Encoding)?, bytes);
    dictionary.finish().ok_or(KeyError::Encoding)
}

fn key(name: &str) -> Result<&KeyRef, FrameError> {
    KeyRef::from_str(name).map_err(|_| FrameError::Encoding)
}

fn text(value: &str) -> Result<&StringRef, FrameError> {
    StringRef::from_str(value).map_err(|_| FrameError::Encoding)
}

fn integer(value: i64) -> Result<sfv::Integer, FrameError> {
    value.try_into().map_err(|_| FrameError::Encoding)
}
