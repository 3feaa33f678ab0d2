//! A request's URL in the one spelling that is accepted. Nothing is normalised: what two parsers could read differently is refused.

use std::collections::BTreeSet;
use std::fmt;

use super::origin::{NotAnOrigin, Origin};

/// A URL has at most this many bytes: what common servers accept in a request line (RFC 9110 §4.1 asks for 8000).
pub const MAX_TARGET: usize = 8 * 1024;

/// Whether a path may hold percent-encoded characters: what a server decodes is then not what was matched, so a grant says it aloud.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum PathEncoding {
    /// None.
    #[default]
    Refused,
    /// `%XX` in upper-case hexadecimal, except of what has a meaning in paths (`.`, `/`, `\`, `;`, `%`), of control characters,
    /// and of characters that need none.
    Allowed,
}

/// A checked URL: where to, which path, which query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    origin: Origin,
    // Invariant: begins with `/`; segments of the accepted characters, no `.` or `..`, only the last one may be empty.
    path: String,
    // Invariant: pairs in order, keys unique, all in accepted characters; a value keeps its `=`.
    query: Vec<(String, String)>,
    has_query: bool,
}

/// Why a URL is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// Not `https`, or not a host name in its one spelling.
    #[error(transparent)]
    Origin(#[from] NotAnOrigin),
    /// Over [`MAX_TARGET`] bytes.
    #[error("the URL has {0} bytes; at most {MAX_TARGET} are accepted")]
    TooLong(usize),
    /// A fragment, which is never sent.
    #[error("the URL has a fragment")]
    Fragment,
    /// A character that servers read differently, or that needs encoding.
    #[error("the {part} holds {character}, which is not accepted there")]
    Character {
        /// `path`, `query key` or `query value`.
        part: &'static str,
        /// Which one, escaped.
        character: String,
    },
    /// `.` or `..`.
    #[error("the path has a `.` or `..` segment")]
    DotSegment,
    /// Two slashes in a row.
    #[error("the path has an empty segment")]
    EmptySegment,
    /// `%` not followed by an accepted encoding.
    #[error("the {0} has a percent-encoding that is not accepted")]
    Encoding(&'static str),
    /// The same key twice: servers differ in which one counts.
    #[error("the query has the key `{0}` twice")]
    RepeatedKey(String),
    /// An empty key or pair.
    #[error("the query has an empty key")]
    EmptyKey,
}

impl Target {
    /// Checks an absolute URL.
    ///
    /// # Errors
    /// What about it is not accepted.
    pub fn parse(url: &str, encoding: PathEncoding) -> Result<Self, TargetError> {
        if url.len() > MAX_TARGET {
            return Err(TargetError::TooLong(url.len()));
        }
        let rest = url.strip_prefix("https://").ok_or(NotAnOrigin::Scheme)?;
        if rest.contains('#') {
            return Err(TargetError::Fragment);
        }
        let end = rest.find(['/', '?', '\\']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let origin = Origin::from_authority(authority)?;
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        // An empty path and `/` are one resource (RFC 9110 §4.2.3), and `/` is what is sent.
        let path = if path.is_empty() { "/" } else { path };
        check_path(path, encoding)?;
        Ok(Self {
            origin,
            path: path.to_owned(),
            query: query.map_or_else(|| Ok(Vec::new()), read_query)?,
            has_query: query.is_some(),
        })
    }

    /// The origin.
    #[must_use]
    pub const fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The path, from its first `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The segments of the path; the last one is empty if the path ends with `/`.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.path.get(1..).unwrap_or_default().split('/')
    }

    /// Keys and values of the query, as written.
    pub fn query(&self) -> impl Iterator<Item = (&str, &str)> {
        self.query
            .iter()
            .map(|(key, value)| (key.as_str(), value.strip_prefix('=').unwrap_or_default()))
    }

    /// What stands in the request line (RFC 9112 §3.2.1), byte for byte what the agent wrote.
    #[must_use]
    pub fn origin_form(&self) -> String {
        let mut out = self.path.clone();
        for (index, (key, value)) in self.query.iter().enumerate() {
            out.push(if index == 0 { '?' } else { '&' });
            out.push_str(key);
            out.push_str(value);
        }
        if self.has_query && self.query.is_empty() {
            out.push('?');
        }
        out
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.origin, self.origin_form())
    }
}

/// RFC 3986 `unreserved` and the `sub-delims` that have no meaning to common servers, `:` and `@`. Without `;`: path parameters.
const fn in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'&'
                | b'\''
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b'='
                | b':'
                | b'@'
        )
}

/// Of a query, without what separates or encodes: `&`, `=`, `;`, `#`, `%`.
const fn in_query(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'-' | b'.'
                | b'_'
                | b'~'
                | b'!'
                | b'$'
                | b'('
                | b')'
                | b'*'
                | b'+'
                | b','
                | b':'
                | b'@'
                | b'/'
                | b'?'
        )
}

fn check_path(path: &str, encoding: PathEncoding) -> Result<(), TargetError> {
    let segments = path
        .strip_prefix('/')
        .ok_or_else(|| character("path", path))?
        .split('/')
        .collect::<Vec<_>>();
    let last = segments.len().saturating_sub(1);
    for (index, segment) in segments.into_iter().enumerate() {
        if segment.is_empty() && index != last {
            return Err(TargetError::EmptySegment);
        }
        if matches!(segment, "." | "..") {
            return Err(TargetError::DotSegment);
        }
        check_text(segment, "path", in_path, |byte| match encoding {
            PathEncoding::Refused => false,
            PathEncoding::Allowed => !matches!(byte, b'.' | b'/' | b'\\' | b';' | b'%'),
        })?;
        // Some servers take an overlong encoding for the character that it would stand for, such as a dot.
        if std::str::from_utf8(&decoded(segment)).is_err() {
            return Err(TargetError::Encoding("path"));
        }
    }
    Ok(())
}

/// Checks characters and percent-encodings; what is encoded must need it, so that each text has one spelling.
fn check_text(
    text: &str,
    part: &'static str,
    plain: fn(u8) -> bool,
    encodable: impl Fn(u8) -> bool,
) -> Result<(), TargetError> {
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            if !plain(first) {
                let at = text.len() - rest.len();
                return Err(character(part, text.get(at..).unwrap_or_default()));
            }
            rest = tail;
            continue;
        }
        let Some((&[high, low], tail)) = tail.split_first_chunk::<2>() else {
            return Err(TargetError::Encoding(part));
        };
        let upper = |digit: u8| digit.is_ascii_digit() || (b'A'..=b'F').contains(&digit);
        let byte = hex::decode([high, low])
            .ok()
            .and_then(|bytes| bytes.first().copied());
        let accepted = upper(high)
            && upper(low)
            && byte.is_some_and(|byte| {
                !byte.is_ascii_control() && !byte.is_ascii_alphanumeric() && encodable(byte)
            });
        if !accepted {
            return Err(TargetError::Encoding(part));
        }
        rest = tail;
    }
    Ok(())
}

