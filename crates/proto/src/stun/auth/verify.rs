use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use postern_wire::stun::{
    Algorithm, AttributeType, Builder, Class, ErrorCode, Message, Method, Nonce, PasswordAlgorithm,
    Realm, TransactionId, Userhash, Username,
};

use super::nonce::{Nonces, Origin, PASSWORD_ALGORITHMS, USERNAME_ANONYMITY};
use super::{Credentials, Integrity, Key, Session};

/// The value of PASSWORD-ALGORITHMS: SHA-256 before MD5, without parameters.
const ALGORITHMS: [u8; 8] = [0, 2, 0, 0, 0, 1, 0, 0];

/// Why a request is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// 400, without a challenge.
    BadRequest,
    /// 401, with a challenge.
    Unauthenticated,
    /// 438, with a challenge.
    StaleNonce,
}

/// Challenges strangers and recognises users.
pub(crate) struct Authenticator {
    credentials: Credentials,
    nonces: Nonces,
}

impl Authenticator {
    pub(crate) fn new(key: [u8; 32], nonce_lifetime: Duration, credentials: Credentials) -> Self {
        Self {
            credentials,
            nonces: Nonces::new(key, nonce_lifetime),
        }
    }

    pub(crate) fn set_credentials(&mut self, credentials: Credentials) {
        self.credentials = credentials;
    }

    /// Adds REALM, NONCE and PASSWORD-ALGORITHMS to a 401 or a 438.
    pub(crate) fn challenge(&self, unix: u64, origin: Origin, response: Builder) -> Builder {
        let nonce = self.nonces.issue(unix, origin, self.features());
        response
            .maybe_attribute(Realm::new(self.credentials.realm()).ok().as_ref())
            .maybe_attribute(Nonce::new(&nonce).ok().as_ref())
            .raw_attribute(AttributeType::PASSWORD_ALGORITHMS, &ALGORITHMS)
    }

    /// RFC 8489 section 9.2.4. `known` is the session that the sender has already: its
    /// key counts also when the credentials have run out since.
    pub(crate) fn verify(
        &self,
        unix: u64,
        origin: Origin,
        message: &Message<'_>,
        known: Option<&Session>,
    ) -> Result<Session, Refusal> {
        let integrity = integrity_of(message).ok_or(Refusal::Unauthenticated)?;
        let nonce = text::<Nonce<'_>>(message)?;
        text::<Realm<'_>>(message)?;
        let algorithm = algorithm_of(message)?;
        let user = self.user_of(message)?;
        if !self.is_ours(unix, origin, nonce.as_str()) {
            return Err(Refusal::StaleNonce);
        }
        if algorithm.is_some() && integrity != Integrity::Sha256 {
            return Err(Refusal::Unauthenticated);
        }
        let user = user.ok_or(Refusal::Unauthenticated)?;
        let algorithm = algorithm.unwrap_or(Algorithm::MD5);
        let key = self
            .key(unix, &user, algorithm, known, |key| {
                Session::sealed(key, integrity, message)
            })
            .ok_or(Refusal::Unauthenticated)?;
        let account = match known.filter(|known| known.user == user) {
            Some(known) => Arc::clone(&known.account),
            None => self.credentials.account(&user),
        };
        Ok(Session {
            user,
            account,
            key,
            integrity,
        })
    }

    /// Whether we made the nonce for this origin, or who introduced it did.
    fn is_ours(&self, unix: u64, origin: Origin, nonce: &str) -> bool {
        let features = self.features();
        let lifetime = self.nonces.lifetime();
        let introduced = Origin::introduced(origin.ip());
        let handed = |secret: &[u8]| {
            let nonces = Credentials::introductions(secret, lifetime);
            nonces.is_valid(unix, introduced, features, nonce)
        };
        self.nonces.is_valid(unix, origin, features, nonce)
            || self.credentials.secrets().any(handed)
    }

