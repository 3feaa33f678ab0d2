//! The scrubber against every spelling it knows, those it does not know, and every way of cutting a stream.

use super::*;

const SECRET: &str = "sk-live/4f+Zq\"7&Q<mXpW='t\\9~K!b";

fn secrets(texts: &[&[u8]]) -> Vec<Arc<Secret>> {
    texts
        .iter()
        .map(|text| Arc::new(Secret::take(&mut text.to_vec()).unwrap()))
        .collect()
}

/// What was released of a stream in pieces, and whether a secret was found.
fn run(secrets: &[Arc<Secret>], stream: &[u8], piece: usize) -> (Vec<u8>, bool) {
    let mut scrubber = Scrubber::new(secrets).unwrap();
    let mut out = Vec::new();
    for piece in stream.chunks(piece) {
        match scrubber.scan(Bytes::copy_from_slice(piece)) {
            Ok(clean) => out.extend_from_slice(&clean),
            Err(Found) => return (out, true),
        }
    }
    out.extend_from_slice(&scrubber.finish().unwrap());
    (out, false)
}

/// Base64 by hand, so that the tests do not believe the library that they test.
fn base64(bytes: &[u8], last: [char; 2]) -> String {
    let alphabet: Vec<char> = ('A'..='Z')
        .chain('a'..='z')
        .chain('0'..='9')
        .chain(last)
        .collect();
    bytes
        .chunks(3)
        .flat_map(|three| {
            let bits = three
                .iter()
                .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - three.len()));
            (0..=three.len()).map(move |at| (bits >> (18 - 6 * at)) & 63)
        })
        .map(|six| alphabet[six as usize])
        .collect()
}

fn each(secret: &str, encode: impl Fn(u8) -> String) -> String {
    secret.bytes().map(encode).collect()
}

/// Every spelling that a server is known to echo in, made without the code under test.
fn echoes() -> Vec<(&'static str, String)> {
    let alphanumeric = |byte: u8| byte.is_ascii_alphanumeric();
    let mut all = vec![
        ("raw", SECRET.to_owned()),
        ("reversed", SECRET.chars().rev().collect()),
        ("hex", each(SECRET, |byte| format!("{byte:02x}"))),
        ("HEX", each(SECRET, |byte| format!("{byte:02X}"))),
        ("percent, all", each(SECRET, |byte| format!("%{byte:02X}"))),
        ("percent, all, lower", each(SECRET, |byte| format!("%{byte:02x}"))),
        (
            "percent",
            each(SECRET, |byte| match byte {
                b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
                _ if alphanumeric(byte) => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            }),
        ),
        (
            "encodeURIComponent",
            each(SECRET, |byte| match byte {
                b'-' | b'.' | b'_' | b'~' | b'!' | b'\'' | b'(' | b')' | b'*' => char::from(byte).to_string(),
                _ if alphanumeric(byte) => char::from(byte).to_string(),
                _ => format!("%{byte:02X}"),
            }),
        ),
        ("JSON", serde_json::to_string(SECRET).unwrap()),
        (
            "JSON of PHP",
            serde_json::to_string(SECRET).unwrap().replace('/', "\\/"),
        ),
        (
            "JSON of Go",
            serde_json::to_string(SECRET)
                .unwrap()
                .replace('<', "\\u003c")
                .replace('>', "\\u003e")
                .replace('&', "\\u0026"),
        ),
        ("JSON, all", each(SECRET, |byte| format!("\\u{byte:04x}"))),
        ("JSON, all, upper", each(SECRET, |byte| format!("\\u{byte:04X}"))),
    ];
    for (name, last) in [("base64", ['+', '/']), ("base64url", ['-', '_'])] {
        for before in ["", "u", "us", "user:", "u:"] {
            all.push((name, base64(format!("{before}{SECRET}").as_bytes(), last)));
            all.push((
                name,
                base64(format!("{before}{SECRET} and more").as_bytes(), last),
            ));
        }
    }
    all
}

#[test]
fn every_known_spelling_is_found_however_it_is_cut_and_nothing_of_it_is_released() {
    let secrets = secrets(&[b"another secret", SECRET.as_bytes()]);
    for (name, echo) in echoes() {
        let stream = format!("{{\"echo\": \"{echo}\"}} {}", "x".repeat(50));
        for piece in [1, 2, 3, 5, 7, 16, 63, stream.len()] {
            let (out, found) = run(&secrets, stream.as_bytes(), piece);
            assert!(found, "{name} in pieces of {piece}: {stream}");
            assert!(
                out.len() <= "{\"echo\": \"".len() + "user:".len() * 2,
                "{name}: {} bytes came out",
                out.len()
            );
        }
    }
}

