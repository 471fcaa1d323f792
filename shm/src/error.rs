//! The error type of this crate: a variant for each thing a caller may do about it.

use std::io;

/// Why something about shared memory failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShmError {
    /// The system has no room for the memory.
    #[error(
        "no room for {need} bytes of shared memory{}: free some, or raise the limit (containers: \
         --shm-size, --memory)",
        .free.map(|free| format!(" ({free} free)")).unwrap_or_default()
    )]
    NoSpace {
        /// Bytes that were asked for.
        need: u64,
        /// Bytes that are free, where that is known.
        free: Option<u64>,
    },
    /// No descriptors are left.
    #[error("no file descriptors left for {what}: raise `ulimit -n`")]
    NoDescriptors {
        /// What needed one.
        what: &'static str,
    },
    /// An arena is at its configured bound.
    #[error("arena full: {need} bytes wanted, {used} of {max} bytes in use")]
    ArenaFull {
        /// Bytes that were asked for.
        need: u64,
        /// Bytes the arena has.
        used: u64,
        /// Bytes it may have.
        max: u64,
    },
    /// Something is larger, deeper or more than is allowed.
    #[error("{what}: more than the limit of {max}")]
    Limit {
        /// What.
        what: &'static str,
        /// The limit.
        max: u64,
    },
    /// Memory of another version or layout.
    #[error("incompatible {what}: found {found:#x}, expected {expected:#x}; update the older side")]
    Incompatible {
        /// Which part.
        what: &'static str,
        /// What was found.
        found: u64,
        /// What was expected.
        expected: u64,
    },
    /// A peer handed over memory that it could still shrink or that others could write.
    #[error("memory handed over without its seals (missing {missing})")]
    NotSealed {
        /// The seals that are missing.
        missing: String,
    },
    /// A peer handed over memory of an impossible size.
    #[error("memory of {found} bytes where {min} to {max} were expected")]
    Size {
        /// Bytes found.
        found: u64,
        /// Fewest bytes.
        min: u64,
        /// Most bytes.
        max: u64,
    },
    /// Memory or a descriptor that is not what it should be.
    #[error("corrupt: {what}")]
    Corrupt {
        /// What is wrong.
        what: &'static str,
    },
    /// An object that its creator has not finished.
    #[error("not ready yet: its creator has not finished it")]
    NotReady,
    /// An object of another user, or open to others.
    #[error("{name} belongs to user {uid} with mode {mode:o}; expected user {expected}, mode 600")]
    Foreign {
        /// Its name.
        name: String,
        /// Its owner.
        uid: u32,
        /// Its mode bits.
        mode: u32,
        /// The owner it should have.
        expected: u32,
    },
    /// The name exists already.
    #[error("{name} exists already and is not ours")]
    InUse {
        /// The name.
        name: String,
    },
    /// Another failure of the operating system.
    #[error("cannot {what}: {source}")]
    Os {
        /// What was attempted.
        what: &'static str,
        /// Its answer.
        #[source]
        source: io::Error,
    },
}

impl ShmError {
    /// The error for a failed system call, `need` being the bytes it would have taken.
    pub(crate) fn os(what: &'static str, errno: rustix::io::Errno, need: usize) -> Self {
        use rustix::io::Errno;
        match errno {
            Errno::NOSPC | Errno::NOMEM | Errno::FBIG | Errno::DQUOT => Self::NoSpace {
                need: need as u64,
                free: None,
            },
            Errno::MFILE | Errno::NFILE => Self::NoDescriptors { what },
            errno => Self::Os {
                what,
                source: errno.into(),
            },
        }
    }
}