    /// The key of this user that `fits`.
    fn key(
        &self,
        unix: u64,
        user: &str,
        algorithm: Algorithm,
        known: Option<&Session>,
        fits: impl Fn(&Key) -> bool,
    ) -> Option<Key> {
        let known = known
            .filter(|known| &*known.user == user && known.key.algorithm() == algorithm)
            .map(|known| &known.key)
            .filter(|key| fits(key));
        match known {
            Some(key) => Some(key.clone()),
            None => self
                .credentials
                .keys(unix, user, algorithm)
                .into_iter()
                .find(fits),
        }
    }

    /// Who the message says it is from; `None` for a USERHASH that nobody has.
    fn user_of(&self, message: &Message<'_>) -> Result<Option<Arc<str>>, Refusal> {
        match message.get::<Username<'_>>() {
            Ok(Some(name)) => Ok(Some(name.as_str().into())),
            Ok(None) => {
                let hash = text::<Userhash>(message)?;
                Ok(self.credentials.user_of(&hash))
            }
            Err(_) => Err(Refusal::BadRequest),
        }
    }

    const fn features(&self) -> u8 {
        features(&self.credentials)
    }
}

const fn features(credentials: &Credentials) -> u8 {
    if credentials.finds_hashes() {
        PASSWORD_ALGORITHMS | USERNAME_ANONYMITY
    } else {
        PASSWORD_ALGORITHMS
    }
}

impl Credentials {
    /// What a server that knows these would challenge a client at `ip` with, made at `unix`, the
    /// time since 1970: a whole response, for a client that is introduced to the server by
    /// somebody to whom it has proven its address. For time-limited credentials only.
    #[must_use]
    pub fn challenge(&self, unix: Duration, ip: IpAddr) -> Option<Vec<u8>> {
        // Its age is looked at by who reads it.
        let nonces = Self::introductions(self.secrets().next()?, Duration::ZERO);
        let nonce = nonces.issue(unix.as_secs(), Origin::introduced(ip), features(self));
        let id = TransactionId([0; 12]);
        let error = ErrorCode::new(401, "Unauthenticated").ok()?;
        let response = Builder::new(Class::Error, Method::ALLOCATE, id)
            .attribute(&error)
            .maybe_attribute(Realm::new(self.realm()).ok().as_ref())
            .maybe_attribute(Nonce::new(&nonce).ok().as_ref())
            .raw_attribute(AttributeType::PASSWORD_ALGORITHMS, &ALGORITHMS);
        Some(response.build())
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator")
            .field("credentials", &self.credentials)
            .finish_non_exhaustive()
    }
}

fn integrity_of(message: &Message<'_>) -> Option<Integrity> {
    if message.contains(AttributeType::MESSAGE_INTEGRITY_SHA256) {
        Some(Integrity::Sha256)
    } else if message.contains(AttributeType::MESSAGE_INTEGRITY) {
        Some(Integrity::Sha1)
    } else {
        None
    }
}

/// An attribute that a sealed request must have.
fn text<'a, A: postern_wire::stun::Attribute<'a>>(message: &Message<'a>) -> Result<A, Refusal> {
    match message.get::<A>() {
        Ok(Some(attribute)) => Ok(attribute),
        Ok(None) | Err(_) => Err(Refusal::BadRequest),
    }
}

/// The password algorithm that the client chose; `None` if it knows of none, which is
/// MD5. A client that knows the attributes must repeat the list it was given: somebody
/// on the way may have shortened it to bid the ends down (RFC 8489 section 9.2.4).
fn algorithm_of(message: &Message<'_>) -> Result<Option<Algorithm>, Refusal> {
    let list = message.raw(AttributeType::PASSWORD_ALGORITHMS);
    let one = message.get::<PasswordAlgorithm<'_>>();
    match (list, one) {
        (None, Ok(None)) => Ok(None),
        (Some(list), Ok(Some(one))) if list == ALGORITHMS && is_offered(&one) => {
            Ok(Some(one.algorithm()))
        }
        _ => Err(Refusal::BadRequest),
    }
}

fn is_offered(one: &PasswordAlgorithm<'_>) -> bool {
    matches!(one.algorithm(), Algorithm::SHA256 | Algorithm::MD5) && one.parameters().is_empty()
}
