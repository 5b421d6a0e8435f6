//! The transfer frames.

/// Decodes `data` as a stream of transfer frames; what is understood encodes to the same bytes.
pub fn transfer(data: &[u8]) {
    use crate::transfer::{Decoded, HEADER_LEN, Name, decode, escape};
    let mut rest = data;
    while let Ok(decoded) = decode(rest) {
        let used = match decoded {
            Decoded::Incomplete(_) => break,
            Decoded::Frame(frame, used) => {
                let _ = format!("{frame:?}");
                check_canonical(&frame, rest.get(..used));
                used
            }
            Decoded::Data { length } | Decoded::Skip { length } => {
                HEADER_LEN.saturating_add(length as usize)
            }
        };
        rest = rest.get(used..).unwrap_or(&[]);
    }
    assert!(!escape(data).contains(|c: char| c.is_control()));
    if let Ok(name) = Name::parse(data) {
        assert!(
            !name
                .as_bytes()
                .iter()
                .any(|b| matches!(b, b'/' | b'\\' | 0))
        );
    }
}

/// A kind of failure from the future is read as unknown and written as 0: all else is canonical.
fn check_canonical(frame: &crate::transfer::Frame, bytes: Option<&[u8]>) {
    use crate::transfer::{FailureKind, Frame};
    let unknown =
        matches!(frame, Frame::Refuse(f) | Frame::Failed(f) if f.kind == FailureKind::Unknown);
    assert!(unknown || bytes == Some(frame.to_vec().as_slice()));
}
