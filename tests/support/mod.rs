//! Drives the real binaries in real Docker, for the integration tests and the bench: a [`Host`]
//! with a fresh home, a [`Client`] of its terminal socket, and ways to wait for what happens.
//!
//! Nothing here waits for time to pass: every wait is for an event, with a deadline.

#![allow(dead_code)] // each binary that includes this uses another part of it

pub mod binaries;
pub mod docker;
mod host;
pub mod lines;
pub mod oracle;
pub mod process;
pub mod sqlite;
pub mod wait;
mod wire;

pub use host::{Host, files_below};
pub use wire::{Client, texts};

/// A small generator of random numbers (xorshift) whose seed is printed, so that a failure can be
/// run again: `NANOCLAW_TEST_SEED`.
pub struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    pub fn new(test: &str) -> Random {
        let given = std::env::var("NANOCLAW_TEST_SEED").ok().and_then(|s| s.parse().ok());
        let seed = given.unwrap_or_else(|| u64::try_from(wait::now().as_nanosecond()).unwrap_or(1)) | 1;
        eprintln!("{test}: NANOCLAW_TEST_SEED={seed}");
        Random { seed, state: seed }
    }

    /// What makes the same numbers come again.
    pub fn seed(&self) -> String {
        format!("NANOCLAW_TEST_SEED={}", self.seed)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.within(0..limit as u64) as usize
    }

    /// A number from `range`.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        range.start + self.state % (range.end - range.start)
    }
}
