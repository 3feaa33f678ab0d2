//! `http` of a grant: where to, what, how much. Not `inject`, which is beside this file, and not a decision about any request.

use std::ops::Range;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::section::{Section, quoted};
use super::{approval, body, inject, pem};
use crate::http::{
    AllowedQuery, BodyRule, Budget, ByteBudget, CidrBlock, HeaderName, HttpGrant, Injection, MAX_ROUTES,
    NotAHeaderName, PathEncoding, Route, SpkiPin, Target, TlsFloor, Trust,
};
use crate::manifest::fields::{self, Field};
use crate::manifest::problem::{Report, code};
use crate::manifest::quantity::{format_duration, parse_duration};
use crate::manifest::{Bytes, MAX_BODY, MAX_LIST, MAX_WHOLE_BODY, NotAQuantity};

/// A key or value of the query has at most this many bytes: it is compared with each request.
const MAX_QUERY_TEXT: usize = 256;
/// A media type has at most this many bytes (RFC 6838 §4.2: two names of at most 127).
const MAX_MEDIA_TYPE: usize = 255;
/// A request waits at most so long: that of a whole run.
const MAX_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// A grant lists at most this many keys of a server, or networks: some for rotation, some for each site.
const MAX_PINS: usize = 16;

/// What can be had of a grant of outbound HTTP, with the place of each route.
pub(super) struct Read {
    pub(super) http: HttpGrant,
    pub(super) routes: Vec<Range<usize>>,
}

/// Reads `http` and `inject` of a grant.
pub(super) fn read(grant: &Section<'_, '_>, alias: &str, report: &mut Report) -> Option<Read> {
    let inject = inject::read(grant, alias, report);
    let place = format!("`http` of [grants.{alias}]");
    let section = grant.section(fields::HTTP_TABLE, place, fields::HTTP, report)?;
    section.require(&[fields::ORIGIN, fields::ALLOW], report);
    let origin = section.parsed(fields::ORIGIN, report);
    let allow = section.list(fields::ALLOW, 1..=MAX_ROUTES, report, |text| {
        text.parse::<Route>().map_err(|error| error.to_string())
    });
    let encoding = section.read(fields::PATHS, report, |text| match text {
        "plain" => Ok(PathEncoding::Refused),
        "encoded" => Ok(PathEncoding::Allowed),
        _ => Err("expected `plain` or `encoded`".to_owned()),
    });
    if section.get(fields::PATHS).is_none() || encoding.is_some() {
        let encoding = encoding.as_ref().map(|it| *it.get_ref()).unwrap_or_default();
        refuse_dead_routes(&section, &allow, encoding, report);
    }
    warn_of_routes(&section, &allow, report);
    let routes = allow.iter().map(Spanned::span).collect();
    let allow: Vec<Route> = allow.into_iter().map(Spanned::into_inner).collect();
    // Whoever named no origin or no route is told so once, and the rest is still read.
    let nowhere = || "https://origin.invalid".parse().ok();
    let known = origin.is_some() && !allow.is_empty();
    let mut http = HttpGrant::new(origin.map(Spanned::into_inner).or_else(nowhere)?, allow);
    http.encoding = encoding.map(Spanned::into_inner).unwrap_or_default();
    http.query = read_query(&section, report);
    http.headers = header_names(&section, fields::HEADERS, report, |name| {
        if name.is_host_owned() {
            Some("the host decides about this field; a credential belongs into `inject`")
        } else {
            None
        }
    });
    http.answer.headers = header_names(&section, fields::ANSWER_HEADERS, report, |name| {
        name.is_never_returned()
            .then_some("the host never gives this field to an agent")
    });
    if let Some(max) = bytes(&section, fields::MAX_RESPONSE, report) {
        http.answer.max = max;
    }
    http.inject = inject;
    http.body = read_body(&section, &http, alias, report);
    approval::refuse_large(grant, &section, &http, report);
    if let Some(timeout) = read_timeout(&section, report) {
        http.timeout = timeout;
    }
    http.budget = read_budget(&section, alias, &http, report);
    http.trust = read_trust(&section, report);
    http.private_networks = read_networks(&section, report);
    refuse_contradictions(&section, &http, report);
    known.then_some(Read { http, routes })
}

