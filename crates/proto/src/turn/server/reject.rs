use std::net::SocketAddr;

use postern_wire::stun::{AlternateServer, Builder, ErrorCode, ParseError, UnknownAttributes};

use crate::stun::Refusal;

/// Why a request is refused: the error code, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reject {
    pub(super) error: ErrorCode<'static>,
    pub(super) detail: Detail,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Detail {
    Nothing,
    /// Of a 420.
    Unknown(UnknownAttributes),
    /// Of a 300.
    Alternate(SocketAddr),
}

impl Reject {
    pub(super) const BAD_REQUEST: Self = Self::new(ErrorCode::BAD_REQUEST);
    pub(super) const MISMATCH: Self = Self::new(ErrorCode::ALLOCATION_MISMATCH);
    pub(super) const FORBIDDEN: Self = Self::new(ErrorCode::FORBIDDEN);
    pub(super) const NO_CAPACITY: Self = Self::new(ErrorCode::INSUFFICIENT_CAPACITY);
    pub(super) const FAMILY_NOT_SUPPORTED: Self =
        Self::new(ErrorCode::ADDRESS_FAMILY_NOT_SUPPORTED);
    pub(super) const FAMILY_MISMATCH: Self = Self::new(ErrorCode::PEER_ADDRESS_FAMILY_MISMATCH);

    pub(super) const fn new(error: ErrorCode<'static>) -> Self {
        Self {
            error,
            detail: Detail::Nothing,
        }
    }

    pub(super) const fn unknown(attributes: UnknownAttributes) -> Self {
        Self {
            error: ErrorCode::UNKNOWN_ATTRIBUTE,
            detail: Detail::Unknown(attributes),
        }
    }

    pub(super) const fn alternate(server: SocketAddr) -> Self {
        Self {
            error: ErrorCode::TRY_ALTERNATE,
            detail: Detail::Alternate(server),
        }
    }

    /// Adds what makes a response an error response.
    pub(super) fn describe(&self, response: Builder) -> Builder {
        let response = response.attribute(&self.error);
        match &self.detail {
            Detail::Nothing => response,
            Detail::Unknown(attributes) => response.attribute(attributes),
            Detail::Alternate(server) => response.attribute(&AlternateServer(*server)),
        }
    }
}

/// What cannot be read is a bad request.
impl From<ParseError> for Reject {
    fn from(_: ParseError) -> Self {
        Self::BAD_REQUEST
    }
}

impl From<Refusal> for Reject {
    fn from(refusal: Refusal) -> Self {
        Self::new(match refusal {
            Refusal::BadRequest => ErrorCode::BAD_REQUEST,
            Refusal::Unauthenticated => ErrorCode::UNAUTHENTICATED,
            Refusal::StaleNonce => ErrorCode::STALE_NONCE,
        })
    }
}
