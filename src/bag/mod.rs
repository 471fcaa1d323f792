//! Recordings: what topics carried, in MCAP files that Foxglove and every MCAP tool open.
//!
//! | module | what it does |
//! |---|---|
//! | `channel` | what a topic's messages are, in our words and in MCAP's |
//! | `format` | records of a file, as bytes |
//! | `chunk` | messages that are written at once |
//! | `crc` | checksums of parts, and of the whole they make |
//! | `file` | one file: chunks, and the summary that makes it quick to open |
//! | `recorder` | which message goes into which file; the last seconds of a ring; losses |
//! | `reader` | messages of a file, whoever wrote it, also of one that was cut off |
//! | `summary` | what is in a file, without reading all of it where it has an index |
//! | `audit` | whether a file is as it was written: checksums, and what its index says |
//! | `schedule` | when a message is sent again |
//! | `remap` | topics under other names |
//! | `convert` | the same messages in another file |
//!
//! Messages keep the bytes they were sent with, under MCAP's name of their encoding where there is
//! one (`json`, `msgpack`), else under ours (`shmesh-rkyv`, `shmesh-raw`) or the codec's own. Each
//! publisher of a topic has an MCAP channel, whose metadata say who it is; `sequence` is the number
//! it gave the message, so that what is missing can be counted, and a metadata record
//! `shmesh.losses` has the counts. `log_time` is when the message was recorded, `publish_time` when
//! it was sent, both by one clock.
//!
//! No clock here, and no file but what a [`Storage`] is. What is read from a file is believed as
//! little as what comes from a peer: lengths are checked against the file and the limits before
//! anything is reserved.

mod audit;
mod channel;
mod chunk;
mod convert;
mod crc;
mod file;
mod format;
mod parse;
mod reader;
mod recorder;
mod remap;
mod ring;
mod schedule;
mod summary;

use std::io;

pub use self::channel::{Channel, SchemaRecord};
pub use self::convert::{Converted, Converter, To};
pub use self::file::Storage;
pub use self::format::is_ours;
pub use self::reader::{BagReader, Ending, Recorded};
pub use self::recorder::{Config, Count, Message, Recorder, Saved, Split, Target};
pub use self::remap::{Remap, Rename};
pub use self::schedule::{Schedule, Span};
pub use self::summary::{ChannelSummary, Summary};

/// Name of the metadata record that has what was lost. Keys are numbers of channels, values JSON.
const LOSSES: &str = "shmesh.losses";

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BagError {
    /// The system refused.
    #[error("cannot {what} the recording: {source}")]
    Io {
        /// What was attempted.
        what: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
    /// Nothing more fits. What was written before is a whole file.
    #[error("the disk is full: the recording ends here, and what it has can be read")]
    Full,
    /// Somebody removed the file or its directory.
    #[error("the recording was removed while it was written; record to another place")]
    Vanished,
    /// Not an MCAP file.
    #[error("this is no recording: it does not begin as an MCAP file does")]
    NotABag,
    /// A part of the file that is not as it was written. Reading can go on behind it unless
    /// `is_fatal`.
    #[error("the recording is damaged at byte {at}: {reason}")]
    Damaged {
        /// Where, in bytes from the start.
        at: u64,
        /// What is wrong.
        reason: String,
        /// True if nothing behind it can be found.
        is_fatal: bool,
    },
    /// A compression that this build cannot undo.
    #[error("chunks are compressed with {0}, which is not known here; compress them with lz4")]
    Compression(String),
    /// More publishers than a file has numbers for.
    #[error("more than {max} publishers in one recording; record fewer topics")]
    TooManyChannels {
        /// The limit.
        max: usize,
    },
    /// An option that cannot be meant.
    #[error("{0}")]
    Option(String),
}

impl BagError {
    /// True if nothing more can be read after it.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        let goes_on = matches!(
            self,
            Self::Compression(_)
                | Self::Damaged {
                    is_fatal: false,
                    ..
                }
        );
        !goes_on
    }

    /// Of an attempt to write.
    fn writing(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full,
            _ => Self::Io {
                what: "write",
                source,
            },
        }
    }

    /// Of an attempt to read.
    fn reading(source: io::Error) -> Self {
        Self::Io {
            what: "read",
            source,
        }
    }
}

#[cfg(test)]
mod tests;
