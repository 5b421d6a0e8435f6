//! Frames: what is refused, and which attributes count.

use super::super::*;

const ID: TransactionId = TransactionId([7; 12]);
const KEY: &[u8] = b"key";

fn request() -> Builder {
    Builder::new(Class::Request, Method::BINDING, ID)
}

/// Appends attributes behind what the builder allows, with a right length field.
fn extend(mut bytes: Vec<u8>, attributes: &[(AttributeType, &[u8])]) -> Vec<u8> {
    let more = attributes
        .iter()
        .fold(request(), |builder, (kind, value)| {
            builder.raw_attribute(*kind, value)
        })
        .build();
    bytes.extend_from_slice(&more[HEADER_LEN..]);
    let length = u16::try_from(bytes[HEADER_LEN..].len()).unwrap();
    bytes[2..4].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn parse_error(bytes: &[u8]) -> ParseError {
    Message::parse(bytes).unwrap_err()
}

#[test]
fn every_truncation_of_a_message_is_refused() {
    let bytes = request()
        .attribute(&Priority(1))
        .message_integrity(KEY)
        .build();
    for length in 0..bytes.len() {
        assert!(Message::parse(&bytes[..length]).is_err(), "{length} bytes");
    }
}

#[test]
fn trailing_bytes_are_refused() {
    let mut bytes = request().build();
    bytes.extend_from_slice(&[0; 4]);
    assert_eq!(parse_error(&bytes), ParseError::Length);
}

#[test]
fn a_length_that_is_not_a_multiple_of_four_is_refused() {
    let mut bytes = request().build();
    bytes[3] = 2;
    bytes.extend_from_slice(&[0; 2]);
    assert_eq!(parse_error(&bytes), ParseError::Length);
}

#[test]
fn the_first_two_bits_and_the_cookie_make_it_stun() {
    for (position, flip) in [(0, 0x80), (0, 0x40), (4, 0x01), (7, 0x01)] {
        let mut bytes = request().build();
        bytes[position] ^= flip;
        assert_eq!(parse_error(&bytes), ParseError::NotStun);
        assert!(!is_stun(&bytes));
    }
}

#[test]
fn the_cheap_check_wants_room_for_a_header() {
    let bytes = request().build();
    assert!(is_stun(&bytes));
    assert!(!is_stun(&bytes[..19]));
    assert!(!is_stun(&[]));
}

#[test]
fn an_attribute_that_ends_outside_is_refused() {
    let mut bytes = request().attribute(&Priority(1)).build();
    bytes[HEADER_LEN + 3] = 5;
    assert_eq!(parse_error(&bytes), ParseError::AttributeOverrun);
}

#[test]
fn the_number_of_attributes_is_bounded() {
    let with = |count: usize| {
        extend(
            request().build(),
            &vec![(AttributeType::SOFTWARE, &[][..]); count],
        )
    };
    assert!(Message::parse(&with(MAX_ATTRIBUTES)).is_ok());
    assert_eq!(
        parse_error(&with(MAX_ATTRIBUTES + 1)),
        ParseError::TooManyAttributes
    );
}

#[test]
fn the_first_of_several_attributes_counts() {
    let bytes = request()
        .attribute(&Priority(1))
        .attribute(&Priority(2))
        .build();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.get(), Ok(Some(Priority(1))));
}

#[test]
fn padding_may_have_any_value() {
    let mut bytes = request().attribute(&Username::new("a").unwrap()).build();
    bytes[25..28].fill(0xff);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.get(), Ok(Some(Username::new("a").unwrap())));
}

#[test]
fn behind_message_integrity_only_seals_count() {
    let bytes = extend(
        request()
            .attribute(&Priority(1))
            .message_integrity(KEY)
            .build(),
        &[
            (AttributeType::USE_CANDIDATE, &[]),
            (AttributeType::MESSAGE_INTEGRITY, &[0; 20]),
            (AttributeType::MESSAGE_INTEGRITY_SHA256, &[0; 32]),
            (AttributeType::MESSAGE_INTEGRITY, &[0; 20]),
            (AttributeType(0x7fff), &[]),
            (AttributeType::FINGERPRINT, &[0; 4]),
            (AttributeType::USERNAME, b"late"),
        ],
    );
    let message = Message::parse(&bytes).unwrap();
    let kinds: Vec<_> = message.attributes().map(|(kind, _)| kind).collect();
    let expected = [
        AttributeType::PRIORITY,
        AttributeType::MESSAGE_INTEGRITY,
        AttributeType::MESSAGE_INTEGRITY_SHA256,
        AttributeType::FINGERPRINT,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(message.get::<UseCandidate>(), Ok(None));
    assert_eq!(message.verify_integrity(KEY), Ok(()));
    assert!(
        message
            .unknown_comprehension_required(&[AttributeType::PRIORITY])
            .is_empty()
    );
}

#[test]
fn the_sha256_seal_covers_what_is_ignored_before_it() {
    let bytes = extend(
        request().message_integrity(KEY).build(),
        &[(AttributeType::SOFTWARE, b"late")],
    );
    let value = integrity::sha256(KEY, &bytes);
    let bytes = extend(bytes, &[(AttributeType::MESSAGE_INTEGRITY_SHA256, &value)]);
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.verify_integrity_sha256(KEY), Ok(()));
}

