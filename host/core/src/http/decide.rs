//! Which grant a request falls under, and whether the grant allows its query, header fields and kind of body. Pure: no clock, no
//! counts, no credential. Not the whole decision: limits and budgets come after, and a body's content when it is there.

use super::grant::HttpGrant;
use super::header::{HeaderError, HeaderName, checked_headers};
use super::inject::Injection;
use super::route::{Method, Route, Router};
use super::target::{PathEncoding, Target};
use crate::egress::{MAX_HEAD, RequestHead};
use crate::name::{GrantAlias, escape};
use crate::refusal::{Denial, Refusal, Rule};

/// Whether a request comes with a body, which may turn out to be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyPresence {
    /// It has none.
    Absent,
    /// It has one.
    Present,
}

/// A request that a grant allows by its head.
#[derive(Debug, Clone)]
pub struct Decided<'a> {
    /// The grant's alias.
    pub alias: &'a GrantAlias,
    /// The grant.
    pub grant: &'a HttpGrant,
    /// The grant's route that it falls under.
    pub route: &'a Route,
    /// The method.
    pub method: Method,
    /// Where to.
    pub target: Target,
    /// What is sent of the agent's header fields.
    pub headers: Vec<(HeaderName, Vec<u8>)>,
    /// How many bytes of body the agent announced.
    pub length: Option<u64>,
}

impl Decided<'_> {
    /// Whether the method gives a body no meaning (RFC 9110 §9.3.1, §9.3.2): one that is there must be empty.
    #[must_use]
    pub const fn body_must_be_empty(&self) -> bool {
        match self.method {
            Method::Get | Method::Head => true,
            Method::Options | Method::Post | Method::Put | Method::Patch | Method::Delete => false,
        }
    }

    /// Whether the grant's rule about JSON does not hold of a body that is absent: where it says what stands in one, or where the method
    /// is for sending one.
    #[must_use]
    pub fn body_must_be_there(&self) -> bool {
        let Some(rule) = &self.grant.body.json else {
            return false;
        };
        match self.method {
            Method::Post | Method::Put | Method::Patch => true,
            Method::Options | Method::Delete => rule.demands(),
            Method::Get | Method::Head => false,
        }
    }
}

/// A request that is refused by its head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotDecided {
    /// The grant that it falls under, if it falls under one.
    pub grant: Option<GrantAlias>,
    /// Why. Where a line of the manifest would allow it, the detail has that line.
    pub denial: Denial,
}

/// Decides a request by its head. `grants` are those that the router was made from.
///
/// # Errors
/// The first rule that stands against it. The detail quotes no value of the query or of a header field, and nothing of a body.
pub fn decide<'a>(
    router: &'a Router,
    grants: impl Fn(&GrantAlias) -> Option<&'a HttpGrant>,
    head: &RequestHead,
    body: BodyPresence,
) -> Result<Decided<'a>, NotDecided> {
    let unplaced = |denial| NotDecided { grant: None, denial };
    let size = head.size();
    if size > MAX_HEAD {
        return Err(unplaced(Denial::new(
            Refusal::Invalid,
            Rule::Target,
            &format!("the head of the request has {size} bytes; at most {MAX_HEAD} are accepted"),
        )));
    }
    // With encodings, as some grant may allow them; whether this one does is decided once it is known.
    let target = Target::parse(&head.url, PathEncoding::Allowed)
        .map_err(|error| unplaced(Denial::new(Refusal::Invalid, Rule::Target, &error.to_string())))?;
    let method: Method = head.method.parse().map_err(|error: super::route::NotARoute| {
        let text = format!(
            "`{}` is no method that can be granted; {error}",
            escape(&head.method, 16)
        );
        unplaced(Denial::new(Refusal::NotGranted, Rule::Route, &text))
    })?;
    let found = router
        .find(method, &target)
        .and_then(|found| grants(found.alias).map(|grant| (found, grant)));
    let Some((found, grant)) = found else {
        return Err(unplaced(no_route(router, method, &target)));
    };
    let refused = |denial| NotDecided {
        grant: Some(found.alias.clone()),
        denial,
    };
    check_encoding(grant, &target).map_err(refused)?;
    check_query(grant, &target).map_err(refused)?;
    let slots = grant.inject.as_ref().map(Injection::slots).unwrap_or_default();
    let authority = target.origin().authority();
    let headers = checked_headers(&head.headers, &grant.headers, &slots, &authority)
        .map_err(|error| refused(header_denial(&error)))?;
    let length = announced(head).map_err(refused)?;
    let decided = Decided {
        alias: found.alias,
        grant,
        route: found.route,
        method,
        target,
        headers,
        length,
    };
    check_body(&decided, body).map_err(refused)?;
    Ok(decided)
}

