//! Settings, held against their bounds.

use std::time::Duration;

use crate::error::Error;

/// Nanoseconds of a duration; those of the longest fill the word.
pub(crate) fn whole_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A time of no length is a mistake.
pub(crate) fn check_duration(what: &'static str, duration: Option<Duration>) -> Result<(), Error> {
    match duration {
        Some(Duration::ZERO) => Err(Error::OutOfBounds {
            what,
            found: 0,
            min: 1,
            max: u64::MAX,
        }),
        _ => Ok(()),
    }
}

pub(crate) fn check_bounds(bounds: &[(&'static str, u32, u32, u32)]) -> Result<(), Error> {
    let is_out = |(_, found, min, max): &&(_, u32, u32, u32)| !(min..=max).contains(&found);
    let Some((what, found, min, max)) = bounds.iter().find(is_out) else {
        return Ok(());
    };
    let [found, min, max] = [*found, *min, *max].map(u64::from);
    Err(Error::OutOfBounds {
        what,
        found,
        min,
        max,
    })
}