/// A pattern with an encoded character matches nothing where encoded paths are refused.
fn refuse_dead_routes(
    section: &Section<'_, '_>,
    allow: &[Spanned<Route>],
    encoding: PathEncoding,
    report: &mut Report,
) {
    for route in allow {
        let shown = route.get_ref().to_string();
        if encoding == PathEncoding::Refused && shown.contains('%') {
            let why = format!(
                "`{}` has a percent-encoding, which no path of this grant may have; expected `paths = \"encoded\"` beside it",
                quoted(&shown)
            );
            section.wrong_value(fields::ALLOW, route.span(), &why, "never matches", report);
        }
    }
}

fn warn_of_routes(section: &Section<'_, '_>, allow: &[Spanned<Route>], report: &mut Report) {
    for route in allow {
        let (shown, span) = (quoted(&route.get_ref().to_string()), route.span());
        // No segment but the open end can be `**`.
        if route.get_ref().method.writes() && shown.ends_with("/**") {
            report.warning(
                code::BROAD_WRITE,
                span,
                format!(
                    "{} allows `{shown}`: changes on paths that nobody listed",
                    section.place
                ),
                "every path below",
                "name the paths, with `*` for one segment each",
            );
        } else if route.get_ref().path.is_everything() {
            report.warning(
                code::EVERY_PATH,
                span,
                format!("{} allows `{shown}`: every path of the origin", section.place),
                "every path",
                "name the paths that the agent needs",
            );
        }
    }
}

/// `["page"]`, or `{ page = "any", sort = ["asc", "desc"] }`.
fn read_query(section: &Section<'_, '_>, report: &mut Report) -> Vec<AllowedQuery> {
    let field = fields::QUERY_KEYS;
    let Some(value) = section.get(field) else {
        return Vec::new();
    };
    let DeValue::Table(table) = value.get_ref() else {
        return section
            .list(field, 1..=MAX_LIST, report, query_key)
            .into_iter()
            .map(|key| AllowedQuery {
                key: key.into_inner(),
                values: Vec::new(),
            })
            .collect();
    };
    let mut all = Vec::new();
    if !section.counted(field, value, table.len(), 1..=MAX_LIST, report) {
        return all;
    }
    for (key, value) in table.iter() {
        if let Err(why) = query_key(key.get_ref()) {
            let why = format!("`{}` is not acceptable; {why}", quoted(key.get_ref()));
            section.wrong_value(field, key.span(), &why, "not a key", report);
            continue;
        }
        let mut values = Vec::new();
        match value.get_ref() {
            DeValue::String(text) if text == "any" => {}
            DeValue::Array(items) if section.counted(field, value, items.len(), 1..=MAX_LIST, report) => {
                for item in items.iter() {
                    match item.get_ref().as_str().map(query_value) {
                        Some(Ok(text)) => values.push(text),
                        Some(Err(why)) => {
                            let why =
                                format!("a value of `{}` is not acceptable; {why}", quoted(key.get_ref()));
                            section.wrong_value(field, item.span(), &why, "not acceptable", report);
                        }
                        None => section.wrong_type(field, item, report),
                    }
                }
                // A list of which nothing could be read would be a key without limits.
                if values.is_empty() {
                    continue;
                }
            }
            DeValue::Array(_) => continue,
            DeValue::String(_)
            | DeValue::Integer(_)
            | DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Table(_) => {
                let why = format!(
                    "`{}` is not acceptable; expected a list of values, or `\"any\"`",
                    quoted(key.get_ref())
                );
                section.wrong_value(field, value.span(), &why, "not values", report);
                continue;
            }
        }
        all.push(AllowedQuery {
            key: key.get_ref().to_string(),
            values,
        });
    }
    all
}

/// A key in the spelling that a request has it in: what could not be in a checked URL would never match.
pub(super) fn query_key(text: &str) -> Result<String, String> {
    query_pair(text, "").then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "expected 1 to {MAX_QUERY_TEXT} characters as a URL has them, percent-encoded where it must be"
        )
    })
}

fn query_value(text: &str) -> Result<String, String> {
    query_pair("k", text).then(|| text.to_owned()).ok_or_else(|| {
        format!(
            "expected at most {MAX_QUERY_TEXT} characters as a URL has them, percent-encoded where it must be"
        )
    })
}

fn query_pair(key: &str, value: &str) -> bool {
    key.len() <= MAX_QUERY_TEXT
        && value.len() <= MAX_QUERY_TEXT
        && Target::parse(&format!("https://h/?{key}={value}"), PathEncoding::Refused)
            .is_ok_and(|target| target.query().eq([(key, value)]))
}

