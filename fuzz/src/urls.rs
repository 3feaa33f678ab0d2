//! URLs and routes: what is accepted has one reading, and patterns match what a tiny matcher says they do.
//!
//! An input is a request line, and below it up to eight routes, one a line.

use claviger_core::http::{Method, PathEncoding, PathPattern, Route, Router, Target, overlapping};

/// So many routes of an input are looked at.
const MAX_ROUTES: usize = 8;

/// What holds of any bytes.
pub fn hold(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let mut lines = text.split('\n');
    let line = lines.next().unwrap_or_default();
    let (method, url) = line.split_once(' ').unwrap_or(("GET", line));
    let method = method.parse().unwrap_or(Method::Get);
    let routes: Vec<(&str, Route)> = lines
        .take(MAX_ROUTES)
        .filter_map(|text| Some((text, text.parse().ok()?)))
        .collect();
    for (text, route) in &routes {
        assert_eq!(route.to_string(), *text, "a route has one spelling");
        assert!(route.path.overlaps(&route.path), "{text} overlaps itself");
    }
    let plain = Target::parse(url, PathEncoding::Refused);
    let encoded = Target::parse(url, PathEncoding::Allowed);
    if let Ok(target) = &plain {
        assert_eq!(
            encoded.as_ref(),
            Ok(target),
            "what is accepted without encodings is with them"
        );
        assert!(!target.path().contains('%'));
    }
    let Ok(target) = encoded else { return };
    one_reading(url, &target);
    matches_as_it_must(method, &target, &routes);
}

/// The standard's parser changes no byte and finds the same parts.
fn one_reading(text: &str, target: &Target) {
    let url = match url::Url::parse(text) {
        Ok(url) => url,
        // A name that only looks encoded: names are compared exactly and never decoded.
        Err(url::ParseError::IdnaError) if target.origin().host().contains("xn--") => return,
        Err(error) => panic!("{text} is accepted, and the standard says: {error}"),
    };
    let (origin, rest) = text.split_at(target.origin().to_string().len());
    let slash = if rest.starts_with('/') { "" } else { "/" };
    assert_eq!(url.as_str(), format!("{origin}{slash}{rest}"));
    assert_eq!(url.host_str(), Some(target.origin().host()));
    assert_eq!(url.port_or_known_default(), Some(target.origin().port()));
    assert_eq!(url.path(), target.path());
    assert_eq!((url.username(), url.password(), url.fragment()), ("", None, None));
}

fn matches_as_it_must(method: Method, target: &Target, routes: &[(&str, Route)]) {
    let mut router = Router::default();
    let mut added: Vec<(String, &Route)> = Vec::new();
    for (index, (_, route)) in routes.iter().enumerate() {
        let path = route.path.to_string();
        assert_eq!(
            route.path.matches(target),
            reference(&path, target.path()),
            "{path} {target}"
        );
        // As in a manifest: what would overlap is not there.
        if added
            .iter()
            .any(|(_, other)| overlapping(&[(*other).clone()], std::slice::from_ref(route)).is_some())
        {
            continue;
        }
        let Ok(alias) = format!("g{index}").parse() else {
            continue;
        };
        router.add(&alias, target.origin(), std::slice::from_ref(route));
        added.push((alias.to_string(), route));
    }
    for (index, (_, one)) in routes.iter().enumerate() {
        for (_, two) in routes.iter().skip(index + 1) {
            let both = one.path.matches(target) && two.path.matches(target);
            let overlap = one.path.overlaps(&two.path);
            assert_eq!(overlap, two.path.overlaps(&one.path), "{one} {two}");
            assert!(
                overlap || !both,
                "{one} and {two} do not overlap, and both match {target}"
            );
        }
    }
    let expected: Vec<&str> = added
        .iter()
        .filter(|(_, route)| route.method == method && route.path.matches(target))
        .map(|(alias, _)| alias.as_str())
        .collect();
    assert!(
        expected.len() <= 1,
        "two routes that do not overlap match {target}"
    );
    let found = router.find(method, target).map(|found| found.alias.as_str());
    assert_eq!(found, expected.first().copied(), "{method} {target}");
    let everything: Result<PathPattern, _> = "/**".parse();
    assert!(everything.is_ok_and(|pattern| pattern.matches(target)));
}

/// Patterns by their definition, one segment after the other.
fn reference(pattern: &str, path: &str) -> bool {
    let segments = |text: &'_ str| text.split('/').skip(1).map(str::to_owned).collect::<Vec<_>>();
    fits(&segments(pattern), &segments(path))
}

fn fits(pattern: &[String], path: &[String]) -> bool {
    match (pattern, path) {
        ([], []) => true,
        ([last], [_, ..]) if last == "**" => true,
        ([first, pattern @ ..], [segment, path @ ..]) if first == "*" => {
            !segment.is_empty() && fits(pattern, path)
        }
        ([first, pattern @ ..], [segment, path @ ..]) => first == segment && fits(pattern, path),
        ([], [_, ..]) | ([_, ..], []) => false,
    }
}
