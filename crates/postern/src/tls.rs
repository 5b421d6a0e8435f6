//! TLS to a postern server, trusted by its pinned certificate or by the system's
//! authorities; and the server's own side of it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dimpl::DtlsCertificate;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::Acceptor;
use rustls::{CertificateError, ClientConfig, ServerConfig};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsConnector, server};

use crate::dtls;
use crate::quic::Identity;
use crate::race;
use crate::server_url::ServerUrl;
use crate::trust::Trust;
use crate::turn::{Proxy, ProxyError};

/// The TLS handshake gets so long.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no TLS connection to the server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name of the server could not be resolved.
    #[error(
        "the name of the server {host} could not be resolved; check the name and this machine's DNS"
    )]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// No address of the server accepted a connection.
    #[error(
        "the server {url} could not be reached; check that it runs and that TCP to it is allowed"
    )]
    Unreachable {
        /// The server.
        url: String,
        /// What the last attempt said.
        #[source]
        source: io::Error,
    },
    /// The server accepted the TCP connection and then said nothing, or hung up.
    #[error(
        "the server {url} accepts connections but does not answer; check the address, and that a postern server is at it"
    )]
    Silent {
        /// The server.
        url: String,
        /// How the connection ended.
        #[source]
        source: io::Error,
    },
    /// The server's certificate is not the one that the URL names.
    #[error(
        "the server {url} shows another certificate than the one its URL names; it was set up anew, or somebody is in between: ask its owner for the URL"
    )]
    WrongPin {
        /// The server.
        url: String,
    },
    /// No authority that this system knows vouches for the server's certificate.
    #[error(
        "the certificate of the server {url} is not trusted; if the server made it itself, use the whole URL that it printed, with #sha256= and what follows"
    )]
    Tls {
        /// The server.
        url: String,
        /// What is wrong with the certificate.
        #[source]
        source: io::Error,
    },
    /// What answers is not TLS, or no version of it that both sides speak.
    #[error("no secure connection could be made to the server {url}; check its address and port")]
    NotTls {
        /// The server.
        url: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// The proxy did not connect to the server.
    #[error(transparent)]
    Proxy(#[from] ProxyError),
}

/// Opens a TLS connection to the server; also gives the address that it has, unless only
/// the proxy knows it.
pub(crate) async fn connect(
    url: &ServerUrl,
    proxy: Option<&Proxy>,
) -> Result<(TlsStream<TcpStream>, Option<IpAddr>), ConnectError> {
    let (stream, address) = match proxy {
        Some(proxy) => (proxy.connect(&url.host(), url.port()).await?, url.ip()),
        None => connect_tcp(url, None)
            .await
            .map(|(stream, at)| (stream, Some(at.ip())))?,
    };
    Ok((secure(url, stream).await?, address))
}

/// The same without a proxy, from an address of ours if one is given, which decides the family.
pub(crate) async fn connect_from(
    url: &ServerUrl,
    local: Option<IpAddr>,
) -> Result<TlsStream<TcpStream>, ConnectError> {
    let (stream, _) = connect_tcp(url, local).await?;
    secure(url, stream).await
}

async fn secure(url: &ServerUrl, stream: TcpStream) -> Result<TlsStream<TcpStream>, ConnectError> {
    let failed = |source| tls_error(url, source);
    let name = ServerName::try_from(url.host()).map_err(|error| ConnectError::NotTls {
        url: url.websocket(),
        source: io::Error::other(error),
    })?;
    let config = client_config(url).map_err(|error| failed(io::Error::other(error)))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let result = timeout(HANDSHAKE_TIMEOUT, handshake).await;
    let stream = result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    stream.map_err(failed)
}

async fn connect_tcp(
    url: &ServerUrl,
    local: Option<IpAddr>,
) -> Result<(TcpStream, SocketAddr), ConnectError> {
    let addresses = tokio::net::lookup_host((url.host(), url.port())).await;
    let addresses = addresses.map_err(|source| ConnectError::Resolve {
        host: url.host(),
        source,
    })?;
    let fits = |at: &SocketAddr| local.is_none_or(|local| local.is_ipv4() == at.is_ipv4());
    let addresses = addresses.filter(fits).collect();
    let race = race::first(addresses, |at| open(local, at));
    let unreachable = |source| {
        let url = url.websocket();
        ConnectError::Unreachable { url, source }
    };
    let (stream, address) = race.await.map_err(unreachable)?;
    stream.set_nodelay(true).map_err(unreachable)?;
    Ok((stream, address))
}

async fn open(local: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let Some(local) = local else {
        return TcpStream::connect(to).await;
    };
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    socket.bind(SocketAddr::new(local, 0))?;
    socket.connect(to).await
}

fn client_config(url: &ServerUrl) -> Result<ClientConfig, rustls::Error> {
    let trust = url.pin().map_or(Trust::System, Trust::Pinned);
    trust.client_config(&[])
}

fn tls_error(url: &ServerUrl, source: io::Error) -> ConnectError {
    let url = url.websocket();
    match Fault::of(&source) {
        Fault::Silent => ConnectError::Silent { url, source },
        Fault::WrongPin => ConnectError::WrongPin { url },
        Fault::Certificate(words) => {
            let source = words.map_or(source, io::Error::other);
            ConnectError::Tls { url, source }
        }
        Fault::NotTls => {
            let source = io::Error::other("what answers there does not speak TLS");
            ConnectError::NotTls { url, source }
        }
        Fault::Handshake => ConnectError::NotTls { url, source },
    }
}

/// What a TLS handshake fails of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The other side hung up or said nothing.
    Silent,
    /// The certificate is not the pinned one.
    WrongPin,
    /// The certificate is not trusted; what is usually wrong has words for people.
    Certificate(Option<&'static str>),
    /// What answers is not TLS.
    NotTls,
    /// The two sides do not agree on something else.
    Handshake,
}

impl Fault {
    /// What is behind the error of a handshake.
    pub(crate) fn of(error: &io::Error) -> Self {
        let cause = error.get_ref();
        match cause.and_then(|cause| cause.downcast_ref::<rustls::Error>()) {
            None => Self::Silent,
            Some(rustls::Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            )) => Self::WrongPin,
            Some(rustls::Error::InvalidCertificate(error)) => Self::Certificate(fault(error)),
            Some(rustls::Error::InvalidMessage(_)) => Self::NotTls,
            Some(_) => Self::Handshake,
        }
    }
}

