//! The spellings in which a server may echo a secret, made without the code under test, and the search for them in what came out.

use std::collections::HashMap;

/// Base64 by hand.
pub(crate) fn base64(bytes: &[u8], last: [char; 2]) -> String {
    let alphabet: Vec<char> = ('A'..='Z')
        .chain('a'..='z')
        .chain('0'..='9')
        .chain(last)
        .collect();
    bytes
        .chunks(3)
        .flat_map(|three| {
            let joined = three
                .iter()
                .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
            let bits = joined << (8 * (3 - three.len()));
            (0..=three.len()).map(move |at| (bits >> (18 - 6 * at)) & 63)
        })
        .map(|six| alphabet[six as usize])
        .collect()
}

fn each(secret: &str, encode: impl Fn(u8) -> String) -> String {
    secret.bytes().map(encode).collect()
}

/// By name, every spelling.
pub(crate) fn spellings(secret: &str) -> Vec<(&'static str, String)> {
    let json = serde_json::to_string(secret).unwrap();
    vec![
        ("raw", secret.to_owned()),
        ("reversed", secret.chars().rev().collect()),
        ("hex", each(secret, |byte| format!("{byte:02x}"))),
        ("HEX", each(secret, |byte| format!("{byte:02X}"))),
        ("base64", base64(secret.as_bytes(), ['+', '/'])),
        (
            "base64 after one",
            base64(format!("x{secret}x").as_bytes(), ['+', '/']),
        ),
        (
            "base64 after two",
            base64(format!("xx{secret}x").as_bytes(), ['+', '/']),
        ),
        ("base64url", base64(secret.as_bytes(), ['-', '_'])),
        (
            "percent",
            each(secret, |byte| match byte {
                b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
                _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            }),
        ),
        ("JSON", json[1..json.len() - 1].to_owned()),
        ("JSON of PHP", json[1..json.len() - 1].replace('/', "\\/")),
        ("JSON, all", each(secret, |byte| format!("\\u{byte:04x}"))),
    ]
}

/// Whether any twelve bytes of any spelling of the secret are in there: stricter than what the client looks for.
pub(crate) fn holds(bytes: &[u8], secret: &str) -> Option<&'static str> {
    let mut parts: HashMap<[u8; 12], &'static str> = HashMap::new();
    let mut first = [false; 256];
    for (name, spelling) in spellings(secret) {
        for part in spelling.as_bytes().windows(12) {
            first[usize::from(part[0])] = true;
            parts.insert(part.try_into().unwrap(), name);
        }
    }
    let mut windows = bytes.windows(12).filter(|window| first[usize::from(window[0])]);
    windows.find_map(|window| parts.get(window).copied())
}
