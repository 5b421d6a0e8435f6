//! Frames to bytes, and bytes to frames.

use super::{
    Failure, FailureKind, File, Frame, Listed, MAX_FILES, MAX_LISTED, MAX_MESSAGE, Name, NameError,
    Offer, Timestamp, Totals, VERSION,
};

/// Bytes before each body: a type and a length.
pub const HEADER_LEN: usize = 5;

/// Most bytes in one `Data` body: a receiver notices a lost file at most this much late.
pub const MAX_DATA: u32 = 1 << 20;

/// Most bytes in any other body: a full [`Offer`] needs 266 kB, the rest is room to grow.
pub const MAX_BODY: u32 = 512 * 1024;

/// Most bytes in the body of a `File` frame: room for the longest path of Linux, so that a
/// name that is too long is named in the error.
const MAX_FILE_BODY: u32 = 8 * 1024;

/// Bytes in the body of a `Refuse` or `Failed` frame with the longest message.
const MAX_FAILURE_BODY: u32 = MAX_MESSAGE.saturating_add(3) as u32;

/// Types from here on may be skipped by a receiver that does not know them.
const OPTIONAL: u8 = 0x80;

mod kind {
    pub(super) const OFFER: u8 = 1;
    pub(super) const FILE: u8 = 2;
    pub(super) const DATA: u8 = 3;
    pub(super) const END: u8 = 4;
    pub(super) const FINISH: u8 = 5;
    pub(super) const FAILED: u8 = 6;
    pub(super) const ACCEPT: u8 = 16;
    pub(super) const REFUSE: u8 = 17;
    pub(super) const DONE: u8 = 18;
}

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// A type that must be understood and is not.
    #[error("frame type {0} is unknown")]
    UnknownType(u8),
    /// A length outside its bounds.
    #[error("frame type {kind} says it has {length} bytes")]
    Length {
        /// The frame's type.
        kind: u8,
        /// The length in its header.
        length: u32,
    },
    /// A body that ends before its last field, or after it.
    #[error("frame type {0} has a body of the wrong size")]
    Body(u8),
    /// A field with a value that has no meaning.
    #[error("frame type {0} has a field with an impossible value")]
    Field(u8),
    /// An offer of another version of the protocol.
    #[error("version {0} of the transfer protocol is not spoken here")]
    Version(u16),
    /// A file name that is not acceptable.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// What the beginning of some bytes is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Not enough bytes yet: a frame of this many in total, when that is known.
    Incomplete(Option<usize>),
    /// A frame that used up this many bytes.
    Frame(Frame, usize),
    /// The header of a `Data` frame, [`HEADER_LEN`] bytes; the next `length` bytes, 1 to
    /// [`MAX_DATA`], belong to the current file.
    Data {
        /// Bytes that follow the header.
        length: u32,
    },
    /// The header of an optional frame of a newer version, [`HEADER_LEN`] bytes; the next
    /// `length` bytes, up to [`MAX_BODY`], are to be skipped.
    Skip {
        /// Bytes that follow the header.
        length: u32,
    },
}

/// Reads the frame at the start of `input`, which may end anywhere.
///
/// No more than [`MAX_BODY`] + [`HEADER_LEN`] bytes ever need to be kept between two calls.
///
/// # Errors
/// The bytes cannot become a frame, however many more follow.
pub fn decode(input: &[u8]) -> Result<Decoded, ParseError> {
    let Some(([number, length @ ..], rest)) = input.split_first_chunk::<HEADER_LEN>() else {
        return Ok(Decoded::Incomplete(None));
    };
    let (number, length) = (*number, u32::from_be_bytes(*length));
    check_length(number, length)?;
    match number {
        kind::DATA => Ok(Decoded::Data { length }),
        OPTIONAL.. => Ok(Decoded::Skip { length }),
        _ => {
            let used = HEADER_LEN.saturating_add(length as usize);
            let Some(body) = rest.get(..length as usize) else {
                return Ok(Decoded::Incomplete(Some(used)));
            };
            Ok(Decoded::Frame(decode_body(number, body)?, used))
        }
    }
}

fn check_length(kind: u8, length: u32) -> Result<(), ParseError> {
    let allowed = match kind {
        kind::DATA => 1..=MAX_DATA,
        kind::OFFER | OPTIONAL.. => 0..=MAX_BODY,
        kind::FILE => 0..=MAX_FILE_BODY,
        kind::END => 32..=32,
        kind::FINISH | kind::DONE => 16..=16,
        kind::ACCEPT => 2..=2,
        kind::REFUSE | kind::FAILED => 3..=MAX_FAILURE_BODY,
        _ => return Err(ParseError::UnknownType(kind)),
    };
    match allowed.contains(&length) {
        true => Ok(()),
        false => Err(ParseError::Length { kind, length }),
    }
}

