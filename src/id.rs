//! Ids and secrets: random, from the kernel.

/// A new id `<prefix>-<16 hex digits>`, for rows that need a name of their own.
pub fn new_id(prefix: &str) -> String {
    format!("{prefix}-{}", hex(&random::<8>()))
}

/// A new secret of 256 bits, as 64 hex digits.
pub fn new_secret() -> String {
    hex(&random::<32>())
}

/// A new code for a person to type, `XXXX-XXXX`: 40 bits, none of its characters looks like another.
pub fn new_code() -> String {
    const ALPHABET: &[u8; 32] = b"23456789ABCDEFGHJKLMNPQRSTUVWXYZ";
    let mut code: String = random::<8>().iter().map(|b| char::from(ALPHABET[usize::from(b % 32)])).collect();
    code.insert(4, '-');
    code
}

/// A stable short name for a path: 12 hex digits. It tells installs apart, it protects nothing.
pub fn short_hash(bytes: &[u8]) -> String {
    let hash = nanoclaw_session::layout::fnv1a_64(bytes);
    format!("{:012x}", hash & 0xffff_ffff_ffff)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    let mut filled = 0;
    while filled < N {
        // Fails only on a kernel without getrandom(2), older than any we can run on.
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())
            .expect("the kernel has getrandom(2)");
    }
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
