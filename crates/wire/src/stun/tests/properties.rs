//! What holds for all messages, all bytes and all damage.

use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::*;
use crate::fuzz;

/// What is needed to build a message with one attribute of each family.
#[derive(Debug, Clone)]
struct Content {
    id: [u8; 12],
    method: u16,
    address: SocketAddr,
    text: String,
    code: u16,
    priority: u32,
    tiebreaker: u64,
    key: Vec<u8>,
}

impl Content {
    fn method(&self) -> Method {
        Method::new(self.method).unwrap()
    }

    fn build(&self) -> Vec<u8> {
        Builder::new(Class::Error, self.method(), TransactionId(self.id))
            .attribute(&XorMappedAddress(self.address))
            .attribute(&MappedAddress(self.address))
            .attribute(&Username::new(&self.text).unwrap())
            .attribute(&ErrorCode::new(self.code, &self.text).unwrap())
            .attribute(&Priority(self.priority))
            .attribute(&IceControlling(self.tiebreaker))
            .message_integrity(&self.key)
            .message_integrity_sha256(&self.key)
            .fingerprint()
            .build()
    }
}

fn contents() -> impl Strategy<Value = Content> {
    (
        any::<([u8; 12], SocketAddr, u32, u64)>(),
        0_u16..=0xfff,
        "\\PC{0,100}",
        300_u16..=699,
        vec(any::<u8>(), 0..100),
    )
        .prop_map(
            |((id, address, priority, tiebreaker), method, text, code, key)| Content {
                id,
                method,
                address: SocketAddr::new(address.ip(), address.port()),
                text,
                code,
                priority,
                tiebreaker,
                key,
            },
        )
}

/// Raw attributes other than seals.
fn raw_attributes() -> impl Strategy<Value = Vec<(AttributeType, Vec<u8>)>> {
    let unsealed = any::<u16>()
        .prop_map(AttributeType)
        .prop_filter("a seal", |kind| {
            !kind.is_integrity() && *kind != AttributeType::FINGERPRINT
        });
    vec((unsealed, vec(any::<u8>(), 0..40)), 0..20)
}

proptest! {
    #[test]
    fn typed_attributes_survive_the_wire(content in contents()) {
        let bytes = content.build();
        let message = Message::parse(&bytes).unwrap();
        prop_assert_eq!(message.class(), Class::Error);
        prop_assert_eq!(message.method(), content.method());
        prop_assert_eq!(message.transaction_id(), TransactionId(content.id));
        prop_assert_eq!(message.get(), Ok(Some(XorMappedAddress(content.address))));
        prop_assert_eq!(message.get(), Ok(Some(MappedAddress(content.address))));
        let username = message.get::<Username<'_>>().unwrap().unwrap();
        prop_assert_eq!(username.as_str(), &content.text);
        let error = message.get::<ErrorCode<'_>>().unwrap().unwrap();
        prop_assert_eq!((error.code(), error.reason()), (content.code, &*content.text));
        prop_assert_eq!(message.get(), Ok(Some(Priority(content.priority))));
        prop_assert_eq!(message.get(), Ok(Some(IceControlling(content.tiebreaker))));
        prop_assert_eq!(message.verify_integrity(&content.key), Ok(()));
        prop_assert_eq!(message.verify_integrity_sha256(&content.key), Ok(()));
        prop_assert_eq!(message.verify_fingerprint(), Ok(()));
    }

    #[test]
    fn raw_attributes_survive_the_wire(attributes in raw_attributes(), id: [u8; 12]) {
        let builder = Builder::new(Class::Indication, Method::BINDING, TransactionId(id));
        let bytes = attributes
            .iter()
            .fold(builder, |builder, (kind, value)| builder.raw_attribute(*kind, value))
            .build();
        let message = Message::parse(&bytes).unwrap();
        let read = message.attributes().map(|(kind, value)| (kind, value.to_vec()));
        prop_assert_eq!(read.collect::<Vec<_>>(), attributes);
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        fuzz::stun(&bytes);
    }

    #[test]
    fn random_bodies_do_no_harm(body in vec(any::<[u8; 4]>(), 0..100)) {
        let mut bytes = Builder::new(Class::Request, Method::BINDING, TransactionId([1; 12])).build();
        bytes.extend_from_slice(body.as_flattened());
        let length = u16::try_from(body.as_flattened().len()).unwrap();
        bytes[2..4].copy_from_slice(&length.to_be_bytes());
        fuzz::stun(&bytes);
    }

    #[test]
    fn damaged_messages_do_no_harm(
        content in contents(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = content.build();
        for (position, value) in damage {
            let position = position.index(bytes.len());
            bytes[position] = value;
        }
        fuzz::stun(&bytes);
        fuzz::stun(&bytes[..cut.index(bytes.len())]);
    }

    #[test]
    fn a_damaged_message_does_not_verify(
        content in contents(),
        position in any::<prop::sample::Index>(),
        flip in 1_u8..,
    ) {
        let mut bytes = content.build();
        let position = position.index(bytes.len());
        bytes[position] ^= flip;
        let verified = Message::parse(&bytes)
            .is_ok_and(|message| message.verify_fingerprint().is_ok());
        prop_assert!(!verified);
    }
}