/// What to write into a manifest to allow it.
fn no_route(router: &Router, method: Method, target: &Target) -> Denial {
    let route = format!("{method} {}", target.path());
    let text = if router.knows(target.origin()) {
        format!(
            "no grant allows it; to allow it, add \"{route}\" to `allow` of a grant for {}",
            target.origin()
        )
    } else {
        format!(
            "no grant is for this origin; to allow it: http = {{ origin = \"{}\", allow = [\"{route}\"] }}",
            target.origin()
        )
    };
    Denial::new(Refusal::NotGranted, Rule::Route, &text)
}

fn check_encoding(grant: &HttpGrant, target: &Target) -> Result<(), Denial> {
    match grant.encoding {
        PathEncoding::Refused if target.path().contains('%') => Err(Denial::new(
            Refusal::Invalid,
            Rule::Target,
            "the path has a percent-encoding; to allow it: paths = \"encoded\"",
        )),
        PathEncoding::Refused | PathEncoding::Allowed => Ok(()),
    }
}

fn check_query(grant: &HttpGrant, target: &Target) -> Result<(), Denial> {
    let slot = match &grant.inject {
        Some(Injection::Query { key, .. }) => Some(key.as_str()),
        Some(
            Injection::Bearer { .. }
            | Injection::Basic { .. }
            | Injection::Header { .. }
            | Injection::OAuth2(_)
            | Injection::GithubApp(_)
            | Injection::AwsSigV4(_)
            | Injection::HttpSignature { .. }
            | Injection::Dpop { .. }
            | Injection::WebhookHmac { .. }
            | Injection::Mtls { .. },
        )
        | None => None,
    };
    let refused = |text: String| Err(Denial::new(Refusal::NotGranted, Rule::Query, &text));
    for (key, value) in target.query() {
        let shown = escape(key, 64);
        if slot.is_some_and(|slot| same_key(slot, key)) {
            return refused(format!(
                "the key `{shown}` of the query holds the credential, which the host attaches"
            ));
        }
        let Some(allowed) = grant.query.iter().find(|allowed| allowed.key == key) else {
            return refused(format!(
                "the grant does not allow the key `{shown}` of the query; to allow it, add \"{shown}\" to `query`"
            ));
        };
        if !allowed.values.is_empty() && !allowed.values.iter().any(|one| one == value) {
            return refused(format!(
                "the grant does not allow this value of the key `{shown}` of the query; expected one of {}",
                allowed.values.join(", ")
            ));
        }
    }
    Ok(())
}

/// Whether a server could take the one for the other: many ignore the case, and decode.
fn same_key(slot: &str, key: &str) -> bool {
    let decoded = |text: &str| {
        let mut out = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            let pair = tail.split_first_chunk::<2>().filter(|_| first == b'%');
            match pair.and_then(|(pair, after)| Some((hex::decode(pair).ok()?, after))) {
                Some((byte, after)) => {
                    out.extend(byte);
                    rest = after;
                }
                None => {
                    out.push(first);
                    rest = tail;
                }
            }
        }
        out.to_ascii_lowercase()
    };
    decoded(slot) == decoded(key)
}