#[test]
fn what_holds_no_secret_comes_out_as_it_went_in() {
    let secrets = secrets(&[SECRET.as_bytes()]);
    let mut near = String::new();
    for (_, echo) in echoes() {
        // All but the end, again and again.
        near.push_str(echo.get(..20).unwrap());
        near.push('\n');
    }
    for piece in [1, 2, 3, 17, near.len()] {
        assert_eq!(
            run(&secrets, near.as_bytes(), piece),
            (near.clone().into_bytes(), false)
        );
    }
    assert_eq!(run(&[], b"anything", 3), (b"anything".to_vec(), false));
}

#[test]
fn an_event_is_not_held_back_for_the_next_one() {
    let mut scrubber = Scrubber::new(&secrets(&[SECRET.as_bytes()])).unwrap();
    for event in ["data: one\n\n", "data: two\n\n"] {
        assert_eq!(scrubber.scan(Bytes::from(event)).unwrap(), event);
    }
    assert_eq!(scrubber.scan(Bytes::from("data: sk-l")).unwrap(), "data: ");
    assert_eq!(scrubber.scan(Bytes::from("ime\n\n")).unwrap(), "sk-lime\n\n");
    assert_eq!(scrubber.finish().unwrap(), "");
}

#[test]
fn after_a_secret_nothing_comes_out() {
    let mut scrubber = Scrubber::new(&secrets(&[SECRET.as_bytes()])).unwrap();
    assert_eq!(scrubber.scan(Bytes::from(SECRET)), Err(Found));
    assert_eq!(scrubber.scan(Bytes::from("harmless")), Err(Found));
    assert_eq!(scrubber.finish(), Err(Found));
}

/// The list of docs/threat-model.md. A spelling that is found one day moves to `echoes`.
#[test]
fn what_evades_the_search_is_known() {
    let secrets = secrets(&[SECRET.as_bytes()]);
    let evading = [
        ("XOR", each(SECRET, |byte| char::from(byte ^ 1).to_string())),
        ("entities", each(SECRET, |byte| format!("&#{byte};"))),
        ("spaced", each(SECRET, |byte| format!("{} ", char::from(byte)))),
        ("UTF-16", each(SECRET, |byte| format!("\0{}", char::from(byte)))),
        ("case", SECRET.to_ascii_uppercase()),
        ("mixed hex", hex::encode(SECRET).replacen('f', "F", 1)),
        ("half", SECRET[..SECRET.len() / 2].to_owned()),
        (
            "base64 twice",
            base64(base64(SECRET.as_bytes(), ['+', '/']).as_bytes(), ['+', '/']),
        ),
    ];
    for (name, echo) in evading {
        let (out, found) = run(&secrets, echo.as_bytes(), 7);
        assert!(!found && out == echo.as_bytes(), "{name}");
    }
}

#[test]
fn a_short_secret_is_looked_for_as_it_is() {
    for secret in ["a", "pw1", "hunter2"] {
        let secrets = secrets(&[secret.as_bytes()]);
        for piece in [1, 2, 100] {
            assert!(
                run(&secrets, format!("..{secret}..").as_bytes(), piece).1,
                "{secret}"
            );
        }
        let hex = hex::encode(secret.to_uppercase());
        assert!(!run(&secrets, hex.replace('a', "b").as_bytes(), 4).1, "{secret}");
    }
}

#[test]
fn a_secret_of_repetitions_is_found_and_its_near_misses_are_released() {
    let secrets = secrets(&[b"baaaaaaaaaaaaaab"]);
    let near = "a".repeat(200) + "b" + &"a".repeat(13) + "b" + &"a".repeat(14);
    assert_eq!(
        run(&secrets, near.as_bytes(), 3),
        (near.clone().into_bytes(), false)
    );
    assert!(run(&secrets, format!("{near}b").as_bytes(), 3).1);
}

#[test]
fn a_long_secret_is_found_by_its_beginning() {
    let long: Vec<u8> = (0..60_000_u32).map(|at| b'a' + (at * at % 23) as u8).collect();
    let secrets = secrets(&[&long]);
    assert!(run(&secrets, &long, 1000).1);
    assert!(run(&secrets, &long[..crate::forms::MAX_FORM], 1000).1);
    assert!(!run(&secrets, &long[..crate::forms::MAX_FORM - 1], 1000).1);
}

#[test]
fn forms_are_kept_for_as_long_as_the_secret_lives() {
    let kept = Kept::default();
    let one = secrets(&[b"the first secret"]);
    let first = kept.watched(&one).unwrap();
    assert!(Arc::ptr_eq(&first, &kept.watched(&one).unwrap()));
    let other = secrets(&[b"the first secret"]);
    assert!(!Arc::ptr_eq(&first, &kept.watched(&other).unwrap()));
    let weak = Arc::downgrade(&first);
    drop((one, first));
    assert!(weak.upgrade().is_some());
    kept.watched(&other).unwrap();
    assert!(weak.upgrade().is_none());
}