fn decode_body(kind: u8, body: &[u8]) -> Result<Frame, ParseError> {
    let mut body = Reader { kind, rest: body };
    let frame = match kind {
        kind::OFFER => Frame::Offer(decode_offer(&mut body)?),
        kind::FILE => Frame::File(decode_file(&mut body)?),
        kind::END => Frame::End {
            hash: body.array()?,
        },
        kind::FINISH => Frame::Finish(decode_totals(&mut body)?),
        kind::DONE => Frame::Done(decode_totals(&mut body)?),
        kind::ACCEPT => Frame::Accept {
            version: body.u16()?,
        },
        kind::REFUSE => Frame::Refuse(decode_failure(&mut body)?),
        kind::FAILED => Frame::Failed(decode_failure(&mut body)?),
        _ => return Err(ParseError::UnknownType(kind)),
    };
    body.finish()?;
    Ok(frame)
}

/// ```text
/// u16 version  u64 files  u8 known  u64 bytes  u16 listed  { u64 size  u16 length  name }*
/// ```
fn decode_offer(body: &mut Reader<'_>) -> Result<Offer, ParseError> {
    let version = body.u16()?;
    if version != VERSION {
        return Err(ParseError::Version(version));
    }
    let files = body.u64()?;
    let bytes = body.optional_u64()?;
    let count = usize::from(body.u16()?);
    if !(1..=MAX_FILES).contains(&files) || count as u64 != files.min(MAX_LISTED as u64) {
        return Err(body.field());
    }
    let mut listed = Vec::with_capacity(count);
    for _ in 0..count {
        let size = body.u64()?;
        let name = body.name()?;
        listed.push(Listed { name, size });
    }
    let offer = Offer {
        files,
        bytes,
        listed,
    };
    match offer.adds_up() {
        true => Ok(offer),
        false => Err(body.field()),
    }
}

impl Offer {
    /// Whether the listed sizes fit the total, exactly when every file is listed.
    fn adds_up(&self) -> bool {
        let sum = self
            .listed
            .iter()
            .try_fold(0u64, |sum, file| sum.checked_add(file.size));
        let complete = self.listed.len() as u64 == self.files;
        match (sum, self.bytes) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(sum), Some(bytes)) if complete => sum == bytes,
            (Some(sum), Some(bytes)) => sum <= bytes,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(VERSION.to_be_bytes());
        out.extend(self.files.to_be_bytes());
        put_optional(out, self.bytes);
        out.extend(short(self.listed.len()).to_be_bytes());
        for file in &self.listed {
            out.extend(file.size.to_be_bytes());
            put_text(out, file.name.as_bytes());
        }
    }
}

/// ```text
/// u64 index  u64 size  u32 mode  u8 known  i64 seconds  u32 nanos  u16 length  name
/// ```
fn decode_file(body: &mut Reader<'_>) -> Result<File, ParseError> {
    Ok(File {
        index: body.u64()?,
        size: body.u64()?,
        mode: body.u32()?,
        modified: body.timestamp()?,
        name: body.name()?,
    })
}

impl File {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.index.to_be_bytes());
        out.extend(self.size.to_be_bytes());
        out.extend(self.mode.to_be_bytes());
        out.push(self.modified.is_some().into());
        let modified = self.modified.unwrap_or(Timestamp {
            seconds: 0,
            nanos: 0,
        });
        out.extend(modified.seconds.to_be_bytes());
        out.extend(modified.nanos.to_be_bytes());
        put_text(out, self.name.as_bytes());
    }
}

fn decode_totals(body: &mut Reader<'_>) -> Result<Totals, ParseError> {
    Ok(Totals {
        files: body.u64()?,
        bytes: body.u64()?,
    })
}

fn decode_failure(body: &mut Reader<'_>) -> Result<Failure, ParseError> {
    let kind = FailureKind::from_number(body.u8()?);
    let message = std::str::from_utf8(body.text(MAX_MESSAGE)?).map_err(|_| body.field())?;
    Ok(Failure::new(kind, message))
}

