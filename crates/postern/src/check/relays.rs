//! Whether the server's relays work: an allocation by each way to each of them, and a datagram
//! through it back to this machine.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use postern_proto::connect::{RelayTransport, relay_address};
use postern_wire::signal::RelayServer;
use tokio::time::{Instant, timeout};

use super::Options;
use crate::dialer::Introducer;
use crate::entropy;
use crate::turn::{self, AddressFamily, Allocation, Credentials, Target, Transport};

/// An allocation may take so long: TLS and two requests.
const PATIENCE: Duration = Duration::from_millis(2000);

/// The datagram is sent once more after so long.
const ROUND: Duration = Duration::from_millis(400);

/// Ways that are tried: each is an allocation, of which servers give an address only so many.
const MAX_WAYS: usize = 12;

/// A relay of the server, by one way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relayed {
    /// How it is reached.
    pub transport: RelayTransport,
    /// Where it is.
    pub server: SocketAddr,
    /// What came of it.
    pub outcome: Relaying,
}

/// What came of using a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relaying {
    /// A datagram went through it and came back.
    Works {
        /// How long the connection and the allocation took.
        after: Duration,
        /// How long the datagram was under way, there and back.
        round_trip: Duration,
    },
    /// It gave an address, and no datagram came back from there.
    Loses,
    /// It gave none: why, in a sentence.
    Fails(String),
}

impl Relaying {
    /// Whether a datagram came back.
    #[must_use]
    pub const fn works(&self) -> bool {
        matches!(self, Self::Works { .. })
    }
}

struct Way {
    transport: RelayTransport,
    server: SocketAddr,
    credentials: Credentials,
}

/// Uses all relays at the same time.
pub(super) async fn look(options: &Options, offered: &[RelayServer]) -> Vec<Relayed> {
    let introducer = Introducer {
        url: options.server.clone(),
        proxy: options.proxy.clone(),
    };
    let ways = offered.iter().flat_map(ways_to).take(MAX_WAYS);
    let attempts = ways.map(|way| use_one(&introducer, way));
    join_all(attempts).await
}

fn ways_to(server: &RelayServer) -> Vec<Way> {
    let Ok(credentials) = Credentials::new(&server.username, &server.password) else {
        return Vec::new();
    };
    let uris = [&server.uri].into_iter().chain(&server.also);
    let ways = uris.filter_map(|uri| relay_address(uri));
    let way = |(transport, server)| Way {
        transport,
        server,
        credentials: credentials.clone(),
    };
    ways.map(way).collect()
}

async fn use_one(introducer: &Introducer, way: Way) -> Relayed {
    let outcome = match timeout(PATIENCE, allocate(introducer, &way)).await {
        Ok(Ok((allocation, after))) => {
            let round_trip = there_and_back(&allocation).await;
            allocation.close().await;
            match round_trip {
                Some(round_trip) => Relaying::Works { after, round_trip },
                None => Relaying::Loses,
            }
        }
        Ok(Err(why)) => Relaying::Fails(reason(&why, way.server)),
        Err(_) => Relaying::Fails(format!("no answer within {} ms", PATIENCE.as_millis())),
    };
    Relayed {
        transport: way.transport,
        server: way.server,
        outcome,
    }
}

/// What went wrong, without the server, which is known, and without advice.
fn reason(error: &str, server: SocketAddr) -> String {
    let bare = error.replace(&format!("the server {server} "), "");
    let first = bare.split(';').next().unwrap_or_default();
    first.to_owned()
}

async fn allocate(introducer: &Introducer, way: &Way) -> Result<(Allocation, Duration), String> {
    let server = match way.transport {
        RelayTransport::Udp => turn::Server {
            transport: Transport::Udp,
            target: Target::new(way.server),
        },
        RelayTransport::Tcp | RelayTransport::Tls => turn::Server {
            transport: Transport::Tcp,
            target: introducer.target(way.transport, way.server),
        },
    };
    let options = turn::Options {
        credentials: Some(way.credentials.clone()),
        family: Some(match way.server {
            SocketAddr::V4(_) => AddressFamily::V4,
            SocketAddr::V6(_) => AddressFamily::V6,
        }),
        channels: false,
        ..turn::Options::default()
    };
    let began = Instant::now();
    let allocation = Allocation::request(&[server], &options).await;
    let allocation = allocation.map_err(|error| error.to_string())?;
    Ok((allocation, began.elapsed()))
}

/// Sends to the relayed address from itself.
async fn there_and_back(allocation: &Allocation) -> Option<Duration> {
    let relayed = allocation.relayed();
    timeout(PATIENCE, allocation.permit_peer(relayed))
        .await
        .ok()?
        .ok()?;
    let payload = entropy::seed().ok()?;
    for _ in 0..2 {
        let sent = Instant::now();
        allocation.send_to(&payload, relayed).await.ok()?;
        let coming = async {
            loop {
                let (data, from) = allocation.recv_from().await.ok()?;
                if data == payload && from == relayed {
                    return Some(());
                }
            }
        };
        if let Ok(came) = timeout(ROUND, coming).await {
            return came.map(|()| sent.elapsed());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_names_no_server_twice() {
        let server = "45.0.0.1:3478".parse().unwrap();
        let error = "the server 45.0.0.1:3478 could not be reached; check that it runs";
        assert_eq!(reason(error, server), "could not be reached");
    }
}
