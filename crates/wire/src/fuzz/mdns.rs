//! Multicast DNS.

use crate::mdns::Message;

/// What parses is written and read back the same.
pub fn mdns(data: &[u8]) {
    if let Ok(message) = Message::parse(data) {
        assert_eq!(Message::parse(&message.to_bytes()), Ok(message));
    }
}
