//! One Binding request and its answer, over UDP or TCP.

use std::io;
use std::net::SocketAddr;

use postern_proto::stun::behaviour::is_other;
use postern_wire::stun::{
    Builder, Class, Message, Method, OtherAddress, TransactionId, XorMappedAddress,
};

use crate::entropy;

/// A request that is to be sent.
pub(super) struct Binding {
    id: TransactionId,
    /// Its bytes.
    pub(super) request: Vec<u8>,
}

/// What a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// Where it sees this machine.
    pub(super) mapped: SocketAddr,
    /// Its other address and port, if it speaks RFC 5780.
    pub(super) other: Option<SocketAddr>,
}

impl Binding {
    pub(super) fn new() -> io::Result<Self> {
        let seed = entropy::seed().map_err(io::Error::other)?;
        let mut id = [0; 12];
        id.copy_from_slice(seed.get(..12).unwrap_or(&[0; 12]));
        let id = TransactionId(id);
        let request = Builder::new(Class::Request, Method::BINDING, id).build();
        Ok(Self { id, request })
    }

    /// The answer of this server; `None` if these bytes are none.
    pub(super) fn read(&self, server: SocketAddr, bytes: &[u8]) -> Option<Seen> {
        let message = Message::parse(bytes).ok()?;
        if message.transaction_id() != self.id || message.class() != Class::Success {
            return None;
        }
        let XorMappedAddress(mapped) = message.get::<XorMappedAddress>().ok()??;
        let other = message.get::<OtherAddress>().ok().flatten();
        let other = other.map(|OtherAddress(other)| other);
        Some(Seen {
            mapped,
            other: other.filter(|other| is_other(server, *other)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_to_another_request_is_none() {
        let server = "45.0.0.1:3478".parse().unwrap();
        let seen = Seen {
            mapped: "45.0.1.1:6000".parse().unwrap(),
            other: Some("45.0.0.2:3479".parse().unwrap()),
        };
        let [asked, another] = [(); 2].map(|()| Binding::new().unwrap());
        let answer = Builder::new(Class::Success, Method::BINDING, asked.id)
            .attribute(&XorMappedAddress(seen.mapped))
            .attribute(&OtherAddress("45.0.0.2:3479".parse().unwrap()))
            .build();
        assert_eq!(asked.read(server, &answer), Some(seen));
        assert_eq!(another.read(server, &answer), None);
        assert_eq!(asked.read(server, &asked.request), None);
    }
}
