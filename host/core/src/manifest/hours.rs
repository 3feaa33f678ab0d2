//! Hours of the week in a time zone: `Mon-Fri 08:00-18:00 Europe/Zurich`. Reads no clock, no local time zone and no files: the
//! zone table is the bundled one, so that two machines decide alike.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use jiff::Timestamp;
use jiff::tz::{TimeZone, TimeZoneDatabase};

use crate::name::{escape, nearest};

/// A window of the week, as the clock on the wall shows it in its zone.
///
/// Where clocks go forward, hours that the wall never shows are in no window; where they go back, hours that it shows twice are
/// in the window both times. A window over midnight belongs to the day on which it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Hours {
    // Invariant: at least one; Monday first.
    days: [bool; 7],
    // Invariant: minutes since midnight, below 24:00.
    from: u16,
    // Invariant: minutes since midnight, at most 24:00, not equal to `from`. Less than `from`: of the next day.
    to: u16,
    // Invariant: its `iana_name` is what the operator wrote.
    zone: TimeZone,
}

/// Why a text is not such a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotHours(String);

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const MIDNIGHT: u16 = 24 * 60;

impl Hours {
    /// Whether the window is open at this time.
    #[must_use]
    pub fn contains(&self, time: Timestamp) -> bool {
        let wall = self.zone.to_datetime(time);
        let minute = u16::from(wall.hour().unsigned_abs()) * 60 + u16::from(wall.minute().unsigned_abs());
        let begins_today = self.has(wall.weekday());
        if self.from < self.to {
            begins_today && self.from <= minute && minute < self.to
        } else {
            let began_yesterday = self.has(wall.weekday().previous());
            (begins_today && self.from <= minute) || (began_yesterday && minute < self.to)
        }
    }

    fn has(&self, day: jiff::civil::Weekday) -> bool {
        let index = usize::from(day.to_monday_zero_offset().unsigned_abs());
        self.days.get(index).copied().unwrap_or(false)
    }
}

impl FromStr for Hours {
    type Err = NotHours;
    fn from_str(text: &str) -> Result<Self, NotHours> {
        let mut parts = text.split(' ');
        let (Some(days), Some(times), Some(zone), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(NotHours(
                "expected days, times and a time zone with one space between, such as `Mon-Fri 08:00-18:00 Europe/Zurich`"
                    .to_owned(),
            ));
        };
        let days = read_days(days)?;
        let (from, to) = read_times(times)?;
        let zone = read_zone(zone)?;
        Ok(Self { days, from, to, zone })
    }
}

impl fmt::Display for Hours {
    /// What [`Hours::from_str`] reads, with days in the order of the week.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut runs: Vec<(&str, &str, usize)> = Vec::new();
        let mut open = false;
        for (name, included) in DAYS.into_iter().zip(self.days) {
            match (included, open, runs.last_mut()) {
                (true, true, Some(run)) => *run = (run.0, name, run.2 + 1),
                (true, _, _) => runs.push((name, name, 1)),
                (false, _, _) => {}
            }
            open = included;
        }
        for (index, (first, last, length)) in runs.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match length {
                1 => write!(f, "{comma}{first}")?,
                2 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        let (from, to) = (self.from, self.to);
        write!(
            f,
            " {:02}:{:02}-{:02}:{:02}",
            from / 60,
            from % 60,
            to / 60,
            to % 60
        )?;
        write!(f, " {}", self.zone.iana_name().unwrap_or("UTC"))
    }
}

