//! QUIC: configurations, and certificates that are trusted by their fingerprint.
//!
//! Each endpoint makes a key and a self-signed certificate of its own. Its SHA-256
//! fingerprint travels in the sealed rendezvous, so the handshake succeeds exactly with
//! the peer that knew the code; names and authorities play no part.

use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER_PERMISSIVE;
use noq::congestion::{Bbr3Config, ControllerFactory, CubicConfig};
use noq::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use noq::{ClientConfig, EndpointConfig, ServerConfig, TransportConfig, VarInt};
use postern_proto::signal::Secret;
use postern_wire::signal::Fingerprint;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use sha2::{Digest, Sha256};

/// The application protocol of every connection between two postern peers (ALPN).
const ALPN: &[u8] = b"postern/1";

/// The name in certificates and handshakes. Identity is the fingerprint; this is filler.
const NAME: &str = "postern";

/// A connection whose peer has been silent for so long is over.
const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// How often something is sent on an idle connection: several times per idle timeout,
/// and more often than NATs forget a UDP mapping (RFC 4787 REQ-5 allows 2 minutes, many
/// take 30 s).
const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// Peers that answer sooner are in the same building.
const LOCAL_ROUND_TRIP: Duration = Duration::from_millis(3);

/// Most paths that one connection keeps open at a time.
const MAX_PATHS: u32 = 8;

/// Bytes in flight per stream. noq gives a connection up when a stream has more than
/// 1,024 gaps, so the window must not hold more than twice as many packets of 1,200 bytes:
/// then no pattern of loss can reach that limit.
const STREAM_WINDOW: u32 = 2 << 20;

/// Bytes in flight per connection.
const CONNECTION_WINDOW: u32 = 8 << 20;

/// Bytes buffered for sending that the peer has not acknowledged.
const SEND_WINDOW: u64 = 8 << 20;

/// Most streams that a peer may have open at a time. Programs use streams in both directions;
/// there are no datagrams.
const MAX_STREAMS: u32 = 64;

/// Streams in one direction at a time, in which the sides tell each other candidates: some may be
/// stuck on a path that is lost.
const MAX_ASIDES: u32 = 16;

/// What the secret by which two may meet again is called where it is taken from the keys of
/// their connection (RFC 8446 section 7.5).
const MEETING_LABEL: &[u8] = b"EXPORTER-postern-meeting";

/// The fingerprint of a DER-encoded certificate.
pub(crate) fn fingerprint_of(certificate: &[u8]) -> Fingerprint {
    Fingerprint(Sha256::digest(certificate).into())
}

/// Reads 64 hexadecimal digits.
pub(crate) fn parse_fingerprint(text: &str) -> Option<Fingerprint> {
    let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?;
    bytes.try_into().map(Fingerprint).ok()
}

/// A private key and its self-signed certificate.
#[derive(Debug)]
pub(crate) struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivatePkcs8KeyDer<'static>,
}

impl Identity {
    /// Makes a new key and certificate.
    pub(crate) fn generate(names: Vec<String>) -> Result<Self, rcgen::Error> {
        let made = rcgen::generate_simple_self_signed(names)?;
        Ok(Self {
            certificate: made.cert.der().clone(),
            key: made.signing_key.serialize_der().into(),
        })
    }

    /// The identity of an endpoint: lives as long as the process.
    pub(crate) fn of_endpoint() -> Result<Self, rcgen::Error> {
        Self::generate(vec![NAME.to_owned()])
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        fingerprint_of(&self.certificate)
    }

    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone()]
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key().into()
    }
}

/// Settings of the QUIC endpoint. Greasing the QUIC bit is off: it would make QUIC
/// datagrams look like other protocols on the shared socket (RFC 9443 section 3).
pub(crate) fn endpoint_config() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    config
}

/// The side that opens the connection. `round_trip` is what the connectivity checks
/// measured, so that a lost first packet is repeated soon.
pub(crate) fn client_config(
    identity: &Identity,
    peer: Fingerprint,
    round_trip: Duration,
) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(PinnedPeer::new(peer, &provider));
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_auth_cert(identity.chain(), identity.key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicClientConfig::try_from(tls).map_err(|_| no_initial_suite())?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport_config(round_trip)));
    Ok(config)
}

/// The side that accepts the connection.
pub(crate) fn server_config(
    identity: &Identity,
    peer: Fingerprint,
    round_trip: Duration,
) -> Result<ServerConfig, rustls::Error> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(PinnedPeer::new(peer, &provider));
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(identity.chain(), identity.key())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let tls = QuicServerConfig::try_from(tls).map_err(|_| no_initial_suite())?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport_config(round_trip)));
    // Paths change by multipath, driven by the agent, and in no other way.
    config.migration(false);
    Ok(config)
}

/// The secret that both sides of a connection have, by which they may meet again.
pub(crate) fn meeting_secret(connection: &noq::Connection) -> Option<Secret> {
    let mut bytes = [0; 32];
    let exported = connection.export_keying_material(&mut bytes, MEETING_LABEL, b"");
    exported.ok().map(|()| Secret::new(bytes))
}

/// The name that the client puts into the handshake.
pub(crate) fn server_name() -> &'static str {
    NAME
}

fn no_initial_suite() -> rustls::Error {
    rustls::Error::General("the cryptography provider lacks AES-128-GCM for QUIC".to_owned())
}

fn transport_config(round_trip: Duration) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .initial_rtt(round_trip.max(Duration::from_millis(1)))
        .max_idle_timeout(IDLE_TIMEOUT.try_into().ok())
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_multipath_paths(MAX_PATHS)
        .default_path_max_idle_timeout(Some(IDLE_TIMEOUT))
        .default_path_keep_alive_interval(Some(KEEP_ALIVE))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_ASIDES))
        .datagram_receive_buffer_size(None)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .congestion_controller_factory(congestion_controller(round_trip));
    config
}

/// What decides how fast to send. On a path of 200 Mbit/s and 50 ms, one packet lost in
/// a thousand leaves Cubic 1.1 MB/s and BBR 14.6; one in a hundred 0.35 and 13.5. In a
/// local network nothing is lost but for want of buffers, and Cubic is steadier: 470 MB/s,
/// where BBR varies from 110 to 430.
fn congestion_controller(round_trip: Duration) -> Arc<dyn ControllerFactory + Send + Sync> {
    if round_trip < LOCAL_ROUND_TRIP {
        Arc::new(CubicConfig::default())
    } else {
        Arc::new(Bbr3Config::default())
    }
}

/// Accepts exactly one certificate, on either side.
#[derive(Debug)]
pub(crate) struct PinnedPeer {
    expected: Fingerprint,
    algorithms: WebPkiSupportedAlgorithms,
}

impl PinnedPeer {
    pub(crate) fn new(expected: Fingerprint, provider: &CryptoProvider) -> Self {
        Self {
            expected,
            algorithms: provider.signature_verification_algorithms,
        }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        if fingerprint_of(certificate) == self.expected {
            return Ok(());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }
}

impl ServerCertVerifier for PinnedPeer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PinnedPeer {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_back_what_it_prints() {
        let fingerprint = Identity::of_endpoint().unwrap().fingerprint();
        assert_eq!(
            parse_fingerprint(&fingerprint.to_string()),
            Some(fingerprint)
        );
        assert_eq!(parse_fingerprint("abc"), None);
    }

    #[test]
    fn two_endpoints_never_share_an_identity() {
        let first = Identity::of_endpoint().unwrap().fingerprint();
        assert_ne!(first, Identity::of_endpoint().unwrap().fingerprint());
    }
}
