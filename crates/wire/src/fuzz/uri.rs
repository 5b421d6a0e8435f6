//! The URIs of servers, which a stranger's server may name.

use crate::uri::{MAX_LEN, ServerUri};

/// What parses is written and read back the same, and its address can be used.
pub fn uri(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Ok(uri) = text.parse::<ServerUri>() {
        assert!(text.len() <= MAX_LEN);
        assert_ne!(uri.port(), 0);
        assert!(uri.scheme.is_turn() || uri.transport.is_none());
        let again = uri.to_string();
        assert!(again.len() > MAX_LEN || again.parse() == Ok(uri));
    }
}
