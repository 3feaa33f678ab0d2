//! Nonces for DPoP proofs, as servers say them (RFC 9449 §8, §9). Not the proofs: those are the broker's.

use claviger_core::egress::DpopNonce;
use claviger_core::profile::proof::MAX_NONCE;
use http::{HeaderMap, Response, StatusCode, header};

/// The nonce in a header section: one field that fits into a proof, or none.
pub(crate) fn supplied(headers: &HeaderMap) -> Option<String> {
    let mut fields = headers.get_all("dpop-nonce").iter();
    let (Some(value), None) = (fields.next(), fields.next()) else {
        return None;
    };
    // `NQCHAR` of RFC 6749: what could not be framed would only break every request that follows.
    let fits = |byte: &u8| byte.is_ascii_graphic() && *byte != b'"' && *byte != b'\\';
    let bytes = value.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_NONCE || !bytes.iter().all(fits) {
        return None;
    }
    value.to_str().ok().map(str::to_owned)
}

/// The nonce of a resource server, and whether the request was refused for the want of it.
pub(crate) fn of_answer<B>(answer: &Response<B>) -> Option<DpopNonce> {
    let nonce = supplied(answer.headers())?;
    let demanded = answer.status() == StatusCode::UNAUTHORIZED
        && answer
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .any(|value| value.contains("error=\"use_dpop_nonce\""));
    Some(if demanded {
        DpopNonce::Demanded(nonce)
    } else {
        DpopNonce::Supplied(nonce)
    })
}
