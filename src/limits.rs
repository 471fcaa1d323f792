//! Every bound of the engine, with its unit and its reason.

use shmesh_shm::arena::CHUNK_BYTES_MAX;
use shmesh_shm::doorbell::BELL_WORDS_MAX;
use shmesh_shm::ring::ARENA_SEGMENTS_MAX;
use shmesh_shm::{Counter, Histogram};

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

/// Largest schema of a message type in bytes, as it travels: it fits a frame.
pub const SCHEMA_BYTES_MAX: usize = 48 << 10;
/// Most types in a schema, the message's own among them.
pub const SCHEMA_TYPES_MAX: usize = 512;
/// Most fields and variants in a schema, of all its types together.
pub const SCHEMA_FIELDS_MAX: usize = 4096;
/// Longest name of a type, field, variant or unit in a schema, in bytes; longer ones are cut.
pub const SCHEMA_NAME_BYTES_MAX: usize = TYPE_NAME_BYTES_MAX;
/// Longest comment in a schema in bytes; longer ones are cut.
pub const SCHEMA_DOC_BYTES_MAX: usize = 512;
/// How deep types lie in each other in place in a schema.
pub const SCHEMA_DEPTH_MAX: usize = 64;
/// How deep values lie in each other in an archive that is read or written by its schema, those
/// in place counted like those behind pointers: an archive of [`ARCHIVE_DEPTH_MAX`] pointers may
/// have some of both at each.
pub const SCHEMA_VALUE_DEPTH_MAX: usize = 256;
/// Values that are read for each byte of an archive: in a small one pointers may lead to the same
/// bytes again and again.
pub const SCHEMA_VALUES_PER_BYTE_MAX: usize = 64;
/// Values that are read of any archive, however small: items may have no size.
pub const SCHEMA_VALUES_MIN: usize = 65_536;
/// Schemas that a node announces; a coordinator keeps no more of it.
pub const SCHEMAS_PER_NODE_MAX: usize = 256;
/// Schemas that a coordinator keeps whose nodes have left: who reads their messages may ask late.
pub const SCHEMAS_LEFT_MAX: usize = 256;
/// Most memory of a coordinator for schemas, in bytes.
pub const SCHEMAS_BYTES_MAX: usize = 64 << 20;
/// Schemas of others that a node remembers.
pub const SCHEMAS_KEPT_MAX: usize = 256;
/// Longest wait for a schema in milliseconds.
pub const SCHEMA_MS_MAX: u64 = 2_000;
/// A word about a schema counts like so many changes: it may be as long as they are together.
pub const SCHEMA_CHANGES: usize = 4;

/// Unread messages of a subscription unless it says otherwise.
pub const DEPTH_DEFAULT: u32 = 16;
/// Most unread messages of a subscription: the publisher's node pays 128 bytes for each.
pub const DEPTH_MAX: u32 = 65_536;
/// Large messages a subscriber holds at once unless it says otherwise.
pub const HELD_DEFAULT: u32 = 8;
/// Most large messages a subscriber holds at once, per publisher.
pub const HELD_MAX: u32 = 4096;
/// Most messages that a publisher keeps for subscribers that come later: 136 bytes each, and what
/// does not fit inline in its payload memory.
pub const HISTORY_MAX: u32 = 4096;
/// Events of a publisher or subscriber that may wait to be taken; the oldest is dropped then.
pub const EVENTS_MAX: usize = 256;
/// Payload memory of a publisher in bytes unless it says otherwise.
pub const ARENA_BYTES_DEFAULT: usize = 1 << 30;

/// Nodes of a group that went which a publisher remembers, so that one that comes back over another
/// link counts right.
pub const DEPARTED_MAX: usize = 64;

