use super::{CHANNEL_HEADER_LEN, ChannelNumber};
use crate::stun::{HEADER_LEN, MAGIC_COOKIE};

const COOKIE: [u8; 4] = MAGIC_COOKIE.to_be_bytes();

/// What starts a TCP or TLS stream between client and server (RFC 8656 section 12.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFrame {
    /// The next message is not complete: read on, until there are this many bytes at
    /// least.
    Incomplete {
        /// How many bytes are needed before anything more can be said.
        needed: usize,
    },
    /// A STUN message of this many bytes.
    Stun {
        /// Its length in bytes, header included.
        length: usize,
    },
    /// ChannelData.
    ChannelData {
        /// The bytes of header and data.
        length: usize,
        /// The bytes to drop from the stream: `length` and up to three of padding.
        padded: usize,
    },
}

/// Why a stream cannot be cut into messages; it must be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("neither STUN nor ChannelData")]
pub struct StreamError;

/// Says what the first message of a stream is. The bytes are all that has been read and
/// not used. A message has at most 65,555 bytes, which bounds what needs to be kept.
///
/// # Errors
///
/// [`StreamError`] if no message can start like this: the ends have lost each other.
pub fn split_stream(bytes: &[u8]) -> Result<StreamFrame, StreamError> {
    let Some([t0, t1, l0, l1]) = bytes.first_chunk::<CHANNEL_HEADER_LEN>() else {
        return check_first(bytes);
    };
    let length = usize::from(u16::from_be_bytes([*l0, *l1]));
    let kind = u16::from_be_bytes([*t0, *t1]);
    if kind < 0x4000 {
        stun(bytes, length)
    } else if ChannelNumber::new(kind).is_ok() {
        Ok(channel_data(bytes.len(), length))
    } else {
        Err(StreamError)
    }
}

fn check_first(bytes: &[u8]) -> Result<StreamFrame, StreamError> {
    match bytes.first() {
        Some(0x80..) => Err(StreamError),
        _ => Ok(StreamFrame::Incomplete {
            needed: CHANNEL_HEADER_LEN,
        }),
    }
}

fn stun(bytes: &[u8], body: usize) -> Result<StreamFrame, StreamError> {
    let cookie = bytes.get(4..8).unwrap_or(&COOKIE);
    if !body.is_multiple_of(4) || cookie != COOKIE {
        return Err(StreamError);
    }
    let length = body.saturating_add(HEADER_LEN);
    Ok(if bytes.len() < length {
        StreamFrame::Incomplete { needed: length }
    } else {
        StreamFrame::Stun { length }
    })
}

fn channel_data(available: usize, data: usize) -> StreamFrame {
    let length = data.saturating_add(CHANNEL_HEADER_LEN);
    let padded = length.next_multiple_of(4);
    if available < padded {
        StreamFrame::Incomplete { needed: padded }
    } else {
        StreamFrame::ChannelData { length, padded }
    }
}
