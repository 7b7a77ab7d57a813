//! Keeping the heap small. glibc gives every thread an arena of its own and keeps what was freed:
//! on a small machine that is most of an idle daemon's memory.

/// One arena for all threads, which hardly contend. Call it before any other thread runs.
pub fn keep_small() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets options.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, 128 * 1024);
    }
}

/// Gives freed memory back to the system. About a millisecond: once after a burst, not in a loop.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions.
    unsafe {
        libc::malloc_trim(0);
    }
}
