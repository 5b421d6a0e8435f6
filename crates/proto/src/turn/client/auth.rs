//! Long-term credentials (RFC 8489 section 9.2), the client's side.

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use postern_wire::stun::{
    Algorithm, AttributeType, Builder, Message, Nonce, PasswordAlgorithm, PasswordAlgorithms,
    Realm, Userhash, Username, ValueError, long_term_key_md5, long_term_key_sha256,
};
use zeroize::Zeroizing;

use super::event::Failure;

/// What a nonce starts with when the server has the security features of RFC 8489 (section
/// 9.2), before four base64 characters that list them.
const COOKIE: &str = "obMatJos2";
/// The feature bits (section 18.1).
const HAS_PASSWORD_ALGORITHMS: u8 = 0x01;
const HAS_USERNAME_ANONYMITY: u8 = 0x02;

/// User name and password. `Debug` does not show the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    username: Arc<str>,
    password: Arc<Zeroizing<String>>,
}

impl Credentials {
    /// Both are used as they are: OpaqueString preparation (RFC 8265) is the caller's.
    ///
    /// # Errors
    ///
    /// [`ValueError::TextTooLong`] for a user name of more than 508 bytes.
    pub fn new(username: &str, password: &str) -> Result<Self, ValueError> {
        Username::new(username)?;
        Ok(Self {
            username: username.into(),
            password: Arc::new(Zeroizing::new(password.to_owned())),
        })
    }

    /// The user name.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// A server's challenge and the key that answers it.
pub(super) struct Challenge {
    username: Arc<str>,
    realm: String,
    nonce: String,
    /// The value of PASSWORD-ALGORITHMS, which goes back unchanged, and the choice from it.
    algorithms: Option<(Vec<u8>, Algorithm)>,
    anonymous: bool,
    key: Zeroizing<Vec<u8>>,
}

impl Challenge {
    /// Reads a 401 or a 438. `previous` is what the server asked before.
    pub(super) fn read(
        message: &Message<'_>,
        credentials: &Credentials,
        previous: Option<&Self>,
    ) -> Result<Self, Failure> {
        let nonce = message.get::<Nonce<'_>>().ok().flatten();
        let nonce = nonce.ok_or(Failure::Malformed)?.as_str();
        let realm = message.get::<Realm<'_>>().ok().flatten();
        let realm = realm.map(|realm| realm.as_str());
        let realm = realm.or_else(|| previous.map(|known| known.realm.as_str()));
        let realm = realm.ok_or(Failure::Malformed)?;
        let features = features(nonce);
        let algorithms = choose(message)?;
        let promised = features & HAS_PASSWORD_ALGORITHMS != 0;
        let had = previous.is_some_and(|known| known.algorithms.is_some());
        if algorithms.is_none() && (promised || had) {
            return Err(Failure::BidDown);
        }
        // Without the bit the list is ignored: the server does not know what it promises.
        let algorithms = algorithms.filter(|_| promised);
        let chosen = algorithms.as_ref().map(|(_, algorithm)| *algorithm);
        Ok(Self {
            username: Arc::clone(&credentials.username),
            realm: realm.to_owned(),
            nonce: nonce.to_owned(),
            algorithms,
            anonymous: features & HAS_USERNAME_ANONYMITY != 0,
            key: key(chosen, credentials, realm),
        })
    }

    /// Adds what proves who we are (RFC 8489 section 9.2.3.2) and seals the request.
    pub(super) fn seal(&self, request: Builder) -> Vec<u8> {
        let userhash = Userhash::new(&self.username, &self.realm);
        let username = Username::new(&self.username).ok();
        let request = request
            .maybe_attribute(username.filter(|_| !self.anonymous).as_ref())
            .maybe_attribute(self.anonymous.then_some(userhash).as_ref())
            .maybe_attribute(Realm::new(&self.realm).ok().as_ref())
            .maybe_attribute(Nonce::new(&self.nonce).ok().as_ref());
        let Some((list, chosen)) = &self.algorithms else {
            return request.message_integrity(&self.key).build();
        };
        let chosen = PasswordAlgorithm::new(*chosen, &[]).ok();
        request
            .raw_attribute(AttributeType::PASSWORD_ALGORITHMS, list)
            .maybe_attribute(chosen.as_ref())
            .message_integrity_sha256(&self.key)
            .build()
    }

    /// Whether the response is signed with our key, in the way the request was.
    pub(super) fn has_signed(&self, response: &Message<'_>) -> bool {
        let verified = if self.algorithms.is_some() {
            response.verify_integrity_sha256(&self.key)
        } else {
            response.verify_integrity(&self.key)
        };
        verified.is_ok()
    }
}

impl fmt::Debug for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Challenge")
            .field("realm", &self.realm)
            .field("algorithms", &self.algorithms)
            .field("anonymous", &self.anonymous)
            .finish_non_exhaustive()
    }
}

/// The security features that a nonce tells; none without the cookie.
fn features(nonce: &str) -> u8 {
    let encoded = nonce.strip_prefix(COOKIE).and_then(|rest| rest.get(..4));
    let bits = encoded.and_then(|encoded| BASE64.decode(encoded.as_bytes()).ok());
    bits.and_then(|bits| bits.last().copied()).unwrap_or(0)
}

/// The value of PASSWORD-ALGORITHMS and the first one in it that we have.
fn choose(message: &Message<'_>) -> Result<Option<(Vec<u8>, Algorithm)>, Failure> {
    let Some(raw) = message.raw(AttributeType::PASSWORD_ALGORITHMS) else {
        return Ok(None);
    };
    let list = message.get::<PasswordAlgorithms<'_>>().ok().flatten();
    let list = list.ok_or(Failure::Malformed)?;
    let mut ours = list.as_slice().iter().filter(|offered| {
        matches!(offered.algorithm(), Algorithm::MD5 | Algorithm::SHA256)
            && offered.parameters().is_empty()
    });
    let chosen = ours.next().ok_or(Failure::NoAlgorithm)?.algorithm();
    Ok(Some((raw.to_vec(), chosen)))
}

fn key(chosen: Option<Algorithm>, credentials: &Credentials, realm: &str) -> Zeroizing<Vec<u8>> {
    let (username, password) = (&credentials.username, credentials.password.as_str());
    Zeroizing::new(if chosen == Some(Algorithm::SHA256) {
        long_term_key_sha256(username, realm, password).to_vec()
    } else {
        long_term_key_md5(username, realm, password).to_vec()
    })
}
