//! Shared-memory rings, arenas, doorbells and status pages: all unsafe code of shmesh.
mod sync;
