//! The head of a request: what is allowed of an agent's header fields is read by an independent parser as what was allowed, and holds
//! nothing of the host's.
//!
//! An input is a request line, and below it header fields as `name: value`; lines end with a newline, and a value is any other bytes.

use std::sync::Arc;

use bytes::Bytes;
use claviger_core::digest::ComponentDigest;
use claviger_core::egress::{Destination, Lane, Outgoing, Plan, RequestHead, Slot};
use claviger_core::http::{
    BodyPresence, Decided, HeaderName, HttpGrant, Injection, MAX_HEADER_VALUE, Router, decide,
};
use claviger_core::{GrantAlias, Secret};

/// Where the credential goes in these requests.
const SLOT: &str = "x-api-key";
/// What the grant lists beyond the common fields, the slot by mistake.
const LISTED: [&str; 4] = ["x-trace", "range", "x-api-key", "transfer-encoding"];

/// The credential, and what it is in a query.
const CREDENTIAL: (&str, &str) = ("s3cret value&=", "s3cret%20value%26%3D");
/// Where another credential goes in the query.
const KEY: &str = "api_key";

/// What holds of any bytes.
pub fn hold(data: &[u8]) {
    let Some((line, fields)) = crate::split(data) else {
        return;
    };
    let (method, url) = line.split_once(' ').unwrap_or(("POST", "https://h/a"));
    let head = RequestHead {
        method: method.to_owned(),
        url: url.to_owned(),
        headers: fields
            .split(|byte| *byte == b'\n')
            .filter_map(|line| {
                let at = line.iter().position(|byte| *byte == b':')?;
                let (name, value) = line.split_at_checked(at)?;
                let value = value.get(1..)?;
                let value = value.strip_prefix(b" ").unwrap_or(value);
                Some((String::from_utf8_lossy(name).into_owned(), value.to_vec()))
            })
            .collect(),
    };
    let Some(grant) = grant() else {
        panic!("the grant of this test is one")
    };
    let Ok(alias) = "g".parse::<GrantAlias>() else {
        return;
    };
    let mut router = Router::default();
    router.add(&alias, &grant.origin, &grant.allow);
    for presence in [BodyPresence::Absent, BodyPresence::Present] {
        match decide(&router, |_| Some(&grant), &head, presence) {
            Ok(decided) => {
                let target = decided.target.origin_form();
                is_what_it_says(decided.method.as_str(), &target, &decided.headers);
                is_written_so(&grant, &decided, presence);
                assert!(head.size() <= claviger_core::egress::MAX_HEAD);
            }
            Err(no) => {
                assert!(no.denial.detail.chars().count() <= 201, "{}", no.denial.detail);
                assert!(
                    !no.denial.detail.chars().any(char::is_control),
                    "{:?}",
                    no.denial.detail
                );
            }
        }
    }
}

fn grant() -> Option<HttpGrant> {
    let allow = ["GET /**", "POST /**", "DELETE /a"];
    let allow = allow.iter().filter_map(|route| route.parse().ok()).collect();
    let mut grant = HttpGrant::new("https://h".parse().ok()?, allow);
    grant.headers = LISTED.iter().filter_map(|name| name.parse().ok()).collect();
    grant.query = vec![claviger_core::http::AllowedQuery {
        key: "q".to_owned(),
        values: Vec::new(),
    }];
    grant.inject = Some(Injection::Header {
        name: SLOT.parse().ok()?,
        secret: "key".parse().ok()?,
    });
    Some(grant)
}

