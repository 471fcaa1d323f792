//! Numbers for people: three digits and a prefix.

use shmesh_shm::Histogram;

/// A rate of what is counted; what happens less than once a second is not nothing.
pub(crate) fn rate(value: f64) -> String {
    if value > 0.0 && value < 9.95 {
        return format!("{:.1}", value.max(0.1));
    }
    count(value)
}

/// What is counted.
pub(crate) fn count(value: f64) -> String {
    const PREFIXES: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if value < 999.5 {
        return format!("{value:.0}");
    }
    let mut value = value / 1000.0;
    let mut prefix = 0;
    while value >= 999.5 && prefix + 1 < PREFIXES.len() {
        value /= 1000.0;
        prefix += 1;
    }
    let digits = match value {
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.digits$}{}", PREFIXES[prefix])
}

/// Bytes, by thousands.
pub(crate) fn bytes(value: f64) -> String {
    count(value)
}

/// A time in nanoseconds.
pub(crate) fn time(ns: f64) -> String {
    #[allow(clippy::cast_precision_loss)] // a power of two
    let longest = Histogram::LONGEST_NS as f64;
    if ns >= longest {
        return format!(">{:.0}s", longest / 1e9);
    }
    let (mut value, mut unit) = (ns, "ns");
    for larger in ["us", "ms", "s"] {
        if value >= 999.5 {
            (value, unit) = (value / 1000.0, larger);
        }
    }
    let digits = match value {
        value if unit == "ns" || value >= 99.95 => 0,
        value if value < 9.995 => 2,
        _ => 1,
    };
    format!("{value:.digits$}{unit}")
}

/// A part of a whole.
pub(crate) fn percent(value: f64) -> String {
    format!("{:.0}%", (value * 100.0).min(999.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        for (value, expected) in [
            (0.0, "0"),
            (7.0, "7"),
            (999.4, "999"),
            (999.6, "1.00k"),
            (1234.0, "1.23k"),
            (12_340.0, "12.3k"),
            (999_499.0, "999k"),
            (999_600.0, "1.00M"),
            (1e18, "1.00E"),
            (18_446_744_073_709_551_615.0, "18.4E"),
        ] {
            assert_eq!(count(value), expected);
        }
        for (value, expected) in [(0.0, "0"), (0.01, "0.1"), (2.54, "2.5"), (42.0, "42")] {
            assert_eq!(rate(value), expected);
        }
        for (value, expected) in [
            (95.0, "95ns"),
            (999.6, "1.00us"),
            (12_340.0, "12.3us"),
            (123_400.0, "123us"),
            (5e6, "5.00ms"),
            (2.5e9, "2.50s"),
            (60e9, "60.0s"),
            (1e12, ">69s"),
        ] {
            assert_eq!(time(value), expected);
        }
        assert_eq!(percent(0.125), "12%");
        assert_eq!(percent(1e9), "999%");
    }
}