/// A list of header fields, without those of which `refuse` says why not.
fn header_names(
    section: &Section<'_, '_>,
    field: Field,
    report: &mut Report,
    refuse: impl Fn(&HeaderName) -> Option<&'static str>,
) -> Vec<HeaderName> {
    let read = |text: &str| {
        let name: HeaderName = text.parse().map_err(|error: NotAHeaderName| error.to_string())?;
        refuse(&name).map_or(Ok(name), |why| Err(why.to_owned()))
    };
    section
        .list(field, 1..=MAX_LIST, report, read)
        .into_iter()
        .map(Spanned::into_inner)
        .collect()
}

fn read_body(section: &Section<'_, '_>, http: &HttpGrant, alias: &str, report: &mut Report) -> BodyRule {
    let mut rule = http.body.clone();
    rule.json = body::read(section, alias, report);
    let types = section.list(fields::CONTENT_TYPES, 1..=MAX_LIST, report, media_type);
    if rule.json.is_some() {
        for other in types.iter().filter(|text| !is_json(text.get_ref())) {
            let why = format!(
                "`{}` is not JSON, which `body` has rules for; expected `application/json` or a type that ends with `+json`",
                quoted(other.get_ref())
            );
            section.wrong_value(fields::CONTENT_TYPES, other.span(), &why, "not JSON", report);
        }
    }
    rule.content_types = types.into_iter().map(Spanned::into_inner).collect();
    // A body that is checked as JSON and announced as something else would be read as something else.
    if rule.json.is_some() && rule.content_types.is_empty() {
        rule.content_types.push("application/json".to_owned());
    }
    if let Some(max) = bytes(section, fields::MAX_REQUEST, report) {
        rule.max = max;
    }
    let whole = rule.json.is_some() || http.inject.as_ref().is_some_and(Injection::needs_whole_body);
    if whole && rule.max > MAX_WHOLE_BODY {
        section.conflict(
            fields::MAX_REQUEST,
            &format!("it is {}, and the body is read whole before it is decided; expected at most {MAX_WHOLE_BODY}", rule.max),
            "too large to be held in memory",
            "",
            report,
        );
    }
    if !http.allow.is_empty() && !http.allow.iter().any(|route| route.method.writes()) {
        for field in [fields::BODY_TABLE, fields::CONTENT_TYPES, fields::MAX_REQUEST] {
            if section.get(field).is_some() {
                section.conflict(
                    field,
                    &"it is about the body of requests, and the grant allows none that has one; expected a route with POST, PUT, PATCH or DELETE",
                    "nothing to enforce",
                    "remove it, or allow what it is for",
                    report,
                );
            }
        }
    }
    rule
}

/// A media type without parameters, in lower case (RFC 9110 §8.3.1).
fn media_type(text: &str) -> Result<String, String> {
    let token = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"!#$&-^_.+".contains(&b))
    };
    let fits = text.len() <= MAX_MEDIA_TYPE
        && text
            .split_once('/')
            .is_some_and(|(kind, sub)| token(kind) && token(sub));
    fits.then(|| text.to_owned()).ok_or_else(|| {
        "expected a media type in lower case, without parameters, such as `application/json`".to_owned()
    })
}

fn is_json(media_type: &str) -> bool {
    media_type == "application/json" || media_type.ends_with("+json")
}

fn bytes(section: &Section<'_, '_>, field: Field, report: &mut Report) -> Option<Bytes> {
    let read = |text: &str| {
        let bytes: Bytes = text.parse().map_err(|error: NotAQuantity| error.to_string())?;
        if bytes > MAX_BODY {
            return Err(format!("expected at most {MAX_BODY}"));
        }
        Ok(bytes)
    };
    section.read(field, report, read).map(Spanned::into_inner)
}

fn read_timeout(section: &Section<'_, '_>, report: &mut Report) -> Option<Duration> {
    let read = |text: &str| {
        let duration = parse_duration(text).map_err(|error| error.to_string())?;
        if duration.is_zero() || duration > MAX_TIMEOUT {
            return Err(format!("expected 1 ms to {}", format_duration(MAX_TIMEOUT)));
        }
        Ok(duration)
    };
    section
        .read(fields::TIMEOUT, report, read)
        .map(Spanned::into_inner)
}

