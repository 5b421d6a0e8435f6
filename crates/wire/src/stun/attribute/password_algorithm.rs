//! PASSWORD-ALGORITHM and PASSWORD-ALGORITHMS: how a long-term key is made.
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |          Algorithm           |  Algorithm Parameters Length   |
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! |                    Algorithm Parameters (variable)
//! +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
//! ```

use super::{Attribute, AttributeType};
use crate::stun::{TransactionId, ValueError};

/// A password algorithm's number (RFC 8489 section 18.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Algorithm(pub u16);

impl Algorithm {
    /// MD5, without parameters: [`long_term_key_md5`](crate::stun::long_term_key_md5).
    pub const MD5: Self = Self(0x0001);
    /// SHA-256, without parameters:
    /// [`long_term_key_sha256`](crate::stun::long_term_key_sha256).
    pub const SHA256: Self = Self(0x0002);
}

/// PASSWORD-ALGORITHM (RFC 8489 section 14.12): the algorithm a client chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PasswordAlgorithm<'a> {
    algorithm: Algorithm,
    parameters: &'a [u8],
}

impl<'a> PasswordAlgorithm<'a> {
    /// The most bytes of parameters: no algorithm has any yet.
    pub const MAX_PARAMETERS: usize = 255;

    /// An algorithm with parameters of at most [`Self::MAX_PARAMETERS`] bytes.
    ///
    /// # Errors
    ///
    /// [`ValueError::Length`] above that.
    pub const fn new(algorithm: Algorithm, parameters: &'a [u8]) -> Result<Self, ValueError> {
        if parameters.len() > Self::MAX_PARAMETERS {
            return Err(ValueError::Length);
        }
        Ok(Self {
            algorithm,
            parameters,
        })
    }

    /// Which algorithm.
    #[must_use]
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its parameters; empty for MD5 and SHA-256.
    #[must_use]
    pub const fn parameters(&self) -> &'a [u8] {
        self.parameters
    }

    /// Reads one and returns what follows its padding.
    fn split(value: &'a [u8]) -> Result<(Self, &'a [u8]), ValueError> {
        let ([a0, a1, l0, l1], rest) = value.split_first_chunk().ok_or(ValueError::Length)?;
        let length = usize::from(u16::from_be_bytes([*l0, *l1]));
        let (padded, rest) = rest
            .split_at_checked(length.next_multiple_of(4))
            .ok_or(ValueError::Length)?;
        let parameters = padded.get(..length).ok_or(ValueError::Length)?;
        let algorithm = Algorithm(u16::from_be_bytes([*a0, *a1]));
        Ok((Self::new(algorithm, parameters)?, rest))
    }

    fn append(&self, value: &mut Vec<u8>) {
        let length = u16::try_from(self.parameters.len()).unwrap_or_default();
        let padding = length.next_multiple_of(4).saturating_sub(length);
        value.extend_from_slice(&self.algorithm.0.to_be_bytes());
        value.extend_from_slice(&length.to_be_bytes());
        value.extend_from_slice(self.parameters);
        value.extend(std::iter::repeat_n(0, usize::from(padding)));
    }
}

impl<'a> Attribute<'a> for PasswordAlgorithm<'a> {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHM;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, ValueError> {
        match Self::split(value)? {
            (one, []) => Ok(one),
            _ => Err(ValueError::Length),
        }
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        self.append(value);
    }
}

/// PASSWORD-ALGORITHMS (RFC 8489 section 14.11): what a server accepts, best first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PasswordAlgorithms<'a>(Vec<PasswordAlgorithm<'a>>);

impl<'a> PasswordAlgorithms<'a> {
    /// The most algorithms in a list: two exist.
    pub const MAX: usize = 16;

    /// A list of at most [`Self::MAX`] algorithms.
    ///
    /// # Errors
    ///
    /// [`ValueError::Length`] above that.
    pub fn new(algorithms: &[PasswordAlgorithm<'a>]) -> Result<Self, ValueError> {
        if algorithms.len() > Self::MAX {
            return Err(ValueError::Length);
        }
        Ok(Self(algorithms.to_vec()))
    }

    /// The algorithms, in the order of preference.
    #[must_use]
    pub fn as_slice(&self) -> &[PasswordAlgorithm<'a>] {
        &self.0
    }
}

impl<'a> Attribute<'a> for PasswordAlgorithms<'a> {
    const TYPE: AttributeType = AttributeType::PASSWORD_ALGORITHMS;

    fn decode(mut value: &'a [u8], _: TransactionId) -> Result<Self, ValueError> {
        let mut algorithms = Vec::new();
        while !value.is_empty() && algorithms.len() <= Self::MAX {
            let (one, rest) = PasswordAlgorithm::split(value)?;
            algorithms.push(one);
            value = rest;
        }
        Self::new(&algorithms)
    }

    fn encode(&self, _: TransactionId, value: &mut Vec<u8>) {
        for one in &self.0 {
            one.append(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{decoded, encoded, one_short};
    use super::*;

    fn algorithm(number: u16, parameters: &[u8]) -> PasswordAlgorithm<'_> {
        PasswordAlgorithm::new(Algorithm(number), parameters).unwrap()
    }

    #[test]
    fn one_and_a_list_survive_the_round_trip() {
        let all = [algorithm(2, &[]), algorithm(1, &[]), algorithm(9, b"abcde")];
        for one in all {
            assert_eq!(decoded(&encoded(&one)), Ok(one));
        }
        let list = PasswordAlgorithms::new(&all).unwrap();
        assert_eq!(decoded(&encoded(&list)), Ok(list));
    }

    #[test]
    fn one_byte_short_is_refused() {
        for parameters in [&[][..], b"abcde"] {
            let value = encoded(&algorithm(9, parameters));
            assert_eq!(
                one_short::<PasswordAlgorithm<'_>>(&value),
                Err(ValueError::Length)
            );
            assert_eq!(
                one_short::<PasswordAlgorithms<'_>>(&value),
                Err(ValueError::Length)
            );
        }
    }

    #[test]
    fn two_algorithms_are_not_one() {
        let list = PasswordAlgorithms::new(&[algorithm(2, &[]), algorithm(1, &[])]).unwrap();
        assert_eq!(
            decoded::<PasswordAlgorithm<'_>>(&encoded(&list)),
            Err(ValueError::Length)
        );
    }

    #[test]
    fn the_vector_of_rfc_8489_decodes() {
        let one = decoded::<PasswordAlgorithm<'_>>(&[0, 2, 0, 0]).unwrap();
        assert_eq!(one.algorithm(), Algorithm::SHA256);
        assert!(one.parameters().is_empty());
    }

    #[test]
    fn the_list_and_the_parameters_are_bounded() {
        let value = [0, 2, 0, 0].repeat(PasswordAlgorithms::MAX + 1);
        assert_eq!(
            decoded::<PasswordAlgorithms<'_>>(&value),
            Err(ValueError::Length)
        );
        let parameters = [0; PasswordAlgorithm::MAX_PARAMETERS + 1];
        assert_eq!(
            PasswordAlgorithm::new(Algorithm::MD5, &parameters),
            Err(ValueError::Length)
        );
    }
}
