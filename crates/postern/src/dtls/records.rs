//! As much of a datagram as can be told from outside.

use rustls::pki_types::CertificateDer;

/// The length of a record's header (RFC 6347 section 4.1).
const RECORD_HEADER: usize = 13;

/// The length of a handshake message's header (RFC 6347 section 4.2.2).
const MESSAGE_HEADER: usize = 12;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_HELLO: u8 = 2;
const CERTIFICATE: u8 = 11;

/// The random of a ServerHello that is a HelloRetryRequest (RFC 8446 section 4.1.3).
const RETRY: [u8; 32] = [
    0xcf, 0x21, 0xad, 0x74, 0xe5, 0x9a, 0x61, 0x11, 0xbe, 0x1d, 0x8c, 0x02, 0x1e, 0x65, 0xb8, 0x91,
    0xc2, 0xa2, 0x11, 0x16, 0x7a, 0xbb, 0x8c, 0x5e, 0x07, 0x9e, 0x09, 0xe2, 0xc8, 0xa8, 0x33, 0x9c,
];

/// The type and the body of the first handshake message that is not encrypted.
fn message(datagram: &[u8]) -> Option<(u8, &[u8])> {
    let (header, rest) = datagram.split_at_checked(RECORD_HEADER)?;
    let [HANDSHAKE, _, _, 0, 0, ..] = header else {
        return None;
    };
    let (header, body) = rest.split_at_checked(MESSAGE_HEADER)?;
    Some((*header.first()?, body))
}

/// Whether a client begins a handshake, or goes on after it was challenged.
pub(crate) fn is_client_hello(datagram: &[u8]) -> bool {
    matches!(message(datagram), Some((CLIENT_HELLO, _)))
}

/// Whether a server goes on with a handshake: it sends this only when the client has
/// returned a cookie.
pub(crate) fn is_server_hello(datagram: &[u8]) -> bool {
    let Some((SERVER_HELLO, body)) = message(datagram) else {
        return false;
    };
    // Two bytes of version precede the random.
    body.get(2..).is_some_and(|rest| !rest.starts_with(&RETRY))
}

/// A fatal alert that answers a datagram in the version that its record has; `None` if that
/// is no record.
pub(crate) fn alert(datagram: &[u8], description: u8) -> Option<Vec<u8>> {
    const ALERT: u8 = 21;
    const FATAL: u8 = 2;
    let header = datagram.get(..RECORD_HEADER)?;
    let [_, major, minor, ..] = *header else {
        return None;
    };
    let mut alert = vec![ALERT, major, minor];
    // Epoch and number are 0; two bytes follow.
    alert.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    alert.extend([FATAL, description]);
    Some(alert)
}

/// The certificates that a server shows, as far as they are readable: in DTLS 1.2.
#[derive(Debug, Default)]
pub(crate) struct Certificates(Vec<u8>);

impl Certificates {
    /// The most that is kept of them.
    const MAX: usize = 64 * 1024;

    /// Reads a datagram from the server. Fragments are taken in order; what was lost comes
    /// again.
    pub(crate) fn read(&mut self, datagram: &[u8]) {
        let mut rest = datagram;
        while let Some((header, after)) = rest.split_at_checked(RECORD_HEADER) {
            let [kind, _, _, e0, e1, _, _, _, _, _, _, l0, l1] = *header else {
                return;
            };
            let length = usize::from(u16::from_be_bytes([l0, l1]));
            let Some((content, after)) = after.split_at_checked(length) else {
                return;
            };
            if (kind, e0, e1) == (HANDSHAKE, 0, 0) {
                self.read_messages(content);
            }
            rest = after;
        }
    }

    fn read_messages(&mut self, mut rest: &[u8]) {
        while let Some((header, after)) = rest.split_at_checked(MESSAGE_HEADER) {
            let [kind, _, _, _, _, _, o0, o1, o2, l0, l1, l2] = *header else {
                return;
            };
            let Some((fragment, after)) = after.split_at_checked(number([l0, l1, l2])) else {
                return;
            };
            let next = number([o0, o1, o2]) == self.0.len();
            if kind == CERTIFICATE && next && self.0.len() < Self::MAX {
                self.0.extend_from_slice(fragment);
            }
            rest = after;
        }
    }

