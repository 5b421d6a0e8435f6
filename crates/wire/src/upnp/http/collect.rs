use std::marker::PhantomData;

use super::{
    Bounds, Head, Headers, HttpError, Request, Response, read_request_head, read_response_head,
};

/// Collects a message that arrives in pieces.
#[derive(Debug)]
pub struct Collector<T> {
    bounds: Bounds,
    /// The head as far as it has come; empty afterwards.
    raw: Vec<u8>,
    /// Where the search for the blank line goes on.
    searched: usize,
    headers: Option<Headers>,
    first: Option<First>,
    framing: Framing,
    body: Vec<u8>,
    kind: PhantomData<T>,
}

#[derive(Debug)]
enum First {
    Request(String, String),
    Response(u16, String),
}

/// How the end of the body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// The head is not there yet.
    Head,
    /// So many bytes are missing.
    Length(usize),
    /// It ends with the connection.
    Close,
    /// In chunks.
    Chunked(Chunk),
    /// It has ended.
    Done,
}

/// Where we are among chunks (RFC 9112 section 7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// In a line with a size, of which this much is read, and whether there was a digit.
    Size {
        size: usize,
        digits: bool,
        extension: bool,
    },
    /// So many bytes of the chunk are missing.
    Data(usize),
    /// In the line break behind a chunk.
    Break,
    /// In the trailer, in a line that has characters or not; with its length so far.
    Trailer { line: bool, length: usize },
}

const SIZE: Chunk = Chunk::Size {
    size: 0,
    digits: false,
    extension: false,
};

impl Collector<Response> {
    /// Collects an answer.
    #[must_use]
    pub fn response(bounds: Bounds) -> Self {
        Self::new(bounds)
    }

    /// The answer, complete or ended by the end of the connection.
    ///
    /// # Errors
    ///
    /// [`HttpError::CutShort`] if something is missing.
    pub fn into_response(self) -> Result<Response, HttpError> {
        // A length that promises too much is a common mistake, and what there is may suffice;
        // a body without any is none.
        let enough = matches!(self.framing, Framing::Done | Framing::Close)
            || (!self.body.is_empty() && matches!(self.framing, Framing::Length(_)));
        match (self.first, self.headers) {
            (Some(First::Response(status, reason)), Some(headers)) if enough => Ok(Response {
                status,
                reason,
                headers,
                body: self.body,
            }),
            _ => Err(HttpError::CutShort),
        }
    }
}

impl Collector<Request> {
    /// Collects a request.
    #[must_use]
    pub fn request(bounds: Bounds) -> Self {
        Self::new(bounds)
    }

    /// The head, as soon as it is there: the method, the target and the headers.
    #[must_use]
    pub fn head(&self) -> Option<(&str, &str, &Headers)> {
        match (&self.first, &self.headers) {
            (Some(First::Request(method, target)), Some(headers)) => {
                Some((method, target, headers))
            }
            _ => None,
        }
    }

    /// The request.
    ///
    /// # Errors
    ///
    /// [`HttpError::CutShort`] if something is missing.
    pub fn into_request(self) -> Result<Request, HttpError> {
        match (self.first, self.headers, self.framing) {
            (Some(First::Request(method, target)), Some(headers), Framing::Done) => Ok(Request {
                method,
                target,
                headers,
                body: self.body,
            }),
            _ => Err(HttpError::CutShort),
        }
    }
}

/// What differs between requests and answers.
trait Kind {
    fn read_head(bytes: &[u8]) -> Result<(First, Headers), HttpError>;
    /// What to do without a length.
    const WITHOUT_LENGTH: Framing;
}

impl Kind for Response {
    fn read_head(bytes: &[u8]) -> Result<(First, Headers), HttpError> {
        let Head { first, headers } = read_response_head(bytes)?;
        Ok((First::Response(first.0, first.1), headers))
    }

    const WITHOUT_LENGTH: Framing = Framing::Close;
}

impl Kind for Request {
    fn read_head(bytes: &[u8]) -> Result<(First, Headers), HttpError> {
        let Head { first, headers } = read_request_head(bytes)?;
        Ok((First::Request(first.0, first.1), headers))
    }

    const WITHOUT_LENGTH: Framing = Framing::Done;
}