fn read_budget(section: &Section<'_, '_>, alias: &str, http: &HttpGrant, report: &mut Report) -> ByteBudget {
    let place = format!("`budget` of [grants.{alias}]");
    let Some(budget) = section.section(fields::BUDGET_TABLE, place, fields::BUDGET, report) else {
        return ByteBudget::default();
    };
    let mut read = |field: Field, least: Bytes, whose: &str| -> Budget {
        let all: Bytes = budget.parsed(field, report)?.into_inner();
        if all < least {
            budget.conflict(
                field,
                &format!("it is {all} in all, and one {whose} may have {least}; expected at least that"),
                "less than one request",
                "a request is refused unless its largest body fits what is left",
                report,
            );
        }
        Some(all)
    };
    let writes = http.allow.iter().any(|route| route.method.writes());
    ByteBudget {
        sent: read(
            fields::SENT,
            if writes { http.body.max } else { Bytes(0) },
            "request (`max-request`)",
        ),
        received: read(fields::RECEIVED, http.answer.max, "answer (`max-response`)"),
    }
}

fn read_trust(section: &Section<'_, '_>, report: &mut Report) -> Trust {
    let tls = section.read(fields::TLS, report, |text| match text {
        "1.2" => Ok(TlsFloor::V1_2),
        "1.3" => Ok(TlsFloor::V1_3),
        _ => Err("expected `1.2` or `1.3`".to_owned()),
    });
    if let Some(tls) = &tls
        && *tls.get_ref() == TlsFloor::V1_2
    {
        report.warning(
            code::OLD_TLS,
            tls.span(),
            format!("{} accepts TLS 1.2", section.place),
            "an older version",
            "remove it if the server speaks TLS 1.3",
        );
    }
    let pins = section.list(fields::PINS, 1..=MAX_PINS, report, |text| {
        text.parse::<SpkiPin>().map_err(|error| error.to_string())
    });
    Trust {
        tls: tls.map(Spanned::into_inner).unwrap_or_default(),
        authorities: section
            .read_unquoted(fields::AUTHORITIES, report, pem::certificates)
            .unwrap_or_default(),
        pins: pins.into_iter().map(Spanned::into_inner).collect(),
    }
}

fn read_networks(section: &Section<'_, '_>, report: &mut Report) -> Vec<CidrBlock> {
    let blocks = section.list(fields::PRIVATE_NETWORK, 1..=MAX_PINS, report, |text| {
        text.parse::<CidrBlock>().map_err(|error| error.to_string())
    });
    for block in blocks.iter().filter(|block| block.get_ref().is_everything()) {
        report.warning(
            code::EVERY_NETWORK,
            block.span(),
            format!(
                "{} allows every address, those of this machine and its network included",
                section.place
            ),
            "every address",
            "name the block that the server is in",
        );
    }
    blocks.into_iter().map(Spanned::into_inner).collect()
}

/// What the injection and the rest of the grant both claim.
fn refuse_contradictions(section: &Section<'_, '_>, http: &HttpGrant, report: &mut Report) {
    let Some(inject) = &http.inject else { return };
    let slots = inject.slots();
    for slot in http.headers.iter().filter(|name| slots.contains(name)) {
        section.conflict(
            fields::HEADERS,
            &format!(
                "it lists `{slot}`, which holds the credential; expected only fields that the agent fills"
            ),
            "the host's field",
            "remove it from `headers`",
            report,
        );
    }
    match inject {
        Injection::Query { key, .. }
            if http
                .query
                .iter()
                .any(|allowed| allowed.key.eq_ignore_ascii_case(key)) =>
        {
            section.conflict(
                fields::QUERY_KEYS,
                &format!(
                    "it lists `{}`, which holds the credential; expected only keys that the agent fills",
                    quoted(key)
                ),
                "the host's key",
                "remove it from `query`",
                report,
            );
        }
        Injection::Mtls { .. } if http.trust.tls == TlsFloor::V1_2 => section.conflict(
            fields::TLS,
            &"it is `1.2`, and client certificates are used with TLS 1.3 only; expected `1.3`",
            "too old for `mtls`",
            "remove it",
            report,
        ),
        Injection::Bearer { .. }
        | Injection::Basic { .. }
        | Injection::Header { .. }
        | Injection::Query { .. }
        | Injection::OAuth2(_)
        | Injection::GithubApp(_)
        | Injection::AwsSigV4(_)
        | Injection::HttpSignature { .. }
        | Injection::Dpop { .. }
        | Injection::WebhookHmac { .. }
        | Injection::Mtls { .. } => {}
    }
}
