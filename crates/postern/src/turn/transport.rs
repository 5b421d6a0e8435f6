//! Connections to a STUN or TURN server over TCP and TLS.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::proxy::{Proxy, ProxyError, authority};
use crate::dtls::DtlsError;
use crate::race;
use crate::tls::Fault;
use crate::trust::Trust;

/// The protocol name of TURN in TLS (RFC 7443).
pub(crate) const ALPN: &[u8] = b"stun.turn";

/// The TLS handshake gets so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A server that is reached over TCP or TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its name, or its address without brackets: what its certificate must have, and
    /// what a proxy is told.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its addresses, in the order to try them in. A proxy is told the first one, or the
    /// host if there is none.
    pub addresses: Vec<SocketAddr>,
    /// How it is recognised over TLS; `None` is TCP.
    pub tls: Option<Trust>,
    /// The proxy on the way to it.
    pub proxy: Option<Proxy>,
}

impl Target {
    /// A server at one address, over TCP.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
            addresses: vec![address],
            tls: None,
            proxy: None,
        }
    }
}

/// Host and port.
impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&authority(&self.host, self.port))
    }
}

/// Why there is no connection to a STUN or TURN server.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// No address of it accepted a connection.
    #[error(
        "the server {server} could not be reached; check that it runs and that {transport} to it is allowed"
    )]
    Unreachable {
        /// The server.
        server: String,
        /// "TCP" or "UDP".
        transport: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The proxy did not connect.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    /// There is no DTLS with the server.
    #[error(transparent)]
    Dtls(#[from] DtlsError),
    /// The server took the connection and then said nothing, or hung up.
    #[error(
        "the server {server} accepts connections but does not answer; check that TLS is spoken at this port"
    )]
    Silent {
        /// The server.
        server: String,
        /// How the connection ended.
        #[source]
        source: io::Error,
    },
    /// Its certificate has another fingerprint than the pinned one.
    #[error(
        "the server {server} shows another certificate than the pinned one; it was set up anew, or somebody is in between"
    )]
    WrongPin {
        /// The server.
        server: String,
    },
    /// No authority that is trusted vouches for its certificate.
    #[error(
        "the certificate of the server {server} is not trusted; name its authority or its fingerprint"
    )]
    Certificate {
        /// The server.
        server: String,
        /// What is wrong with it.
        #[source]
        source: io::Error,
    },
    /// What answers is not TLS, or no version of it that both sides speak.
    #[error("no secure connection could be made to the server {server}; check its port")]
    NotTls {
        /// The server.
        server: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
}

/// A connection to a server over TCP or TLS.
#[derive(Debug)]
pub struct ServerStream {
    io: Io,
    local: SocketAddr,
    server: SocketAddr,
}

#[derive(Debug)]
enum Io {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl ServerStream {
    /// Connects to the server, from the first of its addresses that answers.
    ///
    /// # Errors
    ///
    /// Every [`TransportError`], each after 30 s at most.
    pub async fn connect(target: &Target) -> Result<Self, TransportError> {
        let (stream, server) = connect_tcp(target).await?;
        Self::over(target, stream, server).await
    }

    /// Connects to the server at this address: one that `connect` has found, or that it has
    /// redirected to.
    pub(super) async fn connect_at(
        target: &Target,
        server: SocketAddr,
    ) -> Result<Self, TransportError> {
        if server.ip().is_unspecified() {
            return Self::connect(target).await;
        }
        let stream = match &target.proxy {
            Some(proxy) => {
                proxy
                    .connect(&server.ip().to_string(), server.port())
                    .await?
            }
            None => {
                let race = race::first(vec![server], TcpStream::connect).await;
                race.map_err(|source| unreachable(target, source))?.0
            }
        };
        Self::over(target, stream, server).await
    }

    async fn over(
        target: &Target,
        stream: TcpStream,
        server: SocketAddr,
    ) -> Result<Self, TransportError> {
        let prompt = stream.set_nodelay(true);
        prompt.map_err(|source| unreachable(target, source))?;
        let local = stream.local_addr();
        let local = local.map_err(|source| unreachable(target, source))?;
        let io = match &target.tls {
            None => Io::Tcp(stream),
            Some(trust) => Io::Tls(Box::new(secure(target, trust, stream).await?)),
        };
        Ok(Self { io, local, server })
    }

