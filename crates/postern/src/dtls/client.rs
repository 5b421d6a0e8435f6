//! The client's end of DTLS: datagrams in records, on a UDP socket.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use dimpl::{Dtls, Output, SecurityError};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::UdpSocket;
use tokio::time::sleep_until;

use super::records::Certificates;
use super::{HANDSHAKE_TIMEOUT, MAX_CONTENT};
use crate::clock;
use crate::quic::Identity;
use crate::tls::Fault;
use crate::trust::Trust;

/// The largest datagram that is received, in bytes.
const MAX_DATAGRAM: usize = 64 * 1024;

/// What TLS calls "no common choice of parameters" (RFC 8446 section 6.2). With servers that
/// have an RSA certificate there is none.
const HANDSHAKE_FAILURE: u8 = 40;

/// Why there is no DTLS with a server.
#[derive(Debug, thiserror::Error)]
pub enum DtlsError {
    /// Nothing is there, or what is there does not answer.
    #[error(
        "the server {server} does not answer over DTLS; check that it runs and that UDP to it is allowed"
    )]
    Silent {
        /// The server.
        server: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The server's certificate is not one on P-256 or P-384.
    #[error(
        "the server {server} offers nothing that DTLS can use here: it has an RSA certificate, most likely, and DTLS needs an ECDSA one, on P-256 or P-384; use TLS with it (turns:…?transport=tcp)"
    )]
    NotEcdsa {
        /// The server.
        server: String,
    },
    /// Its certificate has another fingerprint than the pinned one.
    #[error(
        "the server {server} shows another certificate over DTLS than the pinned one; it was set up anew, or somebody is in between"
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
    /// What answers is not DTLS, or no version of it that both sides speak.
    #[error("no secure connection over DTLS could be made to the server {server}; check its port")]
    NotDtls {
        /// The server.
        server: String,
        /// What DTLS said.
        #[source]
        source: io::Error,
    },
}

/// Datagrams to and from a server, secured by DTLS.
pub struct DtlsSocket {
    socket: UdpSocket,
    dtls: Box<Dtls>,
    /// What dimpl gives, and what the socket gives.
    output: Vec<u8>,
    input: Vec<u8>,
    received: VecDeque<Bytes>,
    due: Option<Instant>,
    closed: bool,
}

impl fmt::Debug for DtlsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsSocket")
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}

/// What a turn of dimpl's crank has brought.
#[derive(Default)]
struct Turn {
    connected: bool,
    certificate: Option<CertificateDer<'static>>,
}

