//! Times and sizes, as people write and read them.

use std::str::FromStr;
use std::time::Duration;

/// A time like `30s`, `1.5m` or `200ms`; without a unit in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split(text);
        let unit_s = match unit {
            "" | "s" => 1.0,
            "ms" => 1e-3,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err("expected a time like 30s, 200ms, 5m or 2h".into()),
        };
        let seconds = number.parse::<f64>().map(|number| number * unit_s);
        let time = seconds
            .ok()
            .and_then(|s| Duration::try_from_secs_f64(s).ok());
        time.map(Self)
            .ok_or_else(|| "expected a time like 30s, 200ms, 5m or 2h".into())
    }
}

impl Time {
    /// In nanoseconds.
    #[must_use]
    pub fn ns(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A number of bytes like `500M`, `1.5GB` or `64KiB`: steps of 1000, or of 1024 with an `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "expected a size like 500M, 2GB or 64KiB".to_owned();
        let (number, unit) = split(text);
        let unit = unit.trim_end_matches(['b', 'B']);
        let (letter, step) = match unit.strip_suffix('i') {
            Some(letter) => (letter, 1024.0_f64),
            None => (unit, 1000.0),
        };
        let power = match letter {
            "" if unit.is_empty() => 0,
            "k" | "K" => 1,
            "M" => 2,
            "G" => 3,
            "T" => 4,
            _ => return Err(wrong()),
        };
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let bytes = number * step.powi(power);
        if !(1.0..=1e18).contains(&bytes) {
            return Err(wrong());
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // in that range
        Ok(Self(bytes as u64))
    }
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
    text.split_at(end.unwrap_or(text.len()))
}

/// A size for people.
#[must_use]
pub(super) fn size_text(bytes: u64) -> String {
    scaled(bytes, &["B", "kB", "MB", "GB", "TB"], " ")
}

/// A number for people.
#[must_use]
pub(super) fn count_text(count: u64) -> String {
    scaled(count, &["", "k", "M", "G", "T"], "")
}

#[allow(clippy::cast_precision_loss)] // for people
fn scaled(number: u64, units: &[&str], space: &str) -> String {
    let mut value = number as f64;
    let mut idx = 0;
    while value >= 1000.0 && idx + 1 < units.len() {
        value /= 1000.0;
        idx += 1;
    }
    let digits = if idx == 0 { 0 } else { 1 };
    format!("{value:.digits$}{space}{}", units[idx])
}

/// A moment in UTC: year to second, and nanoseconds.
#[must_use]
pub(super) fn moment(ns_since_1970: u64) -> ([u64; 6], u64) {
    let (seconds, ns) = (ns_since_1970 / 1_000_000_000, ns_since_1970 % 1_000_000_000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Years begin in March here, so that the day more of leap years is their last.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let clock = [of_day / 3600, of_day / 60 % 60, of_day % 60];
    ([year, month, day, clock[0], clock[1], clock[2]], ns)
}

/// A moment for people, in UTC.
#[must_use]
pub(super) fn moment_text(ns_since_1970: u64) -> String {
    let ([year, month, day, hour, minute, second], ns) = moment(ns_since_1970);
    let ms = ns / 1_000_000;
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{ms:03} UTC")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_as_they_are_written() {
        for (text, ms) in [
            ("30s", 30_000),
            ("1.5m", 90_000),
            ("200ms", 200),
            ("2h", 7_200_000),
        ] {
            assert_eq!(text.parse(), Ok(Time(Duration::from_millis(ms))), "{text}");
        }
        for (text, bytes) in [
            ("7", 7),
            ("500M", 500_000_000),
            ("64KiB", 65_536),
            ("1.5GB", 1_500_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "s", "-1s", "1d", "1e400h", "nan"] {
            assert!(text.parse::<Time>().is_err(), "{text}");
        }
        for text in ["", "0", "M", "5X", "5i", "-5M", "1e99", "99999999T"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00:00.000 UTC"),
            (951_782_399, "2000-02-28 23:59:59.000 UTC"),
            (951_782_400, "2000-02-29 00:00:00.000 UTC"),
            (1_795_303_145, "2026-11-21 23:19:05.000 UTC"),
            (4_107_542_399, "2100-02-28 23:59:59.000 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00.000 UTC"),
        ] {
            assert_eq!(moment_text(seconds * 1_000_000_000), text);
        }
    }

    #[test]
    fn sizes_are_short_for_people() {
        assert_eq!(size_text(999), "999 B");
        assert_eq!(size_text(1_500_000), "1.5 MB");
        assert_eq!(count_text(100_000), "100.0k");
    }
}