/// Written as a request and parsed by another, it is the same request.
fn is_what_it_says(method: &str, target: &str, fields: &[(HeaderName, Vec<u8>)]) {
    let mut raw = format!("{method} {target} HTTP/1.1\r\nhost: h\r\n").into_bytes();
    for (name, value) in fields {
        assert!(!name.is_host_owned(), "{name} is the host's");
        assert_ne!(name.as_str(), SLOT, "the credential's place");
        assert!(
            name.is_common() || LISTED.contains(&name.as_str()),
            "{name} was not listed"
        );
        assert!(value.len() <= MAX_HEADER_VALUE);
        assert!(value.iter().all(|byte| (b' '..=b'~').contains(byte)), "{value:?}");
        raw.extend_from_slice(name.as_str().as_bytes());
        raw.extend_from_slice(b": ");
        raw.extend_from_slice(value);
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"\r\n");
    let mut parsed = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut parsed);
    let status = request.parse(&raw);
    assert_eq!(
        status,
        Ok(httparse::Status::Complete(raw.len())),
        "{:?}",
        String::from_utf8_lossy(&raw)
    );
    assert_eq!((request.method, request.path), (Some(method), Some(target)));
    assert_eq!(
        request.headers.len(),
        fields.len() + 1,
        "one line became two, or none"
    );
    for (read, (name, value)) in request.headers.iter().skip(1).zip(fields) {
        assert_eq!((read.name, read.value), (name.as_str(), value.as_slice()));
    }
}

/// Written by the client with a credential in a field and one in the query, and parsed by another, it is what was decided, the host's
/// own fields, and the credentials: each once, and nowhere else.
fn is_written_so(grant: &HttpGrant, decided: &Decided<'_>, presence: BodyPresence) {
    let credential = || Secret::take(&mut CREDENTIAL.0.as_bytes().to_vec()).ok();
    let (Ok(slot), Some(in_field), Some(in_query)) = (SLOT.parse(), credential(), credential()) else {
        return;
    };
    let body = match presence {
        BodyPresence::Present if !decided.body_must_be_empty() => {
            Outgoing::Whole(Bytes::from_static(b"body"))
        }
        BodyPresence::Present | BodyPresence::Absent => Outgoing::Empty,
    };
    let plan = Plan {
        destination: Arc::new(Destination {
            origin: grant.origin.clone(),
            trust: grant.trust.clone(),
            private_networks: Vec::new(),
            answer: grant.answer.clone(),
            timeout: grant.timeout,
            lane: Lane {
                component: ComponentDigest::of(b"component"),
                grant: "a/g".to_owned(),
                credential: "key@v1".to_owned(),
            },
            identity: None,
        }),
        method: decided.method,
        target: decided.target.clone(),
        headers: decided.headers.clone(),
        slots: vec![
            Slot::Header {
                name: slot,
                value: in_field,
            },
            Slot::Query {
                key: KEY.to_owned(),
                value: in_query,
            },
        ],
        body,
        watched: Vec::new(),
    };
    let Ok(written) = claviger_egress::written(plan) else {
        panic!("what was decided cannot be written")
    };
    let mut raw = format!("{} {} HTTP/1.1\r\n", written.method(), written.uri()).into_bytes();
    for (name, value) in written.headers() {
        raw.extend_from_slice(name.as_str().as_bytes());
        raw.extend_from_slice(b": ");
        raw.extend_from_slice(value.as_bytes());
        raw.extend_from_slice(b"\r\n");
    }
    raw.extend_from_slice(b"\r\n");
    let mut parsed = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut parsed);
    assert_eq!(
        request.parse(&raw),
        Ok(httparse::Status::Complete(raw.len())),
        "{:?}",
        String::from_utf8_lossy(&raw)
    );
    let target = decided.target.origin_form();
    let separator = match (target.contains('?'), target.ends_with('?')) {
        (false, _) => "?",
        (true, true) => "",
        (true, false) => "&",
    };
    let path = format!("{target}{separator}{KEY}={}", CREDENTIAL.1);
    assert_eq!(
        (request.method, request.path),
        (Some(decided.method.as_str()), Some(path.as_str()))
    );
    let length = request
        .headers
        .iter()
        .find(|field| field.name == "content-length");
    let mut expected: Vec<(&str, &[u8])> = vec![
        ("host", b"h"),
        ("accept-encoding", b"identity"),
        (SLOT, CREDENTIAL.0.as_bytes()),
    ];
    if let Some(length) = length {
        assert!(matches!(length.value, b"0" | b"4"), "{length:?}");
        expected.push(("content-length", length.value));
    }
    expected.extend(
        decided
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice())),
    );
    let mut read: Vec<(&str, &[u8])> = request
        .headers
        .iter()
        .map(|field| (field.name, field.value))
        .collect();
    expected.sort_unstable();
    read.sort_unstable();
    assert_eq!(read, expected, "a field more, or less");
}
