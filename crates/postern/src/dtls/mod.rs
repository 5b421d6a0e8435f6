//! DTLS: what both ends of it share. The machine is dimpl's, the cryptography `ring`'s.

mod client;
mod crypto;
pub(crate) mod records;

pub use client::{DtlsError, DtlsSocket};

use std::sync::Arc;
use std::time::Duration;

use dimpl::DtlsCertificate;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A handshake must be complete after so long.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest datagram of a handshake, in bytes: what passes everywhere.
const MTU: usize = 1200;

/// The most bytes of a record's content (RFC 6347 section 4.1, RFC 9147 section 4).
pub(crate) const MAX_CONTENT: usize = 1 << 14;

/// What every connection is made with. Clients are asked for no certificate.
///
/// # Errors
///
/// The cryptography fails the tests that dimpl makes of it.
pub(crate) fn config() -> Result<Arc<dimpl::Config>, dimpl::Error> {
    let config = dimpl::Config::builder()
        .with_crypto_provider(crypto::provider())
        .require_client_certificate(false)
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .mtu(MTU)
        .build()?;
    Ok(Arc::new(config))
}

/// What a server shows in DTLS; `None` if the key is of another kind than ECDSA on P-256
/// or P-384, the only ones that dimpl knows.
pub(crate) fn certificate(
    certificate: &CertificateDer<'_>,
    key: &PrivateKeyDer<'_>,
) -> Option<DtlsCertificate> {
    any_ecdsa_type(key).ok()?;
    Some(DtlsCertificate {
        certificate: certificate.to_vec(),
        private_key: key.secret_der().to_vec(),
    })
}

#[cfg(test)]
mod tests;
