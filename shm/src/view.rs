//! A received payload together with the value that was found in it.
//!
//! The bytes are looked through once, when the view is made; afterwards the value is reached
//! without looking again. What makes that right is that the bytes stay where they are and as they
//! are for as long as the view lives: inline payloads are private copies that move with the view,
//! and chunks are borrowed from their publisher.

use core::fmt;
use core::marker::PhantomData;
use core::mem::{align_of, size_of};
use core::ops::Deref;

use crate::ring::Body;

/// The promise that every publisher of a topic sends only valid values, made where validation is
/// switched off.
#[derive(Clone, Copy, Debug)]
pub struct Trusted(());

impl Trusted {
    /// Promises that what is received needs no validation.
    ///
    /// # Safety
    /// Every payload that is viewed under this promise must hold a valid value at its root, and no
    /// publisher may change a payload while it is borrowed.
    #[must_use]
    pub const unsafe fn promise() -> Self {
        Self(())
    }
}

/// Says that a payload cannot hold a value of the type: too short, or not aligned for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Bytes of the payload.
    pub len: usize,
    /// Bytes of the value.
    pub need: usize,
}

/// A payload in which a value of type `A` was found.
pub struct View<A> {
    body: Body,
    offset: usize,
    found: PhantomData<A>,
}

impl<A: 'static> View<A> {
    /// Looks for the value with `find`, which gets the payload and gives a reference into it.
    ///
    /// # Errors
    /// What `find` said; the payload is given back then.
    ///
    /// # Panics
    /// If `find` gives a reference to something outside the payload.
    pub fn find<E>(
        body: Body,
        find: impl for<'a> FnOnce(&'a [u8]) -> Result<&'a A, E>,
    ) -> Result<Self, E> {
        const { assert!(align_of::<A>() <= 16, "payloads are aligned to 16 bytes") };
        let bytes = body.bytes();
        let offset = match find(bytes) {
            Ok(value) => {
                let offset = (&raw const *value)
                    .addr()
                    .wrapping_sub(bytes.as_ptr().addr());
                assert!(
                    fits::<A>(offset, bytes.len()),
                    "invariant: found inside the payload"
                );
                offset
            }
            Err(error) => return Err(error),
        };
        Ok(Self {
            body,
            offset,
            found: PhantomData,
        })
    }

    /// Takes the value at the end of the payload, where archives have their root, on trust.
    ///
    /// # Errors
    /// [`Misfit`] if the payload is too short for the value, or the root is not aligned.
    pub fn trusted_root(body: Body, _promise: Trusted) -> Result<Self, Misfit> {
        const { assert!(align_of::<A>() <= 16, "payloads are aligned to 16 bytes") };
        let bytes = body.bytes();
        let misfit = Misfit {
            len: bytes.len(),
            need: size_of::<A>(),
        };
        let offset = bytes.len().checked_sub(size_of::<A>()).ok_or(misfit)?;
        if !(bytes.as_ptr().addr() + offset).is_multiple_of(align_of::<A>()) {
            return Err(misfit);
        }
        Ok(Self {
            body,
            offset,
            found: PhantomData,
        })
    }

    /// The payload.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.body.bytes()
    }
}

impl<A: 'static> Deref for View<A> {
    type Target = A;

    #[inline]
    fn deref(&self) -> &A {
        let bytes = self.body.bytes();
        debug_assert!(fits::<A>(self.offset, bytes.len()));
        // SAFETY: the offset was that of a valid `&A` inside these bytes, or was promised to be
        // (`Trusted`), and the bytes are the same since: a private copy, or a chunk that its
        // publisher does not touch while it is borrowed. All payloads start at a multiple of 16
        // bytes, so the value is as aligned as it was then, wherever an inline copy moved to.
        unsafe { &*bytes.as_ptr().add(self.offset).cast::<A>() }
    }
}

impl<A: fmt::Debug + 'static> fmt::Debug for View<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("View").field(&**self).finish()
    }
}

fn fits<A>(offset: usize, len: usize) -> bool {
    offset
        .checked_add(size_of::<A>())
        .is_some_and(|end| end <= len)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::ring::{Head, Mode, RingConfig};
    use crate::{Consumer, Producer};

    #[allow(clippy::unwrap_used)]
    fn body(bytes: &[u8]) -> Body {
        let config = RingConfig {
            depth: 2,
            mode: Mode::Overwrite,
            held_max: 1,
            start: 0,
        };
        let (ring, borrows) = config.halves_on_heap();
        let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
        let mut consumer = Consumer::new(ring, borrows, config, None).unwrap();
        producer
            .push_inline(
                Head {
                    sequence: 0,
                    sent_ns: 0,
                },
                bytes,
                |_| {},
            )
            .unwrap();
        consumer.try_next().unwrap().unwrap().body
    }

    #[test]
    fn a_value_is_found_wherever_the_view_moves() {
        let bytes: Vec<u8> = (0..24).collect();
        let find = |bytes: &[u8]| bytes.get(16).ok_or(()).map(|_| ());
        assert!(find(&bytes).is_ok());
        let view = View::<u8>::find(body(&bytes), |bytes| bytes.get(17).ok_or(())).unwrap();
        let moved = Box::new([view]);
        assert_eq!(*moved[0], 17);
        assert!(View::<u8>::find(body(&bytes), |_| Err::<&u8, _>("none")).is_err());
    }

    #[test]
    fn trust_does_not_reach_beyond_the_payload() {
        // SAFETY: every bit pattern is a valid u64.
        let promise = unsafe { Trusted::promise() };
        let value = 7_u64.to_ne_bytes();
        assert_eq!(
            *View::<u64>::trusted_root(body(&value), promise).unwrap(),
            7
        );
        assert!(View::<u64>::trusted_root(body(&value[..7]), promise).is_err());
        assert!(
            View::<u64>::trusted_root(body(&[0; 9]), promise).is_err(),
            "misaligned root"
        );
    }
}
