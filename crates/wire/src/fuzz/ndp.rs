//! Options of router advertisements.

use crate::ndp::prefixes;

/// What is read is written and read back the same.
pub fn ndp(data: &[u8]) {
    for found in prefixes(data) {
        let again: Vec<_> = prefixes(&found.to_bytes()).collect();
        assert_eq!(again, [found]);
    }
}
