//! `METHOD /path` patterns, and which grant a request falls under. Not a decision: limits and credentials come after.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::origin::Origin;
use super::target::{PathEncoding, Target};
use crate::name::GrantAlias;

/// A grant has at most this many routes; the guard's budget is measured with 50.
pub const MAX_ROUTES: usize = 64;
/// A pattern has at most this many segments.
const MAX_SEGMENTS: usize = 32;

/// The methods that can be granted (RFC 9110 §9, RFC 5789). `CONNECT` and `TRACE` are not among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Method {
    /// Reads.
    Get,
    /// Reads the head of an answer.
    Head,
    /// Asks what is possible.
    Options,
    /// Sends.
    Post,
    /// Replaces.
    Put,
    /// Changes.
    Patch,
    /// Removes.
    Delete,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Get,
        Self::Head,
        Self::Options,
        Self::Post,
        Self::Put,
        Self::Patch,
        Self::Delete,
    ];

    /// As in a request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Options => "OPTIONS",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }

    /// Whether it changes something (not `safe` by RFC 9110 §9.2.1).
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            Self::Get | Self::Head | Self::Options => false,
            Self::Post | Self::Put | Self::Patch | Self::Delete => true,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a text is no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotARoute {
    /// Not two words.
    #[error("expected a method and a path with one space between them, for example `GET /repos/*`")]
    Shape,
    /// Not a method that can be granted.
    #[error("expected one of GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE in upper case")]
    Method,
    /// Not a path in the one accepted spelling.
    #[error("{0}")]
    Path(String),
    /// `*` beside other characters.
    #[error(
        "`*` stands for one whole segment and `**`, at the end, for the rest; a part of a segment cannot be left open"
    )]
    Wildcard,
    /// Too many segments.
    #[error("expected at most {MAX_SEGMENTS} segments")]
    TooLong,
}

impl FromStr for Method {
    type Err = NotARoute;
    fn from_str(text: &str) -> Result<Self, NotARoute> {
        Self::ALL
            .into_iter()
            .find(|method| method.as_str() == text)
            .ok_or(NotARoute::Method)
    }
}

/// One segment of a pattern.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Segment {
    /// Exactly this text.
    Exact(Box<str>),
    /// Any one segment that is not empty.
    Any,
}

/// A pattern of paths: exact segments, `*` for any one that is not empty, `**` at the end for one or more, the last of which may be
/// empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PathPattern {
    // Invariant: at most MAX_SEGMENTS; only the last may be an empty text.
    segments: Vec<Segment>,
    rest: bool,
}

impl PathPattern {
    /// Whether a checked path is one of these.
    #[must_use]
    pub fn matches(&self, target: &Target) -> bool {
        let mut given = target.segments();
        for segment in &self.segments {
            let Some(text) = given.next() else { return false };
            let fits = match segment {
                Segment::Exact(exact) => **exact == *text,
                Segment::Any => !text.is_empty(),
            };
            if !fits {
                return false;
            }
        }
        given.next().is_some() == self.rest
    }

    /// Whether some path is one of both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let common = self.segments.iter().zip(&other.segments).all(|pair| match pair {
            (Segment::Exact(one), Segment::Exact(two)) => one == two,
            (Segment::Exact(text), Segment::Any) | (Segment::Any, Segment::Exact(text)) => !text.is_empty(),
            (Segment::Any, Segment::Any) => true,
        });
        let (one, two) = (self.segments.len(), other.segments.len());
        common
            && match (self.rest, other.rest) {
                (false, false) => one == two,
                (true, false) => one < two,
                (false, true) => two < one,
                (true, true) => true,
            }
    }

    /// Whether every path is one of these.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.rest && self.segments.is_empty()
    }

    /// Whether it leaves a segment open.
    #[must_use]
    pub fn has_wildcard(&self) -> bool {
        self.rest || self.segments.contains(&Segment::Any)
    }
}

