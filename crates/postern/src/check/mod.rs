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

mod binding;
mod facts;
mod mtu;
mod outside;
mod server;
mod tcp;
mod udp;
mod verdict;

pub use facts::{Facts, Gateways, ServerFacts, TcpFacts, Unsolicited};
pub use postern_proto::punch::{Allocation, Filtering, Mapping, NatReport, PortRange};
pub use postern_proto::stun::behaviour::{Findings, LifetimeEvent, PathMtu};
pub use verdict::{Odds, Peer, Reach, Verdict};

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

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

/// No part of a check lasts longer.
const LONGEST: Duration = Duration::from_secs(5);

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
    /// Whether to have the server look from outside, which it does only so often.
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
    let asking = async {
        let server = server::ask(&options).await;
        progress(Progress::Server);
        let stun = server::stun_servers(&options, &server).await;
        let (v4, v6): (Vec<_>, Vec<_>) = stun.iter().partition(|address| address.is_ipv4());
        let udp = async {
            let result = tokio::join!(udp::discover(&v4, SOCKETS), udp::discover(&v6, SOCKETS));
            progress(Progress::Udp);
            result
        };
        let look_back = options.outside && server.reachable && options.proxy.is_none();
        let tcp = async {
            let looked = tcp::look(&v4, options.proxy.is_some()).await;
            let tcp = match look_back {
                true => outside::over_tcp(&options.server, &v4, &looked).await,
                false => looked.facts(),
            };
            progress(Progress::Tcp);
            tcp
        };
        let other_port = async {
            match look_back {
                true => outside::over_udp(&options.server, &v4).await,
                false => None,
            }
        };
        let path_mtu = mtu::search(&v4);
        let ((udp, ipv6), tcp, other_port, path_mtu) = tokio::join!(udp, tcp, other_port, path_mtu);
        (server, udp, ipv6, tcp, other_port, path_mtu)
    };
    let asked = tokio::time::timeout(LONGEST.saturating_mul(2), asking);
    let gateway = async {
        let result = gateways(&options).await;
        progress(Progress::Gateway);
        result
    };
    let (asked, gateway) = tokio::join!(asked, gateway);
    let (server, udp, ipv6, tcp, other_port, path_mtu) =
        asked.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?;
    Ok(Facts {
        addresses,
        server,
        udp: udp?,
        ipv6: ipv6?,
        tcp,
        gateway,
        other_port,
        path_mtu,
        lifetime: None,
    })
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
        Some((server, _)) => udp::lifetime(server, waited).await,
        None => Ok(LifetimeEvent::Failed),
    }
}

/// Which routers open ports when they are asked.
async fn gateways(options: &Options) -> Option<Gateways> {
    if !options.gateway {
        return None;
    }
    let client = portmap::Client::start(portmap::Config::default())
        .await
        .ok()?;
    let router = client.link().gateway;
    let survey = tokio::time::timeout(LONGEST, client.survey())
        .await
        .ok()?
        .ok()?;
    let known = survey.found.iter().find_map(|found| found.external_address);
    let external = match known {
        None if !survey.found.is_empty() => external(&client).await,
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
