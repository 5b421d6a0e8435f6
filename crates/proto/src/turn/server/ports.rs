//! The pool of relay ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;

use super::types::RelayPort;

/// Ports in a word of the pool.
const WORD: u16 = 64;
/// Words of the pool.
const WORDS: usize = 1024;

/// Draws before the pool is searched in order: with half of the ports free, one in a
/// million comes that far.
const DRAWS: u32 = 20;

/// Which ports are taken at each relay address. Being taken, not what `bind` says, is
/// what keeps two allocations apart: RFC 6062 binds several sockets to one port.
///
/// UDP and TCP share the numbers, so that one bit says all.
#[derive(Debug)]
pub(super) struct Ports {
    min: u16,
    max: u16,
    pools: BTreeMap<IpAddr, Pool>,
    rng: ChaCha20Rng,
}

/// What a port must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parity {
    Any,
    Even,
    /// Even, and the next one is taken as well.
    EvenAndNext,
}

#[derive(Debug)]
struct Pool {
    /// One bit for each of 65,536 ports.
    taken: Vec<u64>,
}

impl Ports {
    pub(super) fn new(range: &RangeInclusive<u16>, rng: ChaCha20Rng) -> Self {
        Self {
            min: (*range.start()).max(1),
            max: *range.end(),
            pools: BTreeMap::new(),
            rng,
        }
    }

    /// Takes a port of this address; `None` if none is left. The number is drawn, so that
    /// an outsider cannot guess where the next relay will be.
    pub(super) fn take(&mut self, ip: IpAddr, parity: Parity) -> Option<RelayPort> {
        let port = (0..DRAWS)
            .find_map(|_| {
                let port = self.draw()?;
                self.fits(ip, port, parity).then_some(port)
            })
            .or_else(|| {
                let start = self.draw()?;
                self.search(ip, parity, start)
            })?;
        let pool = self.pools.entry(ip).or_default();
        pool.set(port, true);
        if parity == Parity::EvenAndNext {
            pool.set(port.saturating_add(1), true);
        }
        Some(RelayPort(port))
    }

    pub(super) fn give_back(&mut self, ip: IpAddr, port: RelayPort) {
        if let Some(pool) = self.pools.get_mut(&ip) {
            pool.set(port.0, false);
        }
    }

    fn draw(&mut self) -> Option<u16> {
        let count = u32::from(self.max)
            .checked_sub(u32::from(self.min))?
            .checked_add(1)?;
        let offset = self.rng.next_u32().checked_rem(count)?;
        u16::try_from(u32::from(self.min).checked_add(offset)?).ok()
    }

    /// The first port that fits behind a drawn one, found by words of 64 ports.
    fn search(&self, ip: IpAddr, parity: Parity, start: u16) -> Option<u16> {
        let (first, last) = (start / WORD, self.max / WORD);
        (first..=last)
            .chain(self.min / WORD..first)
            .find_map(|word| self.search_word(ip, parity, word))
    }

    fn search_word(&self, ip: IpAddr, parity: Parity, word: u16) -> Option<u16> {
        let free = self.pools.get(&ip).map_or(u64::MAX, |pool| pool.free(word));
        if free == 0 {
            return None;
        }
        (0..WORD)
            .filter_map(|offset| word.checked_mul(WORD)?.checked_add(offset))
            .find(|port| self.fits(ip, *port, parity))
    }

    fn fits(&self, ip: IpAddr, port: u16, parity: Parity) -> bool {
        let even = port.is_multiple_of(2);
        match parity {
            Parity::Any => self.is_free(ip, port),
            Parity::Even => even && self.is_free(ip, port),
            Parity::EvenAndNext => {
                let next = port.checked_add(1);
                even && self.is_free(ip, port) && next.is_some_and(|next| self.is_free(ip, next))
            }
        }
    }