#[expect(private_bounds, reason = "there are two kinds, and both are public")]
impl<T: Kind> Collector<T> {
    const fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            raw: Vec::new(),
            searched: 0,
            headers: None,
            first: None,
            framing: Framing::Head,
            body: Vec::new(),
            kind: PhantomData,
        }
    }

    /// Takes bytes that have arrived. What follows the end of the message is ignored.
    ///
    /// # Errors
    ///
    /// Says what is wrong; nothing good comes of the message then.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), HttpError> {
        if self.framing != Framing::Head {
            return self.push_body(bytes);
        }
        self.raw.extend(bytes);
        let Some(end) = self.end_of_head() else {
            return if self.raw.len() > self.bounds.head {
                Err(HttpError::HeadTooLong)
            } else {
                Ok(())
            };
        };
        if end > self.bounds.head {
            return Err(HttpError::HeadTooLong);
        }
        let rest = self.raw.split_off(end);
        let raw = std::mem::take(&mut self.raw);
        self.on_head(&raw, &rest)
    }

    /// Whether the end of the message is there. A body without a length ends with the
    /// connection only.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.framing == Framing::Done
    }

    /// Where the first blank line ends, with carriage returns or without.
    fn end_of_head(&mut self) -> Option<usize> {
        let from = self.searched.saturating_sub(3);
        let tail = self.raw.get(from..)?;
        let ends = |pattern: &[u8]| {
            tail.windows(pattern.len())
                .position(|window| window == pattern)
                .map(|at| from.saturating_add(at).saturating_add(pattern.len()))
        };
        let end = [ends(b"\r\n\r\n"), ends(b"\n\n")]
            .into_iter()
            .flatten()
            .min();
        self.searched = self.raw.len();
        end
    }

    fn on_head(&mut self, raw: &[u8], rest: &[u8]) -> Result<(), HttpError> {
        let (first, headers) = T::read_head(raw)?;
        // An interim answer announces the real one (RFC 9110 section 15.2).
        if matches!(first, First::Response(100..=199, _)) {
            self.searched = 0;
            return self.push(rest);
        }
        let bodiless = matches!(first, First::Response(204 | 304, _));
        self.framing = if bodiless {
            Framing::Done
        } else {
            framing_of(&headers, T::WITHOUT_LENGTH)?
        };
        if matches!(self.framing, Framing::Length(length) if length > self.bounds.body) {
            return Err(HttpError::BodyTooLong);
        }
        if self.framing == Framing::Length(0) {
            self.framing = Framing::Done;
        }
        self.first = Some(first);
        self.headers = Some(headers);
        self.push_body(rest)
    }

    fn push_body(&mut self, mut bytes: &[u8]) -> Result<(), HttpError> {
        while !bytes.is_empty() {
            let used = match self.framing {
                Framing::Head | Framing::Done => return Ok(()),
                Framing::Close => self.take(bytes, bytes.len())?,
                Framing::Length(missing) => {
                    let used = self.take(bytes, missing)?;
                    self.framing = match missing.saturating_sub(used) {
                        0 => Framing::Done,
                        missing => Framing::Length(missing),
                    };
                    used
                }
                Framing::Chunked(chunk) => self.push_chunk(chunk, bytes)?,
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], most: usize) -> Result<usize, HttpError> {
        let part = bytes.get(..most).unwrap_or(bytes);
        if self.body.len().saturating_add(part.len()) > self.bounds.body {
            return Err(HttpError::BodyTooLong);
        }
        self.body.extend(part);
        Ok(part.len())
    }

    /// Takes what belongs to the present part of a chunk; returns how many bytes that were.
    fn push_chunk(&mut self, chunk: Chunk, bytes: &[u8]) -> Result<usize, HttpError> {
        let byte = bytes.first().copied().unwrap_or_default();
        let (next, used) = match chunk {
            Chunk::Data(missing) => {
                let used = self.take(bytes, missing)?;
                match missing.saturating_sub(used) {
                    0 => (Chunk::Break, used),
                    missing => (Chunk::Data(missing), used),
                }
            }
            Chunk::Break => match byte {
                b'\r' => (Chunk::Break, 1),
                b'\n' => (SIZE, 1),
                _ => return Err(HttpError::Length),
            },
            Chunk::Size {
                size,
                digits,
                extension,
            } => (self.on_size_byte(byte, size, digits, extension)?, 1),
            Chunk::Trailer { line, length } => match byte {
                b'\n' if !line => {
                    self.framing = Framing::Done;
                    return Ok(1);
                }
                _ if length >= self.bounds.head => return Err(HttpError::HeadTooLong),
                _ => {
                    let line = byte != b'\n' && (line || byte != b'\r');
                    let length = length.saturating_add(1);
                    (Chunk::Trailer { line, length }, 1)
                }
            },
        };
        self.framing = Framing::Chunked(next);
        Ok(used)
    }

    fn on_size_byte(
        &self,
        byte: u8,
        size: usize,
        digits: bool,
        extension: bool,
    ) -> Result<Chunk, HttpError> {
        let digit = char::from(byte).to_digit(16).filter(|_| !extension);
        match (byte, digit) {
            (_, Some(digit)) => {
                let size = size.saturating_mul(16).saturating_add(digit as usize);
                if size > self.bounds.body {
                    return Err(HttpError::BodyTooLong);
                }
                Ok(Chunk::Size {
                    size,
                    digits: true,
                    extension,
                })
            }
            (b'\n', _) if !digits => Err(HttpError::Length),
            (b'\n', _) if size == 0 => Ok(Chunk::Trailer {
                line: false,
                length: 0,
            }),
            (b'\n', _) => Ok(Chunk::Data(size)),
            (b'\r' | b' ' | b'\t' | b';', _) => Ok(Chunk::Size {
                size,
                digits,
                extension: extension || byte != b'\r',
            }),
            _ if extension => Ok(Chunk::Size {
                size,
                digits,
                extension,
            }),
            _ => Err(HttpError::Length),
        }
    }
}

fn framing_of(headers: &Headers, without: Framing) -> Result<Framing, HttpError> {
    if let Some(coding) = headers.get("transfer-encoding") {
        return if coding.eq_ignore_ascii_case("chunked") {
            Ok(Framing::Chunked(SIZE))
        } else {
            Err(HttpError::Length)
        };
    }
    let mut lengths = headers
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map(|(_, value)| value);
    let Some(first) = lengths.next() else {
        return Ok(without);
    };
    let digits = !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || lengths.any(|other| other != first) {
        return Err(HttpError::Length);
    }
    Ok(Framing::Length(first.parse().unwrap_or(usize::MAX)))
}
