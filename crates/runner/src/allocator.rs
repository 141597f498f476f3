//! Memory between two training steps, and between two runs.
//!
//! A training step frees and asks again for the same gigabytes. Given back to the kernel in between, every page of
//! them would be cleared once more: on SmolLM2-135M, batch 4 x 200, that was a third of the step. So freed memory is
//! kept for a minute, and given back at the end of a run, whose successor then reports a peak of its own.

use libmimalloc_sys::{mi_collect, mi_option_set, mi_option_t};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc's `mimalloc.h`, versions 2 and 3; its Rust bindings leave it out.
const PURGE_DELAY: mi_option_t = 15;

/// Milliseconds, longer than any step that is worth its memory.
const KEPT_FOR: i64 = 60_000;

/// libtorch's memory comes from the C library, whose options are in glibc's `malloc.h`.
#[cfg(all(feature = "libtorch", target_os = "linux", target_env = "gnu"))]
mod glibc {
    unsafe extern "C" {
        pub fn mallopt(option: i32, value: i32) -> i32;
        pub fn malloc_trim(pad: usize) -> i32;
    }
    /// Free bytes at the end of the heap above which they are given back: never.
    pub const TRIM_THRESHOLD: (i32, i32) = (-1, i32::MAX);
    /// Allocations that are mappings of their own, which are given back when freed: none.
    pub const MMAP_MAX: (i32, i32) = (-4, 0);
    /// Heaps: one, since only the first one can grow to any size.
    pub const ARENA_MAX: (i32, i32) = (-8, 1);
}

/// To be called once, before anything is computed.
pub fn keep_freed_memory() {
    #[cfg(all(feature = "libtorch", target_os = "linux", target_env = "gnu"))]
    for (option, value) in [glibc::TRIM_THRESHOLD, glibc::MMAP_MAX, glibc::ARENA_MAX] {
        // SAFETY: sets an option of the allocator, which may be done at any time from any thread.
        unsafe { glibc::mallopt(option, value) };
    }
    // SAFETY: sets an option of the allocator, which may be done at any time from any thread.
    unsafe { mi_option_set(PURGE_DELAY, KEPT_FOR as _) };
}

/// Gives all freed memory back to the system.
pub fn release() {
    #[cfg(all(feature = "libtorch", target_os = "linux", target_env = "gnu"))]
    // SAFETY: no precondition; only memory that is free is given back.
    unsafe {
        glibc::malloc_trim(0);
    }
    // SAFETY: no precondition; only memory that is free is given back.
    unsafe { mi_collect(true) };
}
