//! The atomics this crate uses: the processor's, or loom's when a model is checked.
//!
//! Everything that runs under loom takes its atomics from here. Loom's types are larger and
//! cannot live in mapped memory, so models build their storage on the heap (`layout::Memory`).

#[cfg(not(loom))]
pub(crate) use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