/// The bytes that a text with accepted encodings stands for.
fn decoded(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (pair, rest) = part.split_at_checked(2).unwrap_or((part, ""));
        bytes.extend(hex::decode(pair).unwrap_or_default());
        bytes.extend_from_slice(rest.as_bytes());
    }
    bytes
}

fn character(part: &'static str, at: &str) -> TargetError {
    let first = at.chars().next().map(String::from).unwrap_or_default();
    TargetError::Character {
        part,
        character: format!("`{}`", crate::name::escape(&first, 4)),
    }
}

/// Reads `key=value&key&…`. The value keeps its `=`, so that a key without one stays without.
fn read_query(query: &str) -> Result<Vec<(String, String)>, TargetError> {
    let mut seen = BTreeSet::new();
    let mut pairs = Vec::new();
    if query.is_empty() {
        return Ok(pairs);
    }
    for pair in query.split('&') {
        let at = pair.find('=').unwrap_or(pair.len());
        let (key, value) = pair.split_at(at);
        if key.is_empty() {
            return Err(TargetError::EmptyKey);
        }
        // Keys are compared with the grant's as they are: another spelling of one is another key.
        check_text(key, "query key", |b| in_query(b) && b != b'+', |_| true)?;
        check_text(
            value.strip_prefix('=').unwrap_or_default(),
            "query value",
            |b| in_query(b) || b == b'=',
            |_| true,
        )?;
        if !seen.insert(key) {
            return Err(TargetError::RepeatedKey(crate::name::escape(key, 64)));
        }
        pairs.push((key.to_owned(), value.to_owned()));
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn accepted(url: &str) {
        let target = Target::parse(url, PathEncoding::Refused).unwrap();
        assert_eq!(target.to_string(), url);
    }

    #[track_caller]
    fn refused(url: &str) {
        for encoding in [PathEncoding::Refused, PathEncoding::Allowed] {
            assert!(Target::parse(url, encoding).is_err(), "{url}");
        }
    }

    #[test]
    fn what_is_accepted_is_sent_byte_for_byte() {
        for url in [
            "https://h/",
            "https://h/v1",
            "https://h/v1/",
            "https://h:8443/v1/a.b/~c?x=1&y=a%20b&z",
            "https://h/v1?",
            "https://h/v1?next=https%3A%2F%2Fh%2F",
            "https://h/a@b:c?q=a=b",
        ] {
            accepted(url);
        }
        assert_eq!(
            Target::parse("https://h?a=1", PathEncoding::Refused)
                .unwrap()
                .origin_form(),
            "/?a=1"
        );
    }

    #[test]
    fn what_two_parsers_could_read_differently_is_refused() {
        for url in [
            "http://h/v1",
            "https://h/v1/../admin",
            "https://h/v1/%2e%2e/admin",
            "https://h/v1/.%2E/admin",
            "https://h/v1\\..\\admin",
            "https://h/v1%2f..%2fadmin",
            "https://h/v1%2F..%2Fadmin",
            "https://h/v1/..;/admin",
            "https://h//admin",
            "https://h/v1//x",
            "https://h/v1/%252e%252e/admin",
            "https://h/%76%31/x",
            "https://h\\@evil.test/",
            "https://h@evil.test/",
            "https://u:p@h/",
            "https://h./v1",
            "https://H/v1",
            "https://h/v1\r\nX-Evil: 1",
            "https://h/v1\t",
            "https://h/v1 x",
            "https://h/v1#f",
            "https://h/v1?a=1&a=2",
            "https://h/v1?=1",
            "https://h/v1?a=1&&b=2",
            "https://h/v1?a=%0d%0a",
            "https://h/v1?a=%0D%0A",
            "https://h/v1?a=%00",
            "https://h/v1?a=%zz",
            "https://h/v1?a=%4",
            "https://h/v1?a=1;b=2",
            "https://h/v1?a=ä",
            "https://h/é",
            "https://127.0.0.1/",
            "https://2130706433/",
            "https://0x7f.1/",
            "https://012.0.0.1/",
            "https://[::1]/",
            "https://h:443/",
            "https://h:/",
            "https://evil.test#@h/",
            "//h/v1",
            "/v1",
            "",
        ] {
            refused(url);
        }
        refused(&format!("https://h/{}", "a".repeat(MAX_TARGET)));
    }

    #[test]
    fn a_path_may_be_encoded_only_where_the_grant_says_so() {
        let url = "https://h/a%20b/%C3%A4";
        assert!(Target::parse(url, PathEncoding::Refused).is_err());
        assert_eq!(
            Target::parse(url, PathEncoding::Allowed).unwrap().to_string(),
            url
        );
    }
}
