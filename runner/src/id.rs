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

/// A random UUID (version 4, RFC 9562).
pub fn uuid() -> String {
    let (a, b) = (random(), random());
    // Two bits of the variant: 8, 9, a or b.
    let variant = &format!("{:x}", 8 + b.as_bytes()[0] % 4);
    format!("{}-{}-4{}-{variant}{}-{}", &a[..8], &a[8..12], &a[13..], &b[1..4], &b[4..])
}

/// A new outbound message, written at `now`.
pub fn message(now: Timestamp) -> String {
    format!("msg-{}-{}", now.as_millisecond(), random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_its_shape_and_does_not_repeat() {
        let uuid = uuid();
        let parts: Vec<&str> = uuid.split('-').collect();
        assert_eq!(parts.iter().map(|p| p.len()).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        assert!(parts[2].starts_with('4') && parts[3].starts_with(['8', '9', 'a', 'b']), "{uuid}");
        assert!(uuid.chars().all(|c| c == '-' || c.is_ascii_hexdigit()));
        assert_ne!(uuid, super::uuid());
    }
}
