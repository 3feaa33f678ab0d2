//! What of an answer's head may be returned. Not its body.

use claviger_core::egress::{Fault, MAX_ANSWER_FIELDS, MAX_ANSWER_HEAD};
use claviger_core::http::{AnswerRule, HeaderName, Method};
use http::{HeaderMap, Response, StatusCode, Version, header};
use hyper::ext::ReasonPhrase;

use crate::scrub::Watched;

/// What agents get under any grant: what describes the content, caching, paging, and when to come back.
const ALWAYS: &[&str] = &[
    "accept-ranges",
    "age",
    "allow",
    "cache-control",
    "content-disposition",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "date",
    "deprecation",
    "etag",
    "expires",
    "last-modified",
    "link",
    "location",
    "ratelimit",
    "ratelimit-limit",
    "ratelimit-policy",
    "ratelimit-remaining",
    "ratelimit-reset",
    "retry-after",
    "sunset",
    "vary",
    "x-ratelimit-limit",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
];

/// Header fields in order; names in lower case.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// Checks the head of an answer, all of it, and gives the fields that may be returned.
///
/// # Errors
/// When a secret is in any field or in the reason phrase, or the answer is none that an agent may get.
pub(crate) fn checked<B>(
    answer: &Response<B>,
    method: Method,
    rule: &AnswerRule,
    watched: &Watched,
) -> Result<Fields, Fault> {
    // First of all: whatever else is wrong with the answer, a reflected secret must be known.
    let reason = answer.extensions().get::<ReasonPhrase>();
    if reason.is_some_and(|reason| watched.check(reason.as_bytes()).is_err()) {
        return Err(Fault::Reflected);
    }
    let fields = returned(answer.headers(), rule, watched)?;
    // 101 would hand the connection to something else; there are no classes beyond 5xx.
    if !(200..600).contains(&answer.status().as_u16()) {
        return Err(Fault::Protocol);
    }
    framing(answer, method, rule)?;
    let plain = |value: &http::HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !answer
        .headers()
        .get_all(header::CONTENT_ENCODING)
        .iter()
        .all(plain)
    {
        return Err(Fault::Encoded);
    }
    Ok(fields)
}

/// Checks the fields of a header or trailer section, and gives those that may be returned.
///
/// # Errors
/// When a secret is in any of them, or there are too many.
pub(crate) fn returned(headers: &HeaderMap, rule: &AnswerRule, watched: &Watched) -> Result<Fields, Fault> {
    let mut size = 0;
    for (name, value) in headers {
        size += name.as_str().len() + value.len() + 4;
        if watched.check(value.as_bytes()).is_err() {
            return Err(Fault::Reflected);
        }
    }
    if size > MAX_ANSWER_HEAD || headers.len() > MAX_ANSWER_FIELDS {
        return Err(Fault::HeadTooLarge);
    }
    // Fields that belong to the connection (RFC 9110 §7.6.1).
    let nominated: Vec<&str> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let mut fields = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        let never = nominated.iter().any(|other| other.eq_ignore_ascii_case(name));
        // The manifest refuses what is never returned; a rule that was made in another way does not allow it either.
        let allowed = ALWAYS.contains(&name)
            || rule
                .headers
                .iter()
                .any(|other| HeaderName::as_str(other) == name && !other.is_never_returned());
        if allowed && !never {
            fields.push((name.to_owned(), value.as_bytes().to_vec()));
        }
    }
    Ok(fields)
}

/// One way of framing, said once. hyper is more forgiving, and two readers of one answer may differ.
fn framing<B>(answer: &Response<B>, method: Method, rule: &AnswerRule) -> Result<(), Fault> {
    let headers = answer.headers();
    let mut encodings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let (encoding, length) = (encodings.next(), lengths.next());
    if encodings.next().is_some() || lengths.next().is_some() || (encoding.is_some() && length.is_some()) {
        return Err(Fault::Protocol);
    }
    if let Some(encoding) = encoding
        && (answer.version() != Version::HTTP_11 || !encoding.as_bytes().eq_ignore_ascii_case(b"chunked"))
    {
        return Err(Fault::Protocol);
    }
    if let Some(length) = length {
        let text = length.to_str().map_err(|_| Fault::Protocol)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Fault::Protocol);
        }
        let bodiless = method == Method::Head || answer.status() == StatusCode::NOT_MODIFIED;
        // Digits that are no number are too many.
        let fits = text.parse::<u64>().is_ok_and(|length| length <= rule.max.0);
        if !bodiless && !fits {
            return Err(Fault::BodyTooLarge);
        }
    }
    Ok(())
}
