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

use crate::ring::Received;

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

/// A received message in which a value of type `A` was found, at the end of its payload, where
/// archives have their root.
pub struct View<A> {
    received: Received,
    found: PhantomData<A>,
}

impl View<()> {
    /// The message as bytes: there is nothing to find.
    #[must_use]
    #[inline(always)]
    pub fn of_bytes(received: Received) -> Self {
        Self {
            received,
            found: PhantomData,
        }
    }
}

impl<A: 'static> View<A> {
    /// Looks for the value with `find`, which gets the payload and gives the value at its end.
    ///
    /// # Errors
    /// What `find` said.
    ///
    /// # Panics
    /// If `find` gives a reference to something else.
    #[inline]
    pub fn find<E>(
        received: Received,
        find: impl for<'a> FnOnce(&'a [u8]) -> Result<&'a A, E>,
    ) -> Result<Self, E> {
        const { assert!(align_of::<A>() <= 16, "payloads are aligned to 16 bytes") };
        let bytes = received.bytes();
        let value: *const A = find(bytes)?;
        let end = value.addr() + size_of::<A>();
        let is_root = end == bytes.as_ptr_range().end.addr() && size_of::<A>() <= bytes.len();
        assert!(is_root, "invariant: found at the end of the payload");
        Ok(Self {
            received,
            found: PhantomData,
        })
    }

    /// Takes the value on trust.
    ///
    /// # Errors
    /// [`Misfit`] if the payload is too short for the value, or the root is not aligned.
    pub fn trust(received: Received, _promise: Trusted) -> Result<Self, Misfit> {
        const { assert!(align_of::<A>() <= 16, "payloads are aligned to 16 bytes") };
        let bytes = received.bytes();
        let (len, need) = (bytes.len(), size_of::<A>());
        let is_aligned = bytes
            .as_ptr_range()
            .end
            .addr()
            .wrapping_sub(need)
            .is_multiple_of(align_of::<A>());
        if len < need || !is_aligned {
            return Err(Misfit { len, need });
        }
        Ok(Self {
            received,
            found: PhantomData,
        })
    }

    /// The message.
    #[must_use]
    #[inline]
    pub fn received(&self) -> &Received {
        &self.received
    }

    /// The message, without what was found in it.
    #[must_use]
    #[inline]
    pub fn into_received(self) -> Received {
        self.received
    }
}

impl<A: 'static> Deref for View<A> {
    type Target = A;

    #[inline]
    fn deref(&self) -> &A {
        let bytes = self.received.bytes();
        debug_assert!(bytes.len() >= size_of::<A>());
        // SAFETY: a valid value was found at the end of these bytes, or was promised to be there
        // (`Trusted`), or is `()`; and the bytes are the same since: a private copy that moves
        // with the view, or a chunk that its publisher does not touch while it is borrowed. All
        // payloads start at a multiple of 16 bytes, so the value is as aligned as it was then.
        unsafe {
            let root = bytes.as_ptr().add(bytes.len() - size_of::<A>());
            &*root.cast::<A>()
        }
    }
}

impl<A: fmt::Debug + 'static> fmt::Debug for View<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("View").field(&**self).finish()
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ring::{Consumer, Head, Mode, Producer, RingConfig};

    fn received(bytes: &[u8]) -> Received {
        let config = RingConfig {
            depth: 2,
            mode: Mode::Overwrite,
            held_max: 1,
            start: 0,
        };
        let (ring, borrows) = config.halves_on_heap();
        let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
        let origin = Arc::default();
        let mut consumer = Consumer::new(ring, borrows, config, origin, None).unwrap();
        let head = Head {
            sequence: 0,
            sent_ns: 0,
        };
        producer.push_inline(head, bytes, |_| {}).unwrap();
        consumer.try_next().unwrap().unwrap()
    }

    #[test]
    fn a_value_is_found_wherever_the_view_moves() {
        let bytes: Vec<u8> = (0..24).collect();
        let found = View::<u8>::find(received(&bytes), |bytes| bytes.last().ok_or(())).unwrap();
        let moved = Box::new([found]);
        assert_eq!((*moved[0], moved[0].received().bytes()), (23, &bytes[..]));
        assert!(View::find(received(&bytes), |_| Err::<&u8, _>("none")).is_err());
        assert_eq!(
            View::of_bytes(received(&bytes)).received().bytes(),
            &bytes[..]
        );
    }

    #[test]
    #[should_panic(expected = "at the end of the payload")]
    fn a_value_elsewhere_is_refused() {
        let _ = View::<u8>::find(received(&[1, 2, 3]), |bytes| bytes.first().ok_or(()));
    }

    #[test]
    fn trust_does_not_reach_beyond_the_payload() {
        // SAFETY: every bit pattern is a valid u64.
        let promise = unsafe { Trusted::promise() };
        let value = 7_u64.to_ne_bytes();
        let trust = |bytes: &[u8]| View::<u64>::trust(received(bytes), promise);
        assert_eq!(*trust(&value).unwrap(), 7);
        assert!(trust(&value[..7]).is_err());
        assert!(trust(&[0; 9]).is_err(), "misaligned root");
    }
}
