//! The TURN codec.

use crate::stun::{Builder, Message};
use crate::turn::{self, ChannelData, StreamFrame, split_stream};

/// Cuts a stream into messages, and reads each in every way there is.
pub fn turn(data: &[u8]) {
    let mut rest = data;
    while let Some((message, padded)) = first(rest) {
        channel_data(message);
        attributes(message);
        rest = rest.get(padded..).unwrap_or_default();
    }
    channel_data(data);
    attributes(data);
}

fn first(stream: &[u8]) -> Option<(&[u8], usize)> {
    let (length, padded) = match split_stream(stream).ok()? {
        StreamFrame::Incomplete { needed } => {
            assert!(needed > stream.len() && needed <= 65_555);
            return None;
        }
        StreamFrame::Stun { length } => (length, length),
        StreamFrame::ChannelData { length, padded } => (length, padded),
    };
    assert!(length > 0 && length <= padded && padded <= stream.len());
    Some((stream.get(..length)?, padded))
}

fn channel_data(datagram: &[u8]) {
    if let Ok(frame) = ChannelData::parse(datagram) {
        assert!(datagram.starts_with(&frame.to_datagram()));
    }
}

macro_rules! reread {
    ($message:ident: $($attribute:ident),* $(,)?) => {$(
        if let Ok(Some(value)) = $message.get::<turn::$attribute>() {
            let builder = Builder::new(
                $message.class(),
                $message.method(),
                $message.transaction_id(),
            );
            let bytes = builder.attribute(&value).build();
            let again = Message::parse(&bytes).and_then(|again| again.get());
            assert_eq!(again, Ok(Some(value)));
        }
    )*};
}

fn attributes(bytes: &[u8]) {
    let Ok(message) = Message::parse(bytes) else {
        return;
    };
    reread!(message: AdditionalAddressFamily, AddressErrorCode, ChannelNumber, ConnectionId);
    reread!(message: Data, DontFragment, EvenPort, Icmp, Lifetime, MobilityTicket);
    reread!(message: RequestedAddressFamily, RequestedTransport, ReservationToken);
    reread!(message: XorPeerAddress, XorRelayedAddress);
}
