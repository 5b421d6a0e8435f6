//! The server that introduces peers to each other: mailboxes over WebSocket, STUN, and
//! relays for those that find no other way (TURN).
//!
//! Nothing here decides what the protocols mean: the machines in `postern-proto` do.

mod control;
mod discovery;
mod mailboxes;
mod metrics;
mod names;
mod probe;
mod slots;
mod sockets;
mod streams;
mod turn;
mod web;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;

use dimpl::DtlsCertificate;
use postern_proto::stun::Alternate;
use postern_wire::signal::{Fingerprint, MAX_STUN_SERVERS};
use rustls::ServerConfig as TlsConfig;
use rustls::pki_types::CertificateDer;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::control::Tls;
use self::discovery::Discovery;
use self::probe::Prober;
use crate::dtls;
use crate::quic::Identity;
use crate::server_url::{DEFAULT_PORT, ServerUrl};
use crate::tls::{self, CertificateFileError};

pub use control::{Control, Usage};
pub use probe::ProbeConfig;
pub use turn::{
    Alternates, Cidr, CidrError, DEFAULT_QUOTA_ADDRESS, DEFAULT_REALM, DEFAULT_TLS_PORT, Issuer,
    TimeLimited, TooLong, TurnConfig,
};
use turn::{DtlsIdentity, Own};

/// What a network may be sent in ten seconds beyond what came from it, before it has proven
/// that it is there: bytes.
pub const DEFAULT_UNPROVEN_RATE: u64 = 16 * 1024;

/// The port of STUN (RFC 8489 section 8.1).
pub const DEFAULT_STUN_PORT: u16 = 3478;

/// What a server is to be.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The addresses to listen on; at least one.
    pub listen: Vec<IpAddr>,
    /// The TCP port of the web socket; 0 lets the system choose.
    pub port: u16,
    /// The UDP port of STUN; 0 lets the system choose.
    pub stun_port: u16,
    /// The addresses at which clients reach the server, if they are not those that it
    /// listens on: behind a NAT that forwards to it, or when it listens on every address.
    /// The first is the one in the URL.
    pub public: Vec<IpAddr>,
    /// Certificate chain and private key in PEM form; the URL then has the first host
    /// name or address of the certificate. Without them the server makes a
    /// self-signed certificate, and its URL pins it.
    pub certificate: Option<CertificateFiles>,
    /// Second addresses, one of each family, with which clients discover how their NATs
    /// behave (RFC 5780). They are listened on, too.
    pub alternate_ips: Vec<IpAddr>,
    /// The second port for that, at every address; 0 lets the system choose, and without
    /// it is the one behind that of STUN.
    pub alternate_port: Option<u16>,
    /// Relays; `None` if there are to be none.
    pub turn: Option<TurnConfig>,
    /// Where Prometheus can ask for metrics.
    pub metrics: Option<SocketAddr>,
    /// Whether that may be an address that the public internet leads to.
    pub metrics_public: bool,
    /// Which clients may ask for probes of their own ports (`POST /probe`); `None` if none may.
    pub probe: Option<ProbeConfig>,
    /// How many bytes a network, a /24 or a /56, may be sent in ten seconds beyond what
    /// came from it, before it has proven that it is there; `None` is no limit, for load
    /// tests.
    pub unproven_rate: Option<u64>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: vec![Ipv4Addr::UNSPECIFIED.into()],
            port: DEFAULT_PORT,
            stun_port: DEFAULT_STUN_PORT,
            public: Vec::new(),
            certificate: None,
            alternate_ips: Vec::new(),
            alternate_port: None,
            turn: None,
            metrics: None,
            metrics_public: false,
            probe: Some(ProbeConfig::default()),
            unproven_rate: Some(DEFAULT_UNPROVEN_RATE),
        }
    }
}