impl FromStr for PathPattern {
    type Err = NotARoute;
    fn from_str(text: &str) -> Result<Self, NotARoute> {
        // What no wildcard stands for is checked as a request's path is, so that a pattern cannot name what no request can have.
        let probe = text
            .split('/')
            .map(|segment| {
                if matches!(segment, "*" | "**") {
                    "x"
                } else {
                    segment
                }
            })
            .collect::<Vec<_>>()
            .join("/");
        let target = Target::parse(&format!("https://h{probe}"), PathEncoding::Allowed)
            .map_err(|error| NotARoute::Path(error.to_string()))?;
        if !text.starts_with('/') || text.contains('?') || target.origin_form() != probe {
            return Err(NotARoute::Path(
                "expected a path that begins with `/`, without a query".to_owned(),
            ));
        }
        let mut words: Vec<&str> = text.split('/').skip(1).collect();
        let rest = words.last() == Some(&"**");
        if rest {
            words.pop();
        }
        if words.len() > MAX_SEGMENTS {
            return Err(NotARoute::TooLong);
        }
        let segments = words
            .into_iter()
            .map(|word| match word {
                "*" => Ok(Segment::Any),
                text if text.contains('*') => Err(NotARoute::Wildcard),
                text => Ok(Segment::Exact(text.into())),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { segments, rest })
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for segment in &self.segments {
            match segment {
                Segment::Exact(text) => write!(f, "/{text}")?,
                Segment::Any => f.write_str("/*")?,
            }
        }
        if self.rest { f.write_str("/**") } else { Ok(()) }
    }
}

/// A method and the paths it is allowed on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Route {
    /// The method.
    pub method: Method,
    /// The paths.
    pub path: PathPattern,
}

impl FromStr for Route {
    type Err = NotARoute;
    fn from_str(text: &str) -> Result<Self, NotARoute> {
        let (method, path) = text.split_once(' ').ok_or(NotARoute::Shape)?;
        if path.contains(char::is_whitespace) {
            return Err(NotARoute::Shape);
        }
        Ok(Self {
            method: method.parse()?,
            path: path.parse()?,
        })
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// Which grant a request falls under, by origin, method and path. Built once per admission; grants do not overlap, so at most one
/// matches.
#[derive(Debug, Default)]
pub struct Router {
    roots: HashMap<(Origin, Method), Node>,
    origins: HashMap<Origin, ()>,
}

/// The patterns that go on from one segment.
#[derive(Debug, Default)]
struct Node {
    exact: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    end: Option<Leaf>,
    rest: Option<Leaf>,
}

#[derive(Debug)]
struct Leaf {
    alias: GrantAlias,
    route: Route,
}

/// The grant and the route that a request falls under.
#[derive(Debug, Clone, Copy)]
pub struct Match<'a> {
    /// The grant.
    pub alias: &'a GrantAlias,
    /// Its route.
    pub route: &'a Route,
}

impl Router {
    /// Adds a grant's routes. Of routes that overlap, which must not be, the first one added counts.
    pub fn add(&mut self, alias: &GrantAlias, origin: &Origin, routes: &[Route]) {
        self.origins.insert(origin.clone(), ());
        for route in routes {
            let mut node = self.roots.entry((origin.clone(), route.method)).or_default();
            for segment in &route.path.segments {
                node = match segment {
                    Segment::Exact(text) => node.exact.entry(text.clone()).or_default(),
                    Segment::Any => node.any.get_or_insert_default(),
                };
            }
            let leaf = if route.path.rest {
                &mut node.rest
            } else {
                &mut node.end
            };
            leaf.get_or_insert_with(|| Leaf {
                alias: alias.clone(),
                route: route.clone(),
            });
        }
    }

    /// The grant that covers this request, if one does.
    #[must_use]
    pub fn find(&self, method: Method, target: &Target) -> Option<Match<'_>> {
        let node = self.roots.get(&(target.origin().clone(), method))?;
        let segments: Vec<&str> = target.segments().collect();
        node.find(&segments).map(|leaf| Match {
            alias: &leaf.alias,
            route: &leaf.route,
        })
    }

    /// Whether any grant names this origin.
    #[must_use]
    pub fn knows(&self, origin: &Origin) -> bool {
        self.origins.contains_key(origin)
    }

    /// The origins that are named, in order.
    #[must_use]
    pub fn origins(&self) -> Vec<&Origin> {
        let mut all: Vec<_> = self.origins.keys().collect();
        all.sort();
        all
    }
}

