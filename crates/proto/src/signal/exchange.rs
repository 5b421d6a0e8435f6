//! From words to keys: SPAKE2, the key schedule and the confirmation.

use curve25519_dalek::edwards::CompressedEdwardsY;
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use postern_wire::signal::{CONFIRMATION_LEN, Code, KEY_EXCHANGE_LEN, MEETING_TOKEN_LEN, VERSION};
use rand_chacha::ChaCha20Rng;
use rand_core::RngCore;
use sha2::{Digest, Sha256};
use spake2::{Ed25519Group, Identity, Password, Spake2};
use zeroize::Zeroizing;

use super::seal::{Opener, Sealer};

/// A message of the key exchange.
pub(super) type Share = [u8; KEY_EXCHANGE_LEN];

/// Who made the mailbox and who joined it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Made the mailbox and the code.
    Creator,
    /// Typed the code.
    Joiner,
}

impl Role {
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Creator => Self::Joiner,
            Self::Joiner => Self::Creator,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Creator => "creator",
            Self::Joiner => "joiner",
        }
    }
}

/// Why the other side's message cannot be a key exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum ExchangeError {
    /// It is this side's own message.
    #[error("the key exchange was reflected")]
    Reflected,
    /// It has the wrong role, or no point of the prime-order group.
    #[error("the key exchange is not valid")]
    Invalid,
}

/// One side of a key exchange that has sent its message and can take one answer.
pub(super) struct KeyExchange {
    role: Role,
    context: Context,
    common: Common,
    share: Share,
}

/// What both sides know in advance.
enum Common {
    /// Words that can be guessed.
    Words(Box<Spake2<Ed25519Group>>),
    /// A secret that cannot: what they share are random numbers.
    Secret(Zeroizing<[u8; 32]>),
}

/// The first byte of what a side shares, as `spake2` has it.
const SIDES: [u8; 2] = [b'A', b'B'];

/// What two who have met keep in order to meet again, equal on both sides and known to nobody
/// else. Overwritten when it is dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; 32]>);

impl Secret {
    /// A secret of uniformly random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The name of their meeting: tells nothing about the secret.
    pub(super) fn token(&self) -> Option<[u8; MEETING_TOKEN_LEN]> {
        let schedule = Hkdf::<Sha256>::new(None, self.0.as_slice());
        let mut token = [0; MEETING_TOKEN_LEN];
        let info = format!("postern/{VERSION} meeting");
        schedule.expand(info.as_bytes(), &mut token).ok()?;
        Some(token)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// What both sides must agree on besides the words.
struct Context {
    purpose: String,
    mailbox: u32,
}

impl Context {
    fn identity(&self, role: Role) -> Identity {
        let Self { purpose, mailbox } = self;
        let role = role.name();
        Identity::new(format!("postern/{VERSION} {purpose} mailbox {mailbox} {role}").as_bytes())
    }

    /// The hash of everything that was said: fixed lengths but for the purpose, which
    /// has its length before it.
    fn transcript(&self, creator: &Share, joiner: &Share) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(b"postern signal");
        hash.update(VERSION.to_be_bytes());
        hash.update((self.purpose.len() as u64).to_be_bytes());
        hash.update(self.purpose.as_bytes());
        hash.update(self.mailbox.to_be_bytes());
        hash.update(creator);
        hash.update(joiner);
        hash.finalize().into()
    }
}

impl KeyExchange {
    /// Starts an exchange; [`KeyExchange::share`] is for the other side.
    pub(super) fn start(role: Role, purpose: &str, code: &Code, rng: &mut ChaCha20Rng) -> Self {
        let context = Context {
            purpose: purpose.to_owned(),
            mailbox: code.mailbox(),
        };
        let password = Zeroizing::new(code.password());
        let password = Password::new(password.as_bytes());
        let creator = context.identity(Role::Creator);
        let joiner = context.identity(Role::Joiner);
        let (spake, message) = match role {
            Role::Creator => Spake2::start_a_with_rng(&password, &creator, &joiner, rng),
            Role::Joiner => Spake2::start_b_with_rng(&password, &creator, &joiner, rng),
        };
        Self {
            role,
            context,
            common: Common::Words(Box::new(spake)),
            share: message.try_into().unwrap_or([0; KEY_EXCHANGE_LEN]),
        }
    }