    fn is_free(&self, ip: IpAddr, port: u16) -> bool {
        let is_ours = (self.min..=self.max).contains(&port);
        let taken = self.pools.get(&ip).is_some_and(|pool| pool.is_taken(port));
        is_ours && !taken
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            taken: vec![0; WORDS],
        }
    }
}

impl Pool {
    fn is_taken(&self, port: u16) -> bool {
        self.free(port / WORD) & bit(port % WORD) == 0
    }

    /// The free ones of 64 ports.
    fn free(&self, word: u16) -> u64 {
        self.taken.get(usize::from(word)).map_or(0, |word| !word)
    }

    fn set(&mut self, port: u16, taken: bool) {
        if let Some(word) = self.taken.get_mut(usize::from(port / WORD)) {
            if taken {
                *word |= bit(port % WORD);
            } else {
                *word &= !bit(port % WORD);
            }
        }
    }
}

/// The bit of one of 64 ports.
const fn bit(offset: u16) -> u64 {
    1_u64.rotate_left(offset as u32)
}

#[cfg(test)]
mod tests {
    use rand_core::SeedableRng;

    use super::*;

    const IP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 51, 100, 1));

    fn ports(range: RangeInclusive<u16>) -> Ports {
        Ports::new(&range, ChaCha20Rng::from_seed([3; 32]))
    }

    fn drain(ports: &mut Ports, parity: Parity) -> Vec<u16> {
        let mut taken: Vec<_> = std::iter::from_fn(|| ports.take(IP, parity))
            .map(RelayPort::number)
            .collect();
        taken.sort_unstable();
        taken
    }

    #[test]
    fn every_port_is_given_once() {
        let mut ports = ports(40_000..=40_199);
        assert_eq!(
            drain(&mut ports, Parity::Any),
            Vec::from_iter(40_000..40_200)
        );
        assert_eq!(ports.take(IP, Parity::Any), None);
    }

    #[test]
    fn a_port_that_came_back_is_given_again() {
        let mut ports = ports(40_000..=40_009);
        drain(&mut ports, Parity::Any);
        ports.give_back(IP, RelayPort(40_007));
        assert_eq!(drain(&mut ports, Parity::Any), [40_007]);
    }

    #[test]
    fn even_ports_are_even() {
        let mut ports = ports(40_001..=40_007);
        assert_eq!(drain(&mut ports, Parity::Even), [40_002, 40_004, 40_006]);
        assert_eq!(
            drain(&mut ports, Parity::Any),
            [40_001, 40_003, 40_005, 40_007]
        );
    }

    #[test]
    fn a_pair_takes_both_and_does_not_leave_the_range() {
        let mut ports = ports(40_000..=40_004);
        assert_eq!(drain(&mut ports, Parity::EvenAndNext), [40_000, 40_002]);
        assert_eq!(drain(&mut ports, Parity::Any), [40_004]);
    }

    #[test]
    fn the_last_port_of_all_is_no_trap() {
        let mut ports = ports(65_534..=65_535);
        assert_eq!(drain(&mut ports, Parity::EvenAndNext), [65_534]);
    }

    #[test]
    fn ports_of_two_addresses_are_two_ports() {
        let mut ports = ports(40_000..=40_000);
        assert!(ports.take(IP, Parity::Any).is_some());
        assert!(ports.take("::1".parse().unwrap(), Parity::Any).is_some());
    }

    #[test]
    fn an_empty_range_has_none() {
        #[expect(clippy::reversed_empty_ranges, reason = "an operator can type it")]
        let mut ports = ports(2..=1);
        assert_eq!(ports.take(IP, Parity::Any), None);
    }

    #[test]
    fn neighbouring_draws_are_not_neighbours() {
        let mut ports = ports(1024..=65_535);
        let taken: Vec<_> = (0..100)
            .filter_map(|_| ports.take(IP, Parity::Any))
            .collect();
        let close = taken
            .windows(2)
            .filter(|pair| pair[0].0.abs_diff(pair[1].0) < 16)
            .count();
        assert!(close < 5, "{close}");
    }
}
