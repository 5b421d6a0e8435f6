//! TLS to a postern server, trusted by its pinned certificate or by the system's
//! authorities; and the server's own side of it.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{CertificateError, ClientConfig, ServerConfig};
use rustls_platform_verifier::BuilderVerifierExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::quic::{Identity, PinnedPeer};
use crate::server_url::ServerUrl;

/// One address of the server gets so long to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// The server's certificate is not the one that the URL names.
    #[error(
        "the server {url} shows another certificate than the one its URL names; it was set up anew, or somebody is in between: ask its owner for the URL"
    )]
    WrongPin {
        /// The server.
        url: String,
    },
    /// Something accepts connections there, but does not speak TLS.
    #[error(
        "the server {url} does not answer as a postern server does; check its address and port"
    )]
    NotTls {
        /// The server.
        url: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
    /// The server's certificate is not trusted by this system.
    #[error(
        "the certificate of the server {url} is not trusted; if it has a self-signed certificate, use the URL it prints, with #sha256= at the end"
    )]
    Tls {
        /// The server.
        url: String,
        /// What TLS said.
        #[source]
        source: io::Error,
    },
}

/// Opens a TLS connection to the server.
pub(crate) async fn connect(url: &ServerUrl) -> Result<TlsStream<TcpStream>, ConnectError> {
    let stream = connect_tcp(url).await?;
    let failed = |source| tls_error(url, source);
    let name = ServerName::try_from(url.host()).map_err(|error| failed(io::Error::other(error)))?;
    let config = client_config(url).map_err(|error| failed(io::Error::other(error)))?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, stream);
    let result = timeout(HANDSHAKE_TIMEOUT, handshake).await;
    result
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(failed)
}

async fn connect_tcp(url: &ServerUrl) -> Result<TcpStream, ConnectError> {
    let host = url.host();
    let addresses = tokio::net::lookup_host((host.as_str(), url.port())).await;
    let addresses = addresses.map_err(|source| ConnectError::Resolve {
        host: url.host(),
        source,
    })?;
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match connect_one(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    let url = url.websocket();
    Err(ConnectError::Unreachable { url, source: last })
}

async fn connect_one(address: SocketAddr) -> io::Result<TcpStream> {
    let attempt = timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
    let stream = attempt.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn client_config(url: &ServerUrl) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let config = match url.pin() {
        Some(pin) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(PinnedPeer::new(pin, &provider)))
            .with_no_client_auth(),
        None => builder.with_platform_verifier()?.with_no_client_auth(),
    };
    Ok(config)
}

fn tls_error(url: &ServerUrl, source: io::Error) -> ConnectError {
    let wrong_pin = rustls::Error::from(CertificateError::ApplicationVerificationFailure);
    let cause = source
        .get_ref()
        .and_then(|cause| cause.downcast_ref::<rustls::Error>());
    let url = url.websocket();
    match cause {
        Some(cause) if *cause == wrong_pin => ConnectError::WrongPin { url },
        Some(rustls::Error::InvalidCertificate(_)) => ConnectError::Tls { url, source },
        Some(_) | None => ConnectError::NotTls { url, source },
    }
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
        source: rustls::pki_types::pem::Error,
    },
    /// The key does not belong to the certificate, or is of a kind that is not supported.
    #[error("the certificate and the private key cannot be used together")]
    Mismatch(#[source] rustls::Error),
}

/// A server with a certificate from files in PEM form.
pub(crate) fn server_config_from_files(
    certificate: &Path,
    key: &Path,
) -> Result<ServerConfig, CertificateFileError> {
    let unreadable = |what, path: &Path| {
        let path = path.display().to_string();
        move |source| CertificateFileError::Unreadable { what, path, source }
    };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(unreadable("certificate", certificate))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(unreadable("private key", key))?;
    server_config(chain, key).map_err(CertificateFileError::Mismatch)
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
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