    /// Starts the exchange of two who have a secret in common already: each meeting gets keys of
    /// its own.
    pub(super) fn again(role: Role, purpose: &str, secret: &Secret, rng: &mut ChaCha20Rng) -> Self {
        let [creator, joiner] = SIDES;
        let mut share = [0; KEY_EXCHANGE_LEN];
        rng.fill_bytes(&mut share);
        let [side, ..] = &mut share;
        *side = match role {
            Role::Creator => creator,
            Role::Joiner => joiner,
        };
        Self {
            role,
            context: Context {
                purpose: purpose.to_owned(),
                mailbox: 0,
            },
            common: Common::Secret(secret.0.clone()),
            share,
        }
    }

    pub(super) const fn share(&self) -> &Share {
        &self.share
    }

    /// Takes the other side's message and derives the keys. A wrong word is not found
    /// here but by [`Keys::confirms`].
    pub(super) fn finish(self, theirs: &Share) -> Result<Keys, ExchangeError> {
        let secret = match self.common {
            Common::Words(spake) => {
                check_share(&self.share, theirs)?;
                spake.finish(theirs).map_err(|_| ExchangeError::Invalid)?
            }
            Common::Secret(secret) => {
                check_side(self.role, theirs)?;
                secret.to_vec()
            }
        };
        let secret = Zeroizing::new(secret);
        let (creator, joiner) = match self.role {
            Role::Creator => (&self.share, theirs),
            Role::Joiner => (theirs, &self.share),
        };
        let transcript = self.context.transcript(creator, joiner);
        Keys::derive(self.role, transcript, &secret).ok_or(ExchangeError::Invalid)
    }
}

/// What another side of the same role shares is our own, or that of no peer.
fn check_side(ours: Role, theirs: &Share) -> Result<(), ExchangeError> {
    let [creator, joiner] = SIDES;
    let (own, other) = match ours {
        Role::Creator => (creator, joiner),
        Role::Joiner => (joiner, creator),
    };
    let [side, ..] = theirs;
    match *side {
        side if side == other => Ok(()),
        side if side == own => Err(ExchangeError::Reflected),
        _ => Err(ExchangeError::Invalid),
    }
}

/// `spake2` checks the side and that the bytes are a point; a point with a component of
/// small order passes, and so does our own with the other side's letter.
fn check_share(ours: &Share, theirs: &Share) -> Result<(), ExchangeError> {
    let [_, our_point @ ..] = ours;
    let [_, their_point @ ..] = theirs;
    if our_point == their_point {
        return Err(ExchangeError::Reflected);
    }
    let point = CompressedEdwardsY(*their_point).decompress();
    let point = point.ok_or(ExchangeError::Invalid)?;
    if point.is_small_order() || !point.is_torsion_free() {
        return Err(ExchangeError::Invalid);
    }
    Ok(())
}

/// What a key exchange gives: the proofs of both sides and the seals of both directions.
pub(super) struct Keys {
    ours: [u8; CONFIRMATION_LEN],
    theirs: Hmac<Sha256>,
    pub(super) sealer: Sealer,
    pub(super) opener: Opener,
}

impl Keys {
    fn derive(role: Role, transcript: [u8; 32], secret: &[u8]) -> Option<Self> {
        let schedule = Hkdf::<Sha256>::new(Some(&transcript), secret);
        Some(Self {
            ours: proof(&schedule, role, &transcript)?
                .finalize()
                .into_bytes()
                .into(),
            theirs: proof(&schedule, role.other(), &transcript)?,
            sealer: Sealer::new(role, &*expand(&schedule, "seal", role)?),
            opener: Opener::new(role.other(), &*expand(&schedule, "seal", role.other())?),
        })
    }

    /// This side's proof.
    pub(super) const fn confirmation(&self) -> &[u8; CONFIRMATION_LEN] {
        &self.ours
    }

    /// Whether the other side derived the same keys, in constant time.
    pub(super) fn confirms(&self, proof: &[u8; CONFIRMATION_LEN]) -> bool {
        self.theirs.clone().verify_slice(proof).is_ok()
    }
}

/// The MAC of the transcript with the confirmation key of `role`, as in RFC 9382
/// section 4.
fn proof(schedule: &Hkdf<Sha256>, role: Role, transcript: &[u8]) -> Option<Hmac<Sha256>> {
    let key = expand(schedule, "confirm", role)?;
    let mut mac = Hmac::new_from_slice(key.as_slice()).ok()?;
    mac.update(transcript);
    Some(mac)
}

fn expand(schedule: &Hkdf<Sha256>, what: &str, role: Role) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    let info = format!("postern/{VERSION} {what} {}", role.name());
    schedule.expand(info.as_bytes(), key.as_mut_slice()).ok()?;
    Some(key)
}
