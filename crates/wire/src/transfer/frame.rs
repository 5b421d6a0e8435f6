//! Frames: the checked decoder and the encoder.

use super::{Name, NameError};
use std::time::{Duration, SystemTime};

/// The version of the protocol that this crate speaks.
pub const VERSION: u16 = 1;

/// Bytes before each body: a type and a length.
pub const HEADER_LEN: usize = 5;

/// Most bytes in one `Data` body: a receiver notices a lost file at most this much late.
pub const MAX_DATA: u32 = 1 << 20;

/// Most bytes in any other body: a full [`Offer`] needs 266 kB, the rest is room to grow.
pub const MAX_BODY: u32 = 512 * 1024;

/// Most bytes in the body of a `File` frame: room for the longest path of Linux, so that a
/// name that is too long is named in the error.
const MAX_FILE_BODY: u32 = 8 * 1024;

/// Most files that an [`Offer`] names; what it does not name it counts.
pub const MAX_LISTED: usize = 1000;

/// Most files in one transfer: the receiver remembers 8 bytes for each to find twins.
pub const MAX_FILES: u64 = 1 << 20;

/// Most bytes in the text of a [`Failure`].
pub const MAX_MESSAGE: usize = 512;

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

/// One frame, except `Data`, whose body never needs to be in one piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Sender: what is about to come.
    Offer(Offer),
    /// Sender: the bytes of this file follow.
    File(File),
    /// Sender: the BLAKE3 hash of the bytes since [`Frame::File`].
    End {
        /// 32 bytes of BLAKE3 output.
        hash: [u8; 32],
    },
    /// Sender: all files were sent.
    Finish(Totals),
    /// Receiver: send the files.
    Accept {
        /// The version that the receiver speaks.
        version: u16,
    },
    /// Receiver: do not send the files.
    Refuse(Failure),
    /// Receiver: all files are verified and in place.
    Done(Totals),
    /// Either: the transfer ends here.
    Failed(Failure),
}

/// What a sender is about to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Number of files, 1 to [`MAX_FILES`].
    pub files: u64,
    /// Sum of their sizes in bytes; `None` when the sender does not know.
    pub bytes: Option<u64>,
    /// The first files: all of them, or [`MAX_LISTED`].
    pub listed: Vec<Listed>,
}

/// A file in an [`Offer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: Name,
    /// Its size in bytes.
    pub size: u64,
}

/// A file whose bytes follow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its number, counted from 0 without gaps.
    pub index: u64,
    /// Its name.
    pub name: Name,
    /// Its size in bytes: exactly so many follow.
    pub size: u64,
    /// Its Unix permission bits, unmasked; the receiver decides what it takes over.
    pub mode: u32,
    /// When it was last modified.
    pub modified: Option<Timestamp>,
}

/// A point in time: seconds and nanoseconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    seconds: i64,
    nanos: u32,
}

impl Timestamp {
    const NANOS: u32 = 1_000_000_000;

    /// `None` unless `nanos` is below 1,000,000,000.
    pub fn new(seconds: i64, nanos: u32) -> Option<Self> {
        (nanos < Self::NANOS).then_some(Self { seconds, nanos })
    }

    /// The same point as the standard library's type; `None` before 1970 or after the year
    /// 9999, which file systems do not keep and only a broken or hostile peer sends.
    pub fn to_system_time(self) -> Option<SystemTime> {
        const YEAR_10000: u64 = 253_402_300_800;
        let seconds = u64::try_from(self.seconds)
            .ok()
            .filter(|s| *s < YEAR_10000)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, self.nanos))
    }

    /// `None` before 1970.
    pub fn from_system_time(time: SystemTime) -> Option<Self> {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
        Self::new(i64::try_from(since.as_secs()).ok()?, since.subsec_nanos())
    }
}

/// How much was sent or received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Number of files.
    pub files: u64,
    /// Sum of their sizes in bytes.
    pub bytes: u64,
}

/// Why a peer refuses or ends a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What programs act on.
    pub kind: FailureKind,
    /// One sentence for people, not escaped.
    pub message: String,
}

impl Failure {
    /// A failure whose text is cut to [`MAX_MESSAGE`] bytes.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MAX_MESSAGE));
        Self { kind, message }
    }
}

macro_rules! failure_kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What went wrong, as a number on the wire and as a word in the JSON output.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum FailureKind {
            $($(#[$doc])* $name,)*
            /// A kind that this version does not know.
            Unknown,
        }

        impl FailureKind {
            /// The word used in the JSON output.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Unknown => "peer",
                }
            }

            fn from_number(number: u8) -> Self {
                match number {
                    $($number => Self::$name,)*
                    _ => Self::Unknown,
                }
            }

            fn number(self) -> u8 {
                match self {
                    $(Self::$name => $number,)*
                    Self::Unknown => 0,
                }
            }
        }
    };
}

failure_kinds! {
    /// A person or a rule said no.
    Refused = 1, "refused";
    /// A file of that name is there already.
    Exists = 2, "exists";
    /// A file name is not acceptable.
    BadName = 3, "bad_name";
    /// No space left.
    DiskFull = 4, "disk_full";
    /// A file changed while it was being sent.
    Changed = 5, "changed";
    /// Reading or writing failed.
    Io = 6, "io";
    /// The bytes do not match their hash.
    Corrupt = 7, "corrupt";
    /// Somebody interrupted the program.
    Cancelled = 8, "cancelled";
    /// The peer did not keep to the protocol.
    Protocol = 9, "protocol";
    /// The two versions do not understand each other.
    Version = 10, "version";
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
        kind::REFUSE | kind::FAILED => 3..=3 + MAX_MESSAGE as u32,
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
        let time = Timestamp::new(seconds, self.u32()?).ok_or(self.field())?;
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
