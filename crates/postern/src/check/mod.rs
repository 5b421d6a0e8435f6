//! Why can't they reach me? What the network around this machine does.
//!
//! ```no_run
//! use postern::check::{Options, run};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = Options::new("wss://example.org:8443/".parse()?);
//! let facts = run(options, |_progress| {}).await?;
//! let verdict = facts.verdict();
//! println!("{}", verdict.summary);
//! # Ok(())
//! # }
//! ```
//!
//! Everything is asked at the same time and is over after about five seconds. What NATs do is
//! found out by `postern_proto::stun::behaviour`; what it means is decided in [`Facts::verdict`],
//! which looks at nothing but the facts.

mod advice;
mod binding;
mod facts;
mod mtu;
mod network;
mod odds;
mod outside;
mod relays;
mod server;
mod stranger;
mod tcp;
mod udp;
mod verdict;
mod ways;

pub use facts::{Facts, Gateways, ServerFacts, TcpFacts, Trouble, Unsolicited};
pub use network::{Interface, Network, Router};
pub use odds::{Odds, Peer};
pub use postern_proto::punch::{Allocation, Filtering, Mapping, NatReport, PortRange};
pub use postern_proto::stun::behaviour::{Findings, LifetimeEvent, PathMtu};
pub use relays::{Relayed, Relaying};
pub use stranger::{Certificate, Heard, Portal};
pub use verdict::{Reach, Verdict};
pub use ways::{Passage, Way};

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use postern_proto::ice::Nat64Prefix;

use crate::net::{AddressFilter, host_addresses};
use crate::portmap;
use crate::server_url::ServerUrl;
use crate::turn::Proxy;

/// Sockets for one family: one to be mapped, one for filters, and the rest to see how ports are
/// given.
const SOCKETS: usize = 28;

/// The server may take so long to say where its STUN servers are, before its own address and
/// the usual port are tried.
const SERVER_PATIENCE: Duration = Duration::from_millis(1500);

/// No part of a check lasts longer, so that all of it takes five seconds.
const LONGEST: Duration = Duration::from_millis(3500);

/// The port of STUN servers (RFC 8489 section 18.6).
const STUN_PORT: u16 = 3478;

/// What to ask, and whom.
#[derive(Debug, Clone)]
pub struct Options {
    /// The postern server: it tells STUN servers, and is what a relay would be reached by.
    pub server: ServerUrl,
    /// More STUN servers; with a second address the mapping is known even if the server has
    /// only one.
    pub stun: Vec<SocketAddr>,
    /// The HTTP proxy on the way to the server.
    pub proxy: Option<Proxy>,
    /// Whether to ask the router whether it opens ports: multicast on the local network.
    pub gateway: bool,
    /// Whether to have the server look from outside, and to use its relays: both are given only
    /// so often.
    pub outside: bool,
}

impl Options {
    /// Everything is asked.
    #[must_use]
    pub fn new(server: ServerUrl) -> Self {
        Self {
            server,
            stun: Vec::new(),
            proxy: None,
            gateway: true,
            outside: true,
        }
    }
}

/// How far a check has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The server has answered, or has not.
    Server,
    /// UDP of one family is known.
    Udp,
    /// TCP is known.
    Tcp,
    /// The router has answered, or nobody did.
    Gateway,
    /// The relays have been used.
    Relays,
}

