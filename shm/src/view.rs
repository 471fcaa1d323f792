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

use crate::error::ShmError;
use crate::ring::{Consumer, Corrupt, Received};

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

/// A received message in which a value of type `A` was, or is to be, found.
///
/// Filled and searched in place: a sample is moved as seldom as can be.
#[repr(C)]
pub struct View<A> {
    received: Received,
    /// Where the value is; `NOWHERE` until it was found.
    offset: usize,
    found: PhantomData<A>,
}

const NOWHERE: usize = usize::MAX;

impl<A: 'static> View<A> {
    /// One without a message.
    #[must_use]
    #[inline]
    pub fn empty() -> Self {
        const { assert!(align_of::<A>() <= 16, "payloads are aligned to 16 bytes") };
        Self {
            received: Received::empty(),
            offset: NOWHERE,
            found: PhantomData,
        }
    }

    /// Takes the next message of `consumer`; true if there was one. The view must be empty.
    ///
    /// # Errors
    /// As [`Consumer::next_into`].
    #[inline(always)]
    pub fn fill(&mut self, consumer: &mut Consumer) -> Result<bool, Corrupt> {
        debug_assert_eq!(self.offset, NOWHERE);
        consumer.next_into(&mut self.received)
    }

    /// Looks for the value with `find`, which gets the payload and gives a reference into it.
    ///
    /// # Errors
    /// What `find` said.
    ///
    /// # Panics
    /// If `find` gives a reference to something outside the payload.
    #[inline]
    pub fn find<E>(
        &mut self,
        find: impl for<'a> FnOnce(&'a [u8]) -> Result<&'a A, E>,
    ) -> Result<(), E> {
        let bytes = self.bytes();
        let value = find(bytes)?;
        let offset = (&raw const *value)
            .addr()
            .wrapping_sub(bytes.as_ptr().addr());
        assert!(
            fits::<A>(offset, bytes.len()),
            "invariant: found inside the payload"
        );
        self.offset = offset;
        Ok(())
    }

    /// Takes the value at the end of the payload, where archives have their root, on trust.
    ///
    /// # Errors
    /// [`Misfit`] if the payload is too short for the value, or the root is not aligned.
    pub fn trust_root(&mut self, _promise: Trusted) -> Result<(), Misfit> {
        let bytes = self.bytes();
        let misfit = Misfit {
            len: bytes.len(),
            need: size_of::<A>(),
        };
        let offset = bytes.len().checked_sub(size_of::<A>()).ok_or(misfit)?;
        if !(bytes.as_ptr().addr() + offset).is_multiple_of(align_of::<A>()) {
            return Err(misfit);
        }
        self.offset = offset;
        Ok(())
    }

    /// Moves the payload to memory that nobody else can write. Before a value is found.
    ///
    /// # Errors
    /// As [`Body::into_private`](crate::Body::into_private).
    pub fn make_private(&mut self) -> Result<(), ShmError> {
        self.offset = NOWHERE;
        let received = core::mem::replace(&mut self.received, Received::empty());
        self.received = Received {
            body: received.body.into_private()?,
            ..received
        };
        Ok(())
    }

    /// The message without its value.
    #[must_use]
    #[inline]
    pub fn received(&self) -> &Received {
        &self.received
    }

    /// The payload.
    #[must_use]
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.received.body.bytes()
    }
}

impl<A: 'static> Deref for View<A> {
    type Target = A;

    /// # Panics
    /// If no value was found.
    #[inline]
    fn deref(&self) -> &A {
        assert!(self.offset != NOWHERE, "invariant: a value was found");
        let bytes = self.bytes();
        debug_assert!(fits::<A>(self.offset, bytes.len()));
        // SAFETY: the offset was that of a valid `&A` inside these bytes, or was promised to be
        // (`Trusted`), and the bytes are the same since: a private copy, or a chunk that its
        // publisher does not touch while it is borrowed; filling and moving to private memory
        // need an exclusive borrow and forget or forbid the offset. All payloads start at a
        // multiple of 16 bytes, so the value is as aligned as it was then, wherever it moved.
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
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::Producer;
    use crate::ring::{Head, Mode, RingConfig};

    fn view<A: 'static>(bytes: &[u8]) -> View<A> {
        let config = RingConfig {
            depth: 2,
            mode: Mode::Overwrite,
            held_max: 1,
            start: 0,
        };
        let (ring, borrows) = config.halves_on_heap();
        let mut producer = Producer::new(ring.clone(), borrows.clone(), config).unwrap();
        let mut consumer = Consumer::new(ring, borrows, config, None).unwrap();
        let head = Head {
            sequence: 0,
            sent_ns: 0,
        };
        producer.push_inline(head, bytes, |_| {}).unwrap();
        let mut view = View::<A>::empty();
        assert!(view.fill(&mut consumer).unwrap());
        view
    }

    #[test]
    fn a_value_is_found_wherever_the_view_moves() {
        let bytes: Vec<u8> = (0..24).collect();
        let mut found = view::<u8>(&bytes);
        found.find(|bytes| bytes.get(17).ok_or(())).unwrap();
        let mut moved = Box::new([found]);
        assert_eq!(*moved[0], 17);
        moved[0].make_private().unwrap();
        assert_eq!(moved[0].bytes(), bytes);
        assert!(view::<u8>(&bytes).find(|_| Err::<&u8, _>("none")).is_err());
    }

    #[test]
    #[should_panic(expected = "a value was found")]
    fn without_a_value_there_is_none() {
        let _ = *view::<u8>(&[1, 2, 3]);
    }

    #[test]
    fn trust_does_not_reach_beyond_the_payload() {
        // SAFETY: every bit pattern is a valid u64.
        let promise = unsafe { Trusted::promise() };
        let value = 7_u64.to_ne_bytes();
        let mut whole = view::<u64>(&value);
        whole.trust_root(promise).unwrap();
        assert_eq!(*whole, 7);
        assert!(view::<u64>(&value[..7]).trust_root(promise).is_err());
        assert!(
            view::<u64>(&[0; 9]).trust_root(promise).is_err(),
            "misaligned root"
        );
    }
}
