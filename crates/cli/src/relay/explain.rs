//! Why a relay does not work, in a sentence that says what helps.

use std::time::{SystemTime, UNIX_EPOCH};

use postern::DtlsError;
use postern::turn::{AllocateError, ConnectError, Failure as Refusal, PeerError, TransportError};

use super::measure::MeasureError;
use crate::failure::{Failure, chain};

/// The kind of error of a server that gives a user no more relays.
pub(super) const QUOTA: &str = "relay_quota";

/// Why there is no allocation.
pub(super) fn allocating(error: &AllocateError, user: Option<&str>, secret: bool) -> Failure {
    match error {
        AllocateError::Refused { server, failure } => refused(server, *failure, user, secret),
        AllocateError::Transport(error) => transport(error),
        AllocateError::HungUp { .. } => Failure::failed("relay", chain(error)),
        AllocateError::NoServer | AllocateError::Entropy(_) => {
            Failure::failed("system", chain(error))
        }
    }
}

fn transport(error: &TransportError) -> Failure {
    let kind = match error {
        TransportError::Unreachable { .. }
        | TransportError::Silent { .. }
        | TransportError::Proxy(_)
        | TransportError::Dtls(DtlsError::Silent { .. }) => "server_unreachable",
        TransportError::WrongPin { .. }
        | TransportError::Certificate { .. }
        | TransportError::Dtls(
            DtlsError::WrongPin { .. } | DtlsError::Certificate { .. } | DtlsError::NotEcdsa { .. },
        ) => "server_certificate",
        TransportError::NotTls { .. } | TransportError::Dtls(DtlsError::NotDtls { .. }) => "relay",
    };
    Failure::failed(kind, chain(error))
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the failures that need more words than their own are listed"
)]
fn refused(server: &str, failure: Refusal, user: Option<&str>, secret: bool) -> Failure {
    match failure {
        Refusal::TimedOut => Failure::failed(
            "server_unreachable",
            format!(
                "nothing answers at {server}; check that a TURN server runs there and that the way \
                 to it is allowed, or try another --transport"
            ),
        ),
        Refusal::NoCredentials => Failure::failed(
            "relay_credentials",
            format!("{server} asks for a user; pass --user NAME:PASSWORD or --secret SECRET"),
        ),
        Refusal::Unauthenticated => {
            Failure::failed("relay_credentials", wrong_user(server, user, secret))
        }
        Refusal::NeedsStream => Failure::usage(
            "--tcp-relay needs a server that is reached over TCP or TLS; use --transport tcp or tls",
        ),
        Refusal::QuotaReached => Failure::failed(
            QUOTA,
            format!("{server} gives this user no more relays; wait until others have ended"),
        ),
        Refusal::Malformed
        | Refusal::BadRequest
        | Refusal::UnknownAttribute
        | Refusal::TransportNotSupported
        | Refusal::Code(_) => Failure::failed(
            "relay",
            format!("what answers at {server} is no TURN server, or cannot do this: {failure}"),
        ),
        _ => Failure::failed("relay", format!("there is no relay at {server}: {failure}")),
    }
}

fn wrong_user(server: &str, user: Option<&str>, secret: bool) -> String {
    if secret {
        return format!(
            "{server} does not believe this secret; check it, and that the clocks of both machines \
             are right"
        );
    }
    match user.and_then(end_of) {
        Some(end) if end <= unix() => format!(
            "{server} refuses the user: its time ended {} s ago; get new credentials",
            unix() - end
        ),
        Some(_) | None => {
            format!("{server} refuses the user or the password; check both")
        }
    }
}

/// When a time-limited user ends, in seconds since 1970.
fn end_of(user: &str) -> Option<u64> {
    user.split(':').next()?.parse().ok()
}

fn unix() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map(|now| now.as_secs()).unwrap_or_default()
}

/// Why nothing was measured.
pub(super) fn measuring(error: &MeasureError) -> Failure {
    let forbidden = matches!(
        error,
        MeasureError::Peer(PeerError::Refused(Refusal::Forbidden))
            | MeasureError::Connect(ConnectError::Refused(Refusal::Forbidden))
    );
    if forbidden {
        return Failure::failed(
            "relay_forbidden",
            "the server gave a relay but forbids to reach its own address with it (403); its owner \
             can allow that (postern server: --allow-peer, coturn: --allowed-peer-ip)",
        );
    }
    Failure::failed("relay", chain(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_whose_time_is_over_is_told_so() {
        let sentence = wrong_user("a", Some("1000000000:me"), false);
        assert!(sentence.contains("its time ended"), "{sentence}");
        let later = format!("{}:me", unix() + 1000);
        let sentence = wrong_user("a", Some(&later), false);
        assert!(sentence.contains("user or the password"), "{sentence}");
    }
}
