//! From whom our NAT lets packets in (RFC 4787 section 5), asked of a server that has two addresses
//! (RFC 5780 section 4.4).
//!
//! A socket that was opened for a sample has sent to one address of one server. If that server can reach
//! it from its other address, the filter is endpoint-independent; if only from its other port,
//! address-dependent. That nothing comes is known after almost two seconds, and then the other address is
//! asked directly: perhaps there is nobody. Nobody waits for all that: the peer is told once more.

use std::net::SocketAddr;
use std::time::Instant;

use postern_wire::stun::ChangeRequest;

use super::{Action, Message, Puncher};
use crate::punch::Filtering;

const OTHER_ADDRESS: ChangeRequest = ChangeRequest {
    ip: true,
    port: true,
};
const OTHER_PORT: ChangeRequest = ChangeRequest {
    ip: false,
    port: true,
};

/// The two tests.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Filters {
    address: Test,
    port: Test,
    /// The server's other address.
    other: Option<SocketAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Test {
    #[default]
    NotBegun,
    /// From this socket.
    Runs(SocketAddr),
    /// Nothing came, and the other address is asked from this socket.
    Confirms(SocketAddr),
    /// Whether the answer came through.
    Over(bool),
    /// The server does not do it.
    Impossible,
}

impl Filters {
    /// Whether a test runs on this socket.
    pub(super) fn uses(self, socket: SocketAddr) -> bool {
        let tests = [self.address, self.port];
        tests.contains(&Test::Runs(socket)) || self.confirms(socket)
    }

    fn confirms(self, socket: SocketAddr) -> bool {
        self.address == Test::Confirms(socket)
    }

    /// What the tests say so far.
    pub(super) const fn verdict(self) -> Filtering {
        match (self.address, self.port) {
            (Test::Over(true), _) => Filtering::EndpointIndependent,
            (Test::Over(false), Test::Over(true)) => Filtering::AddressDependent,
            (Test::Over(false), Test::Over(false)) => Filtering::AddressAndPortDependent,
            _ => Filtering::Unknown,
        }
    }

    /// The test that is to be begun next.
    fn begin(&mut self, socket: SocketAddr) -> Option<ChangeRequest> {
        let tests = [
            (&mut self.address, OTHER_ADDRESS),
            (&mut self.port, OTHER_PORT),
        ];
        let mut waiting = tests.into_iter().filter(|(t, _)| **t == Test::NotBegun);
        let (test, change) = waiting.next()?;
        *test = Test::Runs(socket);
        Some(change)
    }

    /// Ends the test on a socket; whether the other address is to be asked.
    fn end(&mut self, socket: SocketAddr, came: Option<bool>) -> Option<SocketAddr> {
        let over = came.map_or(Test::Impossible, Test::Over);
        if self.port == Test::Runs(socket) {
            self.port = over;
        } else if self.address == Test::Runs(socket) {
            let silent = came == Some(false);
            let confirm = self.other.filter(|_| silent);
            self.address = confirm.map_or(over, |_| Test::Confirms(socket));
            return confirm;
        }
        None
    }
}

impl Puncher {
    /// A socket has been seen by a server that has another address, and by nobody else.
    pub(super) fn ask_elsewhere(&mut self, local: SocketAddr, other: SocketAddr) {
        let Some(server) = self.server.filter(|s| s.ip() != other.ip()) else {
            return;
        };
        if let Some(change) = self.filters.begin(local) {
            self.filters.other = Some(other);
            self.actions.push_back(Action::Sample {
                local,
                server,
                change: Some(change),
            });
        }
    }

    /// The answer that was to come from elsewhere did, or did not; `None` if the server sent it from
    /// where it was asked.
    pub fn on_elsewhere(&mut self, now: Instant, local: SocketAddr, came: Option<bool>) {
        if !self.filters.uses(local) {
            return;
        }
        match self.filters.end(local, came) {
            Some(other) => self.actions.push_back(Action::Sample {
                local,
                server: other,
                change: None,
            }),
            None => self.on_filter(local),
        }
        self.handle_timeout(now);
    }

    /// The server's other address has answered a socket to which it could not send before, or nobody
    /// is there. Whether that is what the answer was about.
    pub(super) fn on_confirmed(&mut self, local: SocketAddr, answered: bool) -> bool {
        let confirms = self.filters.confirms(local);
        if confirms {
            self.filters.address = if answered {
                Test::Over(false)
            } else {
                Test::Impossible
            };
            self.on_filter(local);
        }
        confirms
    }

    /// A test is over: the peer is told if it has made a difference.
    fn on_filter(&mut self, local: SocketAddr) {
        // Before the NAT is classified the socket still counts among those of its samples, which
        // are closed together.
        let Some(told) = &mut self.local else { return };
        let filtering = self.filters.verdict();
        if told.filtering != filtering {
            told.filtering = filtering;
            let told = *told;
            self.actions.push_back(Action::Tell(Message::Nat(told)));
        }
        self.close(|socket| socket == local);
    }
}
