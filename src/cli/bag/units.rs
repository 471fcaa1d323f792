//! Times and sizes, as people write and read them.

use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;

pub(super) use crate::cli::time::Time;

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

/// A moment for people, by the clock where they are.
#[must_use]
pub(super) fn moment_text(ns_since_1970: u64) -> String {
    local(ns_since_1970, "%Y-%m-%d %H:%M:%S.%3f %:z")
}

/// A moment as file names have it, by the clock where people are. Later ones are greater, but in
/// the hour that comes twice when summer time ends.
#[must_use]
pub(super) fn moment_name(ns_since_1970: u64) -> String {
    local(ns_since_1970, "%Y-%m-%d-%H-%M-%S")
}

/// In the time zone that `TZ` names, or the system.
fn local(ns_since_1970: u64, format: &str) -> String {
    let moment = Timestamp::from_nanosecond(ns_since_1970.into());
    let moment = moment.expect("invariant: 64 bits of nanoseconds end in the year 2554");
    let zoned = moment.to_zoned(TimeZone::system());
    zoned.strftime(format).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_they_are_written() {
        for (text, bytes) in [
            ("7", 7),
            ("500M", 500_000_000),
            ("64KiB", 65_536),
            ("1.5GB", 1_500_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "0", "M", "5X", "5i", "-5M", "1e99", "99999999T"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn any_moment_has_a_name() {
        for ns in [0, 1_795_303_145_000_000_000, u64::MAX] {
            assert_eq!(moment_name(ns).len(), "2026-11-21-23-19-05".len());
            assert!(moment_text(ns).contains(':'));
        }
    }

    #[test]
    fn sizes_are_short_for_people() {
        assert_eq!(size_text(999), "999 B");
        assert_eq!(size_text(1_500_000), "1.5 MB");
        assert_eq!(count_text(100_000), "100.0k");
    }
}