/// A call waits this long for its reply unless it says otherwise, in milliseconds.
pub const CALL_MS_DEFAULT: u64 = 10_000;
/// Clients that a node keeps for `Node::call` and `Node::tell`: each has two endpoints.
pub const CLIENTS_PER_NODE_MAX: usize = 64;
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
/// Most names and patterns of one subscription: each is one of its node's endpoints.
pub const TOPICS_PER_SUBSCRIBER_MAX: usize = 256;
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
/// counts where there are many links, for what one link touches the others have pushed out of the
/// cache.
pub const WRITE_AFTER_MESSAGES: usize = 8;
/// A larger message goes over a network in parts of so many bytes, where somebody more urgent is
/// on the link, who may go between them. Else it goes as it is: 1 MiB in parts took up to twice as
/// long.
pub const FRAGMENT_BYTES: usize = 64 << 10;
/// So many of them go at once where nobody more urgent is left on the link: in fewer calls they
/// cost less.
pub const FRAGMENTS_PER_WRITE: usize = 8;
/// And so many where somebody is.
pub const FRAGMENTS_PER_SHARED_WRITE: usize = 1;
/// Bytes of fragments that may be on their way, in buffers of kernels for the most part, where
/// somebody more urgent is on the link: what is urgent is behind them.
pub const FRAGMENTS_AHEAD_BYTES: u64 = 256 << 10;
/// What was read of fragments is said whenever it is so many bytes more.
pub const FRAGMENTS_READ_BYTES: u64 = 128 << 10;
/// Writes in a row that may leave a less urgent message behind before one begins with it.
pub const PASSED_OVER_MAX: u32 = 8;
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
/// A question of a visitor counts like so many changes: it may cost a walk through the mesh.
pub const VISIT_CHANGES: usize = 200;
/// A tool waits this long for each answer of the coordinator, in milliseconds: people wait for it.
pub const VISIT_MS_MAX: u64 = 1_500;
/// Nodes that a visitor names at once, to have them leave or say what they count.
pub const NAMED_PER_FRAME_MAX: usize = 1_024;
/// Entries of a status page in one frame.
pub const TALLIES_PER_FRAME_MAX: usize = 15;
/// Largest such entry in bytes, as it is sent: a topic, all counters, all buckets.
pub const TALLY_BYTES_MAX: usize = 4 << 10;
/// A tool waits this long for what nodes of other hosts count, in milliseconds: one that does not
/// answer, because it is stopped, keeps the others from being shown no longer.
pub const REPORT_MS_MAX: u64 = 500;
/// Parts of reports, each a frame, that may wait for a visitor; further ones are left out, and
/// their reports with them.
pub const REPORT_QUEUE_FRAMES_MAX: usize = 1024;
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
/// Handlers that run when their node closes may go on for so long, in milliseconds, unless told:
/// twice what a person takes for "at once", and within the patience of `systemctl stop`.
pub const GRACE_MS_DEFAULT: u64 = 1_000;
/// A node waits so many milliseconds longer, so that handlers are given up by those who call them.
pub const GRACE_MS_MORE: u64 = 50;
/// Shortest period of a timer in microseconds: what a processor wakes up for in time at best.
pub const PERIOD_US_MIN: u64 = 10;
/// Longest period of a timer in seconds: a day.
pub const PERIOD_S_MAX: u64 = 86_400;
/// Most calls of one handler that run at once: each may hold a large message.
pub const CONCURRENCY_MAX: usize = 1024;
/// A listening that holds as many messages as it may looks again after so many milliseconds.
pub const HELD_PAUSE_MS: u64 = 10;
/// Longest head of a request for metrics in bytes: what servers commonly allow.
pub const SCRAPE_BYTES_MAX: usize = 8 << 10;
/// A request for metrics is over after so many milliseconds, answered or not.
pub const SCRAPE_MS_MAX: u64 = 2_000;
/// Shortest time between two readings of `mesh top` in milliseconds: a faster one is not seen.
pub const TOP_INTERVAL_MS_MIN: u64 = 50;
/// Longest time between two readings of `mesh top` in milliseconds.
pub const TOP_INTERVAL_MS_MAX: u64 = 3_600_000;
/// `mesh top` asks the coordinator so often at least, in milliseconds: before its visit would be
/// ended.
pub const TOP_LOOK_MS: u64 = 1_000;
/// It asks no more often than this, in milliseconds: it costs each node of another host a look at
/// its counts.
pub const TOP_LOOK_MS_MIN: u64 = 200;
/// Keys that wait for `mesh top`; more wait where they come from.
pub const TOP_EVENTS_MAX: usize = 64;
/// Of the messages of a subscription or the calls of a caller at least one in so many is measured,
/// however fast they come: at 20 million a second that costs each a tenth of a nanosecond.
pub const MEASURED_EACH_MAX: u32 = 256;
/// Where they come faster than this, in nanoseconds, only some are measured: about a thousand a
/// second say what the 99th percentile is.
pub const MEASURED_NS: u64 = 1_000_000;
/// Requests for metrics that are served at once.
pub const SCRAPES_MAX: usize = 16;
/// Unread messages of each publisher that a tool which measures topics may have: enough for bursts,
/// and few enough that large ones do not fill their publisher's memory.
pub const MEASURE_DEPTH: u32 = 64;
/// Messages of each topic that such a tool looks back on at most.
pub const WINDOW_MESSAGES_MAX: u32 = 1_000_000;
/// Unread messages of each publisher that `mesh topic echo` may have, unless told: few enough that
/// images do not fill their publisher's memory.
pub const ECHO_DEPTH_DEFAULT: u32 = 64;
/// Bytes that it writes at once while there are more: what a pipe takes.
pub const ECHO_BYTES: usize = 64 << 10;
/// What the pipe that it writes to has room for, if the kernel lets it: its reader then takes one
/// piece while the next ones are made.
pub const ECHO_PIPE_BYTES: usize = 4 * ECHO_BYTES;
/// Messages that it prints before it looks for a signal.
pub const ECHO_BATCH: u32 = 256;
/// After a signal, what `mesh topic echo` has still to write waits so long for a reader.
pub const LAST_OUTPUT_MS_MAX: u64 = 1_000;
/// A tool that waits for publishers says so after so many milliseconds.
pub const NOBODY_MS: u64 = 1_000;
/// Types that a tool knows how to read at once.
pub const FORMS_MAX: usize = 1_024;
/// Pause after `accept` failed for want of descriptors, in milliseconds.
pub const ACCEPT_PAUSE_MS: u64 = 100;
/// Largest launch file in bytes.
pub const LAUNCH_FILE_BYTES_MAX: usize = 1 << 20;
/// Values in a launch file, with those that its aliases stand for.
pub const LAUNCH_VALUES_MAX: usize = 65_536;
/// Deepest nesting in a launch file.
pub const LAUNCH_DEPTH_MAX: usize = 16;
/// Processes that are launched together.
pub const LAUNCH_PROCESSES_MAX: usize = 1024;
/// Longest delay in a launch file in seconds: a day.
pub const LAUNCH_DELAY_S_MAX: u64 = 86_400;
/// A launched node waits so long for what it depends on unless told, in milliseconds.
pub const LAUNCH_DEPENDS_MS_DEFAULT: u64 = 30_000;
/// Whether it is there is looked up this often, in milliseconds: as changes come.
pub const LAUNCH_LOOK_MS: u64 = DELTA_COALESCE_MS;
/// Longest line of a launched process in bytes; what is longer comes in parts.
pub const LINE_BYTES_MAX: usize = 8 << 10;
/// Lines of launched processes that may wait for a terminal; further ones are dropped and counted,
/// so that no node waits for it.
pub const LINES_WAITING_MAX: usize = 4096;
/// First and longest pause before a process that failed is started again, in milliseconds.
pub const RESTART_MS_MIN: u64 = 500;
/// See [`RESTART_MS_MIN`].
pub const RESTART_MS_MAX: u64 = 30_000;
/// A process that ran so many milliseconds was healthy: the pause begins anew.
pub const HEALTHY_MS: u64 = 10_000;
/// A process that was told to end has so many milliseconds unless told, before it is killed.
pub const LAUNCH_GRACE_MS_DEFAULT: u64 = 5_000;
/// And one that was killed so many, before nobody waits for it any more: a kernel that cannot end
/// it now may never do.
pub const LAUNCH_KILL_MS_MAX: u64 = 5_000;

