//! `claviger:credentials/attestation`. Says nothing of its own: the broker gives evidence or refuses.

use claviger_core::attest::{MAX_QUOTE, QUOTED_PCRS};
use claviger_core::request::{MAX_AUDIENCE_TEXT, MAX_NONCE_BYTES};
use claviger_core::{Outcome, Request};

use super::wit::attestation::{Attested, Host, Refusal as WitRefusal};
use super::{CredentialsView, WRONG_OUTCOME, cut, to_wit};

/// A token is at most this long, in bytes, as promised in WIT: its claims are names, digests and a nonce.
const MAX_TOKEN: usize = 4096;
/// A public key as PEM is at most this long, in bytes.
const MAX_KEY: usize = 512;

impl Host for CredentialsView<'_> {
    async fn evidence(
        &mut self,
        audience: String,
        mut nonce: Vec<u8>,
    ) -> wasmtime::Result<Result<Attested, WitRefusal>> {
        let audience = cut(audience, MAX_AUDIENCE_TEXT);
        // One byte over the bound is enough for the broker to refuse it.
        nonce.truncate(MAX_NONCE_BYTES);
        match self.ctx.perform(Request::Attest { audience, nonce }).await {
            // A broker that gives something longer is at fault.
            Ok(Outcome::Evidence(info))
                if info.token.len() <= MAX_TOKEN
                    && info.quote.len() <= MAX_QUOTE
                    && info.quote_signature.len() <= MAX_QUOTE
                    && info.pcrs.len() == QUOTED_PCRS * 32
                    && info.attestation_key.len() <= MAX_KEY
                    && info.token_key.len() <= MAX_KEY =>
            {
                Ok(Ok(Attested {
                    token: info.token,
                    quote: info.quote,
                    quote_signature: info.quote_signature,
                    pcrs: info.pcrs,
                    attestation_key: info.attestation_key,
                    token_key: info.token_key,
                }))
            }
            Ok(_) => Ok(Err(WRONG_OUTCOME)),
            Err(refusal) => Ok(Err(to_wit(refusal))),
        }
    }
}
