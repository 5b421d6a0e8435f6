//! Router advertisements (RFC 4861), as far as they tell of a translator: the option PREF64
//! (RFC 8781).
//!
//! ```
//! use postern_wire::ndp::{Pref64, prefixes};
//!
//! let option = Pref64 { prefix: "64:ff9b::".parse()?, length: 96, lifetime: 1800 };
//! assert_eq!(prefixes(&option.to_bytes()).collect::<Vec<_>>(), [option]);
//! # Ok::<(), std::net::AddrParseError>(())
//! ```

use std::net::Ipv6Addr;

/// A router solicitation without options (RFC 4861 section 4.1), but for its checksum.
pub const ROUTER_SOLICITATION: [u8; 8] = [133, 0, 0, 0, 0, 0, 0, 0];
/// The ICMPv6 type of a router advertisement (RFC 4861 section 4.2).
pub const ROUTER_ADVERTISEMENT: u8 = 134;

/// More prefixes than this in one advertisement are ignored: nobody has more than one or two
/// translators.
const MAX_PREFIXES: usize = 8;

/// The type of the option.
const PREF64: u8 = 38;
/// Its length, in units of 8 bytes.
const LENGTH: u8 = 2;
/// What options are measured in.
const UNIT: usize = 8;
/// Prefix length codes, in their order (RFC 8781 section 4).
const LENGTHS: [u8; 6] = [96, 64, 56, 48, 40, 32];
/// How many bits the code has.
const CODE_BITS: u32 = 3;

/// The prefix under which a translator takes IPv4 addresses (RFC 8781 section 4).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |   Type = 38   |  Length = 2   |     Scaled Lifetime     | PLC |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |              Highest 96 bits of the Prefix                    |
/// |                                                               |
/// |                                                               |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pref64 {
    /// The prefix; bits beyond its length are zero.
    pub prefix: Ipv6Addr,
    /// 32, 40, 48, 56, 64 or 96.
    pub length: u8,
    /// For how many seconds it holds, a multiple of 8 up to 65,528; zero takes it back.
    pub lifetime: u16,
}

impl Pref64 {
    /// Reads the value of the option, what follows its length. `None` if it is to be ignored.
    fn parse(value: &[u8]) -> Option<Self> {
        let ([high, low], rest) = value.split_first_chunk()?;
        let prefix: &[u8; 12] = rest.try_into().ok()?;
        let scaled = u16::from_be_bytes([*high, *low]);
        let code = scaled & ((1 << CODE_BITS) - 1);
        let length = *LENGTHS.get(usize::from(code))?;
        let mut octets = [0; 16];
        for (octet, told) in octets.iter_mut().zip(prefix) {
            *octet = *told;
        }
        let beyond = 128_u32.saturating_sub(length.into());
        let mask = u128::MAX.checked_shl(beyond)?;
        Some(Self {
            prefix: Ipv6Addr::from_bits(u128::from_be_bytes(octets) & mask),
            length,
            // In units of eight seconds, and above three bits: the same number.
            lifetime: scaled & !((1 << CODE_BITS) - 1),
        })
    }

    /// The option. A length that there is not is written as 96, and a lifetime is rounded down to
    /// eight seconds.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 16] {
        let mut code = (0_u16..).zip(LENGTHS);
        let code = code.find_map(|(code, length)| (length == self.length).then_some(code));
        let scaled = self.lifetime & !((1 << CODE_BITS) - 1) | code.unwrap_or_default();
        let [high, low] = scaled.to_be_bytes();
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = self.prefix.octets();
        [
            PREF64, LENGTH, high, low, a, b, c, d, e, f, g, h, i, j, k, l,
        ]
    }
}

/// The prefixes among the options of an advertisement. What makes no sense is left out, and all
/// that follows where options cannot be told apart any longer.
pub fn prefixes(options: &[u8]) -> impl Iterator<Item = Pref64> {
    let mut rest = options;
    let options = std::iter::from_fn(move || {
        let ([kind, length], _) = rest.split_first_chunk::<2>()?;
        // An option without length would be read for ever (RFC 4861 section 4.6).
        let length = usize::from(*length).checked_mul(UNIT).filter(|l| *l > 0)?;
        let (option, next) = rest.split_at_checked(length)?;
        rest = next;
        Some((*kind, option))
    });
    options
        .filter(|(kind, option)| {
            *kind == PREF64 && option.len() == usize::from(LENGTH).saturating_mul(UNIT)
        })
        .filter_map(|(_, option)| Pref64::parse(option.get(2..)?))
        .take(MAX_PREFIXES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn option(prefix: &str, length: u8, lifetime: u16) -> Pref64 {
        Pref64 {
            prefix: prefix.parse().unwrap(),
            length,
            lifetime,
        }
    }

    fn read(options: &[u8]) -> Vec<Pref64> {
        prefixes(options).collect()
    }

    #[test]
    fn an_option_is_laid_out_as_in_the_rfc() {
        let bytes = [
            38, 2, 0x07, 0x08, 0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        let option = option("64:ff9b::", 96, 1800);
        assert_eq!(option.to_bytes(), bytes);
        assert_eq!(read(&bytes), [option]);
    }

    #[test]
    fn every_length_has_its_code_and_bits_beyond_it_do_not_count() {
        for (code, length) in (0_u8..).zip(LENGTHS) {
            let mut bytes = [0xff; 16];
            bytes[..4].copy_from_slice(&[38, 2, 0, 8 | code]);
            let [found] = read(&bytes)[..] else {
                panic!("{length}");
            };
            assert_eq!((found.length, found.lifetime), (length, 8));
            let bits = found.prefix.to_bits();
            let ones = (bits.leading_ones(), bits.count_ones());
            assert_eq!(ones, (u32::from(length), u32::from(length)));
            assert_eq!(read(&found.to_bytes()), [found]);
        }
        for code in [6, 7] {
            let mut bytes = option("64:ff9b::", 96, 8).to_bytes();
            bytes[3] |= code;
            assert_eq!(read(&bytes), []);
        }
    }

    #[test]
    fn others_are_skipped_and_what_is_cut_off_ends_it() {
        let wanted = option("64:ff9b::", 96, 65_528);
        let dns = [25, 1, 0, 0, 0, 0, 0, 0];
        let long = [38, 1, 0, 8, 0, 0x64, 0xff, 0x9b];
        let all = [&dns[..], &long, &wanted.to_bytes(), &[38, 2, 0]].concat();
        assert_eq!(read(&all), [wanted]);
        for cut in 0..16 {
            assert_eq!(read(&wanted.to_bytes()[..cut]), []);
        }
        let endless = [&[25, 0][..], &wanted.to_bytes()].concat();
        assert_eq!(read(&endless), []);
        let many = wanted.to_bytes().repeat(100);
        assert_eq!(read(&many).len(), MAX_PREFIXES);
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_and_read_the_same(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            crate::fuzz::ndp(&bytes);
        }
    }
}
