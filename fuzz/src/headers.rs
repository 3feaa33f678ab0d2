//! The head of a request: what is allowed of an agent's header fields is read by an independent parser as what was allowed, and holds
//! nothing of the host's.
//!
//! An input is a request line, and below it header fields as `name: value`; lines end with a newline, and a value is any other bytes.

use claviger_core::GrantAlias;
use claviger_core::egress::RequestHead;
use claviger_core::http::{BodyPresence, HeaderName, HttpGrant, Injection, MAX_HEADER_VALUE, Router, decide};

/// Where the credential goes in these requests.
const SLOT: &str = "x-api-key";
/// What the grant lists beyond the common fields, the slot by mistake.
const LISTED: [&str; 4] = ["x-trace", "range", "x-api-key", "transfer-encoding"];

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