impl Failure {
    fn encode(&self, out: &mut Vec<u8>) {
        let end = self.message.floor_char_boundary(MAX_MESSAGE);
        out.push(self.kind.number());
        put_text(out, self.message.get(..end).unwrap_or("").as_bytes());
    }
}

impl Frame {
    /// Appends the frame, header included, to `out`.
    ///
    /// An [`Offer`] with more than [`MAX_LISTED`] files listed, or whose numbers do not add
    /// up, is not understood by the peer.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([self.number(), 0, 0, 0, 0]);
        self.encode_body(out);
        let length = out.len().saturating_sub(start).saturating_sub(HEADER_LEN);
        let header = header(self.number(), u32::try_from(length).unwrap_or(u32::MAX));
        if let Some(place) = out.get_mut(start..).and_then(|s| s.first_chunk_mut()) {
            *place = header;
        }
    }

    /// The encoded frame alone.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    fn encode_body(&self, out: &mut Vec<u8>) {
        match self {
            Self::Offer(offer) => offer.encode(out),
            Self::File(file) => file.encode(out),
            Self::End { hash } => out.extend(hash),
            Self::Finish(totals) | Self::Done(totals) => {
                out.extend(totals.files.to_be_bytes());
                out.extend(totals.bytes.to_be_bytes());
            }
            Self::Accept { version } => out.extend(version.to_be_bytes()),
            Self::Refuse(failure) | Self::Failed(failure) => failure.encode(out),
        }
    }

    fn number(&self) -> u8 {
        match self {
            Self::Offer(_) => kind::OFFER,
            Self::File(_) => kind::FILE,
            Self::End { .. } => kind::END,
            Self::Finish(_) => kind::FINISH,
            Self::Accept { .. } => kind::ACCEPT,
            Self::Refuse(_) => kind::REFUSE,
            Self::Done(_) => kind::DONE,
            Self::Failed(_) => kind::FAILED,
        }
    }
}

/// The header of a `Data` frame whose body has `length` bytes, 1 to [`MAX_DATA`].
pub fn data_header(length: u32) -> [u8; HEADER_LEN] {
    header(kind::DATA, length)
}

fn header(kind: u8, length: u32) -> [u8; HEADER_LEN] {
    let [a, b, c, d] = length.to_be_bytes();
    [kind, a, b, c, d]
}

fn put_optional(out: &mut Vec<u8>, value: Option<u64>) {
    out.push(value.is_some().into());
    out.extend(value.unwrap_or(0).to_be_bytes());
}

fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    out.extend(short(text.len()).to_be_bytes());
    out.extend(text);
}

fn short(length: usize) -> u16 {
    u16::try_from(length).unwrap_or(u16::MAX)
}

/// Reads fields off the front of a body.
struct Reader<'a> {
    kind: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], ParseError> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(ParseError::Body(self.kind))?;
        self.rest = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, ParseError> {
        self.array().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, ParseError> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, ParseError> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, ParseError> {
        self.array().map(u64::from_be_bytes)
    }

    fn flag(&mut self) -> Result<bool, ParseError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.field()),
        }
    }

    fn optional_u64(&mut self) -> Result<Option<u64>, ParseError> {
        match (self.flag()?, self.u64()?) {
            (true, value) => Ok(Some(value)),
            (false, 0) => Ok(None),
            (false, _) => Err(self.field()),
        }
    }

    fn timestamp(&mut self) -> Result<Option<Timestamp>, ParseError> {
        let known = self.flag()?;
        let seconds = self.array().map(i64::from_be_bytes)?;
        let time = Timestamp::new(seconds, self.u32()?).ok_or_else(|| self.field())?;
        match (known, time.seconds, time.nanos) {
            (true, ..) => Ok(Some(time)),
            (false, 0, 0) => Ok(None),
            (false, ..) => Err(self.field()),
        }
    }

    fn text(&mut self, limit: usize) -> Result<&'a [u8], ParseError> {
        let length = usize::from(self.u16()?);
        if length > limit {
            return Err(self.field());
        }
        let (text, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or(ParseError::Body(self.kind))?;
        self.rest = rest;
        Ok(text)
    }

    /// A name is read whole, however long, so that the error can show it.
    fn name(&mut self) -> Result<Name, ParseError> {
        Ok(Name::parse(self.text(usize::from(u16::MAX))?)?)
    }

    fn field(&self) -> ParseError {
        ParseError::Field(self.kind)
    }

    fn finish(self) -> Result<(), ParseError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(ParseError::Body(self.kind)),
        }
    }
}