/// `Mon`, `Mon-Fri`, `Sat-Mon`, `Sat,Sun`, `Mon-Wed,Fri`.
fn read_days(text: &str) -> Result<[bool; 7], NotHours> {
    let day = |name: &str| {
        DAYS.iter().position(|day| *day == name).ok_or_else(|| {
            let nearest = nearest(name, DAYS).map_or_else(String::new, |day| format!("; did you mean `{day}`?"));
            NotHours(format!(
                "`{}` is no day; expected one of {} in this spelling, such as `Mon-Fri` or `Sat,Sun`{nearest}",
                escape(name, 32),
                DAYS.join(", "),
            ))
        })
    };
    let mut days = [false; 7];
    for item in text.split(',') {
        let (first, last) = match item.split_once('-') {
            Some((first, last)) => (day(first)?, day(last)?),
            None => (day(item)?, day(item)?),
        };
        if first == last && item.contains('-') {
            return Err(NotHours(format!(
                "`{item}` begins and ends on the same day; expected two days, such as `Mon-Fri`, or one, such as `Mon`"
            )));
        }
        // Over the end of the week: `Sat-Mon` is three days.
        let length = (last + 7 - first) % 7;
        for index in first..=first + length {
            if let Some(included) = days.get_mut(index % 7) {
                *included = true;
            }
        }
    }
    Ok(days)
}

/// `08:00-18:00`, `22:00-06:00`, `18:00-24:00`.
fn read_times(text: &str) -> Result<(u16, u16), NotHours> {
    let wrong = |why: &str| {
        NotHours(format!(
            "`{}` {why}; expected two times from 00:00 to 24:00, such as `08:00-18:00`",
            escape(text, 32)
        ))
    };
    let (from, to) = text
        .split_once('-')
        .and_then(|(from, to)| Some((time_of_day(from)?, time_of_day(to)?)))
        .ok_or_else(|| wrong("is no pair of times"))?;
    if from == MIDNIGHT {
        return Err(wrong("begins at the end of a day"));
    }
    if from == to {
        return Err(wrong(
            "begins and ends at the same time (a whole day is `00:00-24:00`)",
        ));
    }
    Ok((from, to))
}

/// `HH:MM`, two digits each.
fn time_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |part: &str| {
        (part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit())).then(|| part.parse::<u16>().ok())?
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    (minutes < 60 && hours * 60 + minutes <= MIDNIGHT).then_some(hours * 60 + minutes)
}

