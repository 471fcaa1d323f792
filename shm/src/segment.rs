//! Memory without a name: made by one process, handed to others over a socket, readable only there.
//!
//! A [`Segment`] is a memfd, reserved in full before it is mapped (so running out is an error here
//! and never a SIGBUS later) and then sealed: it can neither shrink nor grow, nobody can map it
//! writable again, and nobody can write it through its descriptor, not even through `/proc`. Its
//! creator keeps the one writable mapping. There is nothing to remove: the memory goes with the
//! last process that has it mapped or open.
//!
//! Not fork-safe: a child gets none of the mappings (`MADV_DONTFORK`) and must not use the handles.

use core::ffi::c_void;
use core::fmt;
use core::ops::RangeInclusive;
use core::ptr::NonNull;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, FileType, MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use crate::error::ShmError;

/// Largest segment in bytes.
pub const SEGMENT_BYTES_MAX: usize = 4 << 30;

/// What a peer's memory must be sealed with.
const SEALS: SealFlags = SealFlags::SHRINK
    .union(SealFlags::GROW)
    .union(SealFlags::FUTURE_WRITE);

/// A mapping that ends with its owner.
pub(crate) struct Mapping {
    pub(crate) ptr: NonNull<u8>,
    pub(crate) len: usize,
}

// SAFETY: memory has no thread affinity; what is shared in it is accessed as the types laid over
// it say.
unsafe impl Send for Mapping {}
// SAFETY: as above; the handle itself has no interior mutability.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `fd`, all pages present.
    pub(crate) fn new(fd: BorrowedFd<'_>, len: usize, access: ProtFlags) -> Result<Self, ShmError> {
        Self::with(fd, len, access, MapFlags::SHARED | MapFlags::POPULATE)
    }

    /// The same, without touching any page: those that the file has not got stay away.
    pub(crate) fn sparse(
        fd: BorrowedFd<'_>,
        len: usize,
        access: ProtFlags,
    ) -> Result<Self, ShmError> {
        Self::with(fd, len, access, MapFlags::SHARED)
    }

    fn with(
        fd: BorrowedFd<'_>,
        len: usize,
        access: ProtFlags,
        flags: MapFlags,
    ) -> Result<Self, ShmError> {
        // SAFETY: a new mapping at an address the kernel chooses touches no other memory.
        let mapped = unsafe { rustix::mm::mmap(core::ptr::null_mut(), len, access, flags, fd, 0) };
        let ptr = mapped.map_err(|errno| ShmError::os("map shared memory", errno, len))?;
        let ptr = NonNull::new(ptr.cast::<u8>()).ok_or(ShmError::Corrupt {
            what: "mapping at address zero",
        })?;
        let mapping = Self { ptr, len };
        // SAFETY: the range is the mapping just made. A child of fork() then lacks it.
        let advised = unsafe { rustix::mm::madvise(mapping.address(), len, Advice::LinuxDontFork) };
        advised.map_err(|errno| ShmError::os("keep memory out of forks", errno, len))?;
        Ok(mapping)
    }

    fn address(&self) -> *mut c_void {
        self.ptr.as_ptr().cast()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this owner made the mapping, and everything that points into it keeps the owner.
        // It can fail only for a range that is no mapping.
        let unmapped = unsafe { rustix::mm::munmap(self.address(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// Shared memory of this process: writable here, readable for whom it is handed to.
pub struct Segment {
    mapping: Mapping,
    fd: OwnedFd,
}

impl Segment {
    /// At least `bytes` zeroed bytes, rounded up to whole pages, all present. `label` shows in
    /// `/proc/PID/maps`. Makes some system calls.
    ///
    /// # Errors
    /// [`ShmError::NoSpace`], [`ShmError::NoDescriptors`], [`ShmError::Limit`]; nothing is left
    /// behind then.
    pub fn create(label: &str, bytes: usize) -> Result<Self, ShmError> {
        if bytes > SEGMENT_BYTES_MAX {
            return Err(ShmError::Limit {
                what: "segment bytes",
                max: SEGMENT_BYTES_MAX as u64,
            });
        }
        let len = bytes.max(1).next_multiple_of(rustix::param::page_size());
        let fail = |what| move |errno| ShmError::os(what, errno, len);
        let fd = memfd(label).map_err(fail("create shared memory"))?;
        rustix::fs::ftruncate(&fd, len as u64).map_err(fail("size shared memory"))?;
        rustix::fs::fallocate(&fd, FallocateFlags::empty(), 0, len as u64)
            .map_err(fail("reserve shared memory"))?;
        let mapping = Mapping::new(fd.as_fd(), len, ProtFlags::READ | ProtFlags::WRITE)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS | SealFlags::SEAL)
            .map_err(fail("seal shared memory"))?;
        Ok(Self { mapping, fd })
    }

    /// The descriptor to hand over.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// First byte.
    #[must_use]
    #[inline]
    pub fn ptr(&self) -> NonNull<u8> {
        self.mapping.ptr
    }

    /// Bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Segment")
            .field("len", &self.mapping.len)
            .finish_non_exhaustive()
    }
}

fn memfd(label: &str) -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create(label, flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know the flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create(label, flags),
        made => made,
    }
}

/// Another process's segment, mapped readable only.
pub struct PeerSegment {
    mapping: Mapping,
}

impl PeerSegment {
    /// Maps what a peer handed over, all pages present, after checking that it is memory of
    /// an expected size which nobody can shrink and nobody but its creator can write.
    ///
    /// # Errors
    /// [`ShmError::NotSealed`], [`ShmError::Size`], [`ShmError::Corrupt`] for what is no memory at
    /// all, and what mapping can fail with.
    pub fn map(fd: OwnedFd, bytes: RangeInclusive<usize>) -> Result<Self, ShmError> {
        // Fails for whatever is no memfd.
        let seals = rustix::fs::fcntl_get_seals(&fd).map_err(|_| ShmError::Corrupt {
            what: "descriptor is no sealed memory",
        })?;
        if !seals.contains(SEALS) {
            return Err(ShmError::NotSealed {
                missing: format!("{:?}", SEALS - seals),
            });
        }
        let stat = rustix::fs::fstat(&fd)
            .map_err(|errno| ShmError::os("look at a peer's memory", errno, 0))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(ShmError::Corrupt {
                what: "descriptor is no memory",
            });
        }
        let found = stat.st_size.cast_unsigned();
        let (min, max) = (*bytes.start() as u64, *bytes.end() as u64);
        let len = usize::try_from(found)
            .ok()
            .filter(|len| bytes.contains(len) && *len > 0);
        let len = len.ok_or(ShmError::Size { found, min, max })?;
        Ok(Self {
            mapping: Mapping::new(fd.as_fd(), len, ProtFlags::READ)?,
        })
    }

    /// First byte. Storing through it is a fault.
    #[must_use]
    pub fn ptr(&self) -> NonNull<u8> {
        self.mapping.ptr
    }

    /// Bytes.
    #[must_use]
    #[inline]
    pub fn len(&self) -> usize {
        self.mapping.len
    }

    /// Never true.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }
}

