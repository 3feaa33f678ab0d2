//! Answers of a web service that signs them, by the convention of Standard Webhooks: `webhook-signature` over `webhook-id`,
//! `webhook-timestamp` and the body, under the secret that its questions are signed with. Not what an answer says: whoever asked reads that.

use base64ct::{Base64, Encoding as _};
use hmac::{Hmac, Mac as _};
use jiff::Timestamp;
use sha2::Sha256;

use super::slots::standard_key;

/// An answer was signed at most this long before or after it came, by the host's clock.
const TOLERANCE: i64 = 5 * 60;
/// A field has at most this many signatures: one for each secret while it is replaced, with some to spare.
const MAX_SIGNATURES: usize = 8;
/// An id has at most this many bytes.
const MAX_ID: usize = 256;

/// Why an answer is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotSigned {
    /// A field is missing, there twice, or not one.
    #[error(
        "the answer is not signed: expected `webhook-id`, `webhook-timestamp` and `webhook-signature`, once each"
    )]
    Fields,
    /// It was signed too long ago, or will be.
    #[error("the answer was signed more than 5 minutes from now")]
    Time,
    /// The signature is another.
    #[error("the answer was not signed with the secret, or was changed")]
    Signature,
}

/// The fields that a signed answer has.
pub(super) const FIELDS: [&str; 3] = ["webhook-id", "webhook-timestamp", "webhook-signature"];

/// Whether an answer with these fields and this body was signed with this secret just now. Compares in constant time.
pub(super) fn check(
    secret: &[u8],
    fields: &[(String, Vec<u8>)],
    body: &[u8],
    now: Timestamp,
) -> Result<(), NotSigned> {
    let [id, time, signatures] = FIELDS.map(|name| one(fields, name));
    let (id, time, signatures) = (id?, time?, signatures?);
    if id.is_empty() || id.len() > MAX_ID {
        return Err(NotSigned::Fields);
    }
    let seconds = time
        .parse::<u32>()
        .ok()
        .filter(|seconds| seconds.to_string() == time)
        .ok_or(NotSigned::Fields)?;
    if now.as_second().abs_diff(i64::from(seconds)) > TOLERANCE.unsigned_abs() {
        return Err(NotSigned::Time);
    }
    let key = standard_key(secret).map_err(|_| NotSigned::Signature)?;
    let mut mac = <Hmac<Sha256> as hmac::Mac>::new_from_slice(&key).map_err(|_| NotSigned::Signature)?;
    for part in [id.as_bytes(), b".", time.as_bytes(), b".", body] {
        mac.update(part);
    }
    let right = signatures
        .split(' ')
        .take(MAX_SIGNATURES)
        .filter_map(|signature| {
            let mut given = [0; 32];
            let decoded = Base64::decode(signature.strip_prefix("v1,")?, &mut given).ok()?;
            (decoded.len() == 32).then_some(given)
        })
        .any(|given| mac.clone().verify_slice(&given).is_ok());
    if right { Ok(()) } else { Err(NotSigned::Signature) }
}

fn one<'a>(fields: &'a [(String, Vec<u8>)], name: &str) -> Result<&'a str, NotSigned> {
    let mut found = fields.iter().filter(|(field, _)| field == name);
    match (found.next(), found.next()) {
        (Some((_, value)), None) => std::str::from_utf8(value).map_err(|_| NotSigned::Fields),
        (Some(_), Some(_)) | (None, _) => Err(NotSigned::Fields),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The example of the specification (Standard Webhooks, "Verifying signatures").
    const SECRET: &[u8] = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const TIME: &str = "1614265330";
    const BODY: &[u8] = b"{\"test\": 2432232314}";
    const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_614_265_330 + seconds).unwrap()
    }

    fn fields(id: &str, time: &str, signature: &str) -> Vec<(String, Vec<u8>)> {
        let values = [id, time, signature];
        let pairs = FIELDS.iter().zip(values);
        pairs
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    #[test]
    fn the_specification_s_example_is_right_and_every_change_of_it_is_not() {
        let good = fields(ID, TIME, SIGNATURE);
        assert_eq!(check(SECRET, &good, BODY, at(0)), Ok(()));
        let several = fields(ID, TIME, &format!("v1a,x v1,AAAA {SIGNATURE}"));
        assert_eq!(check(SECRET, &several, BODY, at(0)), Ok(()));
        let ninth = fields(ID, TIME, &format!("{}{SIGNATURE}", "v1,AAAA ".repeat(8)));
        for (fields, body, secret) in [
            (&good, &b"{\"test\": 2432232315}"[..], SECRET),
            (&good, BODY, &b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx"[..]),
            (&good, BODY, b"whsec_!"),
            (&fields("msg_", TIME, SIGNATURE), BODY, SECRET),
            (&fields(ID, "1614265331", SIGNATURE), BODY, SECRET),
            (&fields(ID, TIME, "v1,"), BODY, SECRET),
            (
                &fields(ID, TIME, SIGNATURE.trim_start_matches("v1,")),
                BODY,
                SECRET,
            ),
            (&ninth, BODY, SECRET),
        ] {
            assert_eq!(check(secret, fields, body, at(0)), Err(NotSigned::Signature));
        }
    }

    #[test]
    fn what_is_not_signed_or_not_now_is_not_believed() {
        let good = fields(ID, TIME, SIGNATURE);
        for (seconds, signed) in [(300, true), (301, false), (-300, true), (-301, false)] {
            let checked = check(SECRET, &good, BODY, at(seconds));
            assert_eq!(checked.is_ok(), signed, "{seconds}");
        }
        assert_eq!(check(SECRET, &[], BODY, at(0)), Err(NotSigned::Fields));
        for gone in 0..3 {
            let mut without = good.clone();
            without.remove(gone);
            assert_eq!(check(SECRET, &without, BODY, at(0)), Err(NotSigned::Fields));
            let mut twice = good.clone();
            twice.push(good[gone].clone());
            assert_eq!(check(SECRET, &twice, BODY, at(0)), Err(NotSigned::Fields));
        }
        for time in ["", "-1", "01614265330", "1614265330.0", "99999999999"] {
            let odd = fields(ID, time, SIGNATURE);
            assert_eq!(check(SECRET, &odd, BODY, at(0)), Err(NotSigned::Fields), "{time}");
        }
    }
}