fn header_denial(error: &HeaderError) -> Denial {
    let refusal = match error {
        HeaderError::HostOwned(_) | HeaderError::Slot(_) | HeaderError::NotAllowed(_) => Refusal::NotGranted,
        HeaderError::Name(_) | HeaderError::Value(_) | HeaderError::Repeated(_) | HeaderError::Host => {
            Refusal::Invalid
        }
    };
    Denial::new(refusal, Rule::Header, &error.to_string())
}

/// The one `content-length` that the agent sent, if it sent one. It is the host that writes the field.
fn announced(head: &RequestHead) -> Result<Option<u64>, Denial> {
    let mut lengths = head
        .headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| {
            std::str::from_utf8(value)
                .ok()
                // `u64::from_str` would take a `+`, too.
                .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|text| text.parse::<u64>().ok())
        });
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(Some(length)), None) => Ok(Some(length)),
        (Some(None), _) | (Some(Some(_)), Some(_)) => Err(Denial::new(
            Refusal::Invalid,
            Rule::Header,
            "`content-length` is not one whole number",
        )),
    }
}

fn check_body(decided: &Decided<'_>, body: BodyPresence) -> Result<(), Denial> {
    let refused = |refusal, text: &str| Err(Denial::new(refusal, Rule::Body, text));
    let length = decided.length;
    let absent = match body {
        BodyPresence::Absent if length.unwrap_or(0) > 0 => {
            return refused(
                Refusal::Invalid,
                "the request announces a body that it does not have",
            );
        }
        BodyPresence::Absent => true,
        BodyPresence::Present => length == Some(0),
    };
    if decided.body_must_be_empty() && length.unwrap_or(0) > 0 {
        return refused(
            Refusal::Invalid,
            &format!("a {} request has no body", decided.method),
        );
    }
    if absent && decided.body_must_be_there() {
        return refused(
            Refusal::Invalid,
            "the grant says what is in the body, and there is none",
        );
    }
    if absent || decided.body_must_be_empty() {
        return Ok(());
    }
    let rule = &decided.grant.body;
    if let Some(length) = length.filter(|length| *length > rule.max.0) {
        return refused(
            Refusal::Invalid,
            &format!(
                "the body has {length} bytes; the grant allows {} (`max-request`)",
                rule.max
            ),
        );
    }
    check_type(decided)
}