/// What is usually wrong with a certificate, for people.
fn fault(error: &CertificateError) -> Option<&'static str> {
    if let CertificateError::Expired | CertificateError::ExpiredContext { .. } = error {
        Some("it has expired")
    } else if let CertificateError::NotValidForName
    | CertificateError::NotValidForNameContext { .. } = error
    {
        Some("it is for another name")
    } else if *error == CertificateError::UnknownIssuer {
        Some("no authority that this system knows vouches for it")
    } else if is_authority(error) {
        Some("it is the certificate of an authority (CA:TRUE), not of a server")
    } else {
        None
    }
}

/// Whether a certificate that may sign others was shown, which rustls takes from nobody;
/// `openssl req -x509` makes such ones unless told otherwise.
fn is_authority(error: &CertificateError) -> bool {
    let CertificateError::Other(other) = error else {
        return false;
    };
    let cause = other.0.downcast_ref::<webpki::Error>();
    matches!(cause, Some(webpki::Error::CaUsedAsEndEntity))
}

/// Why the server's certificate or key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateFileError {
    /// A file cannot be read, or holds no certificate or no key in PEM form.
    #[error("no {what} in PEM form could be read from {path}")]
    Unreadable {
        /// "certificate" or "private key".
        what: &'static str,
        /// The file.
        path: String,
        /// What went wrong.
        #[source]
        source: pem::Error,
    },
    /// The key does not belong to the certificate, or is of a kind that is not supported.
    #[error("the certificate and the private key cannot be used together")]
    Mismatch(#[source] rustls::Error),
}