impl Node {
    fn find(&self, segments: &[&str]) -> Option<&Leaf> {
        let Some((first, rest)) = segments.split_first() else {
            return self.end.as_ref();
        };
        let exact = self.exact.get(*first).and_then(|node| node.find(rest));
        let any = || match &self.any {
            Some(node) if !first.is_empty() => node.find(rest),
            Some(_) | None => None,
        };
        exact.or_else(any).or(self.rest.as_ref())
    }
}

/// The first two routes of two grants that some request would match both.
#[must_use]
pub fn overlapping<'a>(one: &'a [Route], two: &'a [Route]) -> Option<(&'a Route, &'a Route)> {
    one.iter().find_map(|left| {
        let right = two
            .iter()
            .find(|right| left.method == right.method && left.path.overlaps(&right.path))?;
        Some((left, right))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(path: &str) -> Target {
        Target::parse(&format!("https://h{path}"), PathEncoding::Refused).unwrap()
    }

    #[test]
    fn a_wildcard_is_one_segment_and_two_are_the_rest() {
        for (pattern, path, expected) in [
            ("/v1/*", "/v1/a", true),
            ("/v1/*", "/v1/a/b", false),
            ("/v1/*", "/v1/", false),
            ("/v1/*", "/v1", false),
            ("/v1/**", "/v1", false),
            ("/v1/**", "/v1/", true),
            ("/v1/**", "/v1/a/b/", true),
            ("/**", "/", true),
            ("/", "/", true),
            ("/", "/a", false),
            ("/a/", "/a", false),
            ("/a", "/a/", false),
            ("/a/*/c", "/a/b/c", true),
            ("/a/*/c", "/a/b/d", false),
            ("/*/**", "/a", false),
            ("/*/**", "/a/b/c", true),
        ] {
            let parsed: PathPattern = pattern.parse().unwrap();
            assert_eq!(parsed.to_string(), pattern);
            assert_eq!(parsed.matches(&target(path)), expected, "{pattern} {path}");
            let mut router = Router::default();
            let route = Route {
                method: Method::Get,
                path: parsed,
            };
            router.add(&"g".parse().unwrap(), target("/").origin(), &[route]);
            let found = router.find(Method::Get, &target(path)).is_some();
            assert_eq!(found, expected, "router: {pattern} {path}");
            assert!(router.find(Method::Post, &target(path)).is_none());
        }
    }

    #[test]
    fn a_pattern_cannot_name_what_no_request_can_have() {
        for bad in [
            "", "v1", "/v1/a*", "/**/a", "/v1//a", "/a/../b", "/a?b", "/a b", "/a#b", "/%2e", "/ä", "/a\\b",
        ] {
            assert!(bad.parse::<PathPattern>().is_err(), "{bad}");
        }
        for bad in [
            "GET",
            "get /a",
            "TRACE /a",
            "CONNECT /a",
            "GET  /a",
            " GET /a",
            "GET /a ",
        ] {
            assert!(bad.parse::<Route>().is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_overlap_exactly_if_a_path_is_of_both() {
        let patterns: Vec<PathPattern> = [
            "/", "/a", "/a/", "/*", "/a/*", "/*/b", "/**", "/a/**", "/a/b", "/a/b/**", "/*/*/c", "/a/*/**",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let words = ["", "a", "b", "c"];
        let mut paths = Vec::new();
        for one in words {
            paths.push(format!("/{one}"));
            for two in words.iter().filter(|_| !one.is_empty()) {
                paths.push(format!("/{one}/{two}"));
                for three in words.iter().filter(|_| !two.is_empty()) {
                    paths.push(format!("/{one}/{two}/{three}"));
                    for four in words.iter().filter(|_| !three.is_empty()) {
                        paths.push(format!("/{one}/{two}/{three}/{four}"));
                    }
                }
            }
        }
        for one in &patterns {
            for two in &patterns {
                let shared = paths
                    .iter()
                    .any(|path| one.matches(&target(path)) && two.matches(&target(path)));
                assert_eq!(one.overlaps(two), shared, "{one} {two}");
            }
        }
    }
}
