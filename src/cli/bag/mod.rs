//! `mesh bag`: records topics into MCAP files, and sends them again.

mod clock;
mod convert;
mod ending;
mod files;
mod identity;
mod info;
mod input;
mod keys;
mod play;
mod playing;
mod progress;
mod record;
mod stops;
mod units;

use clap::Subcommand;

use super::Failure;
use super::reach::ReachArgs;

/// Record topics into MCAP files, and send them again.
#[derive(Clone, Debug, Subcommand)]
pub enum BagVerb {
    /// Record topics
    Record(record::RecordArgs),
    /// Send what was recorded again
    Play(play::PlayArgs),
    /// Say what is in a recording
    Info(info::InfoArgs),
    /// Write a recording anew: repaired, compressed, split, as JSON
    Convert(convert::ConvertArgs),
}

/// Does what the verb says.
///
/// # Errors
/// What the verb says of itself.
pub fn run(verb: &BagVerb) -> Result<(), Failure> {
    match verb {
        BagVerb::Record(args) => record::run(args),
        BagVerb::Play(args) => play::run(args),
        BagVerb::Info(args) => info::run(args),
        BagVerb::Convert(args) => convert::run(args),
    }
}
