//! Direct paths over TCP: between the agent, which decides, and whoever has the sockets.
//!
//! A path over a connection has as `local` the *base* that stands for it ([`crate::ice::tcp`]), and so
//! has what [`Connector::poll_transmit`] wants sent on it and what arrives on it.

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Instant;

use super::connector::{Connector, Stage};
use super::types::Event;
use crate::ice::tcp::{TcpEnds, TcpEvent};

impl Connector {
    /// Takes what came of [`Event::Tcp`], and the connections that a port of ours has accepted. A new
    /// connection that is wanted gets a base; close it if there is none.
    pub fn handle_tcp(
        &mut self,
        now: Instant,
        ends: TcpEnds,
        event: TcpEvent,
    ) -> Option<SocketAddr> {
        if self.stage == Stage::Ended {
            return None;
        }
        let base = self.agent.handle_tcp(now, ends, event);
        self.follow(now);
        base
    }

    /// Takes another port, for which [`Event::Tcp`] has asked.
    pub fn add_tcp_host(&mut self, now: Instant, host: SocketAddr) {
        if self.stage != Stage::Ended {
            self.agent.add_tcp_host(now, host);
            self.follow(now);
        }
    }

    /// The ends of the connection behind the `local` of a path; `None` if that is not TCP.
    #[must_use]
    pub fn tcp_ends(&self, base: SocketAddr) -> Option<TcpEnds> {
        self.agent.tcp_ends(base)
    }

    pub(super) fn follow_tcp(&mut self) {
        while let Some(action) = self.agent.poll_tcp() {
            self.events.push_back(Event::Tcp(action));
        }
    }
}
