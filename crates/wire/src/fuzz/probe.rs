//! What a client and a server say about a probe.

use crate::probe::{Answer, Request};

/// Whatever is read can be written, and reads as the same again.
///
/// # Panics
///
/// When it does not.
pub fn probe(data: &[u8]) {
    if let Ok(request) = Request::parse(data) {
        assert_eq!(Request::parse(request.to_json().as_bytes()), Ok(request));
    }
    if let Ok(answer) = Answer::parse(data) {
        assert_eq!(Answer::parse(answer.to_json().as_bytes()), Ok(answer));
    }
}
