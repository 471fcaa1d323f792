//! What goes before what on a network link.

/// How urgent a publisher's messages are on network links. Nothing on the wire says it: the node
/// that sends decides what goes first.
///
/// On one host it means nothing: each subscriber has a ring of its own there, and no message is
/// behind another's. Over a network all that two nodes say to each other takes turns on one
/// connection. There the order is strict: what is more urgent goes first; and while a link has a
/// publisher that is more urgent than another, the other's messages above 64 KiB go in parts,
/// between which it may. So that nobody is starved by accident, a write begins with a turn of what
/// is less urgent if the eight before it left that behind: at most 64 messages of one publisher, or
/// one part of a large one.
///
/// Of messages that go in parts no more than 256 KiB are on their way at once, for what is in the
/// kernels' buffers cannot be overtaken. So a stream of them has at most that for each round trip
/// of the link.
///
/// Messages of one publisher stay in order. Those of two publishers of different priority overtake
/// each other. But what goes to a subscription to several topics keeps the order of its node: it
/// counts as normal, and goes whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// What may wait: maps, logs, recordings.
    Bulk,
    /// Everything that is not said to be otherwise.
    #[default]
    Normal,
    /// What others have to make way for: a stop, a command, a transform.
    Urgent,
}
