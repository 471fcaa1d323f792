//! What plays a recording: a thread that reads ahead, and one that waits and sends.

use std::fs::File;
use std::io::BufReader;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::Failure;
use super::input;
use crate::bag::{BagError, BagReader, Ending, Recorded};

/// Messages that were read.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    messages: Vec<Read>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Read {
    /// Its channel in the file.
    pub(super) number: u16,
    /// When it was recorded.
    pub(super) log_ns: u64,
    /// When it is to be thought of as sent.
    pub(super) sent_ns: u64,
    at: Range<usize>,
}

impl Batch {
    /// The messages, each with its bytes.
    pub(super) fn messages(&self) -> impl Iterator<Item = (&Read, &[u8])> {
        let all = self.messages.iter();
        all.map(|message| (message, &self.bytes[message.at.clone()]))
    }

    fn push(&mut self, message: &Recorded<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(message.payload);
        self.messages.push(Read {
            number: message.number,
            log_ns: message.log_ns,
            sent_ns: sent_ns(message),
            at: start..self.bytes.len(),
        });
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES || self.messages.len() >= BATCH_MESSAGES
    }
}

/// When a message was sent, where our recorder wrote it. What it recorded long after that was kept
/// by its publisher, and came when it was recorded. Others' files have all kinds of clocks here.
fn sent_ns(message: &Recorded<'_>) -> u64 {
    match message.channel.publisher {
        Some(_) => {
            let earliest = message.log_ns.saturating_sub(LATE_NS_MAX);
            message.publish_ns.clamp(earliest, message.log_ns)
        }
        None => message.log_ns,
    }
}

/// What a reader has to say.
#[derive(Debug)]
pub(super) enum News {
    Messages(Batch),
    /// A part that was left out.
    Damage(BagError),
    End(Ending),
}

/// Reads ahead on a thread of its own, from the beginning.
pub(super) fn read_ahead(path: &Path) -> Result<Receiver<Result<News, BagError>>, Failure> {
    let reader = input::reader(path)?;
    let (tell, told) = sync_channel(BATCHES_AHEAD);
    std::thread::spawn(move || read(reader, &tell));
    Ok(told)
}

/// Ends when nobody listens any more.
fn read(mut reader: BagReader<BufReader<File>>, tell: &SyncSender<Result<News, BagError>>) {
    let mut batch = Batch::default();
    loop {
        let news = match reader.next_message() {
            Ok(Some(message)) => {
                batch.push(&message);
                if !batch.is_full() {
                    continue;
                }
                None
            }
            Ok(None) => Some(Ok(News::End(reader.ending().unwrap_or(Ending::Cut)))),
            Err(error) if error.is_fatal() => Some(Err(error)),
            Err(error) => Some(Ok(News::Damage(error))),
        };
        if tell
            .send(Ok(News::Messages(std::mem::take(&mut batch))))
            .is_err()
        {
            return;
        }
        let Some(news) = news else { continue };
        let is_over = !matches!(news, Ok(News::Damage(_)));
        if tell.send(news).is_err() || is_over {
            return;
        }
    }
}

/// What is read before it is sent.
const BATCHES_AHEAD: usize = 4;
/// Each of so many bytes, or one message.
const BATCH_BYTES: usize = 1 << 20;
/// Or of so many messages.
const BATCH_MESSAGES: usize = 1_024;
/// A message that was recorded later than that after it was sent was not late, but kept.
const LATE_NS_MAX: u64 = 1_000_000_000;