/// A zone by its exact IANA name: no offsets, which do not know daylight saving time, and no local zone.
fn read_zone(name: &str) -> Result<TimeZone, NotHours> {
    let database = TimeZoneDatabase::bundled();
    if let Ok(zone) = database.get(name)
        && zone.iana_name() == Some(name)
    {
        return Ok(zone);
    }
    static NAMES: OnceLock<Vec<String>> = OnceLock::new();
    let names = NAMES.get_or_init(|| database.available().map(|zone| zone.to_string()).collect());
    // Comparing with all of some 600 names is slow, and who mistypes a zone seldom mistypes its first letter.
    let first = name.bytes().next();
    let names = names
        .iter()
        .map(String::as_str)
        .filter(|zone| zone.bytes().next() == first && zone.len().abs_diff(name.len()) <= 3);
    let near = database
        .get(name)
        .ok()
        .and_then(|zone| zone.iana_name().map(str::to_owned))
        .or_else(|| nearest(name, names).map(str::to_owned))
        .map_or_else(String::new, |zone| format!("; did you mean `{zone}`?"));
    Err(NotHours(format!(
        "`{}` is no time zone; expected an IANA name such as `Europe/Zurich` or `UTC`{near}",
        escape(name, 64)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(text: &str) -> Hours {
        text.parse().unwrap()
    }

    #[track_caller]
    fn check(window: &str, rows: &[(&str, bool)]) {
        let hours = hours(window);
        assert_eq!(hours.to_string().parse(), Ok(hours.clone()), "{hours}");
        for (time, open) in rows {
            assert_eq!(hours.contains(time.parse().unwrap()), *open, "{window} at {time}");
        }
    }

    #[test]
    fn a_window_holds_its_first_minute_and_not_its_last() {
        check(
            "Mon-Fri 08:00-18:00 UTC",
            &[
                ("2026-06-01T07:59:59.999999999Z", false), // a Monday
                ("2026-06-01T08:00:00Z", true),
                ("2026-06-05T17:59:59.999999999Z", true),
                ("2026-06-05T18:00:00Z", false),
                ("2026-06-06T12:00:00Z", false),
            ],
        );
        check(
            "Sun 00:00-24:00 UTC",
            &[
                ("2026-06-06T23:59:59Z", false),
                ("2026-06-07T00:00:00Z", true),
                ("2026-06-07T23:59:59Z", true),
                ("2026-06-08T00:00:00Z", false),
            ],
        );
    }

    #[test]
    fn the_zone_decides_what_day_and_hour_it_is() {
        check(
            "Mon 00:00-01:00 Pacific/Auckland",
            &[
                ("2026-06-07T12:30:00Z", true), // 00:30 on Monday the 8th, at +12
                ("2026-06-08T00:30:00Z", false),
            ],
        );
        check(
            "Sun 23:00-24:00 America/New_York",
            &[("2026-06-08T03:30:00Z", true), ("2026-06-07T23:30:00Z", false)],
        );
    }

    #[test]
    fn a_night_belongs_to_the_day_on_which_it_begins() {
        check(
            "Fri 22:00-06:00 UTC",
            &[
                ("2026-06-05T05:00:00Z", false), // Friday's early morning is Thursday's night
                ("2026-06-05T21:59:59Z", false),
                ("2026-06-05T22:00:00Z", true),
                ("2026-06-06T05:59:59Z", true),
                ("2026-06-06T06:00:00Z", false),
                ("2026-06-06T22:00:00Z", false),
            ],
        );
        check(
            "Sun 22:00-00:00 UTC",
            &[
                ("2026-06-07T23:59:59Z", true),
                ("2026-06-08T00:00:00Z", false),
                ("2026-06-07T21:00:00Z", false),
            ],
        );
        // Over the end of the week.
        check(
            "Sun 22:00-06:00 UTC",
            &[("2026-06-08T05:00:00Z", true), ("2026-06-07T05:00:00Z", false)],
        );
    }

    #[test]
    fn days_wrap_over_the_end_of_the_week() {
        let all: [(&str, bool); 7] = [
            ("2026-06-01T12:00:00Z", true),
            ("2026-06-02T12:00:00Z", false),
            ("2026-06-03T12:00:00Z", false),
            ("2026-06-04T12:00:00Z", false),
            ("2026-06-05T12:00:00Z", false),
            ("2026-06-06T12:00:00Z", true),
            ("2026-06-07T12:00:00Z", true),
        ];
        check("Sat-Mon 00:00-24:00 UTC", &all);
        check("Mon,Sat,Sun 00:00-24:00 UTC", &all);
        check("Tue-Mon 00:00-24:00 UTC", &all.map(|(time, _)| (time, true)));
    }

    #[test]
    fn where_clocks_go_forward_the_hours_that_are_left_out_are_in_no_window() {
        // Zurich, 2026-03-29: 01:59:59 CET is followed by 03:00 CEST at 01:00 UTC.
        check(
            "Sun 02:30-03:30 Europe/Zurich",
            &[
                ("2026-03-29T00:59:59Z", false), // 01:59:59
                ("2026-03-29T01:00:00Z", true),  // 03:00
                ("2026-03-29T01:29:59Z", true),
                ("2026-03-29T01:30:00Z", false),
            ],
        );
        check(
            "Sun 02:15-02:45 Europe/Zurich",
            &[
                ("2026-03-29T00:59:59Z", false),
                ("2026-03-29T01:00:00Z", false),
                ("2026-03-29T01:30:00Z", false),
                ("2026-04-05T00:30:00Z", true), // a week later it opens
            ],
        );
    }

    #[test]
    fn where_clocks_go_back_the_hours_that_come_twice_are_in_the_window_twice() {
        // Zurich, 2026-10-25: 02:59:59 CEST is followed by 02:00 CET at 01:00 UTC.
        check(
            "Sun 02:30-03:00 Europe/Zurich",
            &[
                ("2026-10-25T00:29:59Z", false),
                ("2026-10-25T00:30:00Z", true),
                ("2026-10-25T00:59:59Z", true),
                ("2026-10-25T01:00:00Z", false), // 02:00 again
                ("2026-10-25T01:30:00Z", true),
                ("2026-10-25T02:00:00Z", false),
            ],
        );
    }

    #[test]
    fn summer_and_winter_move_the_window_in_universal_time() {
        check(
            "Mon-Fri 08:00-18:00 Europe/Zurich",
            &[
                ("2026-01-05T06:30:00Z", false), // 07:30 CET
                ("2026-07-06T06:30:00Z", true),  // 08:30 CEST
                ("2026-01-05T16:30:00Z", true),
                ("2026-07-06T16:30:00Z", false),
            ],
        );
    }

    #[test]
    fn windows_are_shown_in_the_order_of_the_week() {
        for (text, shown) in [
            ("Sun,Mon 08:00-18:00 UTC", "Mon,Sun 08:00-18:00 UTC"),
            (
                "Fri,Mon-Wed 08:05-18:00 Asia/Tokyo",
                "Mon-Wed,Fri 08:05-18:00 Asia/Tokyo",
            ),
            ("Sat-Mon 22:00-06:00 UTC", "Mon,Sat,Sun 22:00-06:00 UTC"),
            ("Mon-Sun 00:00-24:00 UTC", "Mon-Sun 00:00-24:00 UTC"),
            ("Mon,Mon,Tue 01:00-02:00 UTC", "Mon,Tue 01:00-02:00 UTC"),
        ] {
            assert_eq!(hours(text).to_string(), shown);
        }
    }

    #[test]
    fn what_is_not_a_window_is_refused() {
        for (bad, why) in [
            ("", "such as `Mon-Fri 08:00-18:00 Europe/Zurich`"),
            ("Mon 08:00-18:00", "a time zone"),
            ("Mon-Fri  08:00-18:00 UTC", "one space"),
            ("Mon 08:00-18:00 UTC ", "one space"),
            ("mon 08:00-18:00 UTC", "did you mean `Mon`?"),
            ("Thurs 08:00-18:00 UTC", "`Thurs` is no day"),
            ("Mon- 08:00-18:00 UTC", "`` is no day"),
            (",Mon 08:00-18:00 UTC", "`` is no day"),
            ("Mon-Mon 08:00-18:00 UTC", "same day"),
            ("Mon 8:00-18:00 UTC", "no pair of times"),
            ("Mon 08:00-18:60 UTC", "no pair of times"),
            ("Mon 08:00-24:01 UTC", "no pair of times"),
            ("Mon 24:00-08:00 UTC", "begins at the end of a day"),
            ("Mon 08:00-08:00 UTC", "00:00-24:00"),
            ("Mon 08:00–18:00 UTC", "no pair of times"),
            ("Mon +8:00-18:00 UTC", "no pair of times"),
            ("Mon 08:00-18:00 Europe/Zürich", "did you mean `Europe/Zurich`?"),
            ("Mon 08:00-18:00 europe/zurich", "did you mean `Europe/Zurich`?"),
            ("Mon 08:00-18:00 Europe/Zurch", "did you mean `Europe/Zurich`?"),
            ("Mon 08:00-18:00 +01:00", "is no time zone"),
            ("Mon 08:00-18:00 Etc/Unknown", "is no time zone"),
            ("Mon 08:00-18:00 ../../etc/passwd", "is no time zone"),
            ("Mon 08:00-18:00 EST5EDT,M3.2.0,M11.1.0", "is no time zone"),
        ] {
            let error = bad.parse::<Hours>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad:?}: {error}");
        }
    }
}
