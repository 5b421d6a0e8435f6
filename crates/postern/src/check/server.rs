//! The postern server: is it there, which STUN servers does it name, and which relays does it
//! offer?

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use postern_proto::signal::RendezvousEvent;
use postern_wire::signal::{Code, RelayServer, stun_address};
use tokio::net::lookup_host;
use tokio::time::{Instant, timeout};

use super::facts::{ServerFacts, Trouble};
use super::{Options, STUN_PORT};
use crate::dialer::Introducer;
use crate::rendezvous::{self, Side, Signalling, SignallingError};
use crate::server_url::ServerUrl;
use crate::tls::ConnectError;
use crate::turn::ProxyError;

/// The server has so long to greet: on a slow line that is eight round trips of half a second.
const PATIENCE: Duration = Duration::from_millis(4000);

/// A name is resolved within so long: a resolver that takes longer is dead.
const NAME_PATIENCE: Duration = Duration::from_millis(2500);

/// Meeting oneself takes so long, after the server has greeted.
const MEETING: Duration = Duration::from_millis(1500);

/// The server's first words, and the mailbox in which relays are offered.
pub(super) struct Greeting {
    pub(super) facts: ServerFacts,
    mailbox: Option<Signalling>,
}

/// Says hello and takes the answer. The addresses of the server are looked up by the caller, too.
pub(super) async fn greet(options: &Options, addresses: Addresses) -> Greeting {
    let began = Instant::now();
    let nobody = ServerFacts {
        host: options.server.host(),
        port: options.server.port(),
        ..ServerFacts::default()
    };
    let failed = |kind, sentence| Greeting {
        facts: ServerFacts {
            intercepted: matches!(kind, Trouble::Stranger | Trouble::Untrusted),
            kind: Some(kind),
            trouble: Some(sentence),
            ..nobody.clone()
        },
        mailbox: None,
    };
    if options.proxy.is_none() && addresses.await.is_empty() {
        let sentence = format!(
            "the name of the server {} could not be resolved",
            options.server.host()
        );
        return failed(Trouble::Name, sentence);
    }
    match timeout(PATIENCE, welcome(options)).await {
        Ok(Ok((stun, mailbox))) => Greeting {
            facts: ServerFacts {
                reachable: true,
                after: Some(began.elapsed()),
                stun,
                ..nobody
            },
            mailbox: Some(mailbox),
        },
        Ok(Err(error)) => failed(kind_of(&error), error.to_string()),
        Err(_) => failed(
            Trouble::Silent,
            format!(
                "{} did not answer within {} s",
                options.server.host(),
                PATIENCE.as_secs()
            ),
        ),
    }
}

async fn welcome(options: &Options) -> Result<(Vec<SocketAddr>, Signalling), SignallingError> {
    let mut signalling = enter(options, Side::Create).await?;
    while let Some(event) = signalling.events.recv().await {
        if let RendezvousEvent::Welcome { stun } = event {
            let stun = stun.iter().filter_map(|uri| stun_address(uri)).collect();
            return Ok((stun, signalling));
        }
    }
    Ok((Vec::new(), signalling))
}

async fn enter(options: &Options, side: Side) -> Result<Signalling, SignallingError> {
    let introducer = Introducer {
        url: options.server.clone(),
        proxy: options.proxy.clone(),
    };
    rendezvous::enter(introducer, side, PATIENCE.saturating_add(MEETING)).await
}

/// The relays that the server offers: it tells them to those who meet, so this machine meets
/// itself. `None` if it could not.
pub(super) async fn relays(options: &Options, greeting: &mut Greeting) -> Option<Vec<RelayServer>> {
    let mut mailbox = greeting.mailbox.take()?;
    timeout(MEETING, async {
        let code = code_of(&mut mailbox).await?;
        let mut joined = enter(options, Side::Join(code)).await.ok()?;
        while let Some(event) = joined.events.recv().await {
            match event {
                RendezvousEvent::Relays(relays) => return Some(relays),
                // Relays come before.
                RendezvousEvent::PeerJoined | RendezvousEvent::Authenticated => {
                    return Some(Vec::new());
                }
                RendezvousEvent::Failed(_) | RendezvousEvent::Closed => return None,
                RendezvousEvent::Welcome { .. }
                | RendezvousEvent::CodeReady(_)
                | RendezvousEvent::Message(_) => {}
            }
        }
        None
    })
    .await
    .ok()?
}

async fn code_of(mailbox: &mut Signalling) -> Option<Code> {
    while let Some(event) = mailbox.events.recv().await {
        if let RendezvousEvent::CodeReady(code) = event {
            return Some(code);
        }
    }
    None
}

/// What kind of failure it is, for advice.
fn kind_of(error: &SignallingError) -> Trouble {
    match error {
        SignallingError::Connect(error) => match error {
            ConnectError::Resolve { .. } => Trouble::Name,
            ConnectError::Unreachable { source, .. } => unreachable(source.kind()),
            ConnectError::Silent { .. } => Trouble::Mute,
            ConnectError::Tls { .. } => Trouble::Untrusted,
            ConnectError::WrongPin { .. } | ConnectError::NotTls { .. } => Trouble::Stranger,
            ConnectError::Proxy(error) => match error {
                ProxyError::Unreachable { .. }
                | ProxyError::Silent { .. }
                | ProxyError::NotHttp { .. }
                | ProxyError::Credentials { .. }
                | ProxyError::Refused { .. } => Trouble::Proxy,
            },
        },
        SignallingError::NotPostern { .. } => Trouble::Stranger,
        SignallingError::Entropy(_) => Trouble::Silent,
    }
}

fn unreachable(kind: ErrorKind) -> Trouble {
    if kind == ErrorKind::ConnectionRefused {
        Trouble::Refused
    } else if matches!(
        kind,
        ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable
    ) {
        Trouble::NoRoute
    } else {
        Trouble::Silent
    }
}

/// The STUN servers to ask: those that were given, those that the server named, and the server
/// itself where it named none.
pub(super) async fn stun_servers(
    options: &Options,
    told: &[SocketAddr],
    addresses: Addresses,
) -> Vec<SocketAddr> {
    let mut servers = told.to_vec();
    servers.extend(&options.stun);
    if servers.is_empty() {
        let addresses = addresses.await;
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

/// The addresses of the server, which are looked up once.
pub(super) type Addresses = Shared<BoxFuture<'static, Vec<IpAddr>>>;

/// None where the name cannot be resolved.
pub(super) fn addresses_of(server: &ServerUrl) -> Addresses {
    let (known, host) = (server.ip(), (server.host(), server.port()));
    let looking = async move {
        if let Some(ip) = known {
            return vec![ip];
        }
        let found = timeout(NAME_PATIENCE, lookup_host(host)).await;
        match found {
            Ok(Ok(found)) => found.map(|address| address.ip()).collect(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    };
    looking.boxed().shared()
}

/// The same server at an address of this family: its certificate is recognised by its fingerprint,
/// or by its name.
pub(super) fn in_family(server: &ServerUrl, stun: &[SocketAddr]) -> Option<ServerUrl> {
    let is_ipv4 = stun.first()?.is_ipv4();
    match server.ip() {
        Some(ip) if ip.is_ipv4() != is_ipv4 => {
            let pin = server.pin()?;
            let host = match stun.first()?.ip() {
                IpAddr::V4(ip) => url::Host::Ipv4(ip),
                IpAddr::V6(ip) => url::Host::Ipv6(ip),
            };
            Some(ServerUrl::new(host, server.port(), Some(pin)))
        }
        Some(_) | None => Some(server.clone()),
    }
}
