//! Numbers of few digits, such as 1.5 or -0.25, which most settings and many measurements are.
//! Whether a number is one is found by one division. The search for the shortest digits of any
//! number, which finds the same ones, took 24 ns each: two fifths of the time of `mesh topic echo`.
//!
//! Why: of all decimals of up to 15 digits (6 for an `f32`) no two are nearest to the same float.
//! So one that is nearest to the number is the only one, and shortest without zeros at its end.

use std::io::{self, Write};

use serde_json::ser::{CompactFormatter, Formatter};

use super::ink::Ink;

/// A number that is a whole number of thousandths.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decimal {
    is_negative: bool,
    thousandths: u64,
}

impl Decimal {
    /// The number, if it is one and not too large.
    #[inline]
    pub(super) fn of_f64(number: f64) -> Option<Self> {
        let found = Self::near(number);
        let is_it = found.nearest() == number.abs() && found.thousandths < 10_u64.pow(15);
        is_it.then_some(found)
    }

    /// The same of an `f32`. Rounding twice does no harm: what lies between two `f32` is no
    /// decimal of so few digits, or is a `f64`.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "to the nearest, as meant")]
    pub(super) fn of_f32(number: f32) -> Option<Self> {
        let found = Self::near(number.into());
        let is_it = found.nearest() as f32 == number.abs() && found.thousandths < 10_u64.pow(6);
        is_it.then_some(found)
    }

    pub(super) fn write<W: Write>(self, to: &mut Ink<'_, W>) -> io::Result<()> {
        if self.is_negative {
            to.short(*b"-", 1)?;
        }
        let (whole, rest) = (self.thousandths / 1000, self.thousandths % 1000);
        match digit(whole) {
            Some(digit) => to.short([digit], 1)?,
            None => CompactFormatter.write_u64(to, whole)?,
        }
        let [first, second, third] = [rest / 100, rest / 10 % 10, rest % 10];
        let digits = match (second, third) {
            (0, 0) => 1,
            (_, 0) => 2,
            _ => 3,
        };
        let [first, second, third] = [first, second, third].map(|n| digit(n).unwrap_or(b'0'));
        to.short([b'.', first, second, third], 1 + digits)
    }

    /// Those nearest to it, or some others if it is too large.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it saturates, and is compared with the number again"
    )]
    fn near(number: f64) -> Self {
        Self {
            is_negative: number.is_sign_negative(),
            thousandths: (number.abs() * 1000.0 + 0.5) as u64,
        }
    }

    #[inline]
    #[expect(clippy::cast_precision_loss, reason = "what is large is none")]
    fn nearest(self) -> f64 {
        self.thousandths as f64 / 1000.0
    }
}

/// A number of one digit as that.
#[inline]
fn digit(number: u64) -> Option<u8> {
    let number = u8::try_from(number).ok().filter(|number| *number < 10);
    number.map(|number| b'0' + number)
}
