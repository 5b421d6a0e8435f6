//! Which mailbox numbers are in use: few digits, and not the next one in a row.

use std::collections::BTreeSet;

use postern_wire::signal::MAX_MAILBOX;
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

/// Draws before a number is given up on. Less than half of the range is taken, so that
/// so many draws all fail once in 2^64.
const MAX_DRAWS: u32 = 64;

/// The numbers in use, and those that rest after it.
#[derive(Debug)]
pub(super) struct Numbers {
    rng: ChaCha20Rng,
    limit: usize,
    taken: BTreeSet<u32>,
    /// How many numbers of 1, 2, … digits are taken.
    by_digits: [u32; MAX_MAILBOX.ilog10() as usize + 1],
}

impl Numbers {
    /// At most `limit` numbers at a time.
    pub(super) const fn new(rng: ChaCha20Rng, limit: usize) -> Self {
        Self {
            rng,
            limit,
            taken: BTreeSet::new(),
            by_digits: [0; MAX_MAILBOX.ilog10() as usize + 1],
        }
    }

    /// Takes a random number of as few digits as are less than half taken.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.taken.len() >= self.limit {
            return None;
        }
        let (first, count) = self.range()?;
        let draws = (0..MAX_DRAWS).map(|_| draw(&mut self.rng, first, count));
        let number = draws.into_iter().find(|n| !self.taken.contains(n))?;
        self.taken.insert(number);
        if let Some(digits) = self.digits(number) {
            *digits = digits.saturating_add(1);
        }
        Some(number)
    }

    /// Gives a number back.
    pub(super) fn release(&mut self, number: u32) {
        if self.taken.remove(&number)
            && let Some(digits) = self.digits(number)
        {
            *digits = digits.saturating_sub(1);
        }
    }

    /// The first number of the range to draw from, and how many there are.
    fn range(&self) -> Option<(u32, u32)> {
        let ranges = (0_u32..).map(|exponent| {
            let first = 10_u32.saturating_pow(exponent);
            (first, first.saturating_mul(9))
        });
        let mut by_digits = self.by_digits.iter().zip(ranges);
        let free = by_digits.find(|(taken, (_, count))| taken.saturating_mul(2) < *count);
        free.map(|(_, range)| range)
    }

    fn digits(&mut self, number: u32) -> Option<&mut u32> {
        let digits = number.checked_ilog10()?;
        self.by_digits.get_mut(digits as usize)
    }
}

/// A number of the range; 64 bits make the remainder's bias invisible.
fn draw(rng: &mut ChaCha20Rng, first: u32, count: u32) -> u32 {
    let offset = rng.next_u64().checked_rem(u64::from(count));
    let offset = offset.and_then(|offset| u32::try_from(offset).ok());
    first.saturating_add(offset.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    fn numbers(limit: usize) -> Numbers {
        Numbers::new(ChaCha20Rng::from_seed([3; 32]), limit)
    }

    #[test]
    fn the_first_half_of_the_one_digit_numbers_goes_first_then_two_digits() {
        let mut numbers = numbers(100);
        let digits: Vec<_> = (0..50)
            .map(|_| numbers.take().unwrap().ilog10() + 1)
            .collect();
        assert_eq!(digits[..5], [1; 5]);
        assert_eq!(digits[5..], [2; 45]);
        assert_eq!(numbers.take().unwrap().ilog10() + 1, 3);
    }

    #[test]
    fn a_released_number_can_come_again_and_none_is_given_twice() {
        let mut numbers = numbers(5);
        let all: BTreeSet<_> = (0..5).filter_map(|_| numbers.take()).collect();
        assert_eq!(all.len(), 5);
        assert_eq!(numbers.take(), None);
        numbers.release(*all.first().unwrap());
        assert!(numbers.take().is_some());
    }
}
