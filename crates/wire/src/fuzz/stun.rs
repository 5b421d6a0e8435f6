//! The STUN codec.

use crate::stun::{self, AttributeType, Builder, Message};

/// The key that most of the committed STUN corpus is signed with (RFC 5769 section 2).
const STUN_KEY: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

/// A message of this many bytes has room for three more attributes.
const STUN_ROOM: usize = 60_000;

/// Reads a STUN message in every way there is, and writes it again from what was read.
pub fn stun(data: &[u8]) {
    let looks_like_stun = stun::is_stun(data);
    if let Some(classic) = stun::ClassicRequest::parse(data) {
        assert!(!looks_like_stun, "one of the two has the magic cookie");
        let here = ([45, 0, 0, 1], 3478).into();
        assert!(classic.response(here, here, Some(here)).is_some());
    }
    let Ok(message) = Message::parse(data) else {
        return;
    };
    assert!(looks_like_stun || data.first().is_some_and(|byte| *byte > 3));
    stun_verify(&message);
    stun_reread(&message);
    stun_rebuild(&message);
}

fn stun_verify(message: &Message<'_>) {
    let _ = message.verify_integrity(STUN_KEY);
    let _ = message.verify_integrity_sha256(STUN_KEY);
    let _ = message.verify_fingerprint();
    let unknown = message.unknown_comprehension_required(&[]);
    assert!(unknown.as_slice().len() <= stun::UnknownAttributes::MAX);
}

/// Asserts of each type that what is read from a message that carries it alone is what
/// was read from the first one.
macro_rules! reread {
    ($message:ident: $($attribute:ident),* $(,)?) => {$(
        if let Ok(Some(value)) = $message.get::<stun::$attribute>() {
            let bytes = stun_empty(&$message).attribute(&value).build();
            let again = Message::parse(&bytes).and_then(|again| again.get());
            assert_eq!(again, Ok(Some(value)));
        }
    )*};
}

fn stun_reread(message: &Message<'_>) {
    reread!(message: MappedAddress, XorMappedAddress, AlternateServer, ResponseOrigin);
    reread!(message: OtherAddress, Username, Realm, Nonce, Software, AlternateDomain);
    reread!(message: Userhash, ErrorCode, UnknownAttributes, PasswordAlgorithm);
    reread!(message: PasswordAlgorithms, Priority, UseCandidate, IceControlled);
    reread!(message: IceControlling, ChangeRequest, ResponsePort, Padding);
    reread!(message: Punched);
}

fn stun_rebuild(message: &Message<'_>) {
    let attributes: Vec<_> = message
        .attributes()
        .filter(|(kind, _)| !seals(*kind))
        .collect();
    let bytes = attributes
        .iter()
        .fold(stun_empty(message), |builder, (kind, value)| {
            builder.raw_attribute(*kind, value)
        })
        .message_integrity(STUN_KEY)
        .message_integrity_sha256(STUN_KEY)
        .fingerprint()
        .build();
    if message.as_bytes().len() > STUN_ROOM || attributes.len() > stun::MAX_ATTRIBUTES - 3 {
        return;
    }
    let Ok(again) = Message::parse(&bytes) else {
        panic!("a message that was built does not parse");
    };
    assert!(
        again
            .attributes()
            .filter(|(kind, _)| !seals(*kind))
            .eq(attributes)
    );
    assert_eq!(again.verify_integrity(STUN_KEY), Ok(()));
    assert_eq!(again.verify_integrity_sha256(STUN_KEY), Ok(()));
    assert_eq!(again.verify_fingerprint(), Ok(()));
}

fn stun_empty(message: &Message<'_>) -> Builder {
    Builder::new(message.class(), message.method(), message.transaction_id())
}

fn seals(kind: AttributeType) -> bool {
    matches!(
        kind,
        AttributeType::MESSAGE_INTEGRITY
            | AttributeType::MESSAGE_INTEGRITY_SHA256
            | AttributeType::FINGERPRINT
    )
}
