//! An order in which all of many are visited once.

/// Numbers below `count` in an order without repetition: steps of a size that has no
/// divisor in common with `count`. It needs no memory, and what is hit is random anyway.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shuffle {
    count: u32,
    start: u32,
    step: u32,
}

impl Shuffle {
    /// An order for this random number.
    pub(crate) fn new(count: u32, random: u64) -> Self {
        let count = count.max(1);
        let below = |number: u64| u32::try_from(number.checked_rem(count.into()).unwrap_or(0));
        let start = below(random >> 32).unwrap_or(0);
        let mut step = below(random & 0xffff_ffff).unwrap_or(0).max(1);
        while common_divisor(step, count) > 1 {
            step = step.saturating_add(1);
        }
        Self { count, start, step }
    }

    /// The number at this place; places beyond `count` go round again.
    pub(crate) fn at(self, place: u32) -> u32 {
        let distance = u64::from(place).saturating_mul(self.step.into());
        let sum = distance.saturating_add(self.start.into());
        let within = sum.checked_rem(self.count.into()).unwrap_or(0);
        u32::try_from(within).unwrap_or(0)
    }
}

fn common_divisor(mut a: u32, mut b: u32) -> u32 {
    while b != 0 {
        (a, b) = (b, a.checked_rem(b).unwrap_or(0));
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_number_comes_once_before_any_comes_again() {
        for (count, random) in [
            (1, 0),
            (2, u64::MAX),
            (800, 0x1234_5678_9abc_def0),
            (64_512, 99),
        ] {
            let shuffle = Shuffle::new(count, random);
            let seen: BTreeSet<_> = (0..count).map(|place| shuffle.at(place)).collect();
            assert_eq!(seen.len(), usize::try_from(count).unwrap());
            assert_eq!(shuffle.at(count), shuffle.at(0));
        }
    }
}