#[test]
fn all_three_seals_verify_together() {
    let bytes = request()
        .attribute(&Username::new("a:b").unwrap())
        .message_integrity(KEY)
        .message_integrity_sha256(KEY)
        .fingerprint()
        .build();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.verify_integrity(KEY), Ok(()));
    assert_eq!(message.verify_integrity_sha256(KEY), Ok(()));
    assert_eq!(message.verify_fingerprint(), Ok(()));
}

#[test]
fn every_flipped_bit_breaks_the_seals_that_cover_it() {
    let bytes = request()
        .attribute(&Priority(1))
        .message_integrity(KEY)
        .build();
    let sealed = bytes.len() - 24;
    for bit in 0..sealed * 8 {
        let mut bytes = bytes.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let verified =
            Message::parse(&bytes).is_ok_and(|message| message.verify_integrity(KEY).is_ok());
        assert!(!verified, "bit {bit}");
    }
}

#[test]
fn a_missing_seal_is_not_a_valid_one() {
    let bytes = request().build();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.verify_integrity(KEY), Err(IntegrityError::Missing));
    assert_eq!(
        message.verify_integrity_sha256(KEY),
        Err(IntegrityError::Missing)
    );
    assert_eq!(message.verify_fingerprint(), Err(IntegrityError::Missing));
}

#[test]
fn the_sha256_seal_may_be_truncated_to_sixteen_bytes_in_steps_of_four() {
    for length in 0..=36 {
        let bytes = request().build();
        let mut value = integrity::truncated_sha256(KEY, &bytes, length);
        value.resize(length, 0);
        let bytes = extend(bytes, &[(AttributeType::MESSAGE_INTEGRITY_SHA256, &value)]);
        let verified = Message::parse(&bytes).unwrap().verify_integrity_sha256(KEY);
        let allowed = [16, 20, 24, 28, 32].contains(&length);
        let expected = if allowed {
            Ok(())
        } else {
            Err(IntegrityError::Malformed)
        };
        assert_eq!(verified, expected, "{length} bytes");
    }
}

#[test]
fn a_seal_of_the_wrong_length_is_malformed() {
    for length in [0, 16, 19, 21, 32] {
        let seal = (AttributeType::MESSAGE_INTEGRITY, &[0; 32][..length]);
        let bytes = extend(request().build(), &[seal]);
        let verified = Message::parse(&bytes).unwrap().verify_integrity(KEY);
        assert_eq!(verified, Err(IntegrityError::Malformed));
    }
}

#[test]
fn a_fingerprint_that_is_not_last_is_malformed() {
    let bytes = extend(
        request().fingerprint().build(),
        &[(AttributeType::SOFTWARE, b"late")],
    );
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.verify_fingerprint(), Err(IntegrityError::Malformed));
}

#[test]
fn a_key_longer_than_the_hash_block_is_hashed_first() {
    let (long, hashed) = (
        [0x61; 65],
        integrity::hash_joined::<sha1::Sha1>(&[&"a".repeat(65)]),
    );
    let bytes = request().message_integrity(&long).build();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.verify_integrity(&hashed), Ok(()));
}

#[test]
fn unknown_attributes_are_listed_once_in_order_and_bounded() {
    let kinds: Vec<_> = (0x7f00..0x7f20).map(AttributeType).collect();
    let twice: Vec<_> = kinds
        .iter()
        .chain(&kinds)
        .map(|kind| (*kind, &[][..]))
        .collect();
    let bytes = extend(request().build(), &twice);
    let unknown = Message::parse(&bytes)
        .unwrap()
        .unknown_comprehension_required(&kinds[..2]);
    assert_eq!(unknown.as_slice(), &kinds[2..2 + UnknownAttributes::MAX]);
}

#[test]
fn comprehension_optional_attributes_are_never_unknown() {
    let bytes = extend(request().build(), &[(AttributeType(0x8000), &[])]);
    let message = Message::parse(&bytes).unwrap();
    assert!(message.unknown_comprehension_required(&[]).is_empty());
}

#[test]
fn an_attribute_that_does_not_fit_is_left_out() {
    let full = request().raw_attribute(AttributeType::SOFTWARE, &[0; 65_528]);
    let before = full.clone().build();
    assert_eq!(before.len(), HEADER_LEN + 65_532);
    assert_eq!(full.attribute(&UseCandidate).build(), before);
    assert!(Message::parse(&before).is_ok());
}

#[test]
fn an_error_names_the_attribute() {
    let bytes = extend(request().build(), &[(AttributeType::PRIORITY, &[1, 2, 3])]);
    let error = Message::parse(&bytes)
        .unwrap()
        .get::<Priority>()
        .unwrap_err();
    assert_eq!(error.to_string(), "STUN attribute 0x0024: wrong length");
}