/// What a server has whose certificate is in files.
pub(crate) struct FromFiles {
    pub(crate) tls: ServerConfig,
    /// The server's own certificate, the first of the chain.
    pub(crate) certificate: CertificateDer<'static>,
    /// The same for DTLS, if it can use the key.
    pub(crate) dtls: Option<DtlsCertificate>,
}

/// A server with a certificate from files in PEM form.
pub(crate) fn server_config_from_files(
    certificate: &Path,
    key: &Path,
) -> Result<FromFiles, CertificateFileError> {
    let unreadable = |what, path: &Path| {
        let path = path.display().to_string();
        move |source| CertificateFileError::Unreadable { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable("certificate", certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable("private key", key))?;
    let missing = unreadable("certificate", certificate);
    let first = chain.first().cloned();
    let certificate = first.ok_or_else(|| missing(pem::Error::NoItemsFound))?;
    let dtls = dtls::certificate(&certificate, &key);
    let tls = server_config(chain, key).map_err(CertificateFileError::Mismatch)?;
    Ok(FromFiles {
        tls,
        certificate,
        dtls,
    })
}

/// A server with a self-signed certificate, recognised by its fingerprint.
pub(crate) fn server_config_from_identity(
    identity: &Identity,
) -> Result<ServerConfig, rustls::Error> {
    server_config(identity.chain(), identity.key())
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // RFC 7443; what a client asks for first decides nothing (server/web.rs).
    let protocols: [&[u8]; 3] = [b"stun.turn", b"stun.nat-discovery", b"http/1.1"];
    config.alpn_protocols = protocols.map(<[u8]>::to_vec).to_vec();
    Ok(config)
}

/// Completes a client's handshake, whatever protocols it offers: where none is ours, it is
/// told of none, where rustls would refuse it. Bound the time that it takes.
pub(crate) async fn accept(
    tls: &TlsAcceptor,
    stream: TcpStream,
) -> io::Result<server::TlsStream<TcpStream>> {
    let hello = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
    let config = tls.config();
    let offered = hello.client_hello().alpn();
    let ours = |name: &[u8]| config.alpn_protocols.iter().any(|our| our == name);
    let is_acceptable = offered.is_none_or(|mut offered| offered.any(ours));
    let config = if is_acceptable {
        Arc::clone(config)
    } else {
        let mut silent = ServerConfig::clone(config);
        silent.alpn_protocols.clear();
        Arc::new(silent)
    };
    hello.into_stream(config).await
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// What connecting to a server fails with that does `serve` with the first connection.
    async fn failure(serve: impl AsyncFnOnce(TcpStream)) -> ConnectError {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("wss://{}/", listener.local_addr().unwrap());
        let url = url.parse().unwrap();
        let server = async {
            let (stream, _) = listener.accept().await.unwrap();
            serve(stream).await;
        };
        let (result, ()) = tokio::join!(connect(&url, None), server);
        result.unwrap_err()
    }

    #[tokio::test]
    async fn a_server_that_hangs_up_is_not_called_a_matter_of_certificates() {
        let error = failure(async |stream| drop(stream)).await;
        assert!(matches!(error, ConnectError::Silent { .. }), "{error:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn nor_is_one_that_says_nothing() {
        let error = failure(async |stream| {
            tokio::time::sleep(2 * HANDSHAKE_TIMEOUT).await;
            drop(stream);
        });
        let error = error.await;
        assert!(matches!(error, ConnectError::Silent { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn what_answers_without_tls_is_told_apart_from_a_bad_certificate() {
        let error = failure(async |mut stream| {
            stream.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
        });
        let error = error.await;
        assert!(matches!(error, ConnectError::NotTls { .. }), "{error:?}");
    }
}
