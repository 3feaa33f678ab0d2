//! Evidence of this agent, for somebody else to verify. The agent passes it on; it cannot change a word of it.

use crate::bindings::claviger::credentials::attestation as wit;
use crate::error::Refusal;

/// Evidence. None of it is secret, and none of it is good for another audience or nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Evidence {
    /// A compact JWS, an Entity Attestation Token (RFC 9711).
    pub token: String,
    /// What the TPM says (`TPMS_ATTEST` of a quote): its `extraData` is the SHA-256 digest of the token up to its second dot.
    pub quote: Vec<u8>,
    /// The signature over the quote: ECDSA on P-256 with SHA-256, in DER.
    pub quote_signature: Vec<u8>,
    /// The values of the TPM's registers 0 to 7, SHA-256, one after the other.
    pub pcrs: Vec<u8>,
    /// The restricted key that signed the quote, as PEM. A verifier knows it from elsewhere and believes no other.
    pub attestation_key: String,
    /// The key that signed the token, as PEM. As above.
    pub token_key: String,
}

/// Gives evidence for an audience of the manifest's, at most 255 bytes, with the nonce that the verifier gave, 16 to 64 bytes. May wait for
/// a device or for the operator.
///
/// # Errors
/// The host's refusal: `NotGranted` for an audience that no grant names, `Invalid` for a nonce of another length.
pub fn evidence(audience: &str, nonce: &[u8]) -> Result<Evidence, Refusal> {
    let evidence = wit::evidence(audience, nonce)?;
    Ok(Evidence {
        token: evidence.token,
        quote: evidence.quote,
        quote_signature: evidence.quote_signature,
        pcrs: evidence.pcrs,
        attestation_key: evidence.attestation_key,
        token_key: evidence.token_key,
    })
}
