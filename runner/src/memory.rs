//! Keeps the heap small: a runner spends its life waiting.
//!
//! glibc only; other allocators give memory back by themselves or have no such knob.

/// Most malloc arenas. Each thread would otherwise get one of its own.
#[cfg(target_env = "gnu")]
const MAX_ARENAS: libc::c_int = 2;

/// Called once, before the first thread starts.
pub fn limit_arenas() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; it runs before other threads exist.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, MAX_ARENAS);
    }
}

/// Gives back what a turn used.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no preconditions; it is thread-safe.
    unsafe {
        libc::malloc_trim(0);
    }
}
