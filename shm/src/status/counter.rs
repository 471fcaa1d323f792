//! What is counted.

/// What is counted for an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl Counter {
    /// All, in order.
    pub const ALL: [Self; 16] = [
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
    ];
}
