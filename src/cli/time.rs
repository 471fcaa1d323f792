//! Times as people write them: one form for all options that take one.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A time like `30s`, `1.5m` or `200ms`; without a unit in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub Duration);

impl FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.');
        let (number, unit) = text.split_at(end.unwrap_or(text.len()));
        let unit_s = match unit {
            "" | "s" => 1.0,
            "ms" => 1e-3,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => return Err(FORM.into()),
        };
        let seconds = number.parse::<f64>().map(|number| number * unit_s);
        let time = seconds
            .ok()
            .and_then(|s| Duration::try_from_secs_f64(s).ok());
        time.map(Self).ok_or_else(|| FORM.into())
    }
}

/// In seconds, as it may be given again.
impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs_f64())
    }
}

impl Time {
    /// In nanoseconds.
    #[must_use]
    pub fn ns(self) -> u64 {
        u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX)
    }
}

/// What a time looks like.
pub(super) const FORM: &str = "expected a time like 0.5, 200ms, 30s, 5m or 2h";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for (text, ms) in [
            ("0", 0),
            ("0.5", 500),
            ("30s", 30_000),
            ("1.5m", 90_000),
            ("200ms", 200),
            ("2h", 7_200_000),
        ] {
            let time = Time(Duration::from_millis(ms));
            assert_eq!(text.parse(), Ok(time), "{text}");
            assert_eq!(time.to_string().parse(), Ok(time), "{time}");
        }
        for text in ["", "s", "-1", "-1s", "1d", "1e400h", "nan", "inf", "1 s"] {
            assert_eq!(text.parse::<Time>(), Err(FORM.to_owned()), "{text}");
        }
    }
}