impl DtlsSocket {
    /// Makes a connection to the server that `socket` is connected to and whose certificate
    /// is for `name`, a host name or an IP address.
    ///
    /// A certificate that an authority vouches for is taken over DTLS 1.2 only: dimpl gives
    /// none of the others that lead from it to the authority, but in 1.2 they are readable.
    ///
    /// # Errors
    ///
    /// Every [`DtlsError`], each after 10 s at most.
    pub async fn connect(socket: UdpSocket, name: &str, trust: &Trust) -> Result<Self, DtlsError> {
        let failed = |error: Failed| error.describe(name);
        let verifier = trust.verifier().map_err(|error| failed(error.into()))?;
        let dtls = client(matches!(trust, Trust::Pinned(_))).map_err(failed)?;
        let mut this = Self {
            socket,
            dtls: Box::new(dtls),
            output: vec![0; 4096],
            input: vec![0; MAX_DATAGRAM],
            received: VecDeque::new(),
            due: None,
            closed: false,
        };
        let end = clock::now() + HANDSHAKE_TIMEOUT;
        let handshake = tokio::time::timeout_at(end.into(), this.shake_hands(name, &verifier));
        let result = handshake
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut).into()));
        result.map_err(failed)?;
        Ok(this)
    }

    /// The socket that carries the records.
    #[must_use]
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Sends a datagram of at most 16 KiB. It is lost if the network does not take it.
    ///
    /// # Errors
    ///
    /// It is longer, or the connection has ended.
    pub fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        if datagram.len() > MAX_CONTENT {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let sent = self.dtls.send_application_data(datagram);
        sent.map_err(io::Error::other)?;
        self.turn();
        Ok(())
    }

    /// The next datagram from the server; `None` when it has ended the connection. Nothing
    /// is lost when this is cancelled.
    ///
    /// # Errors
    ///
    /// The connection has failed.
    pub async fn recv(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(datagram) = self.received.pop_front() {
                return Ok(Some(datagram));
            }
            if self.closed {
                return Ok(None);
            }
            if let Err(error) = self.wait().await {
                // What ICMP says anybody may have said.
                tracing::debug!(%error, "the socket of a DTLS client");
                continue;
            }
            self.turn();
        }
    }

    /// Tells the server that the connection is over.
    pub fn close(&mut self) {
        if self.dtls.close().is_ok() {
            self.turn();
        }
        self.closed = true;
    }

    async fn shake_hands(
        &mut self,
        name: &str,
        verifier: &Arc<dyn ServerCertVerifier>,
    ) -> Result<(), Failed> {
        // Before that tokio does not know that the socket takes anything.
        self.socket.writable().await?;
        let mut others = Certificates::default();
        self.dtls.handle_timeout(clock::now())?;
        loop {
            let turn = self.turn();
            if let Some(certificate) = turn.certificate {
                let chain = others.chain();
                let name = ServerName::try_from(name).map_err(io::Error::other)?;
                let now = UnixTime::now();
                verifier.verify_server_cert(&certificate, &chain, &name, &[], now)?;
            }
            if turn.connected {
                return Ok(());
            }
            let length = self.wait().await?;
            others.read(self.input.get(..length).unwrap_or_default());
        }
    }

    /// Waits for a datagram and feeds it to dimpl, or tells it that time has passed. Gives
    /// the length of the datagram, which is in `input`.
    async fn wait(&mut self) -> io::Result<usize> {
        let far = clock::now() + HANDSHAKE_TIMEOUT;
        let due = self.due.unwrap_or(far).min(far);
        let length = tokio::select! {
            received = self.socket.recv(&mut self.input) => received?,
            () = sleep_until(due.into()) => 0,
        };
        let mut fed = self.dtls.handle_timeout(clock::now());
        if let Some(datagram) = self.input.get(..length)
            && length > 0
        {
            fed = fed.and_then(|()| self.dtls.handle_packet(datagram));
        }
        if let Err(error) = fed {
            self.closed = true;
            return Err(io::Error::other(error));
        }
        Ok(length)
    }

    /// Does what dimpl wants.
    fn turn(&mut self) -> Turn {
        let mut turn = Turn::default();
        loop {
            match self.dtls.poll_output(&mut self.output) {
                Output::Packet(packet) => {
                    if let Err(error) = self.socket.try_send(packet) {
                        tracing::trace!(%error, "a DTLS datagram was not sent");
                    }
                }
                Output::BufferTooSmall { needed } => self.output.resize(needed, 0),
                Output::ApplicationData(data) => {
                    self.received.push_back(Bytes::copy_from_slice(data));
                }
                Output::PeerCert(certificate) => {
                    turn.certificate = Some(CertificateDer::from(certificate.to_vec()));
                }
                Output::Connected => turn.connected = true,
                Output::CloseNotify => self.closed = true,
                Output::Timeout(due) => {
                    self.due = Some(due);
                    return turn;
                }
                Output::KeyingMaterial(..) | _ => {}
            }
        }
    }
}

fn client(pinned: bool) -> Result<Dtls, Failed> {
    let own = Identity::of_endpoint().map_err(io::Error::other)?;
    let chain = own.chain();
    let certificate = chain.first().zip(Some(own.key()));
    let certificate = certificate
        .and_then(|(certificate, key)| super::certificate(certificate, &key))
        .ok_or_else(|| io::Error::other("a certificate of our own could not be made"))?;
    let config = super::config()?;
    let now = clock::now();
    let mut dtls = if pinned {
        Dtls::new_auto(config, certificate, now)
    } else {
        Dtls::new_12(config, certificate, now)
    };
    dtls.set_active(true);
    Ok(dtls)
}

/// Why a handshake failed.
#[derive(Debug)]
enum Failed {
    Io(io::Error),
    Dtls(dimpl::Error),
    Certificate(rustls::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        match error.downcast() {
            Ok(error) => Self::Dtls(error),
            Err(error) => Self::Io(error),
        }
    }
}

impl From<dimpl::Error> for Failed {
    fn from(error: dimpl::Error) -> Self {
        Self::Dtls(error)
    }
}

impl From<rustls::Error> for Failed {
    fn from(error: rustls::Error) -> Self {
        Self::Certificate(error)
    }
}

impl Failed {
    fn describe(self, server: &str) -> DtlsError {
        let server = server.to_owned();
        match self {
            Self::Io(source) => DtlsError::Silent { server, source },
            Self::Dtls(dimpl::Error::Timeout(_)) => DtlsError::Silent {
                server,
                source: io::ErrorKind::TimedOut.into(),
            },
            Self::Dtls(dimpl::Error::SecurityError(SecurityError::FatalAlert {
                description: HANDSHAKE_FAILURE,
                ..
            })) => DtlsError::NotEcdsa { server },
            Self::Dtls(error) => DtlsError::NotDtls {
                server,
                source: io::Error::other(error),
            },
            Self::Certificate(error) => {
                let source = io::Error::other(error);
                match Fault::of(&source) {
                    Fault::WrongPin => DtlsError::WrongPin { server },
                    Fault::Certificate(Some(words)) => DtlsError::Certificate {
                        server,
                        source: io::Error::other(words),
                    },
                    Fault::Certificate(None) | Fault::Silent | Fault::NotTls | Fault::Handshake => {
                        DtlsError::Certificate { server, source }
                    }
                }
            }
        }
    }
}