/// Where the server's certificate is.
#[derive(Debug, Clone)]
pub struct CertificateFiles {
    /// The certificate chain, PEM.
    pub chain: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

/// Why a server could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// There is no address to listen on.
    #[error("the server needs at least one address to listen on")]
    NoAddress,
    /// An address or a port is not to be had.
    #[error(
        "the server cannot listen on {address}; is another server running there, or does the address not belong to this machine?"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// There are no two addresses to discover NAT behaviour with.
    #[error(
        "{0} cannot be the alternate address; it must differ from another address of the same family that the server listens on"
    )]
    Alternate(IpAddr),
    /// Metrics would be for everybody.
    #[error(
        "metrics at {0} would be open to the public internet; choose a private address, or say that they are to be public"
    )]
    PublicMetrics(SocketAddr),
    /// The certificate or the key cannot be used.
    #[error("the server has no usable certificate")]
    Certificate(#[from] CertificateFileError),
    /// Making a self-signed certificate failed.
    #[error("a self-signed certificate could not be made")]
    SelfSigned(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The cryptography of DTLS does not work.
    #[error("DTLS could not be set up")]
    Dtls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The realm or a user's name cannot be used.
    #[error("the relay cannot be set up")]
    Turn(#[from] TooLong),
    /// The relay's thread could not be started.
    #[error("the relay could not be started")]
    Start(#[source] io::Error),
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[source] getrandom::Error),
}

/// A server whose sockets are bound; [`Server::run`] makes it answer.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    relay: turn::Running,
    streams: streams::Listeners,
    metrics: Option<TcpListener>,
    control: Control,
    mailboxes: mailboxes::Task,
    dtls_pin: Option<Fingerprint>,
    url: ServerUrl,
    stun_uris: Vec<String>,
    turn_uris: Vec<String>,
    issuer: Option<Issuer>,
}

impl Server {
    /// Binds the sockets and loads or makes the certificate. Must be called inside a
    /// tokio runtime.
    ///
    /// # Errors
    ///
    /// Every [`ServerError`].
    pub fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        let credentials = Credentials::of(&config)?;
        let listeners = bind_all(&config.listen, config.port, sockets::listen)?;
        let Entrances {
            udp: stun,
            first: udp,
            alternates,
            streams,
        } = Entrances::bind(&config)?;
        let addresses = names::advertised(&bound(&listeners)?, &config.public);
        let addresses = preferred(addresses, &config.public);
        let port = addresses.first().map(SocketAddr::port);
        let host = names::url_host(credentials.certificate.as_ref(), &addresses);
        let (host, port) = host.zip(port).ok_or(ServerError::NoAddress)?;
        let metrics = bind_metrics(&config)?;
        let own = own(&config, &bound(&stun)?)?;
        let (mut plan, issuer) = plan(&config, own.as_ref())?;
        plan.discover(alternates);
        plan.listen(bound(&listeners)?.into_iter().chain(bound(&stun)?));
        plan.listen(streams.bound()?);
        let relay = turn::Running::start(stun, seed()?, plan).map_err(ServerError::Start)?;
        let turn_streams = match &config.turn {
            Some(_) => streams.uris(&addresses, &config.public)?,
            None => Vec::new(),
        };
        let udp = names::advertised(&udp, &config.public);
        let stun_uris = stun_uris(&udp);
        let offer = issuer
            .clone()
            .map(|issuer| issuer.offer(&udp, &turn_streams));
        let (mailboxes, task) = mailboxes::new(seed()?, stun_uris.clone(), offer);
        let over_udp = udp.iter().filter(|_| config.turn.is_some());
        let over_udp = over_udp.map(|address| format!("turn:{address}?transport=udp"));
        let over_streams = turn_streams.iter().map(|(_, uri)| uri.clone());
        let turn_uris = over_udp.chain(over_streams).collect();
        let control = Control {
            prober: Prober::of(&config, addresses),
            relay: relay.remote().clone(),
            own,
            tls: Tls::new(credentials.tls),
            dtls: credentials.dtls,
            listen: config.listen,
            mailboxes,
            places: control::Places::new(),
            udp,
            turn_streams,
        };

        Ok(Self {
            url: ServerUrl::new(host, port, credentials.pin),
            stun_uris,
            turn_uris,
            issuer,
            listeners,
            relay,
            streams,
            metrics,
            control,
            mailboxes: task,
            dtls_pin: credentials.dtls_pin,
        })
    }

    /// What an operator can do to the server from now on.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// What clients are to be told: the URL, with a pin if the certificate is self-signed.
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// The STUN URIs (RFC 7064), one per address.
    pub fn stun_uris(&self) -> &[String] {
        &self.stun_uris
    }

    /// The TURN URIs (RFC 7065), one per address and transport; empty without relays.
    pub fn turn_uris(&self) -> &[String] {
        &self.turn_uris
    }

    /// Where Prometheus can ask for metrics, at the path `/metrics`.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref()?.local_addr().ok()
    }

    /// The fingerprint of the certificate that TURN over DTLS shows, if that is another one
    /// than TLS's: one that the server made, because DTLS cannot use the key. It needs ECDSA
    /// on P-256 or P-384.
    pub fn own_dtls_certificate(&self) -> Option<Fingerprint> {
        self.dtls_pin.filter(|_| self.issuer.is_some())
    }

    /// Issues credentials for the relays; `None` without relays.
    pub fn issuer(&self) -> Option<&Issuer> {
        self.issuer.as_ref()
    }

    /// Answers until the future is dropped.
    pub async fn run(self) {
        tracing::info!(url = %self.url.websocket(), stun = ?self.stun_uris, "the server runs");
        let mut tasks = JoinSet::new();
        let relay = self.issuer.is_some().then(|| self.control.relay.clone());
        tasks.spawn(self.mailboxes.run());
        if let Some(relay) = &relay {
            self.streams.spawn(&mut tasks, &self.control, relay);
        }
        if let Some(listener) = self.metrics {
            tasks.spawn(metrics::serve(listener, self.control.clone()));
        }
        for listener in self.listeners {
            let web = web::Web {
                tls: self.control.tls.clone(),
                mailboxes: self.control.mailboxes.clone(),
                slots: self.control.places.web.clone(),
                relay: relay.clone(),
                prober: self.control.prober.clone(),
            };
            tasks.spawn(web::serve(listener, web));
        }
        while tasks.join_next().await.is_some() {}
        drop(self.relay);
    }
}

