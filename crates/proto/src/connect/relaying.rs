//! What happens at the relays.

use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::signal::RelayServer;
use postern_wire::stun::is_stun;
use postern_wire::turn::ChannelNumber;

use super::connector::Connector;
use super::relays::{self, Relay};
use super::types::{Event, PathPolicy};
use crate::Datagram;

/// Relays.
impl Connector {
    pub(super) fn on_relays(&mut self, now: Instant, servers: &[RelayServer]) {
        if self.policy == PathPolicy::DirectOnly {
            return;
        }
        let hosts = std::mem::take(&mut self.hosts);
        self.relays.begin(now, &mut self.rng, &hosts, servers);
        self.hosts = hosts;
    }

    pub(super) fn on_relay_event(&mut self, now: Instant, event: relays::Event) {
        match event {
            relays::Event::Allocated(relay) => {
                let Relay {
                    base,
                    server,
                    relayed,
                } = relay;
                self.events.push_back(Event::Relay(relay));
                self.agent.add_relayed(now, base, relayed, server);
            }
            relays::Event::Bound {
                relayed,
                peer,
                channel,
            } => self.on_channel(relayed, peer, Some(channel)),
            relays::Event::Unbound { relayed, peer } => self.on_channel(relayed, peer, None),
            relays::Event::Data {
                relayed,
                peer,
                payload,
            } => self.on_relayed_data(now, relayed, peer, payload),
            relays::Event::Ended { relayed } => {
                self.agent.remove_relayed(now, relayed);
                self.events.push_back(Event::RelayEnded(relayed));
            }
        }
    }

    pub(super) fn on_channel(
        &mut self,
        relayed: SocketAddr,
        peer: SocketAddr,
        channel: Option<ChannelNumber>,
    ) {
        self.events.push_back(Event::RelayChannel {
            relayed,
            peer,
            channel,
        });
    }

    pub(super) fn on_relayed_data(
        &mut self,
        now: Instant,
        relayed: SocketAddr,
        peer: SocketAddr,
        payload: Vec<u8>,
    ) {
        if !is_stun(&payload) {
            self.events.push_back(Event::RelayData {
                relayed,
                peer,
                payload,
            });
            return;
        }
        let datagram = Datagram {
            local: relayed,
            remote: peer,
            payload: &payload,
        };
        self.agent.handle_input(now, datagram);
    }

    /// The data of the connection does not pass through here: its channel must not fall
    /// asleep.
    pub(super) fn keep_relay(&mut self, now: Instant) {
        if let Some(path) = self.agent.selected() {
            self.relays.keep(now, path.local, path.remote);
        }
    }
}
