use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, Mac};
use postern_wire::stun::{Algorithm, Realm, Userhash, Username, ValueError};
use sha1::Sha1;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::Key;
use super::nonce::Nonces;

/// Bytes of a pseudonym: two among a million are the same once in 10^7 times.
const PSEUDONYM: usize = 8;

/// Whom a server knows: users with a password, and secrets from which passwords with a
/// time limit are made.
///
/// Names and passwords are used as they are: OpaqueString preparation (RFC 8265) is the
/// caller's. `Debug` shows no secret.
#[derive(Clone, Default)]
pub struct Credentials {
    realm: String,
    users: BTreeMap<Arc<str>, Keys>,
    hashes: BTreeMap<Userhash, Arc<str>>,
    secrets: Vec<Zeroizing<Vec<u8>>>,
}

/// A user name and a password that a server believes until a point in time.
#[derive(Clone, PartialEq, Eq)]
pub struct TimeLimited {
    /// `timestamp:id`, or the timestamp alone: the end in seconds since 1970.
    pub username: String,
    /// Base64 of HMAC-SHA1 over the user name.
    pub password: String,
}

#[derive(Clone)]
struct Keys {
    md5: Key,
    sha256: Key,
}

impl Credentials {
    /// Nobody yet, in a realm of at most 127 characters.
    ///
    /// # Errors
    ///
    /// [`ValueError::TextTooLong`] above that.
    pub fn new(realm: &str) -> Result<Self, ValueError> {
        Realm::new(realm)?;
        Ok(Self {
            realm: realm.to_owned(),
            ..Self::default()
        })
    }

    /// Adds a user, or replaces the password. Only keys are kept.
    ///
    /// # Errors
    ///
    /// [`ValueError::TextTooLong`] for a name of more than 508 bytes.
    pub fn with_user(mut self, name: &str, password: &str) -> Result<Self, ValueError> {
        Username::new(name)?;
        let user: Arc<str> = name.into();
        let keys = Keys {
            md5: Key::md5(name, &self.realm, password),
            sha256: Key::sha256(name, &self.realm, password),
        };
        let hash = Userhash::new(name, &self.realm);
        self.hashes.insert(hash, Arc::clone(&user));
        self.users.insert(user, keys);
        Ok(self)
    }

    /// Adds a secret for time-limited credentials. The first one makes new ones, all are
    /// believed: put a new secret first, and drop the old one when its last credentials
    /// have run out.
    #[must_use]
    pub fn with_secret(mut self, secret: &[u8]) -> Self {
        self.secrets.push(Zeroizing::new(secret.to_vec()));
        self
    }

    /// The realm.
    #[must_use]
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// Credentials for `lifetime` from `unix`, the time since 1970; `id` shows up in the
    /// server's accounts. `None` without a secret.
    #[must_use]
    pub fn issue(
        &self,
        unix: Duration,
        lifetime: Duration,
        id: Option<&str>,
    ) -> Option<TimeLimited> {
        let end = unix.saturating_add(lifetime).as_secs();
        let username = match id {
            Some(id) => format!("{end}:{id}"),
            None => end.to_string(),
        };
        let password = password(self.secrets.first()?, &username);
        let password = password.to_string();
        Some(TimeLimited { username, password })
    }

    /// A name for what is only told in confidence: the same for the same bytes as long as
    /// the first secret is, and without the secret no way back.
    #[must_use]
    pub fn pseudonym(&self, bytes: &[u8]) -> String {
        let secret = self.secrets.first().map_or(&[][..], |secret| secret);
        let mac = Hmac::<Sha1>::new_from_slice(secret)
            .map(|mac| mac.chain_update([0]).chain_update(bytes))
            .map(|mac| mac.finalize().into_bytes());
        // HMAC takes keys of every length: the error is not reachable.
        let mac = mac.unwrap_or_default();
        HEXLOWER.encode(mac.get(..PSEUDONYM).unwrap_or_default())
    }

    /// The nonces of those who are introduced: whoever has the secret can make them, on another
    /// machine, too.
    pub(super) fn introductions(secret: &[u8], lifetime: Duration) -> Nonces {
        let mac = Hmac::<Sha256>::new_from_slice(secret)
            .map(|mac| mac.chain_update("introductions"))
            .map(|mac| mac.finalize().into_bytes());
        // HMAC takes keys of every length: the error is not reachable.
        let key = mac.map(|mac| mac.first_chunk().copied().unwrap_or_default());
        Nonces::new(key.unwrap_or_default(), lifetime)
    }

    pub(super) fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.secrets.iter().map(|secret| secret.as_slice())
    }

    /// Whether users can stay anonymous: the name behind a USERHASH is found among those
    /// that are known, which those of time-limited credentials are not.
    pub(super) const fn finds_hashes(&self) -> bool {
        self.secrets.is_empty()
    }

    pub(super) fn user_of(&self, hash: &Userhash) -> Option<Arc<str>> {
        self.hashes.get(hash).map(Arc::clone)
    }

    /// Whom the credentials of this name belong to.
    pub(super) fn account(&self, user: &Arc<str>) -> Arc<str> {
        match user.find(':').and_then(|colon| user.get(colon..)) {
            Some(id) if !self.users.contains_key(user) => id.into(),
            _ => Arc::clone(user),
        }
    }

    /// The keys that a user of this name can have at `unix`.
    pub(super) fn keys(&self, unix: u64, user: &str, algorithm: Algorithm) -> Vec<Key> {
        if let Some(keys) = self.users.get(user) {
            return vec![keys.for_algorithm(algorithm)];
        }
        if end_of(user).is_none_or(|end| unix >= end) {
            return Vec::new();
        }
        let keys = self.secrets.iter().map(|secret| {
            let password = password(secret, user);
            make_key(algorithm, user, &self.realm, &password)
        });
        keys.collect()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("realm", &self.realm)
            .field("users", &self.users.len())
            .field("secrets", &self.secrets.len())
            .finish()
    }
}

impl fmt::Debug for TimeLimited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimeLimited")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

impl Keys {
    fn for_algorithm(&self, algorithm: Algorithm) -> Key {
        if algorithm == Algorithm::SHA256 {
            self.sha256.clone()
        } else {
            self.md5.clone()
        }
    }
}

fn make_key(algorithm: Algorithm, user: &str, realm: &str, password: &str) -> Key {
    if algorithm == Algorithm::SHA256 {
        Key::sha256(user, realm, password)
    } else {
        Key::md5(user, realm, password)
    }
}

/// When a time-limited user name ends, in seconds since 1970.
fn end_of(user: &str) -> Option<u64> {
    let (timestamp, _) = user.split_once(':').unwrap_or((user, ""));
    timestamp.parse().ok()
}

fn password(secret: &[u8], username: &str) -> Zeroizing<String> {
    let mac = Hmac::<Sha1>::new_from_slice(secret)
        .map(|mac| mac.chain_update(username).finalize().into_bytes());
    // HMAC takes keys of every length: the error is not reachable.
    Zeroizing::new(mac.map(|mac| BASE64.encode(&mac)).unwrap_or_default())
}
