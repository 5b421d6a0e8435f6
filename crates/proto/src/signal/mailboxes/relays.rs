//! Relays for those who meet: TURN servers, and credentials that run out.

use std::time::{Duration, Instant};

use data_encoding::BASE64;
use postern_wire::signal::RelayServer;

use super::Source;
use crate::stun::Credentials;

/// How long the credentials of one meeting are good. An allocation has to be refreshed with
/// them, so this bounds how long a connection can use the relay.
const LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// What a server offers to both sides of a mailbox when they have met.
#[derive(Debug)]
pub struct RelayOffer {
    /// The TURN servers, at most [`MAX_RELAYS`](postern_wire::signal::MAX_RELAYS).
    pub servers: Vec<OfferedServer>,
    /// Makes the credentials; the TURN servers know the same secret.
    pub credentials: Credentials,
    /// Some moment, and the time since 1970 at that moment.
    pub epoch: (Instant, Duration),
}

/// How to reach one TURN server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OfferedServer {
    /// `turn:ip:port`, over UDP.
    pub uri: String,
    /// The URIs of other transports, the preferred one first, at most
    /// [`MAX_RELAY_WAYS`](postern_wire::signal::MAX_RELAY_WAYS).
    pub also: Vec<String>,
}

impl RelayOffer {
    /// The relays for a client at this address. All clients there are one user of the
    /// relay, so that its quotas bound strangers, too: who asks for more meetings gets no
    /// more of the relay. The name shows the address to nobody else. With them goes what the
    /// relay would challenge the client with: its address is proven by this connection.
    pub(super) fn issue(&self, now: Instant, source: Source) -> Vec<RelayServer> {
        let (start, since_1970) = self.epoch;
        let unix = since_1970.saturating_add(now.saturating_duration_since(start));
        let id = self.credentials.pseudonym(&source.octets());
        let Some(issued) = self.credentials.issue(unix, LIFETIME, Some(&id)) else {
            return Vec::new();
        };
        let challenge = self.credentials.challenge(unix, source.ip());
        let challenge = challenge.map(|challenge| BASE64.encode(&challenge));
        let relay = |server: &OfferedServer| RelayServer {
            uri: server.uri.clone(),
            also: server.also.clone(),
            username: issued.username.clone(),
            password: issued.password.clone(),
            challenge: challenge.clone(),
        };
        self.servers.iter().map(relay).collect()
    }
}
