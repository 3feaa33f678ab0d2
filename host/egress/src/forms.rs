//! The spellings in which servers echo a secret. Not the search for them, and not every spelling there is: the search is a tripwire.
//!
//! Looked for are the secret itself, reversed, in hexadecimal, in base64 (both alphabets, wherever it stands in what was encoded),
//! percent-encoded and as a JSON string. Not looked for, among others: compressed or encrypted forms, HTML entities, mixed-case
//! hexadecimal, UTF-16, characters with something between them, and pieces of a secret that are spread over several answers or
//! header fields.

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding as _};
use zeroize::Zeroizing;

/// A secret under this length is looked for as it is, and in no other form: four characters of base64 occur by chance in any
/// larger text of it, and a false hit suspends a grant.
pub(crate) const MIN_FORMS: usize = 8;

/// At most this many bytes of a form are looked for: it is also what a stream may have to hold back. Tokens are shorter; of a longer
/// one, a part of this length is the secret still.
pub(crate) const MAX_FORM: usize = 4096;

/// Bytes that are wiped.
pub(crate) type Form = Zeroizing<Vec<u8>>;

/// Every form of a secret, each once.
pub(crate) fn forms(secret: &[u8]) -> Vec<Form> {
    let secret = secret.get(..MAX_FORM).unwrap_or(secret);
    let mut all: Vec<Form> = vec![Zeroizing::new(secret.to_vec())];
    if secret.len() >= MIN_FORMS {
        all.push(Zeroizing::new(secret.iter().rev().copied().collect()));
        all.push(hexadecimal(secret, Case::Lower));
        all.push(hexadecimal(secret, Case::Upper));
        for shift in 0..3 {
            all.extend(base64(secret, shift));
        }
        for case in [Case::Lower, Case::Upper] {
            all.push(percent(secret, case, |byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
            }));
            // As JavaScript's `encodeURIComponent` and HTML forms leave them.
            all.push(percent(secret, case, |byte| {
                byte.is_ascii_alphanumeric()
                    || matches!(
                        byte,
                        b'-' | b'.' | b'_' | b'~' | b'!' | b'\'' | b'(' | b')' | b'*'
                    )
            }));
            all.push(percent(secret, case, |_| false));
            // What JSON demands, and what the encoders of Go, PHP, .NET, Python and Java escape beyond that.
            all.push(json(secret, case, |_| false));
            all.push(json(secret, case, |byte| matches!(byte, b'<' | b'>' | b'&')));
            all.push(json(secret, case, |byte| {
                matches!(byte, b'<' | b'>' | b'&' | b'+' | b'\'' | b'`')
            }));
            all.push(json(secret, case, |_| true));
        }
        all.push(slashed(secret));
    }
    for form in &mut all {
        form.truncate(MAX_FORM);
    }
    let mut seen: Vec<Form> = Vec::with_capacity(all.len());
    for form in all {
        if !seen.iter().any(|other| **other == *form) {
            seen.push(form);
        }
    }
    seen
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    Lower,
    Upper,
}

/// Text that grows within its capacity, so that no copy of a secret is left behind.
fn text(capacity: usize) -> Zeroizing<String> {
    Zeroizing::new(String::with_capacity(capacity))
}

fn bytes(text: &Zeroizing<String>) -> Form {
    Zeroizing::new(text.as_bytes().to_vec())
}

fn hexadecimal(secret: &[u8], case: Case) -> Form {
    let mut out = text(secret.len() * 2);
    for byte in secret {
        escape(&mut out, "", *byte, case);
    }
    bytes(&out)
}

/// The characters that do not depend on what stands before and after, in both alphabets, with `shift` bytes before.
fn base64(secret: &[u8], shift: usize) -> [Form; 2] {
    let mut padded = Zeroizing::new(Vec::with_capacity(secret.len() + shift));
    padded.extend(std::iter::repeat_n(0, shift));
    padded.extend_from_slice(secret);
    // Six bits a character: the first whole one after the shift, and the last one that the secret alone decides.
    let first = (shift * 8).div_ceil(6);
    let last = padded.len() * 8 / 6;
    let cut = |encoded: Zeroizing<String>| {
        Zeroizing::new(encoded.as_bytes().get(first..last).unwrap_or_default().to_vec())
    };
    [
        cut(Zeroizing::new(Base64Unpadded::encode_string(&padded))),
        cut(Zeroizing::new(Base64UrlUnpadded::encode_string(&padded))),
    ]
}

fn percent(secret: &[u8], case: Case, plain: impl Fn(u8) -> bool) -> Form {
    let mut out = text(secret.len() * 3);
    for byte in secret {
        if plain(*byte) {
            out.push(char::from(*byte));
        } else {
            escape(&mut out, "%", *byte, case);
        }
    }
    bytes(&out)
}

/// As within a JSON string (RFC 8259 §7). Bytes beyond ASCII are left as they are unless all are escaped.
fn json(secret: &[u8], case: Case, escaped: impl Fn(u8) -> bool) -> Form {
    let mut out: Form = Zeroizing::new(Vec::with_capacity(secret.len() * 6));
    for byte in secret {
        let short = match byte {
            b'"' => Some(b'"'),
            b'\\' => Some(b'\\'),
            b'\n' => Some(b'n'),
            b'\r' => Some(b'r'),
            b'\t' => Some(b't'),
            0x08 => Some(b'b'),
            0x0c => Some(b'f'),
            _ => None,
        };
        match short {
            _ if escaped(*byte) || (short.is_none() && byte.is_ascii_control()) => {
                let mut unicode = text(6);
                escape(&mut unicode, "\\u00", *byte, case);
                out.extend_from_slice(unicode.as_bytes());
            }
            Some(short) => out.extend_from_slice(&[b'\\', short]),
            None => out.push(*byte),
        }
    }
    out
}

/// As a JSON string with `\/`, as PHP writes it.
fn slashed(secret: &[u8]) -> Form {
    let plain = json(secret, Case::Lower, |_| false);
    let mut out: Form = Zeroizing::new(Vec::with_capacity(plain.len() * 2));
    for byte in plain.iter() {
        if *byte == b'/' {
            out.push(b'\\');
        }
        out.push(*byte);
    }
    out
}

fn escape(out: &mut String, prefix: &str, byte: u8, case: Case) {
    out.push_str(prefix);
    for nibble in [byte >> 4, byte & 15] {
        let digit = char::from_digit(u32::from(nibble), 16).unwrap_or_default();
        out.push(match case {
            Case::Lower => digit,
            Case::Upper => digit.to_ascii_uppercase(),
        });
    }
}
