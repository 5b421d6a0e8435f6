//! Sealed messages: ChaCha20-Poly1305 (RFC 8439), one key per direction, strictly in
//! order.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Key, Nonce};
use postern_wire::signal::VERSION;

use super::exchange::Role;

/// Sealed messages are padded to a multiple of this many bytes: an answer of a few
/// words, a candidate and a goodbye look the same.
pub const PADDING: usize = 256;

/// Every nonce of a direction has been used, or the bytes are not the next message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SealError;

/// Seals the messages of one direction.
pub(super) struct Sealer(Direction);

impl Sealer {
    pub(super) fn new(from: Role, key: &[u8; 32]) -> Self {
        Self(Direction::new(from, key))
    }

    /// Pads with spaces, which JSON allows after a value, and seals.
    pub(super) fn seal(&mut self, mut plaintext: Vec<u8>) -> Result<Vec<u8>, SealError> {
        plaintext.resize(plaintext.len().next_multiple_of(PADDING), b' ');
        let nonce = self.0.next_nonce()?;
        let payload = Payload {
            msg: &plaintext,
            aad: self.0.context.as_bytes(),
        };
        let sealed = self.0.cipher.encrypt(&nonce, payload);
        sealed.map_err(|_| SealError)
    }
}

/// Opens the messages of one direction.
pub(super) struct Opener(Direction);

impl Opener {
    pub(super) fn new(from: Role, key: &[u8; 32]) -> Self {
        Self(Direction::new(from, key))
    }

    /// Opens the next message. Any other, such as one that came before, does not open.
    pub(super) fn open(&mut self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let nonce = self.0.next_nonce()?;
        let payload = Payload {
            msg: sealed,
            aad: self.0.context.as_bytes(),
        };
        let plaintext = self.0.cipher.decrypt(&nonce, payload);
        plaintext.map_err(|_| SealError)
    }
}

struct Direction {
    cipher: ChaCha20Poly1305,
    context: String,
    /// The number of the next message; `None` when all have been used.
    next: Option<u64>,
}

impl Direction {
    fn new(from: Role, key: &[u8; 32]) -> Self {
        Self {
            cipher: ChaCha20Poly1305::new(Key::from_slice(key)),
            context: format!("postern/{VERSION} from {}", from.name()),
            next: Some(0),
        }
    }

    /// Four zero bytes and the message's number, never the same twice.
    fn next_nonce(&mut self) -> Result<Nonce, SealError> {
        let number = self.next.ok_or(SealError)?;
        self.next = number.checked_add(1);
        let [a, b, c, d, e, f, g, h] = number.to_be_bytes();
        Ok(Nonce::from([0, 0, 0, 0, a, b, c, d, e, f, g, h]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Sealer, Opener) {
        let key = [7; 32];
        (
            Sealer::new(Role::Creator, &key),
            Opener::new(Role::Creator, &key),
        )
    }

    #[test]
    fn what_is_sealed_opens_padded_with_spaces() {
        let (mut sealer, mut opener) = pair();
        let sealed = sealer.seal(b"{}".to_vec()).unwrap();
        assert_eq!(sealed.len(), PADDING + 16);
        assert_eq!(opener.open(&sealed).unwrap().trim_ascii_end(), b"{}");
    }

    #[test]
    fn sizes_up_to_the_padding_look_the_same() {
        let (mut sealer, _) = pair();
        let sizes = [1, 100, 255, 256].map(|n| sealer.seal(vec![b'x'; n]).unwrap().len());
        assert_eq!(sizes, [272; 4]);
    }

    #[test]
    fn a_message_does_not_open_twice() {
        let (mut sealer, mut opener) = pair();
        let sealed = sealer.seal(b"{}".to_vec()).unwrap();
        opener.open(&sealed).unwrap();
        assert_eq!(opener.open(&sealed), Err(SealError));
    }

    #[test]
    fn a_message_does_not_open_before_the_one_in_front_of_it() {
        let (mut sealer, mut opener) = pair();
        sealer.seal(b"1".to_vec()).unwrap();
        let second = sealer.seal(b"2".to_vec()).unwrap();
        assert_eq!(opener.open(&second), Err(SealError));
    }

    #[test]
    fn a_message_of_the_other_direction_does_not_open_even_with_the_same_key() {
        let (mut sealer, _) = pair();
        let mut opener = Opener::new(Role::Joiner, &[7; 32]);
        let sealed = sealer.seal(b"{}".to_vec()).unwrap();
        assert_eq!(opener.open(&sealed), Err(SealError));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let sealed = pair().0.seal(b"{}".to_vec()).unwrap();
        for at in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[at] ^= 1;
            assert_eq!(pair().1.open(&flipped), Err(SealError));
            assert_eq!(pair().1.open(&sealed[..at]), Err(SealError));
        }
    }

    #[test]
    fn no_nonce_is_used_again_after_the_last() {
        let (mut sealer, mut opener) = pair();
        sealer.0.next = Some(u64::MAX);
        opener.0.next = Some(u64::MAX);
        let last = sealer.seal(b"{}".to_vec()).unwrap();
        assert!(opener.open(&last).is_ok());
        assert_eq!(sealer.seal(b"{}".to_vec()), Err(SealError));
        assert_eq!(opener.open(&last), Err(SealError));
    }
}
