//! Identifiers that must not repeat: outbound messages and continuations.

use jiff::Timestamp;
use rustix::rand::{GetRandomFlags, getrandom};

/// Sixteen hexadecimal digits from the kernel.
pub fn random() -> String {
    let mut bytes = [0u8; 8];
    // Fails only before the kernel's pool is seeded, and a container starts long after.
    getrandom(&mut bytes, GetRandomFlags::empty()).expect("the kernel's random numbers");
    format!("{:016x}", u64::from_be_bytes(bytes))
}

/// A new outbound message, written at `now`.
pub fn message(now: Timestamp) -> String {
    format!("msg-{}-{}", now.as_millisecond(), random())
}
