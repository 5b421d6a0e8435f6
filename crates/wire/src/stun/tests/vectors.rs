//! RFC 5769 section 2 and RFC 8489 appendix B.1 (with erratum 6268).

use super::super::*;

const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";
const USER: &str = "\u{30de}\u{30c8}\u{30ea}\u{30c3}\u{30af}\u{30b9}";

fn hex(text: &str) -> Vec<u8> {
    data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap()
}

/// RFC 5769 section 2.1: sample request.
fn request() -> Vec<u8> {
    hex("000100582112a442b7e7a701bc34d686fa87dfae\
         802200105354554e207465737420636c69656e74\
         002400046e0001ff\
         80290008932ff9b151263b36\
         000600096576746a3a68367659202020\
         000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a2\
         80280004e57a3bcf")
}

/// RFC 5769 section 2.2: sample IPv4 response.
fn ipv4_response() -> Vec<u8> {
    hex("0101003c2112a442b7e7a701bc34d686fa87dfae\
         8022000b7465737420766563746f7220\
         002000080001a147e112a643\
         000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7\
         80280004c07d4c96")
}

/// RFC 5769 section 2.3: sample IPv6 response.
fn ipv6_response() -> Vec<u8> {
    hex("010100482112a442b7e7a701bc34d686fa87dfae\
         8022000b7465737420766563746f7220\
         002000140002a1470113a9faa5d3f179bc25f4b5bed2b9d9\
         00080014a382954e4be67bf11784c97c8292c275bfe3ed41\
         80280004c8fb0b4c")
}

/// RFC 5769 section 2.4: sample request with long-term authentication.
fn long_term_request() -> Vec<u8> {
    hex("000100602112a44278ad3433c6ad72c029da412e\
         00060012e3839ee38388e383aae38383e382afe382b90000\
         0015001c662f2f3439396b39353464364f4c33346f4c39465354767936347341\
         0014000b6578616d706c652e6f726700\
         00080014f67024656dd64a3e02b8e0712e85c9a28ca89666")
}

/// RFC 8489 appendix B.1, corrected by erratum 6268.
fn sha256_request() -> Vec<u8> {
    hex("000100902112a44278ad3433c6ad72c029da412e\
         001e00204a3cf38fef6992bda952c6780417da0f24819415569e60b205c46e41407f1704\
         001500296f624d61744a6f733241414143662f2f3439396b39353464364f4c33346f4c39\
         4653547679363473410000000014000b6578616d706c652e6f726700\
         001d000400020000\
         001c0020b5c7bf005b6c52a21c51c5e892f81924136296cb927c43149309278cc6518e65")
}

fn assert_sealed(bytes: &[u8]) {
    let message = Message::parse(bytes).unwrap();
    assert_eq!(message.verify_integrity(PASSWORD), Ok(()));
    assert_eq!(message.verify_fingerprint(), Ok(()));
    assert_eq!(
        message.verify_integrity(b"another password"),
        Err(IntegrityError::Mismatch)
    );
}

#[test]
fn the_sample_request_reads_and_verifies() {
    let bytes = request();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class(), Class::Request);
    assert_eq!(message.method(), Method::BINDING);
    assert_eq!(
        message.get::<Software>(),
        Ok(Some(Software::new("STUN test client").unwrap()))
    );
    assert_eq!(message.get::<Priority>(), Ok(Some(Priority(0x6e00_01ff))));
    assert_eq!(
        message.get::<IceControlled>(),
        Ok(Some(IceControlled(0x932f_f9b1_5126_3b36)))
    );
    assert_eq!(
        message.get::<Username>(),
        Ok(Some(Username::new("evtj:h6vY").unwrap()))
    );
    assert_sealed(&bytes);
}

#[test]
fn the_sample_ipv4_response_reads_and_verifies() {
    let bytes = ipv4_response();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.class(), Class::Success);
    assert_eq!(
        message.get::<XorMappedAddress>(),
        Ok(Some(XorMappedAddress("192.0.2.1:32853".parse().unwrap())))
    );
    assert_sealed(&bytes);
}

#[test]
fn the_sample_ipv6_response_reads_and_verifies() {
    let bytes = ipv6_response();
    let message = Message::parse(&bytes).unwrap();
    let address = "[2001:db8:1234:5678:11:2233:4455:6677]:32853";
    assert_eq!(
        message.get::<XorMappedAddress>(),
        Ok(Some(XorMappedAddress(address.parse().unwrap())))
    );
    assert_sealed(&bytes);
}

#[test]
fn the_long_term_request_is_rebuilt_byte_for_byte() {
    let key = long_term_key_md5(USER, "example.org", "TheMatrIX");
    let bytes = long_term_request();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.verify_integrity(&key), Ok(()));
    assert_eq!(message.verify_fingerprint(), Err(IntegrityError::Missing));

    let rebuilt = Builder::new(Class::Request, Method::BINDING, message.transaction_id())
        .attribute(&Username::new(USER).unwrap())
        .attribute(&Nonce::new("f//499k954d6OL34oL9FSTvy64sA").unwrap())
        .attribute(&Realm::new("example.org").unwrap())
        .message_integrity(&key)
        .build();
    assert_eq!(rebuilt, bytes);
}

#[test]
fn the_sha256_request_is_rebuilt_byte_for_byte() {
    let key = long_term_key_sha256(USER, "example.org", "TheMatrIX");
    let bytes = sha256_request();
    let message = Message::parse(&bytes).unwrap();
    assert_eq!(message.verify_integrity_sha256(&key), Ok(()));
    assert_eq!(message.verify_integrity(&key), Err(IntegrityError::Missing));

    let algorithm = PasswordAlgorithm::new(Algorithm::SHA256, &[]).unwrap();
    let rebuilt = Builder::new(Class::Request, Method::BINDING, message.transaction_id())
        .attribute(&Userhash::new(USER, "example.org"))
        .attribute(&Nonce::new("obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA").unwrap())
        .attribute(&Realm::new("example.org").unwrap())
        .attribute(&algorithm)
        .message_integrity_sha256(&key)
        .build();
    assert_eq!(rebuilt, bytes);
}
