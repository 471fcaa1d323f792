//! Publishing values that a codec encodes.

use super::draft::{ArchiveWriter, Draft};
use super::{Publisher, Sent};
use crate::codec::{Codec, Coded};
use crate::error::Error;
use crate::message::Body;

impl<C: Codec<T>, T: Send + 'static> Body for Coded<C, T> {
    type In = T;

    fn write(mut writer: ArchiveWriter<'_>, value: &T) -> Result<Draft, Error> {
        let encoded = C::encode(value, &mut writer);
        writer.finish(encoded)
    }
}

impl<C: Codec<T>, T: Send + 'static> Publisher<Coded<C, T>> {
    /// Sends `value`: encodes it straight into the memory that subscribers read. Without
    /// subscribers it is only counted.
    ///
    /// # Errors
    /// [`Error::ArenaFull`] and the like for messages that do not fit inline, [`Error::TooLarge`],
    /// [`Error::Encode`]. Nothing is sent then. [`Error::Closed`] if the node is closed.
    pub fn publish(&mut self, value: &T) -> Result<Sent, Error> {
        let draft = self.encode_if_heard(value)?;
        self.outbox.send(draft)
    }

    /// The same, waiting asynchronously.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub async fn publish_async(&mut self, value: &T) -> Result<Sent, Error> {
        let draft = self.encode_if_heard(value)?;
        self.outbox.send_async(draft).await
    }

    fn encode_if_heard(&mut self, value: &T) -> Result<Draft, Error> {
        if !self.outbox.has_listeners() {
            return Draft::with_len(&mut self.outbox, 0);
        }
        let draft = Draft::with_guess(&mut self.outbox, self.guess)?;
        let draft = Coded::<C, T>::write(ArchiveWriter::new(&mut self.outbox, draft), value)?;
        self.guess = draft.bytes().len();
        Ok(draft)
    }
}