fn seed() -> Result<[u8; 32], ServerError> {
    crate::entropy::seed().map_err(ServerError::Entropy)
}

fn bind_metrics(config: &ServerConfig) -> Result<Option<TcpListener>, ServerError> {
    let Some(address) = config.metrics else {
        return Ok(None);
    };
    if !config.metrics_public && !metrics::is_private(address) {
        return Err(ServerError::PublicMetrics(address));
    }
    Ok(bind_each(&[address], sockets::listen)?.pop())
}

/// How clients of STUN and TURN come in.
struct Entrances {
    udp: Vec<UdpSocket>,
    /// Where those are bound that clients are told.
    first: Vec<SocketAddr>,
    alternates: Vec<Alternate>,
    streams: streams::Listeners,
}

impl Entrances {
    /// Where the system chooses the port, it knows that UDP has it free; TCP may not, and then
    /// it is asked again.
    fn bind(config: &ServerConfig) -> Result<Self, ServerError> {
        const TRIES: usize = 16;
        let told = config.turn.iter().flat_map(|turn| &turn.listen);
        let open = told.into_iter().any(|address| address.port() == 0);
        let tries = if config.stun_port == 0 || open {
            TRIES
        } else {
            1
        };
        let mut result = Self::try_bind(config);
        for _ in 1..tries {
            match &result {
                Err(ServerError::Listen { source, .. })
                    if source.kind() == io::ErrorKind::AddrInUse =>
                {
                    result = Self::try_bind(config);
                }
                Ok(_) | Err(_) => break,
            }
        }
        result
    }

    fn try_bind(config: &ServerConfig) -> Result<Self, ServerError> {
        let mut udp = bind_stun(config)?;
        let first = bound(&udp)?;
        let discovery = Discovery::bind(config, &first)?;
        let more = bound(&discovery.sockets)?;
        udp.extend(discovery.sockets);
        let streams = streams::Listeners::bind(config.turn.as_ref(), &first, &more)?;
        Ok(Self {
            udp,
            first,
            alternates: discovery.alternates,
            streams,
        })
    }
}

/// The UDP sockets: where TURN is to be, else where STUN is.
fn bind_stun(config: &ServerConfig) -> Result<Vec<UdpSocket>, ServerError> {
    let turn = config.turn.as_ref().map(|turn| &turn.listen);
    match turn.filter(|listen| !listen.is_empty()) {
        Some(listen) => bind_each(listen, sockets::bind_udp),
        None => bind_all(&config.listen, config.stun_port, sockets::bind_udp),
    }
}

fn own(config: &ServerConfig, udp: &[SocketAddr]) -> Result<Option<Own>, ServerError> {
    if config.turn.is_none() {
        return Ok(None);
    }
    Ok(Some(Own {
        secret: seed()?,
        listen: names::advertised(udp, &[]),
        public: config.public.clone(),
    }))
}

fn plan(
    config: &ServerConfig,
    own: Option<&Own>,
) -> Result<(turn::Plan, Option<Issuer>), ServerError> {
    let rate = config.unproven_rate;
    let Some((turn, own)) = config.turn.as_ref().zip(own) else {
        return Ok((turn::Plan::stun(rate), None));
    };
    let (plan, issuer) = turn::Plan::relays(turn, own, rate)?;
    Ok((plan, Some(issuer)))
}

