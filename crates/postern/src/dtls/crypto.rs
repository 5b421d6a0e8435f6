//! DTLS's cryptography by `ring` and `rustls`, which are here already for TLS and QUIC.
//!
//! dimpl brings providers of its own, each with a second copy of every algorithm.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use aes::cipher::{BlockEncrypt, KeyInit};
use dimpl::crypto::{
    Aad, ActiveKeyExchange, Buf, Cipher, CryptoProvider, Dtls12CipherSuite, Dtls13CipherSuite,
    HashAlgorithm, HashContext, HashProvider, HmacProvider, KeyProvider, NamedGroup, Nonce,
    SecureRandom, SignatureAlgorithm, SignatureVerifier, SigningKey, SupportedDtls12CipherSuite,
    SupportedDtls13CipherSuite, SupportedKxGroup, TmpBuf,
};
use dimpl::{CryptoError, CryptoOperation};
use ring::aead::{self, LessSafeKey, UnboundKey, quic};
use ring::agreement::{self, EphemeralPrivateKey, UnparsedPublicKey, agree_ephemeral};
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::{digest, hmac};
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, SignatureVerificationAlgorithm};
use webpki::EndEntityCert;

/// The length of every tag.
const TAG: usize = 16;

/// What dimpl is given.
pub(super) fn provider() -> CryptoProvider {
    CryptoProvider {
        kx_groups: &[
            &Group(NamedGroup::X25519),
            &Group(NamedGroup::Secp256r1),
            &Group(NamedGroup::Secp384r1),
        ],
        signature_verification: &Ring,
        key_provider: &Ring,
        secure_random: &Ring,
        hash_provider: &Ring,
        hmac_provider: &Ring,
        cipher_suites: &[
            &Suite::AES_128_GCM,
            &Suite::AES_256_GCM,
            &Suite::CHACHA20_POLY1305,
        ],
        dtls13_cipher_suites: &[
            &Suite::AES_128_GCM,
            &Suite::AES_256_GCM,
            &Suite::CHACHA20_POLY1305,
        ],
    }
}

const fn failed(operation: CryptoOperation) -> CryptoError {
    CryptoError::OperationFailed(operation)
}

/// Everything that has no state.
#[derive(Debug)]
struct Ring;

/// The AEAD and the hash of a cipher suite, under its names of 1.2 and 1.3.
struct Suite {
    aead: &'static aead::Algorithm,
    hash: HashAlgorithm,
    v12: Dtls12CipherSuite,
    v13: Dtls13CipherSuite,
    /// Bytes of the key, and of the nonce that are fixed in 1.2 and that each record carries.
    key: usize,
    fixed: usize,
    explicit: usize,
    mask: fn(&[u8], &[u8; 16]) -> [u8; 16],
}

impl Suite {
    const AES_128_GCM: Self = Self {
        aead: &aead::AES_128_GCM,
        hash: HashAlgorithm::SHA256,
        v12: Dtls12CipherSuite::ECDHE_ECDSA_AES128_GCM_SHA256,
        v13: Dtls13CipherSuite::AES_128_GCM_SHA256,
        key: 16,
        fixed: 4,
        explicit: 8,
        mask: aes128_mask,
    };
    const AES_256_GCM: Self = Self {
        aead: &aead::AES_256_GCM,
        hash: HashAlgorithm::SHA384,
        v12: Dtls12CipherSuite::ECDHE_ECDSA_AES256_GCM_SHA384,
        v13: Dtls13CipherSuite::AES_256_GCM_SHA384,
        key: 32,
        fixed: 4,
        explicit: 8,
        mask: aes256_mask,
    };
    const CHACHA20_POLY1305: Self = Self {
        aead: &aead::CHACHA20_POLY1305,
        hash: HashAlgorithm::SHA256,
        v12: Dtls12CipherSuite::ECDHE_ECDSA_CHACHA20_POLY1305_SHA256,
        v13: Dtls13CipherSuite::CHACHA20_POLY1305_SHA256,
        key: 32,
        fixed: 12,
        explicit: 0,
        mask: chacha20_mask,
    };

    fn cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        let key =
            UnboundKey::new(self.aead, key).map_err(|_| failed(CryptoOperation::CreateCipher))?;
        Ok(Box::new(Aead(LessSafeKey::new(key))))
    }
}

impl fmt::Debug for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.v13.fmt(f)
    }
}

impl SupportedDtls12CipherSuite for Suite {
    fn suite(&self) -> Dtls12CipherSuite {
        self.v12
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.hash
    }

    fn key_lengths(&self) -> (usize, usize, usize) {
        (0, self.key, self.fixed)
    }

    fn explicit_nonce_len(&self) -> usize {
        self.explicit
    }

    fn tag_len(&self) -> usize {
        TAG
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        self.cipher(key)
    }
}

impl SupportedDtls13CipherSuite for Suite {
    fn suite(&self) -> Dtls13CipherSuite {
        self.v13
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.hash
    }

