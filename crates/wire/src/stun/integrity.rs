//! Keys, and the values of MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT.
//!
//! All three cover the message up to themselves, with a length field that already counts
//! the attribute (RFC 8489 sections 14.5 to 14.7).

use hmac::digest::Digest;
use hmac::{Hmac, Mac};
use md5::Md5;
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::IntegrityError;
use super::header::HEADER_LEN;

/// Length of an attribute's header.
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// The key block of HMAC with SHA-1 and with SHA-256.
const BLOCK_LEN: usize = 64;
/// What the CRC-32 is combined with, so that other protocols' CRCs do not match.
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// The shortest MESSAGE-INTEGRITY-SHA256; longer ones grow by four.
const MIN_SHA256_LEN: usize = 16;

/// The key of the short-term credential mechanism (RFC 8489 section 9.1.1): the password
/// itself.
///
/// The password is used as it is: OpaqueString preparation (RFC 8265) is the caller's.
/// ICE passwords need none, they are ASCII.
#[must_use]
pub const fn short_term_key(password: &str) -> &[u8] {
    password.as_bytes()
}

/// The key of the long-term credential mechanism with MD5 (RFC 8489 section 18.5.1.1).
///
/// The three strings are used as they are: OpaqueString preparation (RFC 8265) is the
/// caller's.
#[must_use]
pub fn long_term_key_md5(username: &str, realm: &str, password: &str) -> [u8; 16] {
    hash_joined::<Md5>(&[username, realm, password]).into()
}

/// The key of the long-term credential mechanism with SHA-256 (RFC 8489 section
/// 18.5.1.2).
///
/// The three strings are used as they are: OpaqueString preparation (RFC 8265) is the
/// caller's.
#[must_use]
pub fn long_term_key_sha256(username: &str, realm: &str, password: &str) -> [u8; 32] {
    hash_joined::<Sha256>(&[username, realm, password]).into()
}

/// Hashes the parts with a colon between them.
pub(super) fn hash_joined<D: Digest>(parts: &[&str]) -> hmac::digest::Output<D> {
    D::digest(parts.join(":"))
}

/// MESSAGE-INTEGRITY of a message of which `covered` precedes the attribute.
pub(super) fn sha1(key: &[u8], covered: &[u8]) -> [u8; 20] {
    hmac_sha1(key, covered, 20).finalize().into_bytes().into()
}

/// MESSAGE-INTEGRITY-SHA256, in full length, of a message of which `covered` precedes the
/// attribute.
pub(super) fn sha256(key: &[u8], covered: &[u8]) -> [u8; 32] {
    hmac_sha256(key, covered, 32).finalize().into_bytes().into()
}

/// MESSAGE-INTEGRITY-SHA256 as a sender that truncates it to `length` makes it.
#[cfg(test)]
pub(super) fn truncated_sha256(key: &[u8], covered: &[u8], length: usize) -> Vec<u8> {
    let mut value = hmac_sha256(key, covered, length)
        .finalize()
        .into_bytes()
        .to_vec();
    value.truncate(length);
    value
}

/// FINGERPRINT of a message of which `covered` precedes the attribute.
pub(super) fn fingerprint(covered: &[u8]) -> [u8; 4] {
    let (start, rest) = adjusted(covered, 4);
    let mut crc = crc32fast::Hasher::new();
    crc.update(&start);
    crc.update(rest);
    (crc.finalize() ^ FINGERPRINT_XOR).to_be_bytes()
}

pub(super) fn verify_sha1(key: &[u8], covered: &[u8], value: &[u8]) -> Result<(), IntegrityError> {
    if value.len() != 20 {
        return Err(IntegrityError::Malformed);
    }
    hmac_sha1(key, covered, value.len())
        .verify_slice(value)
        .map_err(|_| IntegrityError::Mismatch)
}

pub(super) fn verify_sha256(
    key: &[u8],
    covered: &[u8],
    value: &[u8],
) -> Result<(), IntegrityError> {
    if !(MIN_SHA256_LEN..=32).contains(&value.len()) || !value.len().is_multiple_of(4) {
        return Err(IntegrityError::Malformed);
    }
    hmac_sha256(key, covered, value.len())
        .verify_truncated_left(value)
        .map_err(|_| IntegrityError::Mismatch)
}

/// Checks a FINGERPRINT found behind `covered` in a message of `message_len` bytes.
pub(super) fn verify_fingerprint(
    covered: &[u8],
    value: &[u8],
    message_len: usize,
) -> Result<(), IntegrityError> {
    let behind = message_len.checked_sub(covered.len());
    if value.len() != 4 || behind != Some(ATTRIBUTE_HEADER_LEN.saturating_add(4)) {
        return Err(IntegrityError::Malformed);
    }
    if bool::from(fingerprint(covered).ct_eq(value)) {
        Ok(())
    } else {
        Err(IntegrityError::Mismatch)
    }
}

fn hmac_sha1(key: &[u8], covered: &[u8], value_len: usize) -> Hmac<Sha1> {
    let (start, rest) = adjusted(covered, value_len);
    Hmac::<Sha1>::new(&key_block::<Sha1>(key).into())
        .chain_update(start)
        .chain_update(rest)
}

fn hmac_sha256(key: &[u8], covered: &[u8], value_len: usize) -> Hmac<Sha256> {
    let (start, rest) = adjusted(covered, value_len);
    Hmac::<Sha256>::new(&key_block::<Sha256>(key).into())
        .chain_update(start)
        .chain_update(rest)
}

/// The key as HMAC pads it (RFC 2104 section 2): with it no length can be wrong.
fn key_block<D: Digest>(key: &[u8]) -> [u8; BLOCK_LEN] {
    let hashed = (key.len() > BLOCK_LEN).then(|| D::digest(key));
    let key = hashed.as_deref().unwrap_or(key);
    let mut block = [0; BLOCK_LEN];
    for (to, from) in block.iter_mut().zip(key) {
        *to = *from;
    }
    block
}

/// The first four bytes of `covered` with the length field that counts an attribute of
/// `value_len` bytes behind it, and the rest.
fn adjusted(covered: &[u8], value_len: usize) -> ([u8; 4], &[u8]) {
    let (start, rest) = covered.split_first_chunk::<4>().unwrap_or((&[0; 4], &[]));
    let length = covered
        .len()
        .saturating_sub(HEADER_LEN)
        .saturating_add(ATTRIBUTE_HEADER_LEN)
        .saturating_add(value_len);
    let [t0, t1, ..] = *start;
    let [l0, l1] = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    ([t0, t1, l0, l1], rest)
}