/// What the server proves itself with.
struct Credentials {
    tls: TlsConfig,
    /// The certificate, if an authority vouches for it.
    certificate: Option<CertificateDer<'static>>,
    /// The fingerprint of the certificate, if nobody else vouches for it.
    pin: Option<Fingerprint>,
    dtls: DtlsIdentity,
    /// The fingerprint of DTLS's certificate, if it is another one.
    dtls_pin: Option<Fingerprint>,
}

impl Credentials {
    fn of(config: &ServerConfig) -> Result<Self, ServerError> {
        match &config.certificate {
            Some(files) => Self::from_files(files, &config.listen),
            None => Self::self_signed(&config.listen),
        }
    }

    fn from_files(files: &CertificateFiles, listen: &[IpAddr]) -> Result<Self, ServerError> {
        let files = tls::server_config_from_files(&files.chain, &files.key)?;
        let (dtls, dtls_pin) = match files.dtls {
            Some(dtls) => (dtls, None),
            None => {
                let own = own_identity(listen)?;
                (dtls_certificate(&own)?, Some(own.fingerprint()))
            }
        };
        Ok(Self {
            tls: files.tls,
            certificate: Some(files.certificate),
            pin: None,
            dtls: dtls_identity(dtls)?,
            dtls_pin,
        })
    }

    fn self_signed(listen: &[IpAddr]) -> Result<Self, ServerError> {
        let identity = own_identity(listen)?;
        let tls = tls::server_config_from_identity(&identity);
        Ok(Self {
            tls: tls.map_err(|error| ServerError::SelfSigned(error.into()))?,
            certificate: None,
            pin: Some(identity.fingerprint()),
            dtls: dtls_identity(dtls_certificate(&identity)?)?,
            dtls_pin: None,
        })
    }
}

fn own_identity(listen: &[IpAddr]) -> Result<Identity, ServerError> {
    let names = listen.iter().map(IpAddr::to_string).collect();
    Identity::generate(names).map_err(|error| ServerError::SelfSigned(error.into()))
}

fn dtls_certificate(identity: &Identity) -> Result<DtlsCertificate, ServerError> {
    let chain = identity.chain();
    let certificate = chain.first().zip(Some(identity.key()));
    certificate
        .and_then(|(certificate, key)| dtls::certificate(certificate, &key))
        .ok_or_else(|| ServerError::Dtls("the key is not on P-256".into()))
}

fn dtls_identity(certificate: DtlsCertificate) -> Result<DtlsIdentity, ServerError> {
    DtlsIdentity::new(certificate).map_err(|error| ServerError::Dtls(error.into()))
}

/// Binds every address to the same port, the one that the first got if `port` is 0.
fn bind_all<S: LocalAddress>(
    ips: &[IpAddr],
    port: u16,
    bind: impl Fn(SocketAddr) -> io::Result<S>,
) -> Result<Vec<S>, ServerError> {
    let mut port = port;
    let mut bound = Vec::new();
    for &ip in ips {
        let address = SocketAddr::new(ip, port);
        let listen_error = |source| ServerError::Listen { address, source };
        let socket = bind(address).map_err(listen_error)?;
        port = socket.address().map_err(listen_error)?.port();
        bound.push(socket);
    }
    Ok(bound)
}

fn bind_each<S>(
    addresses: &[SocketAddr],
    bind: impl Fn(SocketAddr) -> io::Result<S>,
) -> Result<Vec<S>, ServerError> {
    let sockets = addresses
        .iter()
        .map(|&address| bind(address).map_err(|source| ServerError::Listen { address, source }));
    sockets.collect()
}

/// Both kinds of socket know where they are bound.
trait LocalAddress {
    fn address(&self) -> io::Result<SocketAddr>;
}

impl LocalAddress for TcpListener {
    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

impl LocalAddress for UdpSocket {
    fn address(&self) -> io::Result<SocketAddr> {
        self.local_addr()
    }
}

fn bound(sockets: &[impl LocalAddress]) -> Result<Vec<SocketAddr>, ServerError> {
    let addresses: io::Result<_> = sockets.iter().map(LocalAddress::address).collect();
    addresses.map_err(|source| ServerError::Listen {
        address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        source,
    })
}

/// The same addresses, with the one that the configuration names first in front.
fn preferred(addresses: Vec<SocketAddr>, public: &[IpAddr]) -> Vec<SocketAddr> {
    let mut addresses = addresses;
    addresses.sort_by_key(|address| Some(&address.ip()) != public.first());
    addresses
}

fn stun_uris(addresses: &[SocketAddr]) -> Vec<String> {
    let told = addresses.iter().take(MAX_STUN_SERVERS);
    told.map(|address| format!("stun:{address}")).collect()
}