/// The type of a body that is there.
fn check_type(decided: &Decided<'_>) -> Result<(), Denial> {
    let rule = &decided.grant.body;
    let given = decided
        .headers
        .iter()
        .find(|(name, _)| name.as_str() == "content-type")
        .map(|(_, value)| String::from_utf8_lossy(value).to_ascii_lowercase());
    let media = given
        .as_deref()
        .map(|text| text.split(';').next().unwrap_or_default().trim());
    let refused = |text: &str| Err(Denial::new(Refusal::NotGranted, Rule::Body, text));
    if !rule.content_types.is_empty()
        && !media.is_some_and(|media| rule.content_types.iter().any(|t| t == media))
    {
        return refused(&format!(
            "the body's type is {}; expected one of {} (`content-types`)",
            if media.is_some() { "another" } else { "not given" },
            rule.content_types.join(", ")
        ));
    }
    if rule.json.is_none() {
        return Ok(());
    }
    // What was understood as JSON here must not be read as a form there.
    let is_json = media.is_some_and(|media| media == "application/json" || media.ends_with("+json"));
    let foreign = given.as_deref().is_some_and(|text| {
        text.split(';').skip(1).map(str::trim).any(|parameter| {
            parameter.starts_with("charset") && !matches!(parameter, "charset=utf-8" | "charset=\"utf-8\"")
        })
    });
    if !is_json || foreign {
        return refused(
            "the grant says what is in the JSON of the body; expected `content-type: application/json`",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{AllowedQuery, JsonPredicate, JsonRule, JsonTest};

    fn grant(set: impl FnOnce(&mut HttpGrant)) -> HttpGrant {
        let allow = ["GET /repos/*", "POST /repos/*", "DELETE /repos/*"];
        let mut grant = HttpGrant::new(
            "https://api.test".parse().unwrap(),
            allow.iter().map(|route| route.parse().unwrap()).collect(),
        );
        set(&mut grant);
        grant
    }

    fn ask(
        grant: &HttpGrant,
        line: &str,
        headers: &[(&str, &str)],
        body: BodyPresence,
    ) -> Result<(String, usize), (Refusal, Rule, String)> {
        let alias: GrantAlias = "github".parse().unwrap();
        let mut router = Router::default();
        router.add(&alias, &grant.origin, &grant.allow);
        let (method, url) = line.split_once(' ').unwrap();
        let head = RequestHead {
            method: method.to_owned(),
            url: url.to_owned(),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
                .collect(),
        };
        decide(&router, |one| (*one == alias).then_some(grant), &head, body)
            .map(|decided| (decided.route.to_string(), decided.headers.len()))
            .map_err(|no| (no.denial.refusal, no.denial.rule, no.denial.detail))
    }

    #[track_caller]
    fn refused(
        grant: &HttpGrant,
        line: &str,
        headers: &[(&str, &str)],
        body: BodyPresence,
        refusal: Refusal,
        rule: Rule,
    ) -> String {
        let (got, by, detail) = ask(grant, line, headers, body).unwrap_err();
        assert_eq!((got, by), (refusal, rule), "{line}: {detail}");
        detail
    }

    use BodyPresence::{Absent, Present};

    #[test]
    fn a_request_falls_under_its_route_or_the_denial_says_what_would_allow_it() {
        let plain = grant(|_| {});
        assert_eq!(
            ask(
                &plain,
                "GET https://api.test/repos/a",
                &[("accept", "*/*")],
                Absent
            ),
            Ok(("GET /repos/*".to_owned(), 1))
        );
        let detail = refused(
            &plain,
            "PUT https://api.test/repos/a",
            &[],
            Absent,
            Refusal::NotGranted,
            Rule::Route,
        );
        assert!(detail.contains("\"PUT /repos/a\""), "{detail}");
        let detail = refused(
            &plain,
            "GET https://evil.test/x?q=1",
            &[],
            Absent,
            Refusal::NotGranted,
            Rule::Route,
        );
        assert!(
            detail.contains(r#"http = { origin = "https://evil.test", allow = ["GET /x"] }"#),
            "{detail}"
        );
        for line in ["TRACE https://api.test/repos/a", "get https://api.test/repos/a"] {
            refused(&plain, line, &[], Absent, Refusal::NotGranted, Rule::Route);
        }
        for line in [
            "GET http://api.test/repos/a",
            "GET https://api.test/repos/../a",
            "GET https://api.test/repos/a#x",
            "GET https://api.test/repos/%61",
            "GET https://api.test/repos/a%20b",
        ] {
            refused(&plain, line, &[], Absent, Refusal::Invalid, Rule::Target);
        }
        let encoded = grant(|grant| grant.encoding = PathEncoding::Allowed);
        assert!(ask(&encoded, "GET https://api.test/repos/a%20b", &[], Absent).is_ok());
        let long = "x".repeat(4000);
        let many: Vec<_> = (0..5).map(|_| ("accept", long.as_str())).collect();
        refused(
            &plain,
            "GET https://api.test/repos/a",
            &many,
            Absent,
            Refusal::Invalid,
            Rule::Target,
        );
    }

    #[test]
    fn only_listed_keys_of_the_query_are_sent_and_values_are_not_quoted() {
        let grant = grant(|grant| {
            for (key, values) in [("page", &[][..]), ("sort", &["asc", "desc"][..]), ("KEY", &[])] {
                grant.query.push(AllowedQuery {
                    key: key.to_owned(),
                    values: values.iter().map(|value| (*value).to_owned()).collect(),
                });
            }
            grant.inject = Some(Injection::Query {
                key: "key".to_owned(),
                secret: "maps".parse().unwrap(),
            });
        });
        let url = |query: &str| format!("GET https://api.test/repos/a?{query}");
        assert!(ask(&grant, &url("page=7&sort=asc"), &[], Absent).is_ok());
        for query in [
            "q=canary",
            "sort=canary",
            "key=canary",
            "KEY=canary",
            "k%65y=canary",
            "Page=canary",
        ] {
            let refused = ask(&grant, &url(query), &[], Absent).unwrap_err();
            assert!(
                matches!(refused.1, Rule::Query | Rule::Target),
                "{query}: {refused:?}"
            );
            assert!(!refused.2.contains("canary"), "{refused:?}");
        }
    }

    #[test]
    fn bodies_are_where_they_may_be_and_of_an_allowed_type() {
        let json = ("content-type", "application/json; charset=utf-8");
        let any = grant(|_| {});
        let post = "POST https://api.test/repos/a";
        assert!(ask(&any, post, &[("content-length", "5")], Present).is_ok());
        assert!(ask(&any, post, &[], Absent).is_ok());
        for (line, headers, body) in [
            (
                "GET https://api.test/repos/a",
                &[("content-length", "1")][..],
                Present,
            ),
            (post, &[("content-length", "1")], Absent),
            (post, &[("content-length", "1048577")], Present),
        ] {
            refused(&any, line, headers, body, Refusal::Invalid, Rule::Body);
        }
        for headers in [
            &[("content-length", "+1")][..],
            &[("content-length", "1, 1")],
            &[("content-length", "1"), ("Content-Length", "1")],
        ] {
            refused(&any, post, headers, Present, Refusal::Invalid, Rule::Header);
        }
        let typed = grant(|grant| grant.body.content_types = vec!["text/plain".to_owned()]);
        assert!(ask(&typed, post, &[("content-type", "Text/Plain;charset=x")], Present).is_ok());
        assert!(ask(&typed, "DELETE https://api.test/repos/a", &[], Absent).is_ok());
        for headers in [&[][..], &[json], &[("content-type", "text/plain-canary")]] {
            let detail = refused(&typed, post, headers, Present, Refusal::NotGranted, Rule::Body);
            assert!(!detail.contains("canary"), "{detail}");
        }
        let checked = grant(|grant| grant.body.json = Some(JsonRule::default()));
        assert!(ask(&checked, post, &[json], Present).is_ok());
        for headers in [
            &[][..],
            &[("content-type", "application/x-www-form-urlencoded")],
            &[("content-type", "application/json; charset=utf-16")],
        ] {
            refused(&checked, post, headers, Present, Refusal::NotGranted, Rule::Body);
        }
        let delete = "DELETE https://api.test/repos/a";
        let with = |test: JsonTest| {
            let place = "/confirm".parse().unwrap();
            let predicates = vec![JsonPredicate { place, test }];
            grant(move |grant| {
                grant.body.json = Some(JsonRule {
                    predicates,
                    ..JsonRule::default()
                });
            })
        };
        let demanding = with(JsonTest::Equals(true.into()));
        for (grant, line) in [(&checked, post), (&demanding, post), (&demanding, delete)] {
            refused(grant, line, &[], Absent, Refusal::Invalid, Rule::Body);
            refused(
                grant,
                line,
                &[json, ("content-length", "0")],
                Present,
                Refusal::Invalid,
                Rule::Body,
            );
        }
        // Nothing is missing where nothing must be there.
        for grant in [&checked, &with(JsonTest::Absent)] {
            assert!(ask(grant, delete, &[], Absent).is_ok());
        }
        assert!(ask(&demanding, "GET https://api.test/repos/a", &[], Absent).is_ok());
    }
}
