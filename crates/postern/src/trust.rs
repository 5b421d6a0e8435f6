//! How a client recognises a server that speaks TLS or DTLS.

use std::path::Path;
use std::sync::Arc;

use postern_wire::signal::Fingerprint;
use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls_platform_verifier::Verifier;

use crate::quic::{PinnedPeer, parse_fingerprint};
use crate::tls::CertificateFileError;

/// How a server's certificate is judged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trust {
    /// An authority that the system knows vouches for it.
    #[default]
    System,
    /// One of these authorities does, or one that the system knows.
    Authorities(Vec<CertificateDer<'static>>),
    /// It is the one with this fingerprint; its name and dates play no part.
    Pinned(Fingerprint),
}

impl Trust {
    /// Trust in the authorities of a file in PEM form, beside those of the system.
    ///
    /// # Errors
    ///
    /// [`CertificateFileError::Unreadable`].
    pub fn authorities(file: &Path) -> Result<Self, CertificateFileError> {
        let unreadable = |source| CertificateFileError::Unreadable {
            what: "certificate",
            path: file.display().to_string(),
            source,
        };
        let certificates = CertificateDer::pem_file_iter(file).map_err(unreadable)?;
        let certificates: Result<Vec<_>, _> = certificates.collect();
        Ok(Self::Authorities(certificates.map_err(unreadable)?))
    }

    /// Trust in the certificate with this SHA-256 fingerprint, 64 hexadecimal digits with or
    /// without colons; `None` if they are none.
    #[must_use]
    pub fn pinned(digits: &str) -> Option<Self> {
        parse_fingerprint(&digits.replace(':', "")).map(Self::Pinned)
    }

    /// What checks certificates, for TLS and DTLS.
    pub(crate) fn verifier(&self) -> Result<Arc<dyn ServerCertVerifier>, rustls::Error> {
        let provider = provider();
        Ok(match self {
            Self::System => Arc::new(Verifier::new(provider)?),
            Self::Authorities(certificates) => {
                let certificates = certificates.clone();
                Arc::new(Verifier::new_with_extra_roots(certificates, provider)?)
            }
            Self::Pinned(pin) => Arc::new(PinnedPeer::new(*pin, &provider)),
        })
    }

    /// A client of such a server that offers these protocols (ALPN).
    pub(crate) fn client_config(&self, protocols: &[&[u8]]) -> Result<ClientConfig, rustls::Error> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(self.verifier()?)
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Ok(config)
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
