//! The signalling messages.

/// Every parser of [`signal`](crate::signal): what parses is written and read back the
/// same.
pub fn signal(data: &[u8]) {
    use crate::signal::{ClientMessage, Code, Envelope, PeerMessage, ServerMessage};

    if let Ok(message) = ClientMessage::parse(data) {
        assert_eq!(
            ClientMessage::parse(message.to_json().as_bytes()),
            Ok(message)
        );
    }
    if let Ok(message) = ServerMessage::parse(data) {
        assert_eq!(
            ServerMessage::parse(message.to_json().as_bytes()),
            Ok(message)
        );
    }
    if let Ok(message) = PeerMessage::parse(data) {
        assert_eq!(
            PeerMessage::parse(message.to_json().as_bytes()),
            Ok(message)
        );
    }
    if let Ok(envelope) = Envelope::parse(data) {
        assert_eq!(envelope.to_bytes(), data);
    }
    if let Some(code) = std::str::from_utf8(data)
        .ok()
        .and_then(|text| text.parse::<Code>().ok())
    {
        assert_eq!(code.to_string().parse(), Ok(code));
    }
}