    /// Those behind the server's own, which lead to the authority.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        let mut chain = Vec::new();
        let mut rest = self.0.get(3..).unwrap_or_default();
        while let Some(([l0, l1, l2], after)) = rest.split_first_chunk() {
            let Some((certificate, after)) = after.split_at_checked(number([*l0, *l1, *l2])) else {
                break;
            };
            chain.push(CertificateDer::from(certificate.to_vec()));
            rest = after;
        }
        if !chain.is_empty() {
            chain.remove(0);
        }
        chain
    }
}

fn number([a, b, c]: [u8; 3]) -> usize {
    usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn handshake(kind: u8, random: [u8; 32]) -> Vec<u8> {
        let mut bytes = vec![HANDSHAKE, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 46];
        bytes.extend([kind, 0, 0, 34, 0, 0, 0, 0, 0, 0, 0, 34, 0xfe, 0xfd]);
        bytes.extend(random);
        bytes
    }

    #[test]
    fn a_hello_is_recognised() {
        assert!(is_client_hello(&handshake(CLIENT_HELLO, [7; 32])));
        assert!(!is_client_hello(&handshake(SERVER_HELLO, [7; 32])));
        assert!(is_server_hello(&handshake(SERVER_HELLO, [7; 32])));
    }

    #[test]
    fn a_request_to_try_again_goes_on_with_nothing() {
        assert!(!is_server_hello(&handshake(SERVER_HELLO, RETRY)));
        assert!(!is_server_hello(&handshake(3, [7; 32])));
    }

    #[test]
    fn what_is_cut_off_or_encrypted_is_neither() {
        let whole = handshake(CLIENT_HELLO, [7; 32]);
        assert!(!is_client_hello(&whole[..24]));
        let mut encrypted = whole;
        encrypted[4] = 1;
        assert!(!is_client_hello(&encrypted));
    }

    /// A record with one handshake message, whose lengths and offset may be wrong.
    fn record() -> impl Strategy<Value = Vec<u8>> {
        let offset = prop_oneof![Just(0_u8), Just(40), any::<u8>()];
        let wrong = prop_oneof![4 => Just(0_u8), 1 => any::<u8>()];
        let content = vec(any::<u8>(), 0..80);
        (prop::sample::select(vec![1, 2, 11]), offset, wrong, content).prop_map(
            |(kind, offset, wrong, content)| {
                let length = u8::try_from(content.len()).unwrap();
                let inner = length.wrapping_add(wrong);
                let outer = length.saturating_add(12).wrapping_add(wrong / 2);
                let mut bytes = vec![HANDSHAKE, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, outer];
                bytes.extend([kind, 0, 0, length, 0, 0, 0, 0, offset, 0, 0, inner]);
                bytes.extend(content);
                bytes
            },
        )
    }

    proptest! {
        #[test]
        fn whatever_arrives_is_read_and_little_of_it_kept(
            datagrams in vec(prop_oneof![vec(any::<u8>(), 0..60), record()], 0..20),
        ) {
            let mut certificates = Certificates::default();
            for datagram in &datagrams {
                prop_assert!(!(is_client_hello(datagram) && is_server_hello(datagram)));
                let answer = alert(datagram, 40);
                prop_assert_eq!(answer.is_some(), datagram.len() >= RECORD_HEADER);
                prop_assert!(answer.is_none_or(|alert| alert.len() == RECORD_HEADER + 2));
                certificates.read(datagram);
            }
            let sent: usize = datagrams.iter().map(Vec::len).sum();
            prop_assert!(certificates.0.len() <= sent);
            let chain: usize = certificates.chain().iter().map(|one| one.len()).sum();
            prop_assert!(chain <= sent);
        }
    }
}
