//! Messages on a stream, each behind its length (RFC 4571 section 2).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! +-------------------------------+-------------------------------+
//! |            LENGTH             |            message ...        |
//! +-------------------------------+-------------------------------+
//! ```

/// Bytes before each message.
pub const HEADER: usize = 2;

/// What goes before a message; `None` if it is longer than 65,535 bytes.
#[must_use]
pub fn header(message: &[u8]) -> Option<[u8; HEADER]> {
    u16::try_from(message.len()).ok().map(u16::to_be_bytes)
}

/// The first message of what has been read, which may be empty, and what follows it; `None` if it
/// has not arrived whole.
#[must_use]
pub fn split(read: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = read.split_first_chunk::<HEADER>()?;
    rest.split_at_checked(u16::from_be_bytes(*length).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_message_is_taken_when_it_is_whole() {
        assert_eq!(split(&[0, 3, b'a', b'b']), None);
        let whole = [0, 3, b'a', b'b', b'c', 0];
        assert_eq!(split(&whole), Some((&b"abc"[..], &[0][..])));
        assert_eq!(split(&[0]), None);
        assert_eq!(split(&[0, 0]), Some((&[][..], &[][..])));
    }

    #[test]
    fn a_message_that_no_length_tells_is_refused() {
        assert_eq!(header(&[7; 65_535]), Some([0xff, 0xff]));
        assert_eq!(header(&[7; 65_536]), None);
    }

    proptest! {
        #[test]
        fn what_is_framed_is_found_again(messages: Vec<Vec<u8>>) {
            let mut stream = Vec::new();
            for message in &messages {
                stream.extend(header(message).unwrap());
                stream.extend(message);
            }
            let mut rest = &stream[..];
            let mut found = Vec::new();
            while let Some((message, next)) = split(rest) {
                found.push(message.to_vec());
                rest = next;
            }
            prop_assert!(rest.is_empty());
            prop_assert_eq!(found, messages);
        }
    }
}
