//! Every bound of the engine, with its unit and its reason.

use shmesh_shm::arena::CHUNK_BYTES_MAX;
use shmesh_shm::doorbell::BELL_WORDS_MAX;
use shmesh_shm::ring::ARENA_SEGMENTS_MAX;

/// Default port of the coordinator.
pub const COORDINATOR_PORT: u16 = 7679;

/// Longest topic name in bytes: fits a status page entry.
pub const TOPIC_NAME_BYTES_MAX: usize = 128;
/// Longest node name in bytes.
pub const NODE_NAME_BYTES_MAX: usize = 64;
/// Longest name of a mesh in bytes: it travels in the hello, which has a fixed size.
pub const MESH_NAME_BYTES_MAX: usize = 32;
/// Shortest key of a mesh in bytes: what HMAC-SHA256 can use in full.
pub const AUTH_KEY_BYTES_MIN: usize = 32;
/// Longest key of a mesh in bytes.
pub const AUTH_KEY_BYTES_MAX: usize = 4096;
/// Longest name of a type in bytes.
pub const TYPE_NAME_BYTES_MAX: usize = 256;
/// Longest path of a node's socket in bytes: what `sockaddr_un` has room for.
pub const SOCKET_PATH_BYTES_MAX: usize = 108;
/// Longest name of a user's own encoding in bytes.
pub const ENCODING_NAME_BYTES_MAX: usize = 32;
/// Most addresses a node announces.
pub const ADDRESSES_PER_NODE_MAX: usize = 8;
/// Longest address of a node in bytes: an IPv6 one with its zone and port, or a host name.
pub const ADDRESS_BYTES_MAX: usize = 80;

/// Largest message in bytes: a chunk.
pub const MESSAGE_BYTES_MAX: usize = CHUNK_BYTES_MAX;
/// Deepest nesting of an archive: each level costs stack while it is validated.
pub const ARCHIVE_DEPTH_MAX: usize = 64;
/// Deepest nesting of a JSON or MessagePack value, for the same reason. It is what `serde_json`
/// allows, where it cannot be set.
pub const CODED_DEPTH_MAX: usize = 127;

/// Unread messages of a subscription unless it says otherwise.
pub const DEPTH_DEFAULT: u32 = 16;
/// Most unread messages of a subscription: the publisher's node pays 128 bytes for each.
pub const DEPTH_MAX: u32 = 65_536;
/// Large messages a subscriber holds at once unless it says otherwise.
pub const HELD_DEFAULT: u32 = 8;
/// Most large messages a subscriber holds at once, per publisher.
pub const HELD_MAX: u32 = 4096;
/// Payload memory of a publisher in bytes unless it says otherwise.
pub const ARENA_BYTES_DEFAULT: usize = 1 << 30;

/// Nodes of a group that went which a publisher remembers, so that one that comes back over another
/// link counts right.
pub const DEPARTED_MAX: usize = 64;

/// A call waits this long for its reply unless it says otherwise, in milliseconds.
pub const CALL_MS_DEFAULT: u64 = 10_000;
/// Calls of a caller that are under way at once unless it says otherwise.
pub const CALLS_DEFAULT: u32 = 64;
/// Most calls of a caller that are under way at once: each reply has a slot, and may be held.
pub const CALLS_MAX: u32 = HELD_MAX - HELD_DEFAULT;
/// Handlers of a provider that run at once unless it says otherwise.
pub const HANDLERS_DEFAULT: u32 = 64;
/// Requests of a provider that wait for a handler unless it says otherwise.
pub const PENDING_DEFAULT: u32 = 64;
/// Longest text of a failure that a provider sends, in bytes.
pub const FAILURE_BYTES_MAX: usize = 4096;

/// Most publishers and subscribers of a node: each that sleeps has a word in its bell page.
pub const ENDPOINTS_PER_NODE_MAX: u32 = 1024;
/// Most channels of one link and direction: what a peer can make us allocate.
pub const CHANNELS_PER_LINK_MAX: usize = 1024;
/// Most unread slots a peer can make us allocate over one link: 256 MiB.
pub const SLOTS_PER_LINK_MAX: usize = 2 << 20;
/// Frames that may wait for a peer that does not read its link; it is cut off beyond that.
pub const LINK_QUEUE_FRAMES_MAX: usize = 16_384;
/// Frames of a network link that may wait for the node's driver; the link is not read beyond that.
pub const LINK_FRAMES_WAITING_MAX: usize = 1024;
/// Frames (not messages) that a peer may say over a network link in a second, beyond which it is
/// cut off: four for each of its channels, several times over.
pub const LINK_FRAMES_PER_S_MAX: u32 = 50_000;
/// The same for frames that say what was taken: of a channel of depth 1, as many as round trips.
pub const LINK_CREDITS_PER_S_MAX: u32 = 1_000_000;
/// Most memory for messages of one channel over a network, in bytes.
pub const SINK_BYTES_MAX: usize = 1 << 30;
/// Largest message that a publisher's own thread writes into the socket, in bytes; larger ones are
/// left to the node's network thread, for the writing takes as long as the copying.
pub const DIRECT_WRITE_BYTES_MAX: usize = 64 << 10;
/// A publisher that sends a stream over a network writes itself each time it has sent so many
/// bytes: they are in its cache then, and the network thread may be waiting for its processor.
pub const WRITE_AFTER_BYTES: usize = 64 << 10;
/// And no fewer messages than these: what a write costs beside its bytes is shared by them, which
/// counts where there are many links.
pub const WRITE_AFTER_MESSAGES: usize = 4;
/// Payloads of so many bytes or fewer are not compressed unless told: they fit in a packet.
pub const COMPRESS_ABOVE_BYTES_DEFAULT: usize = 1 << 10;
/// Largest payload that is compressed, in bytes: a frame of a camera. Whoever writes needs about a
/// nanosecond for each, and the link's other messages wait meanwhile.
pub const COMPRESS_BYTES_MAX: usize = 8 << 20;
/// How many bytes a compressed one may stand for: LZ4 cannot do more.
pub const PACKED_RATIO_MAX: usize = 255;
/// A receiver that spins reads its links itself; they are read for it again after so many
/// milliseconds without a look.
pub const SPIN_LEASE_MS: u64 = 5;