    /// Our end.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The server's address. Behind a proxy it is the first one that was known, or
    /// 0.0.0.0 with the server's port.
    #[must_use]
    pub fn server(&self) -> SocketAddr {
        self.server
    }
}

async fn connect_tcp(target: &Target) -> Result<(TcpStream, SocketAddr), TransportError> {
    if let Some(proxy) = &target.proxy {
        let Some(server) = target.addresses.first() else {
            let stream = proxy.connect(&target.host, target.port).await?;
            return Ok((stream, (Ipv4Addr::UNSPECIFIED, target.port).into()));
        };
        let host = server.ip().to_string();
        return Ok((proxy.connect(&host, server.port()).await?, *server));
    }
    let race = race::first(target.addresses.clone(), TcpStream::connect).await;
    race.map_err(|source| unreachable(target, source))
}

fn unreachable(target: &Target, source: io::Error) -> TransportError {
    TransportError::Unreachable {
        server: target.to_string(),
        transport: "TCP",
        source,
    }
}

async fn secure(
    target: &Target,
    trust: &Trust,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>, TransportError> {
    let server = target.to_string();
    let failed = |source| tls_error(server.clone(), source);
    let name = ServerName::try_from(target.host.clone());
    let name = name.map_err(|error| failed(io::Error::other(error)))?;
    let config = trust.client_config(&[ALPN]);
    let config = config.map_err(|error| failed(io::Error::other(error)))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let result = timeout(HANDSHAKE_TIMEOUT, handshake).await;
    let result = result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    result.map_err(failed)
}

fn tls_error(server: String, source: io::Error) -> TransportError {
    match Fault::of(&source) {
        Fault::Silent => TransportError::Silent { server, source },
        Fault::WrongPin => TransportError::WrongPin { server },
        Fault::Certificate(words) => {
            let source = words.map_or(source, io::Error::other);
            TransportError::Certificate { server, source }
        }
        Fault::NotTls => {
            let source = io::Error::other("what answers there does not speak TLS");
            TransportError::NotTls { server, source }
        }
        Fault::Handshake => TransportError::NotTls { server, source },
    }
}

impl AsyncRead for ServerStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ServerStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.io {
            Io::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use postern_wire::signal::Fingerprint;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::quic::Identity;
    use crate::tls::server_config_from_identity;

    /// A server of one TLS connection, which says the protocol that was agreed on.
    async fn serve(listener: TcpListener, identity: &Identity) {
        let config = server_config_from_identity(identity).unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let accepted = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        if let Ok(mut stream) = accepted {
            let protocol = stream.get_ref().1.alpn_protocol().unwrap().to_vec();
            stream.write_all(&protocol).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    }

    async fn connected(trust: impl Fn(&Identity) -> Trust) -> Result<ServerStream, TransportError> {
        let identity = Identity::generate(vec!["127.0.0.1".to_owned()]).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target {
            tls: Some(trust(&identity)),
            ..Target::new(listener.local_addr().unwrap())
        };
        let client = async {
            let mut stream = ServerStream::connect(&target).await?;
            let mut protocol = Vec::new();
            stream.read_to_end(&mut protocol).await.unwrap();
            assert_eq!(protocol, ALPN);
            assert_eq!(stream.server(), target.addresses[0]);
            Ok(stream)
        };
        let (result, ()) = tokio::join!(client, serve(listener, &identity));
        result
    }

    #[tokio::test]
    async fn a_server_is_recognised_by_its_pin_or_its_authority() {
        let pinned = connected(|identity| Trust::Pinned(identity.fingerprint())).await;
        assert!(pinned.is_ok(), "{pinned:?}");
        let known = connected(|identity| Trust::Authorities(identity.chain())).await;
        assert!(known.is_ok(), "{known:?}");
    }

    #[tokio::test]
    async fn other_certificates_are_refused() {
        let wrong = connected(|_| Trust::Pinned(Fingerprint([7; 32]))).await;
        assert!(
            matches!(wrong, Err(TransportError::WrongPin { .. })),
            "{wrong:?}"
        );
        let stranger = Identity::generate(vec!["127.0.0.1".to_owned()]).unwrap();
        let wrong = connected(|_| Trust::Authorities(stranger.chain())).await;
        assert!(
            matches!(wrong, Err(TransportError::Certificate { .. })),
            "{wrong:?}"
        );
    }

    #[tokio::test]
    async fn nobody_there_is_told_apart_from_nobody_who_speaks_tls() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target {
            tls: Some(Trust::Pinned(Fingerprint([7; 32]))),
            ..Target::new(listener.local_addr().unwrap())
        };
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
        };
        let (other, ()) = tokio::join!(ServerStream::connect(&target), answer);
        assert!(
            matches!(other, Err(TransportError::NotTls { .. })),
            "{other:?}"
        );
        drop(listener);
        let nobody = ServerStream::connect(&target).await;
        assert!(
            matches!(nobody, Err(TransportError::Unreachable { .. })),
            "{nobody:?}"
        );
    }
}