/// Messages of a recording are written so many bytes at a time unless told.
pub const BAG_CHUNK_BYTES_DEFAULT: usize = 1 << 20;
/// Most of it in bytes: a reader holds a chunk in memory.
pub const BAG_CHUNK_BYTES_MAX: usize = 64 << 20;
/// And when the oldest of them has waited so long, in milliseconds: what a crash costs at most.
pub const BAG_CHUNK_MS_MAX: u64 = 1_000;
/// A payload of so many bytes is written from where it lies, unless it is to be compressed.
pub const BAG_ALONE_BYTES: usize = 128 << 10;
/// Largest record of a recording that is read, in bytes: a message, and what is around it.
pub const BAG_RECORD_BYTES_MAX: usize = MESSAGE_BYTES_MAX + BAG_CHUNK_BYTES_MAX;
/// A new file is begun after so many chunks: their index is kept in memory until the file's end,
/// about 200 bytes for each.
pub const BAG_CHUNKS_PER_FILE_MAX: usize = 1 << 20;
/// Most publishers of a recording: MCAP numbers channels with 16 bits.
pub const BAG_CHANNELS_MAX: usize = u16::MAX as usize;
/// Most bytes of channels' and schemas' descriptions that are kept of a recording that is read.
pub const BAG_DEFINITIONS_BYTES_MAX: usize = 256 << 20;
/// Memory for the last seconds of a recording in bytes unless told.
pub const BAG_LAST_BYTES_DEFAULT: u64 = 256 << 20;
/// Unread messages of a recorder for each publisher unless told: 0.16 s at 100,000 messages a
/// second, for 2 MiB of the publisher's memory.
pub const BAG_DEPTH_DEFAULT: u32 = 16_384;

