//! Publishing bytes: of raw topics, and of types that this program does not know.

use std::ops::{Deref, DerefMut};

use shmesh_shm::INLINE_BYTES;

use super::{Loan, Publisher, PublisherBuilder, Sent};
use crate::error::Error;
use crate::message::{Bytes, Payload, Raw, Untyped};
use crate::topology::{Encoding, TopicType};

impl PublisherBuilder<Untyped> {
    /// What it announces; that of [`Raw`](crate::Raw) topics unless set. Nobody looks whether the
    /// bytes that it sends are values of that type, but subscribers of the type do, and count those
    /// that are none as lost. Bytes of archives must be as rkyv wrote them, from their first to
    /// their last; they are placed at multiples of 16, as archives need it.
    pub fn ty(self, ty: TopicType) -> Self {
        self.announcing(ty)
    }
}

impl<P: Payload> PublisherBuilder<P> {
    pub(crate) fn announcing(mut self, ty: TopicType) -> Self {
        self.ty = ty;
        self
    }
}

/// What a publisher of `P` announces unless it is told.
pub(super) fn announced<P: Payload>() -> TopicType {
    match P::topic_type() {
        any if any.encoding == Encoding::Any => Raw::topic_type(),
        ty => ty,
    }
}

impl<P: Bytes> Publisher<P> {
    /// Sends a copy of `bytes`.
    ///
    /// # Errors
    /// [`Error::ArenaFull`] and the like for messages that do not fit inline, [`Error::TooLarge`],
    /// [`Error::Closed`] if the node is closed.
    #[inline]
    pub fn publish_bytes(&mut self, bytes: &[u8]) -> Result<Sent, Error> {
        if bytes.len() <= INLINE_BYTES {
            return self.outbox.send_inline(bytes);
        }
        let loan = self.loan_of(bytes)?;
        self.outbox.send(loan.draft)
    }

    /// The same, waiting asynchronously.
    ///
    /// # Errors
    /// As [`publish_bytes`](Self::publish_bytes).
    pub async fn publish_bytes_async(&mut self, bytes: &[u8]) -> Result<Sent, Error> {
        let loan = self.loan_of(bytes)?;
        self.outbox.send_async(loan.draft).await
    }

    /// `len` bytes to write a message in. Contents are what was there before, zeroes at first.
    ///
    /// # Errors
    /// As [`publish_bytes`](Self::publish_bytes).
    pub fn loan(&mut self, len: usize) -> Result<Loan<P>, Error> {
        self.lend(len)
    }

    fn loan_of(&mut self, bytes: &[u8]) -> Result<Loan<P>, Error> {
        let mut loan = self.lend(bytes.len())?;
        loan.copy_from_slice(bytes);
        Ok(loan)
    }
}

impl<P: Bytes> Deref for Loan<P> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.draft.bytes()
    }
}

impl<P: Bytes> DerefMut for Loan<P> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.draft.bytes_mut()
    }
}
