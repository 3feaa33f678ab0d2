//! Numbers in JSON that every parser reads alike. Not arithmetic: it compares how a number was written with how it would be
//! written again.

/// Whether every number of this JSON text, known to be valid, keeps its value when it is read and written again: integers fit
/// 64 bits, and fractions lose no digit.
pub(super) fn all_survive(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some((first, tail)) = rest.split_first() {
        match first {
            b'"' => rest = after_string(tail),
            b'-' | b'0'..=b'9' => {
                let length = rest
                    .iter()
                    .take_while(|b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E'))
                    .count();
                let (number, tail) = rest.split_at_checked(length).unwrap_or((rest, &[]));
                if !std::str::from_utf8(number).is_ok_and(survives) {
                    return false;
                }
                rest = tail;
            }
            _ => rest = tail,
        }
    }
    true
}

/// What follows the string whose opening quote was before this text.
fn after_string(mut text: &[u8]) -> &[u8] {
    while let Some((first, tail)) = text.split_first() {
        match first {
            b'"' => return tail,
            b'\\' => text = tail.get(1..).unwrap_or_default(),
            _ => text = tail,
        }
    }
    text
}

fn survives(number: &str) -> bool {
    if !number.contains(['.', 'e', 'E']) {
        // `-0` is an integer to some parsers and a float to others.
        return number != "-0" && (number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok());
    }
    match serde_json::from_str::<serde_json::Number>(number) {
        Ok(read) => Decimal::of(number) == Decimal::of(&read.to_string()),
        Err(_) => false, // infinite
    }
}

/// A decimal number without regard to how it is written: `1.50e1` and `15` are the same.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    // Without zeros at either end: empty for zero.
    digits: String,
    // Of the last digit. None if it does not fit, which equals nothing that was read.
    exponent: Option<i64>,
}

impl Decimal {
    fn of(number: &str) -> Self {
        let (negative, number) = match number.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, number),
        };
        let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        let kept = digits.trim_end_matches('0');
        let shift = |length: usize| i64::try_from(length).ok();
        let exponent = (|| {
            let exponent: i64 = exponent.parse().ok()?;
            exponent
                .checked_sub(shift(fraction.len())?)?
                .checked_add(shift(digits.len() - kept.len())?)
        })();
        let digits = kept.trim_start_matches('0').to_owned();
        Self {
            negative,
            exponent: if digits.is_empty() { Some(0) } else { exponent },
            digits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_lose_nothing_survive() {
        for number in [
            "0",
            "1",
            "-1",
            "18446744073709551615",
            "-9223372036854775808",
            "1.0",
            "1.50",
            "15e-1",
            "0.1",
            "1e2",
            "1E+2",
            "-0.0",
            "0e5",
            "3.141592653589793",
            "1e308",
            "5e-324",
            "0.30000000000000004",
        ] {
            assert!(survives(number), "{number}");
        }
    }

    #[test]
    fn numbers_that_another_parser_reads_differently_do_not() {
        for number in [
            "18446744073709551616",
            "-9223372036854775809",
            "100000000000000000000",
            "1e400",
            "-1e400",
            "1e-400",
            "-0",
            "0.1234567890123456789",
            "9007199254740993.0",
            "1.7976931348623159e308",
            "1e99999999999999999999",
            "3.1415926535897932384626",
        ] {
            assert!(!survives(number), "{number}");
        }
    }

    #[test]
    fn digits_in_strings_are_no_numbers() {
        assert!(all_survive(
            br#"{"a\"1e400":"18446744073709551616","b\\":[1,"-0"]}"#
        ));
        assert!(!all_survive(
            br#"{"a\"":"","b\\":[1,{"c":18446744073709551616}]}"#
        ));
        assert!(!all_survive(br#"{"a":"\\","b":1e400}"#));
    }
}
