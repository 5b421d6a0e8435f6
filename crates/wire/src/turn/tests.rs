use std::net::SocketAddr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::fuzz;
use crate::stun::{Builder, Class, Message, Method, TransactionId};

const ID: TransactionId = TransactionId([9; 12]);

fn channel(number: u16) -> ChannelNumber {
    ChannelNumber::new(number).unwrap()
}

fn indication(method: Method, peer: SocketAddr, data: &[u8]) -> Vec<u8> {
    Builder::new(Class::Indication, method, ID)
        .attribute(&XorPeerAddress(peer))
        .attribute(&Data(data))
        .build()
}

fn assembled(header: DataHeader, data: &[u8]) -> Vec<u8> {
    [header.as_bytes(), data, &vec![0; header.padding()]].concat()
}

#[test]
fn a_stream_pads_what_a_datagram_does_not() {
    let frame = ChannelData {
        channel: channel(0x4000),
        data: b"abcde",
    };
    assert_eq!(frame.to_datagram(), b"\x40\x00\x00\x05abcde");
    assert_eq!(frame.to_stream(), b"\x40\x00\x00\x05abcde\0\0\0");
    assert_eq!(ChannelData::parse(&frame.to_stream()), Ok(frame));
}

#[test]
fn channel_data_one_byte_short_is_refused() {
    for length in 0..9 {
        let cut = &b"\x40\x00\x00\x05abcde"[..length];
        assert_eq!(ChannelData::parse(cut), Err(ChannelDataError::Truncated));
    }
}

#[test]
fn what_is_no_channel_is_not_channel_data() {
    for first in [0x00, 0x3f, 0x80, 0xff] {
        let bytes = [first, 0, 0, 0];
        let read = ChannelData::parse(&bytes);
        assert_eq!(read, Err(ChannelDataError::NotChannelData));
    }
}

#[test]
fn a_stream_is_cut_into_messages() {
    let data = ChannelData {
        channel: channel(0x4abc),
        data: b"12345",
    };
    let stun = Builder::new(Class::Request, Method::REFRESH, ID).build();
    let stream = [data.to_stream(), stun.clone(), b"\x40".to_vec()].concat();
    let first = StreamFrame::ChannelData {
        length: 9,
        padded: 12,
    };
    assert_eq!(split_stream(&stream), Ok(first));
    let second = StreamFrame::Stun { length: stun.len() };
    assert_eq!(split_stream(&stream[12..]), Ok(second));
    let rest = StreamFrame::Incomplete { needed: 4 };
    assert_eq!(split_stream(&stream[32..]), Ok(rest));
}

#[test]
fn an_incomplete_message_says_how_much_it_needs() {
    let needs = |bytes: &[u8], needed| {
        assert_eq!(split_stream(bytes), Ok(StreamFrame::Incomplete { needed }));
    };
    needs(b"", 4);
    needs(&[0, 1, 0, 8], 28);
    needs(&[0x40, 0, 0, 5, 1, 2, 3, 4, 5], 12);
}

#[test]
fn what_no_message_starts_with_ends_the_stream() {
    for bytes in [
        &[0x80][..],
        &[0xff, 0, 0, 0],
        &[0, 1, 0, 3],
        b"\x16\x03\x01\0eight",
    ] {
        assert_eq!(split_stream(bytes), Err(StreamError));
    }
}

#[test]
fn an_indication_larger_than_a_datagram_has_no_header() {
    let peer = "192.0.2.1:1".parse().unwrap();
    assert!(DataHeader::data(peer, ID, DataHeader::MAX_DATA).is_some());
    assert!(DataHeader::data(peer, ID, DataHeader::MAX_DATA + 1).is_none());
}

proptest! {
    #[test]
    fn an_assembled_indication_is_what_the_builder_builds(
        peer: SocketAddr,
        data in vec(any::<u8>(), 0..40),
    ) {
        let peer = SocketAddr::new(peer.ip(), peer.port());
        let header = DataHeader::data(peer, ID, data.len()).unwrap();
        prop_assert_eq!(assembled(header, &data), indication(Method::DATA, peer, &data));
        let header = DataHeader::send(peer, ID, data.len()).unwrap();
        let bytes = assembled(header, &data);
        prop_assert!(Message::parse(&bytes).is_ok());
        prop_assert_eq!(bytes, indication(Method::SEND, peer, &data));
    }

    #[test]
    fn channel_data_survives_the_wire(
        number in 0x4000_u16..=0x7fff,
        data in vec(any::<u8>(), 0..100),
    ) {
        let frame = ChannelData { channel: channel(number), data: &data };
        for bytes in [frame.to_datagram(), frame.to_stream()] {
            prop_assert_eq!(ChannelData::parse(&bytes), Ok(frame));
        }
    }

    #[test]
    fn random_bytes_do_no_harm(bytes in vec(any::<u8>(), 0..200)) {
        fuzz::turn(&bytes);
    }
}