/// Why a check could not run.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The machine has no address but its own loopback.
    #[error("this machine has no network: no interface that is up has an address")]
    NoNetwork,
    /// The guard of tests: this is the machine's own network.
    #[error("this is the machine's own network, and tests may only search in namespaces")]
    Guarded,
    /// The system refused a socket.
    #[error("a socket cannot be opened")]
    Socket(#[from] std::io::Error),
    /// The system has no randomness.
    #[error("the system gives no random numbers")]
    Entropy(#[from] getrandom::Error),
}

/// Looks at the network from all sides.
///
/// # Errors
///
/// Only what keeps a check from running: that nothing answers is an answer.
pub async fn run(
    options: Options,
    progress: impl Fn(Progress) + Sync,
) -> Result<Facts, CheckError> {
    if options.gateway && portmap::is_forbidden() {
        return Err(CheckError::Guarded);
    }
    let addresses = host_addresses(AddressFilter::Network)?;
    if addresses.is_empty() {
        return Err(CheckError::NoNetwork);
    }
    let nat64 = network::translator(&addresses).await;
    let asking = ask(&options, nat64, &progress);
    let gateway = async {
        let (result, pinholes) = tokio::join!(gateways(&options, false), gateways(&options, true));
        progress(Progress::Gateway);
        (result, pinholes.map(|pinholes| pinholes.found))
    };
    let proxy = options.proxy.as_ref().map(ToString::to_string);
    let (asked, (gateway, pinholes), network) =
        tokio::join!(asking, gateway, network::look(proxy, nat64));
    let asked = asked?;
    Ok(Facts {
        addresses,
        gateway,
        pinholes,
        network: Network {
            way_out: network::way_out(&network.interfaces, &asked.asked).await,
            ..network
        },
        ..asked
    })
}

/// Asks the servers. The postern server tells whom to ask besides; if it takes its time, its own
/// address will do.
async fn ask(
    options: &Options,
    nat64: Option<Nat64Prefix>,
    progress: &(impl Fn(Progress) + Sync),
) -> Result<Facts, CheckError> {
    let addresses = server::addresses_of(&options.server);
    let mut greeting = std::pin::pin!(server::greet(options, addresses.clone()));
    let early = tokio::time::timeout(SERVER_PATIENCE, &mut greeting).await;
    progress(Progress::Server);
    let early = early.ok();
    let well = early.as_ref().is_some_and(|early| early.facts.reachable);
    let told = early.as_ref().map(|early| early.facts.stun.clone());
    let stun = server::stun_servers(options, &told.unwrap_or_default(), addresses.clone()).await;
    let (v4, v6): (Vec<_>, Vec<_>) = stun.iter().partition(|address| address.is_ipv4());
    let udp = async {
        let v4 = udp::discover(&v4, SOCKETS, nat64);
        let result = tokio::join!(v4, udp::discover(&v6, SOCKETS, None));
        progress(Progress::Udp);
        result
    };
    let look_back = options.outside && well && options.proxy.is_none();
    let tcp = async {
        let looked = tcp::look(&v4, options.proxy.is_some()).await;
        let tcp = match look_back {
            true => outside::over_tcp(&options.server, &v4, &looked).await,
            false => looked.facts(),
        };
        progress(Progress::Tcp);
        tcp
    };
    let meeting = async {
        let mut greeting = match early {
            Some(greeting) => greeting,
            None => greeting.await,
        };
        let offered = match options.outside {
            true => server::relays(options, &mut greeting).await,
            false => None,
        };
        let relays = match &offered {
            Some(offered) => Some(relays::look(options, offered).await),
            None => None,
        };
        progress(Progress::Relays);
        (greeting.facts, relays)
    };
    let ((udp, ipv6), tcp, other_port, other_port_v6, (server, relays), mut ways, heard, path_mtu) = tokio::join!(
        udp,
        tcp,
        other_port(options, &v4, look_back),
        other_port(options, &v6, look_back),
        meeting,
        ways::look(&stun),
        stranger::look(options, &stun, well),
        mtu::search(&v4),
    );
    if options.proxy.is_none() {
        let own = addresses.await.first().copied();
        ways.extend(own.and_then(|own| ways::to_server(&server, own)));
        ways::add_relays(&mut ways, relays.as_deref().unwrap_or_default());
    }
    Ok(Facts {
        asked: stun,
        server,
        udp: udp?,
        ipv6: ipv6?,
        tcp,
        other_port,
        other_port_v6,
        path_mtu,
        ways,
        relays,
        heard,
        ..Facts::default()
    })
}

/// Has the server send from another port, in the family of these STUN servers.
async fn other_port(
    options: &Options,
    stun: &[SocketAddr],
    look_back: bool,
) -> Option<Unsolicited> {
    if !look_back {
        return None;
    }
    let server = server::in_family(&options.server, stun)?;
    // The first datagram of all may be lost while neighbours are looked for.
    let first = stun.first().copied()?;
    if !matches!(ways::over_udp(first).await, Passage::Open(_)) {
        return None;
    }
    outside::over_udp(&server, stun).await
}

/// How long an idle mapping lives: minutes of waiting, of which `waited` is told. It takes the
/// server with two addresses that a check has found.
///
/// # Errors
///
/// As [`run`].
pub async fn lifetime(
    facts: &Facts,
    waited: impl Fn(LifetimeEvent),
) -> Result<LifetimeEvent, CheckError> {
    match facts.udp.two_addresses {
        Some((server, _)) => {
            let nat64 = network::translator(&facts.addresses).await;
            udp::lifetime(server, nat64, waited).await
        }
        None => Ok(LifetimeEvent::Failed),
    }
}

/// Which routers open ports when they are asked, or pinholes in their IPv6 firewall.
async fn gateways(options: &Options, pinholes: bool) -> Option<Gateways> {
    if !options.gateway {
        return None;
    }
    let config = portmap::Config {
        pinholes,
        ..portmap::Config::default()
    };
    let client = portmap::Client::start(config).await.ok()?;
    let router = client.link().gateway;
    let survey = tokio::time::timeout(LONGEST, client.survey())
        .await
        .ok()?
        .ok()?;
    let known = survey.found.iter().find_map(|found| found.external_address);
    let external = match known {
        None if !survey.found.is_empty() && !pinholes => external(&client).await,
        known => known,
    };
    Some(Gateways {
        router,
        found: survey.found,
        external,
    })
}

async fn external(client: &portmap::Client) -> Option<IpAddr> {
    let found = tokio::time::timeout(Duration::from_secs(1), client.external()).await;
    found.ok()?.ok()??.external_address
}
