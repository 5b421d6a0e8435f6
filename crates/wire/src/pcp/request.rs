use std::net::IpAddr;

use super::operation::KnownOpcode;
use super::{
    HEADER_LEN, MAX_LEN, Operation, Options, RESPONSE, ResultCode, VERSION, read_address,
    write_address,
};

/// What a client asks of a server (RFC 6887 section 7.1).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Version = 2  |R|   Opcode    |         Reserved              |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                 Requested Lifetime (32 bits)                  |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |            PCP Client's IP Address (128 bits)                 |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// For how long, in seconds; zero deletes.
    pub lifetime: u32,
    /// The address from which the client sends.
    pub client: IpAddr,
    /// What to do.
    pub operation: Operation,
    /// How.
    pub options: Options,
}

/// Why bytes are not a request that can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// Not even a header, or an answer: dropped without a word (RFC 6887 section 8.2).
    #[error("not a PCP request")]
    NotRequest,
    /// Another version: 0 is NAT-PMP's, to everything else [`refusal`] answers
    /// UNSUPP_VERSION.
    #[error("PCP version {0} is not known")]
    Version(u8),
    /// The client is owed this result, see [`refusal`].
    #[error("the PCP request is not acceptable: {0}")]
    Refused(ResultCode),
}

impl Request {
    /// Reads a request, with the checks of RFC 6887 section 8.2 in their order.
    ///
    /// # Errors
    ///
    /// Says what to answer.
    pub fn parse(bytes: &[u8]) -> Result<Self, RequestError> {
        let ([version, opcode], _) = bytes.split_first_chunk().ok_or(RequestError::NotRequest)?;
        if opcode & RESPONSE != 0 {
            return Err(RequestError::NotRequest);
        }
        if *version != VERSION {
            return Err(RequestError::Version(*version));
        }
        let malformed = RequestError::Refused(ResultCode::MALFORMED_REQUEST);
        if bytes.len() > MAX_LEN || !bytes.len().is_multiple_of(4) {
            return Err(malformed);
        }
        let (header, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(malformed)?;
        let [_, _, _, _, l0, l1, l2, l3, client @ ..] = *header;
        let unknown = RequestError::Refused(ResultCode::UNSUPP_OPCODE);
        let opcode = KnownOpcode::new(*opcode).ok_or(unknown)?;
        let (operation, rest) = Operation::parse(opcode, rest).ok_or(malformed)?;
        Ok(Self {
            lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
            client: read_address(client),
            operation,
            options: Options::parse(opcode, rest).map_err(RequestError::Refused)?,
        })
    }

    /// The request as a datagram. More filters than fit into [`MAX_LEN`] are the caller's
    /// mistake, and a server says so.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, self.operation.opcode(), 0, 0];
        bytes.extend(self.lifetime.to_be_bytes());
        bytes.extend(write_address(self.client));
        self.operation.write(&mut bytes);
        self.options.write(&mut bytes);
        bytes
    }
}

/// The answer that refuses `request` (RFC 6887 section 8.2): a copy of it, cut to the longest
/// message and filled to a whole header and to a multiple of four bytes, with the bit of
/// answers, the result, the lifetime of the error in seconds, and the epoch. `None` if there
/// is nothing that may be answered.
#[must_use]
pub fn refusal(request: &[u8], result: ResultCode, lifetime: u32, epoch: u32) -> Option<Vec<u8>> {
    let ([_, opcode], _) = request.split_first_chunk()?;
    if opcode & RESPONSE != 0 {
        return None;
    }
    let mut bytes = request.get(..MAX_LEN).unwrap_or(request).to_vec();
    bytes.resize(bytes.len().next_multiple_of(4).max(HEADER_LEN), 0);
    let [l0, l1, l2, l3] = lifetime.to_be_bytes();
    let [e0, e1, e2, e3] = epoch.to_be_bytes();
    let head = [
        VERSION,
        RESPONSE | opcode,
        0,
        result.0,
        l0,
        l1,
        l2,
        l3,
        e0,
        e1,
        e2,
        e3,
    ];
    bytes.get_mut(..head.len())?.copy_from_slice(&head);
    bytes.get_mut(head.len()..HEADER_LEN)?.fill(0);
    Some(bytes)
}