/// Most network links of a node: each has two words in its bell page.
pub const NETWORK_LINKS_MAX: u32 = 512;

/// Most nodes of a mesh.
pub const NODES_MAX: usize = 65_536;
/// Largest frame of a coordinator connection or a link in bytes.
pub const FRAME_BYTES_MAX: usize = 64 << 10;
/// Changes in one frame: the largest change, a node with all its addresses, is below
/// [`CHANGE_BYTES_MAX`].
pub const CHANGES_PER_FRAME_MAX: usize = 32;
/// Largest change of the topology in bytes, as it is sent.
pub const CHANGE_BYTES_MAX: usize = 1 << 10;
/// Changes that a node may send in a second, for as long as it likes; it is cut off if it sends
/// more. A thousand such nodes would keep a coordinator busy; programs make some in their lives.
pub const NODE_CHANGES_PER_SECOND_MAX: u32 = 10_000;
/// Changes that a node may send at once: all its endpoints go and others come.
pub const NODE_CHANGES_AHEAD_MAX: u32 = 2 * ENDPOINTS_PER_NODE_MAX;
/// Blocks of frames, each of at most [`FRAME_BYTES_MAX`], that may wait for a node that reads its
/// deltas slowly; it gets a snapshot beyond that.
pub const DELTA_QUEUE_FRAMES_MAX: usize = 1024;
/// Connections that may wait to be accepted by a coordinator; the system allows 4096 unless told.
pub const ACCEPT_QUEUE_MAX: u32 = 4096;
/// Connections a coordinator has at once.
pub const CONNECTIONS_MAX: usize = NODES_MAX;

/// Time for the handshake in milliseconds.
pub const HANDSHAKE_MS_MAX: u64 = 2_000;
/// Connections of one address that may be in their handshake at once; the oldest gives way.
pub const HALF_OPEN_PER_ADDRESS_MAX: usize = 256;
/// The same for all addresses together.
pub const HALF_OPEN_MAX: usize = 1024;
/// Failed handshakes of one address after which it is turned away ...
pub const ATTEMPTS_MAX: u32 = 64;
/// ... until so many milliseconds have passed since the first of them.
pub const ATTEMPTS_MS: u64 = 10_000;
/// Addresses whose failures are remembered.
pub const ATTEMPT_ADDRESSES_MAX: usize = 4096;
/// A node says that it lives this often, in milliseconds ...
pub const HEARTBEAT_MS: u64 = 1_000;
/// ... and is taken for dead after so many milliseconds of silence.
pub const LEASE_MS: u64 = 3_000;
/// Changes that come within this time after one that was sent go out together, in milliseconds.
pub const DELTA_COALESCE_MS: u64 = 30;
/// First and longest pause before the coordinator is tried again, in milliseconds.
pub const RECONNECT_MS_MIN: u64 = 50;
/// See [`RECONNECT_MS_MIN`].
pub const RECONNECT_MS_MAX: u64 = 1_000;
/// A peer over a network that is to dial us has this long before we dial it, in milliseconds.
pub const DIAL_TURN_MS: u64 = 1_000;
/// A coordinator of a lower epoch than one before is refused for so long, in milliseconds, while no
/// other answers: a computer without a clock of its own may have been started anew.
pub const STALE_MS_MAX: u64 = 10_000;
/// A node waits this long for the coordinator when it starts, in milliseconds, unless told.
pub const JOIN_MS_DEFAULT: u64 = 3_000;
/// A node that leaves waits this long for what is queued for its peers, in milliseconds.
pub const LEAVE_MS_MAX: u64 = 200;
/// Pause after `accept` failed for want of descriptors, in milliseconds.
pub const ACCEPT_PAUSE_MS: u64 = 100;

const _: () = assert!(2 * (ENDPOINTS_PER_NODE_MAX + NETWORK_LINKS_MAX) <= BELL_WORDS_MAX);
// A heartbeat counts like a change.
const _: () = assert!(NODE_CHANGES_PER_SECOND_MAX as u64 * HEARTBEAT_MS >= 100 * 1_000);
const _: () = assert!(LEASE_MS >= 3 * HEARTBEAT_MS);
// The frame's header and the delta's own fields beside the changes.
const _: () = assert!(FRAME_BYTES_MAX >= CHANGES_PER_FRAME_MAX * CHANGE_BYTES_MAX + 64);
// A node's texts, with room for its numbers.
const _: () = assert!(
    NODE_NAME_BYTES_MAX + SOCKET_PATH_BYTES_MAX + ADDRESSES_PER_NODE_MAX * (ADDRESS_BYTES_MAX + 3)
        <= CHANGE_BYTES_MAX - 128
);
const _: () = assert!(
    TOPIC_NAME_BYTES_MAX + TYPE_NAME_BYTES_MAX + ENCODING_NAME_BYTES_MAX <= CHANGE_BYTES_MAX - 128
);
const _: () = assert!(COMPRESS_BYTES_MAX <= MESSAGE_BYTES_MAX);
const _: () = assert!(DEPTH_MAX as usize <= SLOTS_PER_LINK_MAX);
const _: () = assert!(ARENA_SEGMENTS_MAX > 1024);