    fn key_len(&self) -> usize {
        self.key
    }

    fn iv_len(&self) -> usize {
        aead::NONCE_LEN
    }

    fn tag_len(&self) -> usize {
        TAG
    }

    fn create_cipher(&self, key: &[u8]) -> Result<Box<dyn Cipher>, CryptoError> {
        self.cipher(key)
    }

    fn encrypt_sn(&self, key: &[u8], sample: &[u8; 16]) -> [u8; 16] {
        (self.mask)(key, sample)
    }
}

/// What hides record numbers: RFC 9147 section 4.2.3. `ring` gives five bytes of the block,
/// of which dimpl wants to see all. The key schedule makes no key of another length; one
/// would give a mask that fits nobody.
fn aes128_mask(key: &[u8], sample: &[u8; 16]) -> [u8; 16] {
    let mut block = (*sample).into();
    if let Ok(key) = aes::Aes128::new_from_slice(key) {
        key.encrypt_block(&mut block);
    }
    block.into()
}

fn aes256_mask(key: &[u8], sample: &[u8; 16]) -> [u8; 16] {
    let mut block = (*sample).into();
    if let Ok(key) = aes::Aes256::new_from_slice(key) {
        key.encrypt_block(&mut block);
    }
    block.into()
}

fn chacha20_mask(key: &[u8], sample: &[u8; 16]) -> [u8; 16] {
    let key = quic::HeaderProtectionKey::new(&quic::CHACHA20, key);
    let mask = key.and_then(|key| key.new_mask(sample)).unwrap_or_default();
    let mut block = [0; 16];
    block.iter_mut().zip(mask).for_each(|(to, from)| *to = from);
    block
}

struct Aead(LessSafeKey);

impl fmt::Debug for Aead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aead").finish_non_exhaustive()
    }
}

impl Cipher for Aead {
    fn encrypt(&mut self, bytes: &mut Buf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key(nonce.0);
        self.0
            .seal_in_place_append_tag(nonce, aead::Aad::from(&aad[..]), bytes)
            .map_err(|_| failed(CryptoOperation::Encrypt))
    }

    fn decrypt(&mut self, bytes: &mut TmpBuf, aad: Aad, nonce: Nonce) -> Result<(), CryptoError> {
        let nonce = aead::Nonce::assume_unique_for_key(nonce.0);
        let plain = self
            .0
            .open_in_place(nonce, aead::Aad::from(&aad[..]), bytes.as_mut())
            .map_err(|_| failed(CryptoOperation::Decrypt))?;
        let length = plain.len();
        bytes.truncate(length);
        Ok(())
    }
}

#[derive(Debug)]
struct Group(NamedGroup);

impl SupportedKxGroup for Group {
    fn name(&self) -> NamedGroup {
        self.0
    }

    fn start_exchange(&self, mut buf: Buf) -> Result<Box<dyn ActiveKeyExchange>, CryptoError> {
        let algorithm = match self.0 {
            NamedGroup::X25519 => &agreement::X25519,
            NamedGroup::Secp256r1 => &agreement::ECDH_P256,
            NamedGroup::Secp384r1 => &agreement::ECDH_P384,
            group => return Err(CryptoError::UnsupportedKeyExchangeGroup(group)),
        };
        let key = EphemeralPrivateKey::generate(algorithm, &SystemRandom::new())
            .map_err(|_| failed(CryptoOperation::GenerateEphemeralKey))?;
        let public = key
            .compute_public_key()
            .map_err(|_| failed(CryptoOperation::ComputePublicKey))?;
        buf.clear();
        buf.extend_from_slice(public.as_ref());
        Ok(Box::new(Exchange {
            group: self.0,
            algorithm,
            key,
            public: buf,
        }))
    }
}

#[derive(Debug)]
struct Exchange {
    group: NamedGroup,
    algorithm: &'static agreement::Algorithm,
    key: EphemeralPrivateKey,
    public: Buf,
}

impl ActiveKeyExchange for Exchange {
    fn pub_key(&self) -> &[u8] {
        &self.public
    }

    fn complete(self: Box<Self>, peer: &[u8], out: &mut Buf) -> Result<(), CryptoError> {
        let peer = UnparsedPublicKey::new(self.algorithm, peer);
        let agreed = agree_ephemeral(self.key, &peer, |secret| {
            out.clear();
            out.extend_from_slice(secret);
        });
        agreed.map_err(|_| CryptoError::InvalidPublicKey(self.group))
    }

    fn group(&self) -> NamedGroup {
        self.group
    }
}

impl HashProvider for Ring {
    fn create_hash(&self, algorithm: HashAlgorithm) -> Box<dyn HashContext> {
        // No suite above has another hash than these two.
        let algorithm = if algorithm == HashAlgorithm::SHA384 {
            &digest::SHA384
        } else {
            &digest::SHA256
        };
        Box::new(Hash(digest::Context::new(algorithm)))
    }
}

