//! The data path: look-ups without heap allocations.

use std::time::Instant;

use postern_wire::stun::{
    AttributeType, BindingResponse, Builder, Class, Message, Method, TransactionId,
};
use postern_wire::turn::{AddressFamily, ChannelNumber, Data, Icmp, XorPeerAddress};
use rand_core::RngCore;

use super::allocation::{Allocation, relay_id};
use super::dispatch::{Caller, Handled};
use super::permit::canonical;
use super::policy::PeerVerdict;
use super::types::{
    AllocationId, Backward, FiveTuple, Forward, Framing, Load, PeerAddr, RelayId, RelayTransport,
};
use super::{Server, Transport};
use crate::Datagram;

/// The comprehension-required attributes of a Send indication.
const SEND: &[AttributeType] = &[
    AttributeType::XOR_PEER_ADDRESS,
    AttributeType::DATA,
    AttributeType::DONT_FRAGMENT,
];

impl Server {
    /// The answer to a Binding request without attributes in a datagram; `None` for
    /// everything else, which is for [`Server::handle_input`]. The inner value is `None` if
    /// there is to be no answer.
    ///
    /// It is what [`Server::handle_input`] would have answered, without the queue and
    /// without an allocation on the heap.
    pub fn bare_binding(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        payload: &[u8],
    ) -> Option<Option<BindingResponse>> {
        let datagram = Datagram {
            local: client.server,
            remote: client.client.0,
            payload,
        };
        let is_datagram = client.transport == Transport::Udp;
        let answer = is_datagram
            .then(|| self.binding.answer_bare(now, &datagram))
            .flatten()?;
        self.stats.bindings = self.stats.bindings.wrapping_add(1);
        Some(answer)
    }

    /// Where data on a channel goes: that of one ChannelData message, or of a train of them. `None` drops it: there is no allocation, no such channel, no
    /// permission, or no bandwidth left.
    pub fn client_data(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        channel: ChannelNumber,
        load: Load,
    ) -> Option<Forward> {
        let Some((id, forward)) = self.on_channel(now, client, channel) else {
            self.stats.without_permission.count(load);
            return None;
        };
        self.settle_data(id, client);
        self.spend_to_peer(now, id, load).then_some(forward)
    }

    fn on_channel(
        &self,
        now: Instant,
        client: &FiveTuple,
        channel: ChannelNumber,
    ) -> Option<(AllocationId, Forward)> {
        let id = self.table.of_client(client)?;
        let allocation = self.table.get(id)?;
        let peer = allocation.channels.peer(now, channel)?;
        let forward = self.forward(now, id, allocation, peer, false)?;
        Some((id, forward))
    }

    /// Where data from a peer goes: that of one datagram, or of a train. `None` drops it: the relay is gone, there is no permission, or no bandwidth left.
    pub fn peer_data(
        &mut self,
        now: Instant,
        relay: RelayId,
        peer: PeerAddr,
        load: Load,
    ) -> Option<Backward> {
        let peer = canonical(peer);
        let Some(allocation) = self.receiver(now, relay, peer) else {
            self.stats.without_permission.count(load);
            return None;
        };
        let client = allocation.client;
        let framing = match allocation.channels.channel(now, peer) {
            Some(channel) => Framing::Channel(channel),
            None => Framing::Indication(peer),
        };
        let may = self.spend(now, relay.allocation, load.bytes);
        let counter = if may {
            &mut self.stats.to_clients
        } else {
            &mut self.stats.beyond_rate
        };
        counter.count(load);
        may.then_some(Backward { client, framing })
    }

    /// A transaction id for a Data indication.
    pub fn indication_id(&mut self) -> TransactionId {
        let mut id = TransactionId([0; 12]);
        self.rng.fill_bytes(&mut id.0);
        id
    }

    /// An ICMP error about a datagram from this relay to this peer: the client learns of
    /// it if the peer has a permission (RFC 8656 section 11.5).
    pub fn handle_icmp(&mut self, now: Instant, relay: RelayId, peer: PeerAddr, icmp: Icmp) {
        let peer = canonical(peer);
        let Some(allocation) = self.receiver(now, relay, peer) else {
            return;
        };
        let client = allocation.client;
        let id = self.indication_id();
        let payload = Builder::new(Class::Indication, Method::DATA, id)
            .attribute(&XorPeerAddress(peer.0))
            .attribute(&icmp)
            .build();
        self.send(client, payload);
    }

