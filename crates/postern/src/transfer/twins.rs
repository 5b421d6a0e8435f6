//! Names that some systems take for the same.

use postern_wire::transfer::Name;
use std::collections::BTreeSet;
use unicode_normalization::UnicodeNormalization;

/// The names of one transfer, as 8 bytes of hash each.
///
/// Two different names among a million have the same hash once in thirty million
/// transfers; a sender who makes it happen gains a refusal.
#[derive(Debug, Default)]
pub(super) struct Twins(BTreeSet<[u8; 8]>);

impl Twins {
    /// Whether `name` is the first of its kind.
    pub(super) fn insert(&mut self, name: &Name) -> bool {
        let hash = blake3::hash(&fold(name));
        let short = hash.as_bytes().first_chunk().copied().unwrap_or_default();
        self.0.insert(short)
    }
}

/// `name` without the differences that macOS and Windows ignore: case and composition.
fn fold(name: &Name) -> Vec<u8> {
    match std::str::from_utf8(name.as_bytes()) {
        Ok(text) => {
            let lower = text.nfc().flat_map(char::to_lowercase);
            lower.nfc().collect::<String>().into_bytes()
        }
        Err(_) => name.as_bytes().to_ascii_lowercase(),
    }
}