struct Hash(digest::Context);

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash").finish_non_exhaustive()
    }
}

impl HashContext for Hash {
    fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    fn clone_and_finalize(&self, out: &mut Buf) {
        out.clear();
        out.extend_from_slice(self.0.clone().finish().as_ref());
    }
}

impl HmacProvider for Ring {
    fn hmac(
        &self,
        hash: HashAlgorithm,
        key: &[u8],
        data: &[u8],
        out: &mut [u8],
    ) -> Result<usize, CryptoError> {
        let algorithm = match hash {
            HashAlgorithm::SHA256 => hmac::HMAC_SHA256,
            HashAlgorithm::SHA384 => hmac::HMAC_SHA384,
            hash => return Err(CryptoError::UnsupportedHmacHash(hash)),
        };
        let tag = hmac::sign(&hmac::Key::new(algorithm, key), data);
        let tag = tag.as_ref();
        let out = out.get_mut(..tag.len());
        out.ok_or(failed(CryptoOperation::ComputeHmac))?
            .copy_from_slice(tag);
        Ok(tag.len())
    }
}

impl SecureRandom for Ring {
    fn fill(&self, bytes: &mut [u8]) -> Result<(), CryptoError> {
        SystemRandom::new()
            .fill(bytes)
            .map_err(|_| failed(CryptoOperation::FillRandom))
    }
}

impl KeyProvider for Ring {
    fn load_private_key(&self, der: &[u8]) -> Result<Box<dyn SigningKey>, CryptoError> {
        let key = PrivateKeyDer::try_from(der).map_err(|_| CryptoError::InvalidPrivateKey)?;
        let key = any_ecdsa_type(&key).map_err(|_| CryptoError::InvalidPrivateKey)?;
        let p256 = key.choose_scheme(&[P256]).is_some();
        Ok(Box::new(Key {
            key: AssertUnwindSafe(key),
            hashes: if p256 { SHA256 } else { SHA384 },
        }))
    }
}

const P256: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;
const P384: SignatureScheme = SignatureScheme::ECDSA_NISTP384_SHA384;
const SHA256: &[HashAlgorithm] = &[HashAlgorithm::SHA256];
const SHA384: &[HashAlgorithm] = &[HashAlgorithm::SHA384];

/// A key on P-256 or P-384, and the one hash that it signs.
#[derive(Debug)]
struct Key {
    key: AssertUnwindSafe<Arc<dyn rustls::sign::SigningKey>>,
    hashes: &'static [HashAlgorithm],
}

impl SigningKey for Key {
    fn sign(&mut self, data: &[u8], hash: HashAlgorithm, out: &mut Buf) -> Result<(), CryptoError> {
        let key_hash = self.hash_algorithm();
        if hash != key_hash {
            let requested = hash;
            return Err(CryptoError::SigningKeyHashMismatch {
                key_hash,
                requested,
            });
        }
        let signer = self.key.choose_scheme(&[P256, P384]);
        let signature = signer.and_then(|signer| signer.sign(data).ok());
        let signature = signature.ok_or(failed(CryptoOperation::Sign))?;
        out.clear();
        out.extend_from_slice(&signature);
        Ok(())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }

    fn hash_algorithm(&self) -> HashAlgorithm {
        self.hashes
            .first()
            .copied()
            .unwrap_or(HashAlgorithm::SHA256)
    }

    fn supported_hash_algorithms(&self) -> &[HashAlgorithm] {
        self.hashes
    }
}

impl SignatureVerifier for Ring {
    fn verify_signature(
        &self,
        certificate: &[u8],
        data: &[u8],
        signature: &[u8],
        hash: HashAlgorithm,
        algorithm: SignatureAlgorithm,
    ) -> Result<(), CryptoError> {
        if algorithm != SignatureAlgorithm::ECDSA {
            return Err(CryptoError::UnsupportedSignatureAlgorithm(algorithm));
        }
        let certificate = CertificateDer::from(certificate);
        let certificate = EndEntityCert::try_from(&certificate)
            .map_err(|_| CryptoError::CertificateParseFailed)?;
        let of_curve = |curve: &dyn SignatureVerificationAlgorithm| {
            certificate.verify_signature(curve, data, signature).is_ok()
        };
        // The certificate says which curve it is; the other one refuses it.
        let verified = match hash {
            HashAlgorithm::SHA256 => {
                of_curve(webpki::ring::ECDSA_P256_SHA256)
                    || of_curve(webpki::ring::ECDSA_P384_SHA256)
            }
            HashAlgorithm::SHA384 => {
                of_curve(webpki::ring::ECDSA_P384_SHA384)
                    || of_curve(webpki::ring::ECDSA_P256_SHA384)
            }
            _ => false,
        };
        verified
            .then_some(())
            .ok_or(failed(CryptoOperation::VerifySignature))
    }
}
