//! The postern server: is it there, and which STUN servers does it name?

use std::net::{IpAddr, SocketAddr};

use postern_proto::signal::RendezvousEvent;
use postern_wire::signal::stun_address;
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::facts::ServerFacts;
use super::{Options, SERVER_PATIENCE, STUN_PORT};
use crate::dialer::Introducer;
use crate::rendezvous::{self, Side, SignallingError};
use crate::tls::ConnectError;

/// Says hello, takes the answer and leaves.
pub(super) async fn ask(options: &Options) -> ServerFacts {
    let began = Instant::now();
    let nobody = ServerFacts {
        host: options.server.host(),
        port: options.server.port(),
        ..ServerFacts::default()
    };
    match timeout(SERVER_PATIENCE, welcome(options)).await {
        Ok(Ok(stun)) => ServerFacts {
            reachable: true,
            after: Some(began.elapsed()),
            stun,
            ..nobody
        },
        Ok(Err(error)) => ServerFacts {
            intercepted: is_interception(&error),
            trouble: Some(error.to_string()),
            ..nobody
        },
        Err(_) => ServerFacts {
            trouble: Some(format!(
                "{} did not answer within {} ms",
                options.server.host(),
                SERVER_PATIENCE.as_millis()
            )),
            ..nobody
        },
    }
}

async fn welcome(options: &Options) -> Result<Vec<SocketAddr>, SignallingError> {
    let introducer = Introducer {
        url: options.server.clone(),
        proxy: options.proxy.clone(),
    };
    let wait = SERVER_PATIENCE;
    let mut signalling = rendezvous::enter(introducer, Side::Create, wait).await?;
    while let Some(event) = signalling.events.recv().await {
        if let RendezvousEvent::Welcome { stun } = event {
            return Ok(stun.iter().filter_map(|uri| stun_address(uri)).collect());
        }
    }
    Ok(Vec::new())
}

/// Whether somebody answers who is not the server: a certificate of somebody else's.
const fn is_interception(error: &SignallingError) -> bool {
    matches!(
        error,
        SignallingError::Connect(ConnectError::WrongPin { .. } | ConnectError::Tls { .. })
    )
}

/// The STUN servers to ask: those that were given, those that the server named, and the server
/// itself where it named none.
pub(super) async fn stun_servers(options: &Options, server: &ServerFacts) -> Vec<SocketAddr> {
    let mut servers = server.stun.clone();
    servers.extend(&options.stun);
    if servers.is_empty() {
        let addresses = addresses_of(options).await;
        servers.extend(addresses.iter().map(|ip| SocketAddr::new(*ip, STUN_PORT)));
    }
    let mut seen = Vec::new();
    servers.retain(|server| {
        let new = !seen.contains(server);
        seen.push(*server);
        new
    });
    servers
}

async fn addresses_of(options: &Options) -> Vec<IpAddr> {
    if let Some(ip) = options.server.ip() {
        return vec![ip];
    }
    let host = (options.server.host(), options.server.port());
    let found = timeout(SERVER_PATIENCE, lookup_host(host)).await;
    match found {
        Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
        Ok(Err(_)) | Err(_) => Vec::new(),
    }
}
