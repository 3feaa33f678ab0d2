//! From a plan to the one request that is written: the host's header fields, the agent's, and the credential in its slot. Sends nothing.
//!
//! A credential stays in its locked memory until it is written. hyper then copies it into its write buffer and rustls into a record,
//! which neither wipes.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::egress::{Outgoing, Plan, SendError, Slot};
use claviger_core::http::{HeaderName, Method, Origin, Target};
use claviger_core::{Refusal, Secret};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::locked;
use crate::outgoing::{OutBody, Sending};
use crate::sigv4;

/// RFC 3986 `unreserved` stays as it is.
const IN_QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A plan does not fit together, or a credential does not fit its slot: a fault of the host's, of which an agent learns no more.
pub(crate) const INVALID: SendError = SendError::Refused {
    refusal: Refusal::Invalid,
    grant: None,
};

/// The parts of a plan that are written.
pub(crate) struct Written {
    pub(crate) method: Method,
    pub(crate) target: Target,
    pub(crate) headers: Vec<(HeaderName, Vec<u8>)>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) body: Outgoing,
}

impl From<Plan> for Written {
    fn from(plan: Plan) -> Self {
        Self {
            method: plan.method,
            target: plan.target,
            headers: plan.headers,
            slots: plan.slots,
            body: plan.body,
        }
    }
}

/// Builds the request, and says how the sending of its body goes.
///
/// # Errors
/// When a field is the host's alone, a slot is there twice, a credential cannot stand where it must, or the body is larger than allowed.
pub(crate) fn build(written: Written) -> Result<(Request<OutBody>, Arc<Sending>), SendError> {
    let Written {
        method,
        target,
        headers,
        slots,
        body,
    } = written;
    let origin = target.origin().clone();
    let mut fields = HeaderMap::new();
    insert(
        &mut fields,
        header::HOST.as_str(),
        Bytes::from(origin.authority()),
    )?;
    // Answers must be readable for the scrubber, and requests say nothing by their compressed length.
    fields.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    frame(&mut fields, method, &body);
    for (name, value) in headers {
        let is_slot = slots.iter().any(|slot| names(slot).contains(&name.as_str()));
        if is_slot {
            continue;
        }
        if name.is_host_owned() {
            return Err(INVALID);
        }
        insert(&mut fields, name.as_str(), Bytes::from(value))?;
    }
    let mut path = Bytes::from(target.origin_form());
    let mut signing = None;
    let mut filled = Vec::new();
    for slot in slots {
        for name in names(&slot) {
            if filled.iter().any(|other: &String| other == name) {
                return Err(INVALID);
            }
            filled.push((*name).to_owned());
        }
        match slot {
            Slot::Header { name, value } => {
                if routes(&name) {
                    return Err(INVALID);
                }
                fields.remove(name.as_str());
                let mut value = visible(locked::bytes(value))?;
                value.set_sensitive(true);
                fields.append(field_name(name.as_str())?, value);
            }
            Slot::Query { key, value } => {
                if target.query().any(|(other, _)| other == key) {
                    return Err(INVALID);
                }
                path = with_query(&path, &key, &value)?;
            }
            Slot::AwsSigV4 { scope, secret, time } => signing = Some((scope, secret, time)),
        }
    }
    if let Some((scope, secret, time)) = signing {
        let url = Bytes::from([format!("https://{}", origin.authority()).as_bytes(), &path].concat());
        let content = match &body {
            Outgoing::Empty => Bytes::new(),
            Outgoing::Whole(bytes) => bytes.clone(),
            // A payload that is not known cannot be signed, and an unsigned one is never sent.
            Outgoing::Stream { .. } => return Err(INVALID),
        };
        let signed = sigv4::sign(method, &url, &fields, &content, &scope, &secret, time).ok_or(INVALID)?;
        for (name, value) in signed {
            let mut value = visible(Bytes::from(value))?;
            value.set_sensitive(true);
            fields.insert(field_name(name)?, value);
        }
    }
    let (body, sending) = OutBody::new(body)?;
    let mut request = Request::new(body);
    *request.method_mut() = http::Method::from_bytes(method.as_str().as_bytes()).map_err(|_| INVALID)?;
    *request.uri_mut() = Uri::from(PathAndQuery::from_maybe_shared(path).map_err(|_| INVALID)?);
    *request.headers_mut() = fields;
    Ok((request, sending))
}