impl fmt::Debug for PeerSegment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerSegment")
            .field("len", &self.mapping.len)
            .finish()
    }
}

/// Most bytes a segment of at least `bytes` bytes can have: whole pages of up to 64 KiB.
#[must_use]
pub const fn bytes_with_rounding(bytes: usize) -> RangeInclusive<usize> {
    bytes..=bytes.saturating_add(64 << 10)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use std::fs::File;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    use super::*;

    #[allow(clippy::unwrap_used)]
    fn handed_over(segment: &Segment) -> OwnedFd {
        segment.fd().try_clone_to_owned().unwrap()
    }

    #[test]
    fn a_peer_reads_what_the_owner_writes_after_the_seals() {
        let segment = Segment::create("test", 100).unwrap();
        let peer = PeerSegment::map(handed_over(&segment), bytes_with_rounding(100)).unwrap();
        assert_eq!(peer.len(), rustix::param::page_size());
        // SAFETY: both mappings have at least 100 bytes; nobody else has them.
        unsafe { segment.ptr().add(99).write_volatile(7) };
        // SAFETY: as above.
        assert_eq!(unsafe { peer.ptr().add(99).read_volatile() }, 7);
    }

    #[test]
    fn a_peer_can_neither_write_nor_resize_nor_reopen() {
        let segment = Segment::create("test", 100).unwrap();
        let fd = handed_over(&segment);
        for len in [0, 1 << 20] {
            assert_eq!(rustix::fs::ftruncate(&fd, len), Err(Errno::PERM));
        }
        assert_eq!(rustix::io::write(&fd, b"x"), Err(Errno::PERM));
        let access = ProtFlags::READ | ProtFlags::WRITE;
        assert!(Mapping::new(fd.as_fd(), 100, access).is_err());
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        if let Ok(mut reopened) = File::options().read(true).write(true).open(path) {
            assert!(reopened.write(b"x").is_err());
            assert!(reopened.set_len(0).is_err());
            assert!(Mapping::new(reopened.as_fd(), 100, access).is_err());
        }
    }

    #[test]
    fn what_is_not_sealed_memory_of_the_right_size_is_refused() {
        let range = bytes_with_rounding(4096);
        let unsealed = memfd("unsealed").unwrap();
        rustix::fs::ftruncate(&unsealed, 4096).unwrap();
        let half = unsealed.try_clone().unwrap();
        let mapped = PeerSegment::map(unsealed, range.clone());
        assert!(matches!(mapped, Err(ShmError::NotSealed { .. })));
        rustix::fs::fcntl_add_seals(&half, SealFlags::SHRINK).unwrap();
        let mapped = PeerSegment::map(half, range.clone());
        assert!(matches!(mapped, Err(ShmError::NotSealed { .. })));
        for bytes in [100, 1 << 20] {
            let segment = Segment::create("other size", bytes).unwrap();
            let mapped = PeerSegment::map(handed_over(&segment), 8192..=70_000);
            assert!(matches!(mapped, Err(ShmError::Size { .. })), "{bytes}");
        }
        let file = File::open("/proc/self/exe").unwrap();
        let (pipe, _) = rustix::pipe::pipe().unwrap();
        for fd in [file.into(), pipe] {
            let mapped = PeerSegment::map(fd, range.clone());
            assert!(matches!(mapped, Err(ShmError::Corrupt { .. })));
        }
    }

    #[test]
    fn too_much_is_an_error() {
        assert!(matches!(
            Segment::create("huge", usize::MAX),
            Err(ShmError::Limit { .. })
        ));
    }
}
