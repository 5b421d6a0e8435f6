//! Ports of a gateway that lead here, one over each transport, asked for while everything else goes
//! on.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::signal::PeerMessage;
use postern_wire::transport::Transport;

use super::connector::Connector;
use super::limits::{self, later};
use super::types::PathPolicy;
use crate::ice::{Candidate, transport_of};

/// How far they are.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    /// Until when the peer is not told that there are no more candidates; connecting does not
    /// wait.
    pub(super) until: Option<Instant>,
    /// What is still asked for.
    awaited: BTreeSet<Transport>,
    /// Whether that would have been told.
    held: bool,
    /// What leads here, one address over each transport.
    told: Vec<(Transport, SocketAddr)>,
}

impl Connector {
    /// Says that a gateway is being asked for a port that leads to one of the hosts over this
    /// transport: [`handle_mapping`](Self::handle_mapping) follows. Nothing waits for it but the
    /// word that there are no more candidates, for a while.
    pub fn expect_mapping(&mut self, now: Instant, transport: Transport) {
        self.mapping.awaited.insert(transport);
        self.mapping.until = Some(later(now, limits::MAPPING));
    }

    /// A gateway leads the second address to the first, a host's over this transport; or none
    /// does. Comes again when the mapping moves, and when the host has left the gateway's network:
    /// what led here before is not told any more.
    pub fn handle_mapping(
        &mut self,
        now: Instant,
        transport: Transport,
        mapping: Option<(SocketAddr, SocketAddr)>,
    ) {
        self.withdraw_mapped(transport, mapping.map(|(_, mapped)| mapped));
        if let Some((base, mapped)) = mapping
            && self.policy != PathPolicy::RelayOnly
        {
            let place = (transport, mapped);
            if !self.mapping.told.contains(&place) {
                self.mapping.told.push(place);
            }
            self.agent.add_mapped(now, transport, (base, mapped));
        }
        self.follow(now);
        self.mapping.awaited.remove(&transport);
        if self.mapping.awaited.is_empty() {
            self.end_wait_for_mapping(now);
        }
    }

    /// What led here over a transport, but for one address.
    fn withdraw_mapped(&mut self, transport: Transport, stays: Option<SocketAddr>) {
        let gone = |(over, mapped): &mut (_, _)| *over == transport && Some(*mapped) != stays;
        for (_, mapped) in self.mapping.told.extract_if(.., gone) {
            if self.agent.remove_mapped(transport, mapped) {
                self.own
                    .retain(|own| (transport_of(own), own.address) != (transport, mapped));
            }
        }
    }

    /// There are no more candidates, but perhaps one at a gateway.
    pub(super) fn on_end_of_local_candidates(&mut self) {
        if self.mapping.until.is_some() {
            self.mapping.held = true;
        } else {
            self.candidates_told = true;
            self.tell(PeerMessage::EndOfCandidates);
        }
    }

    pub(super) fn end_wait_for_mapping(&mut self, now: Instant) {
        self.mapping.until = None;
        self.mapping.awaited.clear();
        if std::mem::take(&mut self.mapping.held) {
            self.on_end_of_local_candidates();
        }
        self.leave_if_done(now);
    }

    /// Whether a gateway leads the address of this candidate here.
    pub(super) fn is_mapped(&self, candidate: &Candidate) -> bool {
        let place = (transport_of(candidate), candidate.address);
        self.mapping.told.contains(&place)
    }
}
