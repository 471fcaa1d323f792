//! What is counted.

/// What is counted for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Counter {
    /// Messages sent or received.
    Messages,
    /// Their bytes.
    Bytes,
    /// Lost: overwritten before they were read.
    LostOverwritten,
    /// Lost: no room.
    LostDropped,
    /// Lost: received, but invalid.
    LostInvalid,
    /// Samples in chunks that were held when it last went to sleep, or was refused more.
    Held,
    /// System calls made to wake somebody.
    WakeUps,
    /// Times it went to sleep.
    Parkings,
    /// Endpoints it is connected to.
    Peers,
    /// Bytes of its arena.
    ArenaBytes,
    /// Taken, but passed over for newer ones.
    Skipped,
    /// Lost: too old when it was taken.
    LostExpired,
    /// Messages that waited in its rings when last looked at.
    Unread,
    /// Messages that there is room for in its rings.
    Room,
    /// Peers that were found again after their link was lost. Of a node.
    PeersFoundAgain,
    /// Times its coordinator was found again. Of a node.
    CoordinatorFoundAgain,
    /// Calls of a caller, requests of a provider: answered with a value.
    CallsOk,
    /// Calls or requests: answered with an error.
    CallsFailed,
    /// Calls or requests: the handler panicked.
    CallsPanicked,
    /// Calls or requests: the reply was no value of its type.
    CallsInvalid,
    /// Calls or requests: turned away because too many waited.
    CallsOverloaded,
    /// Calls or requests: turned away by a provider that was about to end.
    CallsClosing,
    /// Calls or requests: given up after their timeout.
    CallsTimeout,
    /// Calls or requests: the provider went.
    CallsProviderLost,
    /// Calls or requests: nobody to call.
    CallsNoProvider,
    /// Calls or requests: the node to call was not there.
    CallsNoSuchNode,
    /// Calls or requests: provided with other types.
    CallsTypeMismatch,
    /// Calls or requests: too many were under way.
    CallsTooMany,
    /// Calls or requests: given up by who called.
    CallsCancelled,
    /// Calls or requests: the node was closed.
    CallsClosed,
    /// Calls or requests: ended otherwise.
    CallsOther,
}

impl Counter {
    /// All, in order.
    pub const ALL: [Self; 31] = [
        Self::Messages,
        Self::Bytes,
        Self::LostOverwritten,
        Self::LostDropped,
        Self::LostInvalid,
        Self::Held,
        Self::WakeUps,
        Self::Parkings,
        Self::Peers,
        Self::ArenaBytes,
        Self::Skipped,
        Self::LostExpired,
        Self::Unread,
        Self::Room,
        Self::PeersFoundAgain,
        Self::CoordinatorFoundAgain,
        Self::CallsOk,
        Self::CallsFailed,
        Self::CallsPanicked,
        Self::CallsInvalid,
        Self::CallsOverloaded,
        Self::CallsClosing,
        Self::CallsTimeout,
        Self::CallsProviderLost,
        Self::CallsNoProvider,
        Self::CallsNoSuchNode,
        Self::CallsTypeMismatch,
        Self::CallsTooMany,
        Self::CallsCancelled,
        Self::CallsClosed,
        Self::CallsOther,
    ];
}
