//! Where the datagrams go that come out of streams and channels.

use super::mux::{Inlets, Protocol};
use super::paths::AddressPair;
use super::trains::Assembly;

/// Hands over datagrams whose path is known: checks to the agents, and to QUIC what it is to get, those
/// of one path together.
pub(super) struct Delivery {
    pub(super) inlets: Inlets,
    assembly: Assembly,
}

impl Delivery {
    pub(super) fn new(inlets: Inlets) -> Self {
        Self {
            inlets,
            assembly: Assembly::default(),
        }
    }

    pub(super) async fn take(&mut self, path: AddressPair, datagram: &[u8]) {
        match Protocol::of(datagram) {
            Protocol::Stun => self.inlets.pass_stun(path, datagram),
            Protocol::Channel | Protocol::Quic => {
                if let Some(train) = self.assembly.push(path, datagram) {
                    self.inlets.inject(train).await;
                }
            }
            Protocol::Unknown => {}
        }
    }

    /// Nothing more has arrived for the moment.
    pub(super) async fn flush(&mut self) {
        if let Some(train) = self.assembly.take() {
            self.inlets.inject(train).await;
        }
    }
}
