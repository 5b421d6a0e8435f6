//! Randomness of the world: one seed, one independent stream for each part.

use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

/// A 32-byte seed from a number, for tests that count through seeds.
#[must_use]
pub fn seed(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// A stream of the world's randomness that nobody else draws from, so that adding a
/// node or a packet in one place does not change the luck of another.
#[derive(Debug, Clone)]
pub(crate) struct Stream(ChaCha20Rng);

impl Stream {
    pub(crate) fn new(seed: [u8; 32], number: u64) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        rng.set_stream(number);
        Self(rng)
    }

    /// True with the given probability (0 never, 1 always).
    pub(crate) fn chance(&mut self, probability: f64) -> bool {
        if probability <= 0.0 {
            return false;
        }
        f64::from(self.0.next_u32()) < probability * (f64::from(u32::MAX) + 1.0)
    }

    /// A number from 0 up to, not including, `bound`; 0 when `bound` is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.0.next_u64()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// A time in seconds to the next of events that come `rate` times a second on average.
    pub(crate) fn exponential(&mut self, rate: u16) -> f64 {
        let uniform = (f64::from(self.0.next_u32()) + 1.0) / (f64::from(u32::MAX) + 2.0);
        -uniform.ln() / f64::from(rate.max(1))
    }

    /// A seed for a machine.
    pub(crate) fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
}