    /// A Send indication (RFC 8656 section 11.2). What is wrong is dropped.
    pub(super) fn on_send<'a>(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        message: &Message<'a>,
    ) -> Handled<'a> {
        match self.send_indication(now, client, message) {
            Some((forward, data)) => Handled::Forward(forward, data),
            None => Handled::Consumed,
        }
    }

    fn send_indication<'a>(
        &mut self,
        now: Instant,
        client: &FiveTuple,
        message: &Message<'a>,
    ) -> Option<(Forward, &'a [u8])> {
        let is_known =
            |kind| !AttributeType::is_comprehension_required(kind) || SEND.contains(&kind);
        if !message.attributes().all(|(kind, _)| is_known(kind)) {
            return None;
        }
        let XorPeerAddress(peer) = message.get().ok()??;
        let Data(data) = message.get().ok()??;
        let load = Load::one(data.len());
        let dont_fragment = message.contains(AttributeType::DONT_FRAGMENT);
        let peer = canonical(PeerAddr(peer));
        let Some((id, forward)) = self.towards(now, client, peer, dont_fragment) else {
            self.stats.without_permission.count(load);
            return None;
        };
        self.settle_data(id, client);
        self.spend_to_peer(now, id, load).then_some((forward, data))
    }

    fn towards(
        &self,
        now: Instant,
        client: &FiveTuple,
        peer: PeerAddr,
        dont_fragment: bool,
    ) -> Option<(AllocationId, Forward)> {
        let id = self.table.of_client(client)?;
        let allocation = self.table.get(id)?;
        let forward = self.forward(now, id, allocation, peer, dont_fragment)?;
        Some((id, forward))
    }

    /// All that must hold before data goes to a peer.
    fn forward(
        &self,
        now: Instant,
        id: AllocationId,
        allocation: &Allocation,
        peer: PeerAddr,
        dont_fragment: bool,
    ) -> Option<Forward> {
        let ip = peer.0.ip();
        let may = allocation.is_live(now)
            && allocation.transport == RelayTransport::Udp
            && peer.0.port() != 0
            && allocation.permissions.is_live(now, ip);
        let family = AddressFamily::of(ip);
        let relay = allocation.relays.get(family).filter(|_| may)?;
        let own = self.own_relay(peer)?;
        Some(Forward {
            relay: relay_id(id, family),
            peer,
            own,
            source: relay.relayed(),
            dont_fragment,
        })
    }

    /// The relay of ours that a peer is, if it is one; `None` if it is another port of
    /// ours that may not be reached.
    fn own_relay(&self, peer: PeerAddr) -> Option<Option<RelayId>> {
        let (policy, ip) = (&self.config.policy, peer.0.ip());
        let listens = policy.is_own_endpoint(peer.0);
        if !listens && !self.config.has_relays_at(ip) {
            return Some(None);
        }
        match self.shared.of_relayed(RelayTransport::Udp, peer.0) {
            Some(relay) => Some(Some(relay)),
            None => (!listens && policy.verdict(ip) == PeerVerdict::Allowed).then_some(None),
        }
    }

    /// The allocation of a relay, if data of this peer may pass.
    fn receiver(&self, now: Instant, relay: RelayId, peer: PeerAddr) -> Option<&Allocation> {
        let allocation = self.table.get(relay.allocation)?;
        let may = allocation.is_live(now)
            && allocation.transport == RelayTransport::Udp
            && allocation.relays.get(relay.family).is_some()
            && relay.family == AddressFamily::of(peer.0.ip())
            && allocation.permissions.is_live(now, peer.0.ip());
        may.then_some(allocation)
    }

    pub(super) fn spend(&self, now: Instant, id: AllocationId, bytes: usize) -> bool {
        let Some(allocation) = self.table.get(id) else {
            return false;
        };
        let holder = allocation.holder;
        if self.config.quotas.are_unmetered() {
            return true;
        }
        self.shared
            .accounts()
            .spend(now, &self.config.quotas, holder, bytes)
    }

    fn spend_to_peer(&mut self, now: Instant, id: AllocationId, load: Load) -> bool {
        let may = self.spend(now, id, load.bytes);
        let counter = if may {
            &mut self.stats.to_peers
        } else {
            &mut self.stats.beyond_rate
        };
        counter.count(load);
        may
    }

    /// Word from where a client moved to: nothing more will come from where it was.
    pub(super) fn settle(&mut self, id: AllocationId, caller: &Caller) {
        self.settle_data(id, &caller.client);
    }

    fn settle_data(&mut self, id: AllocationId, client: &FiveTuple) {
        let Some(allocation) = self.table.get_mut(id) else {
            return;
        };
        if allocation.former.is_none() || allocation.client != *client {
            return;
        }
        if let Some(former) = allocation.former.take() {
            self.table.forget_client(id, &former);
        }
    }
}
