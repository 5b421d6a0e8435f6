//! Cuts a stream into messages (RFC 8656 section 12.5).

use postern_wire::turn::{StreamError, StreamFrame, split_stream};

/// What has been read and does not make a whole message yet: at most one message and one
/// piece of the stream.
#[derive(Debug, Default)]
pub(super) struct Reassembly {
    bytes: Vec<u8>,
    /// How many of them have been taken.
    taken: usize,
}

impl Reassembly {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes.drain(..self.taken.min(self.bytes.len()));
        self.taken = 0;
        self.bytes.extend_from_slice(piece);
    }

    /// The next whole message, without the padding behind ChannelData.
    pub(super) fn next(&mut self) -> Result<Option<Vec<u8>>, StreamError> {
        let rest = self.rest();
        let (length, padded) = match split_stream(rest)? {
            StreamFrame::Incomplete { .. } => return Ok(None),
            StreamFrame::Stun { length } => (length, length),
            StreamFrame::ChannelData { length, padded } => (length, padded),
        };
        let message = rest.get(..length).map(<[u8]>::to_vec);
        self.taken = self.taken.saturating_add(padded);
        Ok(message)
    }

    /// What has not been taken.
    pub(super) fn rest(&self) -> &[u8] {
        self.bytes.get(self.taken..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_wire::stun::{Builder, Class, Method, Software, TransactionId};
    use postern_wire::turn::{ChannelData, ChannelNumber};
    use proptest::prelude::*;

    fn message(seed: u8, stun: bool, data: &[u8]) -> (Vec<u8>, Vec<u8>) {
        if stun {
            let text = "x".repeat(data.len().min(100));
            let bytes = Builder::new(Class::Success, Method::ALLOCATE, TransactionId([seed; 12]))
                .attribute(&Software::new(&text).unwrap())
                .build();
            return (bytes.clone(), bytes);
        }
        let channel = ChannelNumber::new(0x4000 + u16::from(seed)).unwrap();
        let frame = ChannelData { channel, data };
        (frame.to_stream(), frame.to_datagram())
    }

    proptest! {
        #[test]
        fn a_stream_gives_the_same_messages_however_it_is_cut(
            messages in prop::collection::vec(
                (any::<u8>(), any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 0..20),
            cuts in prop::collection::vec(1_usize..400, 1..50),
        ) {
            let made: Vec<_> = messages.iter().map(|(s, k, d)| message(*s, *k, d)).collect();
            let stream: Vec<u8> = made.iter().flat_map(|(wire, _)| wire.clone()).collect();
            let mut reassembly = Reassembly::default();
            let mut rest = &stream[..];
            let mut out = Vec::new();
            for cut in cuts.iter().cycle() {
                let (piece, behind) = rest.split_at((*cut).min(rest.len()));
                rest = behind;
                reassembly.push(piece);
                while let Some(message) = reassembly.next().unwrap() {
                    out.push(message);
                }
                if rest.is_empty() {
                    break;
                }
            }
            let expected: Vec<_> = made.into_iter().map(|(_, plain)| plain).collect();
            prop_assert_eq!(out, expected);
            prop_assert!(reassembly.rest().is_empty());
        }

        #[test]
        fn random_bytes_end_in_an_error_or_stay_within_one_message(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
        ) {
            let mut reassembly = Reassembly::default();
            for piece in pieces {
                reassembly.push(&piece);
                loop {
                    match reassembly.next() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(StreamError) => return Ok(()),
                    }
                }
                prop_assert!(reassembly.rest().len() <= 65_555);
            }
        }
    }
}
