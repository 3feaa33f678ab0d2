//! Quantities with units as operators write them: `64 MiB`, `10 s`, `30/hour`. Not bare numbers: a number without a unit is an
//! error, and so are fractions, signs and units in another case.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

/// A number of bytes, written with a binary unit: `4096 B`, `512 KiB`, `64 MiB`, `1 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// At most so many uses in any period: a token bucket that holds `uses` and refills evenly over `per`. Written `30/hour`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; also the largest burst.
    pub uses: NonZeroU32,
    /// In which time: a second, a minute, an hour or a day.
    pub per: Duration,
}

/// Why a text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}")]
pub struct NotAQuantity {
    /// What would be one, with an example.
    pub expected: &'static str,
}

/// Largest first: the first that divides a number is the one to show it in.
const BYTES: [(&str, u64); 4] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];
/// In milliseconds; largest first.
const TIMES: [(&str, u64); 4] = [("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)];
/// In seconds.
const PERIODS: [(&str, u64); 4] = [("second", 1), ("minute", 60), ("hour", 3_600), ("day", 86_400)];

impl FromStr for Bytes {
    type Err = NotAQuantity;
    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        with_unit(text, &BYTES).map(Self).ok_or(NotAQuantity {
            expected: "a whole number and one of the units B, KiB, MiB and GiB, such as `64 MiB`",
        })
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&in_largest_unit(self.0, &BYTES))
    }
}

impl FromStr for Rate {
    type Err = NotAQuantity;
    fn from_str(text: &str) -> Result<Self, NotAQuantity> {
        let parts = || {
            let (uses, period) = text.split_once('/')?;
            let uses = NonZeroU32::new(u32::try_from(whole_number(uses)?).ok()?)?;
            let (_, seconds) = PERIODS.into_iter().find(|(name, _)| *name == period)?;
            Some(Self {
                uses,
                per: Duration::from_secs(seconds),
            })
        };
        parts().ok_or(NotAQuantity {
            expected: "a whole number of at least 1, then `/second`, `/minute`, `/hour` or `/day`, such as `30/hour`",
        })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.per.as_secs();
        match PERIODS.into_iter().find(|(_, length)| *length == seconds) {
            Some((name, _)) => write!(f, "{}/{name}", self.uses),
            None => write!(f, "{} in {}", self.uses, format_duration(self.per)),
        }
    }
}

/// Reads a duration: `500 ms`, `10 s`, `5 min`, `2 h`. Precise to the millisecond.
///
/// # Errors
/// When it is anything else; a number without a unit, too.
pub fn parse_duration(text: &str) -> Result<Duration, NotAQuantity> {
    with_unit(text, &TIMES)
        .map(Duration::from_millis)
        .ok_or(NotAQuantity {
            expected: "a whole number and one of the units ms, s, min and h, such as `10 s`",
        })
}

/// Writes a duration in the largest unit in which it is a whole number: what [`parse_duration`] reads. Parts of a millisecond
/// are left out.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    in_largest_unit(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX), &TIMES)
}

/// A whole number, at most one space, a unit. The space is optional.
fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(end)?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    whole_number(number)?.checked_mul(*factor)
}

/// Only digits: `u64::from_str` would take a `+`, too.
fn whole_number(text: &str) -> Option<u64> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        text.parse().ok()
    } else {
        None
    }
}

fn in_largest_unit(number: u64, units: &[(&str, u64)]) -> String {
    units
        .iter()
        .find(|(_, factor)| number != 0 && number.is_multiple_of(*factor))
        .or(units.last())
        .map_or_else(
            || number.to_string(),
            |(name, factor)| format!("{} {name}", number / factor),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_and_shown_in_the_largest_exact_unit() {
        for (text, bytes, shown) in [
            ("4096 B", 4096, "4 KiB"),
            ("512KiB", 512 << 10, "512 KiB"),
            ("64 MiB", 64 << 20, "64 MiB"),
            ("1 GiB", 1 << 30, "1 GiB"),
            ("1024 MiB", 1 << 30, "1 GiB"),
            ("1025 B", 1025, "1025 B"),
            ("0 B", 0, "0 B"),
            ("18446744073709551615 B", u64::MAX, "18446744073709551615 B"),
        ] {
            let read: Bytes = text.parse().unwrap();
            assert_eq!(read, Bytes(bytes), "{text}");
            assert_eq!(read.to_string(), shown);
            assert_eq!(shown.parse(), Ok(read));
        }
    }

    #[test]
    fn what_is_not_exactly_bytes_is_refused_with_an_example() {
        for bad in [
            "",
            "64",
            " 64 MiB",
            "64 MiB ",
            "64  MiB",
            "64\tMiB",
            "64 mib",
            "64 MB",
            "64 M",
            "64 kiB",
            "-1 B",
            "+1 B",
            "1.5 GiB",
            "1e3 B",
            "1_000 B",
            "MiB",
            "0x10 B",
            "64 MiB MiB",
            "18446744073709551616 B",
            "17179869184 GiB",
            "６４ MiB",
            "64\u{a0}MiB",
        ] {
            let error = bad.parse::<Bytes>().unwrap_err();
            assert!(error.to_string().contains("`64 MiB`"), "{bad:?}");
        }
    }

    #[test]
    fn durations_are_read_and_shown_in_the_largest_exact_unit() {
        for (text, milliseconds, shown) in [
            ("500 ms", 500, "500 ms"),
            ("10 s", 10_000, "10 s"),
            ("10s", 10_000, "10 s"),
            ("60 s", 60_000, "1 min"),
            ("5 min", 300_000, "5 min"),
            ("2 h", 7_200_000, "2 h"),
            ("1500 ms", 1_500, "1500 ms"),
            ("0 s", 0, "0 ms"),
        ] {
            let read = parse_duration(text).unwrap();
            assert_eq!(read, Duration::from_millis(milliseconds), "{text}");
            assert_eq!(format_duration(read), shown);
            assert_eq!(parse_duration(shown), Ok(read));
        }
        for bad in [
            "",
            "10",
            "10 sec",
            "10 S",
            "10 m",
            "10 Min",
            "1.5 s",
            "-1 s",
            "1 d",
            "1 h 30 min",
            "s",
            "18446744073709551615 h",
        ] {
            let error = parse_duration(bad).unwrap_err();
            assert!(error.to_string().contains("`10 s`"), "{bad:?}");
        }
    }

    #[test]
    fn rates_are_read_and_shown() {
        for (text, uses, seconds) in [
            ("1/second", 1, 1),
            ("30/hour", 30, 3600),
            ("2/minute", 2, 60),
            ("4294967295/day", u32::MAX, 86_400),
        ] {
            let read: Rate = text.parse().unwrap();
            assert_eq!((read.uses.get(), read.per.as_secs()), (uses, seconds));
            assert_eq!(read.to_string(), text);
        }
        for bad in [
            "",
            "30",
            "/hour",
            "30/",
            "0/hour",
            "-1/hour",
            "+1/hour",
            "30 / hour",
            "30/Hour",
            "30/h",
            "30/hours",
            "1.5/hour",
            "4294967296/day",
            "30/hour/day",
            "30 per hour",
        ] {
            let error = bad.parse::<Rate>().unwrap_err();
            assert!(error.to_string().contains("`30/hour`"), "{bad:?}");
        }
    }
}
