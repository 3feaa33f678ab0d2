//! The search for secrets in answers: the verdict is the same however the answer is cut, nothing of a found secret was released, and
//! what is planted is found.
//!
//! An input is a line with the secret, a line whose bytes are the lengths of pieces, and a text, in which the bytes 1 to 8 stand for
//! the secret in one of its spellings.

use std::sync::Arc;

use base64ct::{Base64, Base64Url, Encoding as _};
use bytes::Bytes;
use claviger_core::Secret;
use claviger_egress::scrub::Scrubber;

/// Secrets of these lengths are looked for in all spellings.
const LENGTHS: std::ops::RangeInclusive<usize> = 8..=64;
/// Of a text, so many bytes are looked at.
const MAX_TEXT: usize = 16 * 1024;

/// What holds of any bytes.
pub fn hold(data: &[u8]) {
    let mut lines = data.splitn(3, |byte| *byte == b'\n');
    let (Some(secret), Some(lengths), Some(text)) = (lines.next(), lines.next(), lines.next()) else {
        return;
    };
    if !LENGTHS.contains(&secret.len()) {
        return;
    }
    let (text, planted) = plant(text, secret);
    let Ok(watched) = Secret::take(&mut secret.to_vec()) else {
        return;
    };
    let watched = [Arc::new(watched)];
    let Ok(mut whole) = Scrubber::new(&watched) else {
        panic!("one secret can be looked for")
    };
    let whole = run(&mut whole, [text.as_slice()]);
    let Ok(mut cut) = Scrubber::new(&watched) else {
        panic!("one secret can be looked for")
    };
    let cut = run(&mut cut, pieces(&text, lengths));
    assert_eq!(
        whole.found, cut.found,
        "the verdict depends on how the answer is cut"
    );
    assert!(whole.found || !planted, "a planted secret was not found");
    for outcome in [whole, cut] {
        assert!(
            text.starts_with(&outcome.released),
            "what was released is not the answer"
        );
        if outcome.found {
            for spelling in (1..8).filter_map(|kind| spelling(kind, secret)) {
                let at = text.windows(spelling.len()).position(|window| window == spelling);
                assert!(
                    at.is_none_or(|at| outcome.released.len() <= at),
                    "a part of the secret was released"
                );
            }
        } else {
            assert_eq!(outcome.released, text, "something was lost");
        }
    }
}

struct Outcome {
    found: bool,
    released: Vec<u8>,
}

fn run<'a>(scrubber: &mut Scrubber, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut released = Vec::new();
    for piece in pieces {
        match scrubber.scan(Bytes::copy_from_slice(piece)) {
            Ok(bytes) => released.extend_from_slice(&bytes),
            Err(_) => {
                assert!(scrubber.scan(Bytes::new()).is_err(), "it forgot");
                assert!(scrubber.finish().is_err(), "it forgot");
                return Outcome {
                    found: true,
                    released,
                };
            }
        }
    }
    let found = match scrubber.finish() {
        Ok(bytes) => {
            released.extend_from_slice(&bytes);
            false
        }
        Err(_) => true,
    };
    Outcome { found, released }
}

/// Cuts a text into pieces of these lengths, again and again.
fn pieces<'a>(mut text: &'a [u8], lengths: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    let mut lengths = lengths.iter().cycle();
    while !text.is_empty() {
        // Pieces of no bytes are pieces, too, but they do not come for ever.
        let empty = pieces.last().is_some_and(|piece: &&[u8]| piece.is_empty());
        let length = lengths
            .next()
            .map_or(text.len(), |length| usize::from(*length % 64));
        let length = if empty { length.max(1) } else { length };
        let (piece, rest) = text.split_at(length.min(text.len()));
        pieces.push(piece);
        text = rest;
    }
    pieces
}

/// The text with the secret's spellings in it, and whether there is one.
fn plant(text: &[u8], secret: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    let mut planted = false;
    for byte in text {
        let spelling = spelling(*byte, secret).unwrap_or_else(|| vec![*byte]);
        planted |= matches!(byte, 1..=8);
        out.extend(spelling);
        if out.len() > MAX_TEXT {
            break;
        }
    }
    (out, planted)
}

/// The spelling of this number; the last is one in the middle of what was encoded.
fn spelling(kind: u8, secret: &[u8]) -> Option<Vec<u8>> {
    Some(match kind {
        1 => secret.to_vec(),
        2 => hex::encode(secret).into_bytes(),
        3 => hex::encode_upper(secret).into_bytes(),
        4 => Base64::encode_string(secret).into_bytes(),
        5 => Base64Url::encode_string(secret).into_bytes(),
        6 => secret
            .iter()
            .flat_map(|byte| format!("%{byte:02X}").into_bytes())
            .collect(),
        7 => secret.iter().rev().copied().collect(),
        8 => Base64::encode_string(&[b"user:", secret, b"!"].concat()).into_bytes(),
        _ => return None,
    })
}
