//! The server that introduces peers to each other: mailboxes over WebSocket, and STUN.
//!
//! Nothing here decides what the protocols mean: the machines in `postern-proto` do.

mod mailboxes;
mod stun;
mod web;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use postern_wire::signal::Fingerprint;
use rustls::ServerConfig as TlsConfig;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::net::{AddressFilter, host_addresses};
use crate::quic::Identity;
use crate::server_url::{DEFAULT_PORT, ServerUrl};
use crate::tls::{self, CertificateFileError};

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
    /// Certificate chain and private key in PEM form. Without them the server makes a
    /// self-signed certificate, and its URL pins it.
    pub certificate: Option<CertificateFiles>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: vec![Ipv4Addr::UNSPECIFIED.into()],
            port: DEFAULT_PORT,
            stun_port: DEFAULT_STUN_PORT,
            certificate: None,
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
    /// The certificate or the key cannot be used.
    #[error("the server has no usable certificate")]
    Certificate(#[from] CertificateFileError),
    /// Making a self-signed certificate failed.
    #[error("a self-signed certificate could not be made")]
    SelfSigned(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The system has no randomness to give.
    #[error("the system gave no random numbers")]
    Entropy(#[source] getrandom::Error),
}

/// A server whose sockets are bound; [`Server::run`] makes it answer.
#[derive(Debug)]
pub struct Server {
    listeners: Vec<TcpListener>,
    stun: Vec<UdpSocket>,
    tls: Arc<TlsConfig>,
    url: ServerUrl,
    stun_addresses: Vec<SocketAddr>,
    seed: [u8; 32],
}

impl Server {
    /// Binds the sockets and loads or makes the certificate.
    ///
    /// # Errors
    ///
    /// Every [`ServerError`].
    pub async fn bind(config: ServerConfig) -> Result<Self, ServerError> {
        let (tls, pin) = tls_config(&config)?;
        let listeners = bind_all(&config.listen, config.port, TcpListener::bind).await?;
        let stun = bind_all(&config.listen, config.stun_port, UdpSocket::bind).await?;
        let first = listeners.first().ok_or(ServerError::NoAddress)?;
        let address = public(local_address(first.local_addr())?);
        let host = url_host(address.ip());
        Ok(Self {
            url: ServerUrl::new(host, address.port(), pin),
            stun_addresses: stun
                .iter()
                .filter_map(|socket| socket.local_addr().ok())
                .collect(),
            listeners,
            stun,
            tls: Arc::new(tls),
            seed: crate::entropy::seed().map_err(ServerError::Entropy)?,
        })
    }

    /// What clients are to be told: the URL, with a pin if the certificate is self-signed.
    pub fn url(&self) -> &ServerUrl {
        &self.url
    }

    /// The STUN URIs (RFC 7064), one per address.
    pub fn stun_uris(&self) -> Vec<String> {
        self.stun_addresses
            .iter()
            .map(|&address| stun_uri(public(address)))
            .collect()
    }

    /// Answers until the future is dropped.
    pub async fn run(self) {
        let mut tasks = JoinSet::new();
        let stun = self.stun_uris();
        for socket in self.stun {
            tasks.spawn(stun::serve(socket));
        }
        let mailboxes = mailboxes::spawn(&mut tasks, self.seed, stun);
        for listener in self.listeners {
            let web = web::Web {
                tls: self.tls.clone().into(),
                mailboxes: mailboxes.clone(),
            };
            tasks.spawn(web::serve(listener, web));
        }
        while tasks.join_next().await.is_some() {}
    }
}

fn tls_config(config: &ServerConfig) -> Result<(TlsConfig, Option<Fingerprint>), ServerError> {
    if let Some(files) = &config.certificate {
        let tls = tls::server_config_from_files(&files.chain, &files.key)?;
        return Ok((tls, None));
    }
    let names = config.listen.iter().map(IpAddr::to_string).collect();
    let identity =
        Identity::generate(names).map_err(|error| ServerError::SelfSigned(error.into()))?;
    let tls = tls::server_config_from_identity(&identity);
    let tls = tls.map_err(|error| ServerError::SelfSigned(error.into()))?;
    Ok((tls, Some(identity.fingerprint())))
}

/// Binds every address to the same port, the one that the first got if `port` is 0.
async fn bind_all<S, F>(
    ips: &[IpAddr],
    port: u16,
    bind: impl Fn(SocketAddr) -> F,
) -> Result<Vec<S>, ServerError>
where
    F: Future<Output = io::Result<S>>,
    S: LocalAddress,
{
    let mut port = port;
    let mut bound = Vec::new();
    for &ip in ips {
        let address = SocketAddr::new(ip, port);
        let socket = bind(address).await;
        let socket = socket.map_err(|source| ServerError::Listen { address, source })?;
        port = local_address(socket.address())?.port();
        bound.push(socket);
    }
    Ok(bound)
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

fn local_address(address: io::Result<SocketAddr>) -> Result<SocketAddr, ServerError> {
    address.map_err(|source| ServerError::Listen {
        address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        source,
    })
}

/// What to tell others instead of the unspecified address: the first address of this
/// machine of that family.
fn public(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let addresses = host_addresses(AddressFilter::WithLoopback).unwrap_or_default();
    let ip = addresses
        .into_iter()
        .find(|ip| ip.is_ipv4() == address.is_ipv4());
    SocketAddr::new(ip.unwrap_or_else(|| address.ip()), address.port())
}

fn url_host(ip: IpAddr) -> url::Host {
    match ip {
        IpAddr::V4(ip) => url::Host::Ipv4(ip),
        IpAddr::V6(ip) => url::Host::Ipv6(ip),
    }
}

fn stun_uri(address: SocketAddr) -> String {
    format!("stun:{address}")
}
