use super::operation::KnownOpcode;
use super::{HEADER_LEN, MAX_LEN, Operation, Options, RESPONSE, ResultCode, VERSION};

/// What a server answers, or announces (RFC 6887 section 7.2).
///
/// ```text
///  0                   1                   2                   3
///  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |  Version = 2  |R|   Opcode    |   Reserved    |  Result Code  |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                      Lifetime (32 bits)                       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                     Epoch Time (32 bits)                      |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// |                      Reserved (96 bits)                       |
/// +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Which opcode is answered, known or not.
    pub opcode: u8,
    /// Done, or why not.
    pub result: ResultCode,
    /// For how long, in seconds: the mapping if it is made, else the error.
    pub lifetime: u32,
    /// Seconds since the server forgot its mappings.
    pub epoch: u32,
    /// The data; an error may come without.
    pub operation: Option<Operation>,
    /// The options that were heeded; none with an error.
    pub options: Options,
}

/// Why a datagram is not an answer: the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// Not a header, more than [`MAX_LEN`], or not a multiple of four bytes.
    #[error("the PCP response has a wrong length")]
    Length,
    /// A request.
    #[error("not a PCP response")]
    NotResponse,
    /// Another version; 0 comes from a server that speaks NAT-PMP alone (RFC 6887 section 9).
    #[error("version {0} is not PCP")]
    Version(u8),
    /// It says that something was done, and what cannot be read.
    #[error("the PCP response cannot be read")]
    Malformed,
}

impl Response {
    /// An answer that grants.
    #[must_use]
    pub const fn granted(
        lifetime: u32,
        epoch: u32,
        operation: Operation,
        options: Options,
    ) -> Self {
        Self {
            opcode: operation.opcode(),
            result: ResultCode::SUCCESS,
            lifetime,
            epoch,
            operation: Some(operation),
            options,
        }
    }

    /// Reads an answer, with the checks of RFC 6887 section 8.3.
    ///
    /// # Errors
    ///
    /// Says why it is not one; but for a version, such a datagram is dropped.
    pub fn parse(bytes: &[u8]) -> Result<Self, ResponseError> {
        let (version, _) = bytes.split_first().ok_or(ResponseError::Length)?;
        if *version != VERSION {
            return Err(ResponseError::Version(*version));
        }
        if bytes.len() > MAX_LEN || !bytes.len().is_multiple_of(4) {
            return Err(ResponseError::Length);
        }
        let (header, rest) = bytes
            .split_first_chunk::<HEADER_LEN>()
            .ok_or(ResponseError::Length)?;
        let [_, opcode, _, result, l0, l1, l2, l3, e0, e1, e2, e3, ..] = *header;
        if opcode & RESPONSE == 0 {
            return Err(ResponseError::NotResponse);
        }
        let opcode = opcode & !RESPONSE;
        let result = ResultCode(result);
        let (operation, options) = if result == ResultCode::SUCCESS {
            let (operation, options) = done(opcode, rest)?;
            (Some(operation), options)
        } else {
            let known = KnownOpcode::new(opcode);
            let operation = known.and_then(|known| Operation::parse(known, rest));
            (
                operation.map(|(operation, _)| operation),
                Options::default(),
            )
        };
        Ok(Self {
            opcode,
            result,
            lifetime: u32::from_be_bytes([l0, l1, l2, l3]),
            epoch: u32::from_be_bytes([e0, e1, e2, e3]),
            operation,
            options,
        })
    }

    /// The answer as a datagram.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION, RESPONSE | self.opcode, 0, self.result.0];
        bytes.extend(self.lifetime.to_be_bytes());
        bytes.extend(self.epoch.to_be_bytes());
        bytes.resize(HEADER_LEN, 0);
        if let Some(operation) = &self.operation {
            operation.write(&mut bytes);
        }
        self.options.write(&mut bytes);
        bytes
    }
}

fn done(opcode: u8, data: &[u8]) -> Result<(Operation, Options), ResponseError> {
    let opcode = KnownOpcode::new(opcode).ok_or(ResponseError::Malformed)?;
    let (operation, rest) = Operation::parse(opcode, data).ok_or(ResponseError::Malformed)?;
    let options = Options::parse(opcode, rest).map_err(|_| ResponseError::Malformed)?;
    Ok((operation, options))
}
