//! The URLs that an agent may ask for, against the parser of the URL standard: what we accept, it reads as it is written. Not which
//! grant a URL falls under, which is tested beside the router.

#![expect(
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test fails by panicking, its helpers too"
)]

use claviger_core::http::{Origin, PathEncoding, Target};
use proptest::prelude::*;

/// What holds for every text: if we take it, the standard's parser changes no byte of it and finds the same parts.
fn agrees(text: &str) -> bool {
    let mut accepted = false;
    for encoding in [PathEncoding::Refused, PathEncoding::Allowed] {
        let Ok(target) = Target::parse(text, encoding) else {
            continue;
        };
        accepted = true;
        let url = match url::Url::parse(text) {
            Ok(url) => url,
            // A name that only looks encoded. We compare names exactly and decode none, so there is no second reading of it.
            Err(url::ParseError::IdnaError) if target.origin().host().contains("xn--") => continue,
            Err(error) => panic!("{text} is accepted, and the standard says: {error}"),
        };
        // An empty path and `/` are one (RFC 9110 §4.2.3): all that may differ.
        let (origin, rest) = text.split_at(target.origin().to_string().len());
        let slash = if rest.starts_with('/') { "" } else { "/" };
        assert_eq!(url.as_str(), format!("{origin}{slash}{rest}"));
        assert_eq!(url.scheme(), "https");
        assert_eq!(url.host_str(), Some(target.origin().host()), "{text}");
        assert!(
            matches!(url.host(), Some(url::Host::Domain(_))),
            "{text} is a name, not an address"
        );
        assert_eq!(
            url.port_or_known_default(),
            Some(target.origin().port()),
            "{text}"
        );
        assert_eq!(url.path(), target.path(), "{text}");
        assert_eq!(
            (url.username(), url.password(), url.fragment()),
            ("", None, None),
            "{text}"
        );
        let segments: Vec<&str> = url.path_segments().unwrap().collect();
        assert_eq!(segments, target.segments().collect::<Vec<_>>(), "{text}");
        // And what it is written as is accepted again, as the same.
        assert_eq!(
            Target::parse(&target.to_string(), encoding).as_ref(),
            Ok(&target),
            "{text}"
        );
    }
    accepted
}

#[test]
fn what_the_standard_reads_otherwise_than_it_is_written_is_refused() {
    for text in [
        "https://h/v1/../admin",
        "https://h/v1/%2e%2e/admin",
        "https://h/v1/.%2E/admin",
        "https://h/v1\\..\\admin",
        "https://h/v1%2f..%2fadmin",
        "https://h/v1/..;/admin",
        "https://h//admin",
        "https://h/v1/%252e%252e/admin",
        "https://h/%76%31/x",
        "https://h\\@evil.test/",
        "https://h@evil.test/",
        "https://h./v1",
        "https://h/v1\r\nX-Evil: 1",
        "https://h/v1\tx",
        " https://h/v1",
        "https://h/v1 ",
        "https://ａｐｉ.example.com/",
        "https://api。example。com/",
        "https://a\u{ad}pi.example.com/",
        "https://аpi.example.com/",
        "https://xn--api-.example.com/\u{0}",
        "https://012.0.0.1/",
        "https://0x7f.1/",
        "https://2130706433/",
        "https://127.1/",
        "https://0/",
        "https://127.0.0.1/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https:host/x",
        "https:///host/x",
        "https://h:443/",
        "https://h:0443/",
        "https://h:65536/",
        "HTTPS://h/",
        "https://H/",
        "https://h/%c3%a4",
        // A dot in two bytes, half a letter, and none.
        "https://h/%C0%AE%C0%AE/",
        "https://h/%C3",
        "https://h/%C3/%A4",
        "https://h/%FF",
        "https://h/?q='",
        "https://h/?q=%27x\"",
        "https://h/?a#b",
        "https://h/#",
    ] {
        assert!(!agrees(text), "{text:?} is accepted");
    }
}

#[test]
fn ordinary_urls_are_accepted_as_they_are() {
    for text in [
        "https://h",
        "https://h?a=b",
        "https://h/",
        "https://api.github.com/repos/acme/site/issues?state=open&page=2",
        "https://xn--pi-6kc.example.com:8443/a.b_c~d!$&'()*+,=:@-",
        "https://h/a%20b/%C3%A4",
        "https://h/?q=%C3%A4+b&c",
        "https://h/?",
    ] {
        assert!(agrees(text), "{text:?} is refused");
    }
}

/// Pieces of which texts that are nearly URLs are made.
const PIECES: &[&str] = &[
    "https://",
    "http://",
    "https:",
    "//",
    "/",
    "\\",
    "?",
    "#",
    "&",
    "=",
    ";",
    ":",
    "@",
    "%",
    "%2",
    "%2F",
    "%2e",
    "%20",
    "%C3%A4",
    "%c3",
    "%00",
    "%7E",
    "%5C",
    ".",
    "..",
    "...",
    "a",
    "api",
    "x",
    "0",
    "0x",
    "0x7f",
    "1",
    "127",
    "443",
    "8443",
    "-",
    "--",
    "xn--",
    "xn--pi-6kc",
    "xn--a",
    "localhost",
    "com",
    "*",
    "+",
    ",",
    "!",
    "$",
    "'",
    "(",
    "~",
    "_",
    "[",
    "]",
    "[::1]",
    "^",
    "|",
    "{",
    "\"",
    "<",
    "`",
    " ",
    "\t",
    "\r\n",
    "\u{0}",
    "é",
    "ａ",
    "。",
    "\u{ad}",
    "\u{200d}",
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(600) })]

    #[test]
    fn no_text_is_read_in_two_ways(text in any::<String>()) {
        agrees(&text);
        agrees(&format!("https://{text}"));
        agrees(&format!("https://h/{text}"));
    }

    #[test]
    fn no_heap_of_pieces_is_read_in_two_ways(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..12)) {
        let text = pieces.concat();
        agrees(&text);
        agrees(&format!("https://{text}"));
        agrees(&format!("https://h/{text}"));
        agrees(&format!("https://h/?{text}"));
    }

    #[test]
    fn every_origin_is_one_of_the_standard(text in "https://[a-z0-9.-]{1,40}(:[0-9]{1,5})?") {
        if text.parse::<Origin>().is_ok() {
            prop_assert!(agrees(&text) || text.contains("xn--"));
        }
    }
}