/// What a plan becomes, without its body: the head exactly as it is written.
///
/// # Errors
/// When the plan does not fit together.
pub fn written(plan: Plan) -> Result<Request<()>, SendError> {
    Ok(build(plan.into())?.0.map(drop))
}

/// The host says where the body ends; hyper would leave it out of some requests.
fn frame(fields: &mut HeaderMap, method: Method, body: &Outgoing) {
    let length = match body {
        Outgoing::Empty => match method {
            // A server may wait for a body where one is usual (RFC 9110 §8.6).
            Method::Post | Method::Put | Method::Patch => Some(0),
            Method::Get | Method::Head | Method::Options | Method::Delete => None,
        },
        Outgoing::Whole(bytes) => Some(bytes.len() as u64),
        Outgoing::Stream {
            length: Some(length), ..
        } => Some(*length),
        Outgoing::Stream { length: None, .. } => {
            fields.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            return;
        }
    };
    if let Some(length) = length {
        fields.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
}

/// The header fields that a slot fills.
fn names(slot: &Slot) -> Vec<&str> {
    match slot {
        Slot::Header { name, .. } => vec![name.as_str()],
        Slot::Query { .. } => Vec::new(),
        Slot::AwsSigV4 { .. } => vec!["authorization", "x-amz-date", "x-amz-content-sha256"],
    }
}

/// Fields of framing and routing: not even a credential goes there.
fn routes(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host"
            | "content-length"
            | "transfer-encoding"
            | "connection"
            | "te"
            | "trailer"
            | "upgrade"
            | "expect"
    )
}

fn field_name(name: &str) -> Result<header::HeaderName, SendError> {
    header::HeaderName::from_bytes(name.as_bytes()).map_err(|_| INVALID)
}

fn insert(fields: &mut HeaderMap, name: &str, value: Bytes) -> Result<(), SendError> {
    let name = field_name(name)?;
    // What was checked has no field twice; what comes from elsewhere must not get a second one past the first.
    if fields.contains_key(&name) {
        return Err(INVALID);
    }
    fields.append(name, visible(value)?);
    Ok(())
}

/// Visible ASCII with spaces within: `http` alone would take tabs, edge spaces and bytes beyond ASCII.
fn visible(value: Bytes) -> Result<HeaderValue, SendError> {
    let edge = |byte: Option<&u8>| byte == Some(&b' ');
    let fits = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
    if !value.iter().all(fits) || edge(value.first()) || edge(value.last()) {
        return Err(INVALID);
    }
    HeaderValue::from_maybe_shared(value).map_err(|_| INVALID)
}

/// The path and query with one more key, in locked memory.
fn with_query(path: &[u8], key: &str, value: &Secret) -> Result<Bytes, SendError> {
    let separator: &[u8] = match (path.contains(&b'?'), path.last()) {
        (false, _) => b"?",
        (true, Some(b'?')) => b"",
        (true, _) => b"&",
    };
    let encoded = || percent_encode(value.expose(), IN_QUERY).map(str::as_bytes);
    let secret = locked::gather(|| {
        [path, separator, key.as_bytes(), b"="]
            .into_iter()
            .chain(encoded())
    })?;
    Ok(locked::bytes(secret))
}

/// Whether the plan goes where its permit is for, checked before anything is asked or opened.
pub(crate) fn same_origin(target: &Target, origin: &Origin) -> bool {
    target.origin() == origin
}