const _: () = assert!(2 * (ENDPOINTS_PER_NODE_MAX + NETWORK_LINKS_MAX) <= BELL_WORDS_MAX);
// A heartbeat counts like a change.
const _: () = assert!(NODE_CHANGES_PER_SECOND_MAX as u64 * HEARTBEAT_MS >= 100 * 1_000);
const _: () = assert!(LEASE_MS >= 3 * HEARTBEAT_MS);
// Ids, and what msgpack needs beside them.
const _: () = assert!(FRAME_BYTES_MAX >= NAMED_PER_FRAME_MAX * 20 + 64);
// A number of a counter or bucket, and its value, take 13 bytes together.
const _: () = assert!(
    TALLY_BYTES_MAX >= TOPIC_NAME_BYTES_MAX + 13 * (Counter::ALL.len() + Histogram::BUCKETS) + 64
);
const _: () = assert!(FRAME_BYTES_MAX >= TALLIES_PER_FRAME_MAX * TALLY_BYTES_MAX + 64);
const _: () = assert!(NAMED_PER_FRAME_MAX <= NODE_CHANGES_AHEAD_MAX as usize);
const _: () = assert!(VISIT_CHANGES <= NODE_CHANGES_AHEAD_MAX as usize);
const _: () = assert!(TOP_LOOK_MS + VISIT_MS_MAX < LEASE_MS);
// The frame's header and the delta's own fields beside the changes.
const _: () = assert!(FRAME_BYTES_MAX >= CHANGES_PER_FRAME_MAX * CHANGE_BYTES_MAX + 64);
// A node's texts, with room for its numbers.
const _: () = assert!(
    NODE_NAME_BYTES_MAX + SOCKET_PATH_BYTES_MAX + ADDRESSES_PER_NODE_MAX * (ADDRESS_BYTES_MAX + 3)
        <= CHANGE_BYTES_MAX - 128
);
// Each of the calls, and the message that waits for one of them to end.
const _: () = assert!(CONCURRENCY_MAX < HELD_MAX as usize);
const _: () = assert!(
    TOPIC_NAME_BYTES_MAX + TYPE_NAME_BYTES_MAX + ENCODING_NAME_BYTES_MAX <= CHANGE_BYTES_MAX - 128
);
// What was read and not said yet must leave room for more.
const _: () = assert!(FRAGMENTS_AHEAD_BYTES >= 2 * FRAGMENTS_READ_BYTES);
const _: () = assert!(COMPRESS_BYTES_MAX <= MESSAGE_BYTES_MAX);
const _: () = assert!(SCHEMA_BYTES_MAX + (1 << 10) <= FRAME_BYTES_MAX);
const _: () = assert!(SCHEMAS_PER_NODE_MAX * SCHEMA_BYTES_MAX <= SCHEMAS_BYTES_MAX);
// All that a node has, at once.
const _: () = assert!(
    SCHEMAS_PER_NODE_MAX * SCHEMA_CHANGES + ENDPOINTS_PER_NODE_MAX as usize
        <= NODE_CHANGES_AHEAD_MAX as usize
);
const _: () = assert!(SCHEMA_VALUE_DEPTH_MAX >= 4 * ARCHIVE_DEPTH_MAX);
const _: () = assert!(DEPTH_MAX as usize <= SLOTS_PER_LINK_MAX);
const _: () = assert!(ARENA_SEGMENTS_MAX > 1024);
const _: () = assert!(BAG_CHUNK_BYTES_DEFAULT <= BAG_CHUNK_BYTES_MAX);
const _: () = assert!(BAG_DEPTH_DEFAULT <= DEPTH_MAX);
