//! What happens at the relays.

use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::signal::RelayServer;
use postern_wire::stun::is_stun;
use postern_wire::turn::ChannelNumber;

use super::connector::{Connector, Stage};
use super::relays::{self, LinkId, Relay};
use super::types::{Event, PathPolicy};
use crate::Datagram;

/// Relays.
impl Connector {
    pub(super) fn on_relays(&mut self, now: Instant, servers: &[RelayServer]) {
        if self.policy == PathPolicy::DirectOnly {
            return;
        }
        self.relays.begin(now, servers);
    }

    pub(super) fn on_relay_event(&mut self, now: Instant, event: relays::Event) {
        match event {
            relays::Event::Open {
                link,
                transport,
                server,
            } => self.events.push_back(Event::OpenLink {
                link,
                transport,
                server,
            }),
            relays::Event::Close(link) => self.events.push_back(Event::CloseLink(link)),
            relays::Event::Allocated(relay) => {
                let Relay {
                    server, relayed, ..
                } = relay;
                let mapped = relay.mapped.unwrap_or(relayed);
                self.events.push_back(Event::Relay(relay));
                self.agent.add_relayed(now, mapped, relayed, server);
                self.relays.permit_neighbours(now, relayed);
                self.vouch(now);
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
                self.unvouch(relayed);
                self.forget_relayed(relayed);
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

    /// Nothing comes back: if it goes through a relay of ours, that may have forgotten us.
    pub(super) fn doubt_relay(&mut self, now: Instant) {
        let path = self.paths.current().or_else(|| self.agent.selected());
        if let Some(path) = path {
            self.relays.probe(now, path.local);
        }
    }

    /// The data of the connection does not pass through here: its channel must not fall
    /// asleep.
    pub(super) fn keep_relay(&mut self, now: Instant) {
        if let Some(path) = self.agent.selected() {
            self.relays.keep_channel(now, path.local, path.remote);
        }
    }
}

/// Links to relays.
impl Connector {
    /// The link that [`Event::OpenLink`] asked for is there. `local` is its own address.
    pub fn handle_link_opened(&mut self, now: Instant, link: LinkId, local: SocketAddr) {
        self.relays.link_opened(now, &mut self.rng, link, local);
        self.follow(now);
    }

    /// The link could not be opened, or is gone.
    pub fn handle_link_closed(&mut self, now: Instant, link: LinkId) {
        self.relays.link_closed(now, link);
        self.follow(now);
    }

    /// Takes a datagram that came over a link of datagrams, or the next piece of a stream.
    pub fn handle_link_input(&mut self, now: Instant, link: LinkId, payload: &[u8]) {
        if self.stage != Stage::Ended {
            self.relays.link_input(now, link, payload);
            self.follow(now);
        }
    }

    /// What to send over which link next.
    pub fn poll_link_output(&mut self) -> Option<(LinkId, Vec<u8>)> {
        self.outputs.pop_front()
    }
}
